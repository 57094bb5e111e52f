//! `[deliveries]`: stored calls, which the bridge executes once and records in a journal.

use runtime::config::{BoundedInt, ByteSize};
use serde::{Deserialize, Serialize};

/// `[deliveries]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveriesSection {
    /// Concurrent deliveries, 1 to 4096. Defaults to 64.
    pub concurrent_max: BoundedInt<1, 4096>,
    /// Largest body of a delivery. Defaults to `"1MiB"`.
    pub body_max: ByteSize,
    /// Attempts that the journal holds, 100 to 10000000. Acknowledged attempts are evicted. When only
    /// unacknowledged ones are left, new deliveries are rejected until the relay acknowledges some. Defaults
    /// to 100000.
    pub journal_entries_max: BoundedInt<100, 10_000_000>,
    /// Approximate disk space of the journal. Defaults to `"64MiB"`.
    pub journal_bytes_max: ByteSize,
}

impl Default for DeliveriesSection {
    fn default() -> Self {
        Self {
            concurrent_max: BoundedInt::known(64),
            body_max: ByteSize::mib(1),
            journal_entries_max: BoundedInt::known(100_000),
            journal_bytes_max: ByteSize::mib(64),
        }
    }
}
