//! Sessions against each other on a virtual clock, and against a scripted peer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod cancel;
mod credit;
mod exchange;
mod flood;
mod goaway;
mod liveness;
mod loss;
mod order;
mod saturation;
mod simulation;
mod windows;
