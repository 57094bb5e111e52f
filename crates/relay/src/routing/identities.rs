//! What the data plane needs to know of tenants and keys.

use super::select_tunnel::Paired;
use crate::access::Principal;
use protocol::Failure;
use std::fmt;
use std::sync::Arc;

/// Tenants, keys and bridges, as far as requests depend on them. The directory implements it: in memory, and
/// without waiting.
pub(crate) trait Identities: Paired + fmt::Debug + Send + Sync {
    /// Checks that the key is still valid: not revoked, not expired, its tenant not suspended.
    ///
    /// # Errors
    /// The reason, for a request that may have been executed.
    fn check_principal(&self, principal: &Principal) -> Result<(), Failure>;

    /// Returns whether the tenant exists and is not suspended.
    fn is_active(&self, tenant: &str) -> bool;

    /// Returns the patterns of the URLs that the relay may call itself for the tenant.
    fn direct_urls(&self, tenant: &str) -> Arc<[String]>;
}
