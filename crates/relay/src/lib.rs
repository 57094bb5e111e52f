//! The relay.
pub mod auth;
pub mod body;
pub mod config;
pub mod directory;
pub mod problem;
pub mod registry;
pub mod router;
pub mod storage;
#[cfg(test)]
mod testing;
