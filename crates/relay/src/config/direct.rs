//! `[direct]`: calls that the relay sends to public URLs itself.

use runtime::config::optional_path;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[direct]`. A site administrator sets the URLs of each tenant; there are none by default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Direct {
    /// Concurrent calls of all tenants; each may use as many as it leaves for others. Defaults to 256.
    pub concurrent_max: u32,
    /// Concurrent calls of one tenant. Defaults to 32.
    pub concurrent_per_tenant: u32,
    /// Concurrent name lookups of all tenants. Defaults to 128.
    pub lookups_max: u32,
    /// Certificates that are trusted for HTTPS targets, in addition to the system's. Defaults to none.
    #[serde(with = "optional_path")]
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
