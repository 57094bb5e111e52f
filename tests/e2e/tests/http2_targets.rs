//! Targets that use HTTP/2. A stream can be refused, be reset, or stall alone, and each of these must
//! reach the right side. That messages pass unchanged is shown in `differential`.
//!
//! ```text
//! caller ──> relay ──> bridge ── HTTP/2 ──> H2Target
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

// The environment of these tests.
#[path = "http2_targets/site.rs"]
mod site;

// Tests, each file a topic.
#[path = "http2_targets/calls.rs"]
mod calls;
#[path = "http2_targets/choice.rs"]
mod choice;
#[path = "http2_targets/endings.rs"]
mod endings;
#[path = "http2_targets/repeats.rs"]
mod repeats;
#[path = "http2_targets/websocket.rs"]
mod websocket;

/// The relay's path for the target.
const ENDPOINT: &str = "/v1/endpoints/t";
/// Carries the caller's key for the relay.
const KEY: &str = "bridge-authorization";
