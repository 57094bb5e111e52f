//! Where a request goes: through a bridge, directly, or nowhere; and through which tunnel.
//!
//! `decide` has the rule for bridge or direct; `select_tunnel` chooses a tunnel, and `no_tunnel` explains why there is
//! none. `identities` is what routing needs to know of tenants.

mod decide;
mod identities;
mod no_tunnel;
pub(crate) mod select_tunnel;

pub(crate) use decide::*;
pub(crate) use identities::Identities;
