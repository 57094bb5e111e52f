//! What the tests share, from a throwaway certificate to the whole product running as processes.
//! `README.md` lists every fake and how to start it.
//!
//! ```text
//! TestEnv ── starts ──> integration-relay <── FlakyProxy <── integration-bridge ──> Target
//!    │                         ^                                                   (echoes, hangs,
//!    └─ keys, config, CA       └── Origin / Client: what a caller sends             breaks off)
//! ```
//!
//! A helper whose wait times out panics with the last state that it saw, so that a failure can be
//! understood without another run. An operation whose failure a test may expect returns a `Result`.
//! Everything listens on loopback and ends when its value is dropped.

pub mod alm;
pub mod ca;
pub mod commit_proxy;
pub mod dns;
pub mod flaky;
pub mod h2_target;
pub mod http;
pub mod interceptor;
pub mod kdc;
pub mod link;
pub mod network;
pub mod pattern;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod raw;
pub mod recorder;
pub mod setup;
pub mod small_disk;
pub mod squid;
pub mod target;
pub mod tempdir;
pub mod wait;

mod tasks;

pub use alm::Alm;
pub use ca::ThrowawayCa;
pub use commit_proxy::{CommitProxy, Cut};
pub use dns::Dns;
pub use flaky::{Direction, FlakyProxy};
pub use h2_target::H2Target;
pub use http::{Answer, ApiKey, Ask, Client, Origin};
pub use interceptor::Interceptor;
pub use kdc::Kdc;
pub use link::{Line, Link};
pub use network::Network;
pub use postgres::PostgresDatabase;
pub use process::Running;
pub use raw::RawTarget;
pub use recorder::Recorder;
pub use setup::TestEnv;
pub use small_disk::SmallDisk;
pub use squid::{Squid, SquidLogin};
pub use target::Target;
pub use tempdir::TempDir;
pub use wait::{LONG_TIMEOUT, TIMEOUT, eventually, let_time_pass};
