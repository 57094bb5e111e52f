//! Sessions over sockets: the wire protocol with I/O, TLS and a clock.
//!
//! ```text
//! handle     handles on a live tunnel: open, send, receive, with backpressure
//! driver     the one task that moves frames between a session and its WebSocket
//! handshake  the opening: CHALLENGE, HELLO, WELCOME, and what each side checks
//! socket     the session's WebSocket, with buffers that fit its traffic
//! websocket  limits of the WebSocket, and the upgrade on the relay's side
//! dial       the connection to the relay: names, proxies, TCP, TLS, upgrade, under one deadline
//! failure    why connections fail: causes, their words and remedies
//! race       connects to one of several addresses in parallel
//! lookup     name lookups, shared fairly by several owners
//! tls, tcp   configs and socket options
//! http       conversion between the heads of `http` and those of the wire
//! raw        raw bytes between a socket and a stream
//! backoff    when to dial again
//! workers    worker threads and open files of the programs
//! ```
//!
//! Nothing here decides whether a request is allowed; that is `policy`.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

pub mod backoff;
pub mod dial;
mod driver;
pub mod failure;
pub mod handle;
pub mod handshake;
pub mod http;
pub mod lookup;
pub mod race;
pub mod raw;
pub mod read_ahead;
mod socket;
pub mod tcp;
pub mod tls;
pub mod websocket;
pub mod workers;

#[cfg(test)]
mod tests;

pub use handle::{AbortHandle, Incoming, PumpEnd, PumpError, RecvStream, SendStream, Session};
