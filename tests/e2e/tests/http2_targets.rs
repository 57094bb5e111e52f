//! Targets that use HTTP/2. A stream can be refused, be reset, or stall alone, and each of these must
//! reach the right side. That messages pass unchanged is shown in `differential`.
//!
//! ```text
//! caller ──> relay ──> bridge ── HTTP/2 ──> H2Target
//! ```

// The environment of these tests.
mod site;

// Tests, each file a topic.
mod calls;
mod choice;
mod endings;
mod repeats;
mod websocket;

/// The relay's path for the target.
const ENDPOINT: &str = "/v1/endpoints/t";
/// Carries the caller's key for the relay.
const KEY: &str = "bridge-authorization";
