//! `[direct]`: calls that the relay makes itself.

use serde::Deserialize;
use std::path::PathBuf;

/// `[direct]`. Which URLs is each tenant's, set by a site administrator; none by default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Direct {
    /// At once, of all tenants; each may have as many as it leaves for others. Default 256.
    pub concurrent_max: u32,
    /// At once, of one tenant. Default 32.
    pub concurrent_per_tenant: u32,
    /// Names that are looked up at a time, of all tenants. Default 128.
    pub lookups_max: u32,
    /// PEM certificates trusted for HTTPS targets, beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Direct {
    fn default() -> Self {
        Self {
            concurrent_max: 256,
            concurrent_per_tenant: 32,
            lookups_max: 128,
            ca_file: None,
        }
    }
}
