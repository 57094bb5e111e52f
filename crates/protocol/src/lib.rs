//! The wire protocol of the Integration Bridge, without IO.
//!
//! A relay and a bridge talk over one WebSocket, one binary message a frame. This crate knows what
//! the frames look like ([`frame`]), how a session begins ([`opening`]), and how many exchanges
//! share it ([`session`]). It reads no clock, holds no lock and spawns nothing: the crate
//! `transport` owns sockets and time. The contract in words is `proto/WIRE.md`; rules are cited
//! here by their numbers (W-1 and so on).

pub mod code;
pub mod frame;
pub mod limits;
pub mod opening;
pub mod session;

pub use code::{Code, Execution, Failure, Origin, Retry};
