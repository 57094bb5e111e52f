//! Any frames into a session of each side, mixed with commands of its users.
#![no_main]

#[path = "../bodies/session_input.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::session_input(std::time::Instant::now(), data));
