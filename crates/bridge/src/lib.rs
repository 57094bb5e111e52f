//! The bridge: connects to a relay, and inside the network sends the requests that its own policy allows.
//!
//! ```text
//! wire -> session -> dispatcher -> policy -> http_client -> target
//!
//! cli            the commands: pair, run, config check, policy test, ...
//! config         bridge.toml and the environment
//! bridge         a running bridge: start and stop; state is what its tasks share
//! connection     one connection to the relay; connection_counter is its number, clock notices a suspend
//! pairing        registers the public key with a relay; identity and data_dir keep it on the disk
//! dispatcher     one task for each exchange: policy, target, response; target_access is what that needs
//! deliveries     stored calls, each executed once; journal is their record on the disk
//! proxy_login    the logins at proxies: Basic, NTLM, Negotiate (Kerberos)
//! credentials    named secrets, sealed on the disk, added to requests after the policy has decided
//! quota, signed  limits of endpoints and rules; calls that the tenant's application has signed (RFC 9421)
//! health         whether endpoints can be reached, independent of the tunnel
//! control        the socket for commands on this machine; status is the response, stats its source
//! doctor         checks everything between this machine, the relay and the targets
//! audit          the audit file and its verification
//! update         the command that replaces this program by a signed, newer one
//! versions       the version of this program, and those that the operator of the relay named
//! own_files      the files that the bridge writes: logs may be none of the others
//! redact         removes secrets from a support bundle, and finds those that a response repeats
//! ```
//!
//! Frames, sessions and the connection to the relay are in the crate `transport`; the policy is the crate
//! `policy`. A module imports only modules whose own imports do not lead back to it.

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

mod audit;
mod bridge;
pub mod cli;
mod clock;
pub mod config;
mod connection;
mod connection_counter;
mod control;
mod credentials;
mod data_dir;
mod deliveries;
mod dispatcher;
mod doctor;
mod health;
mod identity;
mod journal;
mod logging;
mod metrics;
mod own_files;
mod pairing;
mod pairing_file;
mod proxy_login;
mod quota;
mod redact;
mod reload;
mod secret;
mod signed;
mod state;
mod stats;
mod status;
mod target_access;
#[cfg(test)]
mod testing;
mod text;
mod update;
mod versions;

pub use bridge::{Bridge, RunningBridge, StartError};
pub use config::Config;
pub use identity::Identity;
pub use pairing::{ApiKey, PairError, Secret, pair};
pub use reload::ReloadError;
