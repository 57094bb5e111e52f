//! The bridge: dials the relay and makes, inside the network, the requests that its own policy
//! allows.
//!
//! ```text
//! wire -> session -> dispatcher -> policy -> http_client -> target
//!
//! cli         what an administrator types: pair, run, config check, policy test
//! config      bridge.toml
//! data_dir    identity and epochs on the disk; identity, epoch
//! pairing     registers the public key with a relay, by an API key
//! local       the socket on which commands of this machine ask; status is the answer, board what it is made of
//! bridge      a running bridge; slot is one of its connections, clock notices sleep
//! dispatcher  one task for each exchange: policy, target, answer
//! deliveries  stored calls, once each, whatever becomes of the tunnel; journal is what is on disk of them
//! health      whether endpoints can be reached, apart from the tunnel
//! credentials named secrets, sealed on the disk, added to requests after the policy
//! quota       how much may go to one endpoint or by one rule, and when
//! signed      calls that the tenant's own application has signed (RFC 9421)
//! ```
//!
//! Frames, sessions and the way to the relay are the crate `transport`'s; what may be asked of
//! whom is the crate `policy`'s.

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

mod audit;
pub mod bridge;
pub mod cli;
mod clock;
pub mod config;
mod connection;
pub mod connection_counter;
pub mod control;
pub mod credentials;
pub mod data_dir;
mod deliveries;
pub mod dispatcher;
mod doctor;
mod health;
pub mod identity;
pub mod journal;
pub mod logging;
mod metrics;
pub mod pairing;
pub mod quota;
mod redact;
pub mod reload;
pub mod secret;
mod signed;
mod stats;
pub mod status;
#[cfg(test)]
mod testing;

pub use bridge::{Bridge, RunningBridge, StartError};
pub use config::Config;
pub use pairing::{ApiKey, PairError, Secret, pair};
