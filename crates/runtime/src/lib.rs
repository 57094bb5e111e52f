//! What every program needs, and what knows neither relay nor bridge.
//!
//! ```text
//! body      adapters around HTTP bodies
//! config    files in TOML with the environment on top; units; mistakes with their lines; what a reload may change
//! dumps     no core dumps of a process with secrets
//! files     opened relative to their directory, without following links; replaced as a whole
//! hex       bytes as hexadecimal text
//! limit     token bucket, and a limit for log lines
//! log       log lines on their way to a sink, without delaying their writer
//! logging   [log]: level, format, standard error or a rotated file
//! metrics   OpenMetrics, one line a metric
//! output    what commands print, also into a pipe without a reader
//! peer_text text that a peer chose, safe for terminals, logs and tables
//! sealed    secrets encrypted at rest
//! secret    text that is redacted in logs and overwritten in memory
//! shortage  whether an error means that this machine is short of a resource
//! testing   what tests of several crates share
//! time      instants as RFC 3339
//! ```

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

pub mod body;
pub mod config;
pub mod dumps;
pub mod files;
pub mod hex;
pub mod limit;
pub mod log;
pub mod logging;
pub mod metrics;
pub mod output;
pub mod peer_text;
pub mod sealed;
pub mod secret;
pub mod shortage;
pub mod testing;
pub mod time;
