//! Pauses deliveries when an older copy of the database has replaced it.
//!
//! [`store::Generation`] detects it, by a number in the database and in a file next to the key file. What was delivered
//! since the copy was created is not known, so deliveries stay paused until an operator resumes them.

use crate::storage::audit::AuditEvent;
use crate::storage::tenants::SITE;
use crate::storage::{Storage, StorageError};
use std::path::Path;
use std::sync::Arc;
use store::Found;
pub(crate) use store::Generation;

/// Runs in the transaction that detects the older copy, so that a crash cannot come between the two. Backups have
/// it from the start: a backup that is put in place by hand on another machine finds no file to compare with.
pub(crate) const PAUSE_DELIVERIES: &str = "UPDATE meta SET deliveries_paused = 1 WHERE id = 1";

/// Compares the database with the file next to the key file, and begins another generation.
///
/// # Errors
/// [`StorageError`] when the database does not respond. A file that cannot be written is logged, and retried by
/// [`Generation::follow`].
pub(crate) async fn begin(
    storage: &Storage,
    key_file: &Path,
) -> Result<Arc<Generation>, StorageError> {
    let file = key_file.with_extension("generation");
    let begun = Generation::begin((**storage).clone(), file, PAUSE_DELIVERIES);
    let (generation, found) = begun.await?;
    match found {
        Found::Current | Found::New { noted: 0 } => {}
        // It has no stored call that could be delivered twice.
        Found::New { noted } => tracing::warn!(
            noted,
            "the database is new, and this relay served from another one before; to use that one, stop the \
             relay and restore it (storage.url, `integration-relay restore`)"
        ),
        Found::Older { own, noted } => {
            let event = AuditEvent {
                tenant: SITE.into(),
                action: "database.older_copy",
                result: "ok",
                count: 1,
                ..AuditEvent::default()
            };
            storage.audit(&[event]).await?;
            tracing::warn!(
                generation = own,
                noted,
                "the database is a copy of an earlier time: deliveries are paused, because the relay cannot \
                 know what was delivered since; review pending calls, then run `integration-relay deliveries \
                 resume`"
            );
        }
    }
    // A file that cannot be written is no reason not to start: the operator reads the error in the log.
    generation.note().await;
    Ok(generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Database;
    use crate::testing::TempDir;

    #[tokio::test]
    async fn older_copy_pauses_deliveries() {
        let dir = TempDir::new("generation");
        let [original, copy] = ["relay.db", "copy.db"].map(|name| dir.path().join(name));
        let key_file = dir.path().join("relay-secrets.key");
        let storage = Storage::open(&Database::Sqlite(original)).await.unwrap();
        begin(&storage, &key_file).await.unwrap();
        storage.copy_to(&copy, "").await.unwrap();
        storage.mark_changed();
        begin(&storage, &key_file).await.unwrap();
        assert!(!storage.deliveries_paused().await.unwrap());

        let copy = Storage::open(&Database::Sqlite(copy)).await.unwrap();
        begin(&copy, &key_file).await.unwrap();
        assert!(copy.deliveries_paused().await.unwrap());
        let totals = copy.audit_totals().await.unwrap();
        assert_eq!(totals.0, storage.audit_totals().await.unwrap().0 + 1);
    }

    #[tokio::test]
    async fn new_database_has_deliveries_running() {
        let dir = TempDir::new("generation-fresh");
        let [lost, new] = ["lost.db", "new.db"].map(|name| dir.path().join(name));
        let key_file = dir.path().join("relay-secrets.key");
        for path in [lost, new] {
            let storage = Storage::open(&Database::Sqlite(path)).await.unwrap();
            let rows = storage.audit_totals().await.unwrap();
            begin(&storage, &key_file).await.unwrap();
            assert!(!storage.deliveries_paused().await.unwrap());
            assert_eq!(storage.audit_totals().await.unwrap(), rows);
        }
    }
}
