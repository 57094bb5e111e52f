//! What every program needs, and what knows neither relay nor bridge.
//!
//! ```text
//! account   the account of the user that runs a command
//! body      adapters around HTTP bodies
//! config    files in TOML with the environment on top; units; mistakes with their lines; what a reload may change
//! dumps     no core dumps of a process with secrets
//! files     opened relative to their directory, without following links; replaced as a whole
//! findings  what a check of the files that a config names found
//! hex       bytes as hexadecimal text
//! liveness  whether the tasks that a program needs still make progress
//! limit     token bucket, and a limit for log lines
//! log       log lines on their way to a sink, without delaying their writer
//! logging   [log]: level, format, standard error or a rotated file
//! map       a map with a fast hash function, for keys that no peer chooses
//! metrics   OpenMetrics, one line a metric
//! output    what commands print, also into a pipe without a reader
//! pem       certificates and keys that an administrator supplies, in every form that they have
//! peer_text text that a peer chose, safe for terminals, logs and tables
//! sealed    secrets encrypted at rest
//! secret    text that is redacted in logs and overwritten in memory
//! service_manager  the state that a service reports to systemd
//! shortage  whether an error means that this machine is short of a resource
//! testing   what tests of several crates share
//! time      instants as RFC 3339
//! userinfo  user and password in a URL, checked before anything shows the URL
//! value     what an administrator supplies in a variable, a file or at a prompt: which forms are taken
//! written   files that a config names and the program writes: none may be another file of the program
//! ```

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

pub mod account;
pub mod body;
pub mod config;
pub mod dumps;
pub mod files;
pub mod findings;
pub mod hex;
pub mod limit;
pub mod liveness;
pub mod log;
pub mod logging;
pub mod map;
pub mod metrics;
pub mod output;
pub mod peer_text;
pub mod pem;
pub mod sealed;
pub mod secret;
pub mod service_manager;
pub mod shortage;
pub mod testing;
pub mod time;
pub mod userinfo;
pub mod value;
pub mod written;
