//! What the tests share, from a throwaway certificate to the whole product running as processes.
//!
//! ```text
//! Installation ── starts ──> integration-relay <── FlakyProxy <── integration-bridge ──> Target
//!      │                            ^                                                   (echoes, hangs,
//!      └─ keys, config, CA          └── Origin / Client: what a caller sends             breaks off)
//! ```
//!
//! A helper that does not get what it waits for panics, and says what it had instead: the test's
//! failure is then readable without running it again. What a test may want to see fail returns a
//! `Result`. Everything listens on loopback, and nothing outlives the value that started it.

pub mod alm;
pub mod ca;
pub mod commit_proxy;
pub mod dns;
pub mod flaky;
pub mod h2_target;
pub mod http;
pub mod interceptor;
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

mod tasks;

pub use alm::Alm;
pub use ca::ThrowawayCa;
pub use commit_proxy::{CommitProxy, Cut};
pub use dns::Dns;
pub use flaky::{Direction, FlakyProxy};
pub use h2_target::H2Target;
pub use http::{Answer, ApiKey, Ask, Client, Origin};
pub use interceptor::Interceptor;
pub use link::{Line, Link};
pub use network::Network;
pub use postgres::PostgresDatabase;
pub use process::Running;
pub use raw::RawTarget;
pub use recorder::Recorder;
pub use setup::Installation;
pub use small_disk::SmallDisk;
pub use squid::Squid;
pub use target::Target;
pub use tempdir::TempDir;
