//! Reports of services, which are stored less often than they come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A report is stored at most once in this many seconds, unless its version has changed.
const STORE_INTERVAL_S: i64 = 30;

/// Entries in memory. Above it, entries older than [`STORE_INTERVAL_S`] are dropped first: they no longer
/// keep a report from being stored.
const ENTRIES_MAX: usize = 10_000;

/// A version, and when it was stored.
type Stored = (String, i64);

/// What is stored of the services of each tenant, by tenant and name.
#[derive(Debug, Default)]
pub(crate) struct ServiceReports(Mutex<HashMap<(Arc<str>, String), Stored>>);

impl ServiceReports {
    /// Returns whether a report must be stored, and notes that it is.
    pub(crate) fn must_store(
        &self,
        tenant: &Arc<str>,
        name: &str,
        version: &str,
        now: i64,
    ) -> bool {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.clone(), name.to_owned());
        let known = stored.get(&key);
        if known.is_some_and(|(known, at)| known == version && now - at < STORE_INTERVAL_S) {
            return false;
        }
        if stored.len() >= ENTRIES_MAX {
            stored.retain(|_, (_, at)| now - *at < STORE_INTERVAL_S);
        }
        stored.insert(key, (version.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_stored_on_change_and_twice_a_minute() {
        let reports = ServiceReports::default();
        let tenant: Arc<str> = "t".into();
        assert!(reports.must_store(&tenant, "synchronizer", "1", 100));
        assert!(!reports.must_store(&tenant, "synchronizer", "1", 129));
        assert!(reports.must_store(&tenant, "synchronizer", "2", 129));
        assert!(reports.must_store(&tenant, "synchronizer", "2", 159));
        assert!(reports.must_store(&"u".into(), "synchronizer", "2", 159));
    }
}
