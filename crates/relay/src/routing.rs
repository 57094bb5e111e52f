//! Where a request goes: decided by policy and state, then to one of the tunnels.

mod decide;
pub mod select_tunnel;

pub use decide::*;
