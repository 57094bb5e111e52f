//! The wire protocol of the Integration Bridge, without I/O.
//!
//! A relay and a bridge exchange frames over one WebSocket, one binary message for each frame. This
//! crate has the format of the frames ([`frame`]), the signatures of the opening ([`opening`]), the
//! state of a session that many exchanges share ([`session`]), the failures of requests ([`code`]), the rule for names ([`name`]),
//! and versions of the bridge's program ([`version`]).
//! It reads no clock, holds no lock and spawns no task: the crate `transport` owns sockets and time.
//!
//! `proto/WIRE.md` is the specification. Its rules are cited here by their numbers (W-1 and so on).

pub mod code;
pub mod frame;
pub mod limits;
pub mod name;
pub mod opening;
pub mod session;
pub mod version;

pub use code::{Code, Execution, Failure, Origin, Retry};
