//! Where a request goes: decided by policy and state, then to one of the tunnels.

mod decide;
mod identities;
pub mod select_tunnel;

pub use decide::*;
pub use identities::Identities;
