//! The relay: the server in the cloud that bridges dial to and callers send requests to.
//!
//! The modules lie on a request's path:
//!
//! ```text
//! listener -> connection -> service -> ingress, calls, api -> exchange -> routing, registry -> tunnel
//! ```
//!
//! They belong to planes, and `cargo xtask arrows` checks which may import which:
//!
//! | plane | state | modules |
//! | --- | --- | --- |
//! | data | `data_plane` | `admission`, `body`, `capacity`, `connection`, `direct`, `exchange`, `ingress`, `listener`, `problem`, `progress`, `registry`, `routing`, `sending` |
//! | control | `control_plane` | `api`, `audit`, `auth`, `bridge_versions`, `deliveries`, `denials`, `directory`, `generation`, `idempotency`, `notices`, `ownership`, `recent_calls`, `serving`, `vault` |
//! | edge: sees both | | `calls`, `cli`, `reload`, `running`, `service`, `tunnel` |
//! | shared: sees neither | | `access`, `config`, `metrics`, `request_name`, `storage`, `telemetry`, `throttle`, `trace` |
//!
//! [`Relay::start`] runs a relay inside another program.

mod access;
mod admission;
mod api;
mod audit;
mod auth;
mod body;
mod bridge_versions;
mod calls;
mod capacity;
pub mod cli;
pub mod config;
mod connection;
mod control_plane;
mod data_plane;
mod deliveries;
mod denials;
mod direct;
mod directory;
mod exchange;
mod generation;
mod idempotency;
mod ingress;
mod listener;
mod metrics;
mod notices;
mod ownership;
mod problem;
mod progress;
mod recent_calls;
mod registry;
mod reload;
mod request_name;
mod routing;
mod running;
mod sending;
mod service;
mod serving;
pub mod storage;
mod telemetry;
mod throttle;
mod trace;
mod tunnel;
mod vault;

#[cfg(test)]
mod testing;

pub use reload::ReloadError;
pub use running::{Relay, RunningRelay, StartError};
