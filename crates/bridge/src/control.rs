//! The local control interface: commands of this machine ask the running bridge over a socket.

pub mod handler;
pub mod socket;
