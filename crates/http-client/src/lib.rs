//! The HTTP client of both programs: HTTP/1.1, and HTTP/2 with targets that choose it.
//!
//! ```text
//! Candidate --> Resolver --> Approved --> open: pool (an idle connection whose address is approved again)
//!                                          \--> connect (TCP, TLS)
//!               execute: head --> dispatch --> send --> response       the one request loop
//!                 ^                             |
//!                 +-- another connection <------+  only as Replay allows
//! ```
//!
//! A connection needs an [`Approved`](policy::Approved), which only the policy makes. What a URL in the
//! program's own config names (a collector, for instance) goes through
//! [`Candidate::for_configured`](policy::Candidate::for_configured), the policy's only other constructor. No
//! redirect is followed here, and nothing is decided: that is up to the caller.
//!
//! An exchange moves the bytes of its own HTTP/1.1 [`Connection`] while it is polled, and closes it by
//! dropping it. Idle connections do not move. HTTP/2 connections move in tasks of their own.

mod client;
mod client_cert;
mod connect;
mod connection;
mod error;
mod execute;
mod http2;
mod pool;
mod proxied;
mod request_body;
mod request_head;
mod resolve;
mod reuse;
mod spelling;
mod stream;
mod tls;
mod wire;

pub use client::{Client, ClientOptions, PoolLimits};
pub use client_cert::ClientCert;
pub use connection::{Connection, ResponseBody, switched};
pub use error::{BodyError, SendError, no_answer_of_relay};
pub use execute::{Attempts, Executed, NoResponse, Outgoing, OwnRequest, Replay, RequestPlan};
pub use pool::Reuse;
pub use request_body::{Progress, RequestBody};
pub use request_head::request_head;
pub use resolve::{AddressRule, ResolveError, Resolver};
pub use reuse::PoolKey;
pub use spelling::spell;
pub use stream::Stream;

/// Most header fields of an HTTP/1.1 response. A response with more is rejected, as is a header section
/// above [`HEAD_BUFFER_BYTES`]. hyper has room for 100 without an allocation; more would cost two for each response.
const RESPONSE_HEADERS_MAX: usize = 100;

/// Largest response header section, and the most that a connection buffers, in bytes.
const HEAD_BUFFER_BYTES: usize = 96 * 1024;
