//! The whole product, set up as its administrators would: config files, the programs' own command
//! lines, real sockets.
//!
//! ```no_run
//! # async fn example() {
//! use support::setup::Endpoint;
//! use support::{Ask, TestEnv};
//!
//! let env = TestEnv::builder()
//!     .relay(|relay| relay.set("limits.streams_per_key", 2))
//!     .bridge(|bridge| bridge.endpoint(Endpoint::new("other", "http://127.0.0.1:9/")))
//!     .start()
//!     .await;
//! let ask = Ask::get(env.endpoint("/small")).key(&env.caller);
//! env.api.send(ask).await.expect_status(200);
//! # }
//! ```
//!
//! ```text
//! caller ──> relay (public: TLS, internal, admin) <── [FlakyProxy] <── bridge ──> target
//! ```
//!
//! [`Relay`] and [`Bridge`] can also be started by themselves, for tests with several relays, other
//! networks, or a config that is rejected.

mod bridge;
mod config;
mod env;
mod relay;
mod tunnel;

pub use bridge::{Bridge, BridgeSetup};
pub use config::{Allow, Endpoint, path};
pub use env::{Builder, Neighbour, TestEnv};
pub use relay::{Relay, RelaySetup};
pub use tunnel::{SilentTunnel, upgrade_request};

use crate::wait::TIMEOUT as STEP;
