//! Where a session meets a socket and a clock.
//!
//! ```text
//! session   handles on a live tunnel: open, send, receive, with backpressure
//! driver    the one task that moves frames between a session and its WebSocket
//! tunnel    the opening: CHALLENGE, HELLO, WELCOME, and who checks what
//! socket    the session's WebSocket, with buffers that fit what it does
//! websocket limits of the WebSocket, the upgrade on the relay's side
//! dial      the way to the relay: names, proxies, TCP, TLS, upgrade, under one deadline
//! tls, tcp  configurations and socket options
//! http      between the heads of `http` and those of the wire
//! raw       raw bytes between a socket and a stream
//! backoff   when to dial again
//! runtime   how many threads the programs work with
//! ```
//!
//! Nothing here decides whether a request may be made; that is `policy`.

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

pub mod backoff;
pub mod dial;
mod driver;
pub mod handle;
pub mod handshake;
pub mod http;
pub mod lookup;
pub mod raw;
mod socket;
pub mod tcp;
pub mod tls;
pub mod websocket;
pub mod workers;

#[cfg(test)]
mod tests;

pub use handle::{AbortHandle, Incoming, PumpEnd, PumpError, RecvStream, SendStream, Session};
