//! End-to-end tests that start hundreds of processes, or measure time or memory.
//!
//! Each has the machine to itself (`.config/nextest.toml`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bulk;
mod exhaustion;
mod fairness;
mod faults;
mod hostile_tenant;
mod operation;
mod quickstart;
mod synchronizer;
