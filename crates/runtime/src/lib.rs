//! What both programs need of the machine that they run on.
//!
//! ```text
//! body      adapters around HTTP bodies
//! files     opened relative to their directory, without following links; replaced as a whole
//! log       lines on their way to standard error or a file, which never hold up their writer
//! output    what commands print, also into a pipe without a reader
//! shortage  whether an error says that this machine is short of something
//! time      instants as RFC 3339 text
//! ```
//!
//! Nothing here knows what a relay or a bridge is.

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

pub mod body;
pub mod files;
pub mod log;
pub mod output;
pub mod shortage;
pub mod time;

#[cfg(test)]
mod testing;
