//! What every request to a target needs: the policy, the HTTP client and the config.
//!
//! The dispatcher uses it for the relay's requests; the ALM sign-in and the health checks, for the bridge's own.
//! Credentials are not part of it: they use it themselves.

use crate::config::Config;
use http_client::Client;
use policy::Policy;

/// Policy, client and config that belong together. Replaced as a whole when the config changes.
#[derive(Debug)]
pub(crate) struct TargetAccess {
    pub(crate) policy: Policy,
    pub(crate) client: Client,
    pub(crate) config: Config,
}
