//! The relay.
pub mod config;
pub mod storage;
#[cfg(test)]
mod testing;
