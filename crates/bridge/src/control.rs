//! The local control interface: commands on this machine send requests to the running bridge.
//!
//! ```text
//! status, reload, ...  --one line of JSON-->  control.sock  --one line of JSON-->
//! ```
//!
//! `message` has the requests and responses; `socket`, the transport; `handler`, the running bridge's side.

pub(crate) mod handler;
pub(crate) mod message;
pub(crate) mod socket;
