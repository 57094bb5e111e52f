//! The relay: the server in the cloud that bridges dial to and callers send to.
//!
//! Files lie on a request's way:
//!
//! ```text
//! listener -> service -> auth, directory -> ingress (calls, endpoints) -> exchange -> router -> registry -> tunnel
//! ```
//!
//! Next to it: `serving` (active or standby), `idempotency`, `gate` (budgets of connections), `pairing` and `api` (the rest of the API), `storage` (what survives a restart),
//! `config`, `metrics`, `telemetry`, `problem` (every error that a caller sees), `cli`. [`Relay::start`] runs
//! the whole inside another program.

pub mod access;
pub mod admission;
pub mod api;
pub mod audit;
pub mod auth;
pub mod body;
pub mod cli;
pub mod config;
pub mod deliveries;
pub mod denials;
pub mod direct;
pub mod directory;
pub mod exchange;
mod generation;
pub mod idempotency;
pub mod ingress;
pub mod listener;
pub mod metrics;
pub mod notices;
pub mod ownership;
pub mod problem;
pub mod registry;
pub mod reload;
pub mod routing;
mod running;
pub mod sending;
pub mod service;
pub mod serving;
pub mod state;
pub mod storage;
pub mod telemetry;
pub mod throttle;
pub mod trace;
pub mod tunnel;
pub mod vault;

#[cfg(test)]
mod testing;

pub use running::{Relay, RunningRelay, StartError};
