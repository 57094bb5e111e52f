//! `init`, `deliveries ...` and `audit ...`: commands for the relay as a whole.

use super::args::{AuditCommand, DeliveriesCommand, JsonObject, ListOptions};
use super::{CliError, audit_words, first_key, key, output};
use crate::api::timestamp::Timestamp;
use crate::storage::audit::seals::{Defect, SealedRecord};
use crate::storage::audit::{AuditFilter, AuditRow};
use crate::storage::{
    ApiKey, Existing, NewKey, Role, Scope, Secret, Storage, StorageError, now_ms,
};
use crate::vault::MasterKey;
use runtime::output::counted;
use runtime::time::to_minute;
use serde_json::{Value, json};
use std::path::Path;

/// Creates a site administrator's key.
pub(super) async fn new_key(storage: &Storage) -> Result<(ApiKey, Secret), StorageError> {
    let new = NewKey {
        role: Role::SiteAdmin,
        name: "first".to_owned(),
        existing: Existing::Refuse,
        expires: None,
        scope: Scope::default(),
        is_one_time: false,
    };
    storage.create_key_with("", new).await
}

pub(super) async fn init(storage: &Storage, key_file: &Path, json: bool) -> Result<(), CliError> {
    if storage.has_site_admin().await? {
        return Err(CliError::Storage(StorageError::Conflict(
            "a site administrator's key exists already; create another with `key create --role \
             site-admin`"
                .into(),
        )));
    }
    if json {
        key::check_output()?;
    }
    let (made, secret) = new_key(storage).await?;
    let whose = "The database is ready. The first key of a site administrator:";
    match json {
        // Asked for by a program that reads it.
        true => match key::shown(&made, &secret, "", whose.to_owned(), true) {
            Ok(()) => Ok(()),
            Err(error) => Err(key::revoked(storage, &made, error).await),
        },
        false => first_key::show((&made, &secret), whose, key_file),
    }
}

pub(super) async fn deliveries(
    storage: &Storage,
    command: DeliveriesCommand,
) -> Result<(), CliError> {
    match command {
        DeliveriesCommand::Pause => {
            storage.set_deliveries_paused(true).await?;
            output::lines(&[
                "Deliveries are paused: calls are accepted and stored, and no attempt starts.",
            ])
        }
        DeliveriesCommand::Resume => {
            storage.set_deliveries_paused(false).await?;
            output::lines(&["Deliveries are resumed. A running relay continues within a second."])
        }
        DeliveriesCommand::Status {
            output: JsonObject { json },
        } => {
            let paused = storage.deliveries_paused().await?;
            let queued = storage.queued_calls().await?;
            let names = key::names(storage).await?;
            let name = |tenant: &str| names.get(tenant).cloned().unwrap_or_default();
            // A clock that was set back must not show a negative age.
            let age = |oldest: i64| (now_ms() - oldest).max(0) / 1000;
            if json {
                let rows = queued.iter().map(|group| {
                    json!({
                        "tenant": name(&group.tenant),
                        "state": group.state.as_str(),
                        "calls": group.calls,
                        "oldest_s": age(group.oldest_ms),
                    })
                });
                let rows: Vec<Value> = rows.collect();
                return output::json(&json!({"paused": paused, "queued": rows}));
            }
            output::lines(&[match paused {
                true => "Deliveries are paused.",
                false => "Deliveries are not paused.",
            }])?;
            let rows: Vec<_> = queued
                .iter()
                .map(|group| {
                    [
                        name(&group.tenant),
                        group.state.to_string(),
                        group.calls.to_string(),
                        format!("{} s", age(group.oldest_ms)),
                    ]
                })
                .collect();
            output::table(
                ["TENANT", "STATE", "CALLS", "OLDEST"],
                &rows,
                "Nothing waits.",
            )
        }
    }
}

pub(super) async fn audit(
    storage: &Storage,
    key_file: &Path,
    command: AuditCommand,
) -> Result<(), CliError> {
    let (filter, tenant, limit, json) = match command {
        AuditCommand::Verify {
            head,
            output: JsonObject { json },
        } => return verify(storage, key_file, head.as_ref(), json).await,
        AuditCommand::List {
            list: ListOptions { tenant, json },
            action,
            actor,
            object,
            result,
            status,
            limit,
        } => {
            let filter = AuditFilter {
                action,
                actor,
                object,
                result,
                status,
                ..AuditFilter::default()
            };
            (filter, tenant, limit, json)
        }
    };
    let tenant = match tenant {
        Some(name) => Some(storage.tenant(&name).await?.id.to_string()),
        None => None,
    };
    let filter = AuditFilter { tenant, ..filter };
    let rows = storage.audit_rows(&filter, i64::MAX, limit).await?;
    let names = key::names(storage).await?;
    if json {
        let name = |row: &AuditRow| names.get(row.tenant.as_str()).cloned();
        return output::json(
            &rows
                .iter()
                .map(|row| document(row, name(row).as_deref()))
                .collect(),
        );
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                to_minute(row.at_ms / 1000),
                names
                    .get(row.tenant.as_str())
                    .unwrap_or(&row.tenant)
                    .clone(),
                row.actor.clone(),
                audit_words::what(row),
                row.bridge.clone(),
                audit_words::outcome(row),
            ]
        })
        .collect();
    let header = ["AT", "TENANT", "ACTOR", "WHAT", "BRIDGE", "OUTCOME"];
    output::table(header, &rows, no_row(&filter))
}

/// Returns what is said instead of an empty table.
fn no_row(filter: &AuditFilter) -> &'static str {
    let is_request = |object: &String| object.starts_with("req_");
    match filter {
        filter if filter.object.as_ref().is_some_and(is_request) => {
            "No row of the audit record matches: the record has endpoint exchanges as sums, and the id of a request \
             to an endpoint is in the log alone."
        }
        AuditFilter {
            tenant: None,
            action: None,
            actor: None,
            object: None,
            result: None,
            status: None,
            since_ms: None,
            until_ms: None,
        } => "The audit record is empty.",
        _ => "No row of the audit record matches.",
    }
}

/// Prints the number of rows of the audit record, of missing rows, and what the seals show.
async fn verify(
    storage: &Storage,
    key_file: &Path,
    head: Option<&(i64, String)>,
    json: bool,
) -> Result<(), CliError> {
    let (rows, lost) = storage.audit_totals().await?;
    // Never created here: a new key fits no seal.
    let found = match MasterKey::load(key_file) {
        Ok(Some(master)) => storage.check_seals(&master.audit_key(), head).await?,
        Ok(None) => {
            let why = format!("the key file {} does not exist", key_file.display());
            return Err(CliError::AuditUnproved(why));
        }
        Err(error) => return Err(CliError::AuditUnproved(error.to_string())),
    };
    let (sealed, broken) = match found {
        Ok(sealed) => (Some(sealed), None),
        Err(Defect::Changed(defect)) => (None, Some(defect)),
        Err(Defect::OtherKey(why)) => return Err(CliError::AuditUnproved(why)),
    };
    // Of the moment of the check: a running relay adds rows.
    let rows = sealed.as_ref().map_or(rows, SealedRecord::rows);
    let unproved = sealed.as_ref().and_then(unproved);
    let seal = sealed.as_ref().and_then(|sealed| sealed.head.clone());
    if json {
        output::json(&json!({
            "rows": rows,
            "lost": lost,
            "broken": broken,
            "checked": sealed.as_ref().map(|sealed| sealed.checked),
            "unproved": unproved,
            "unproved_rows": sealed.as_ref().map(|sealed| sealed.unproved),
            "unproved_upto": sealed.as_ref().and_then(|sealed| sealed.unproved_upto),
            "expired": sealed.as_ref().map(|sealed| sealed.expired),
            "unsealed": sealed.as_ref().map(|sealed| sealed.unsealed),
            "head": seal.as_ref().map(|(number, mac)| format!("{number}:{mac}")),
        }))?;
    } else {
        let mut lines = vec![
            format!("The audit record has {}.", counted(rows, "row")),
            format!("Missing rows: {lost} (see `audit list --action audit.lost`)."),
        ];
        if let (Some(sealed), Some((number, mac))) = (&sealed, &seal) {
            lines.push(format!(
                "{} rows are as they were sealed; {} are newer than the last seal.",
                sealed.checked, sealed.unsealed
            ));
            if sealed.unproved + sealed.expired > 0 {
                lines.push(format!(
                    "{} have a seal of another key file; {} wait for their deletion by age.",
                    sealed.unproved, sealed.expired
                ));
            }
            lines.push(format!("The last seal: --head {number}:{mac}"));
        }
        output::lines(&lines)?;
    }
    if let Some(defect) = broken {
        return Err(CliError::AuditBroken(defect));
    }
    if lost > 0 {
        return Err(CliError::AuditLost(lost));
    }
    match unproved {
        Some(why) => Err(CliError::AuditUnproved(why)),
        None => Ok(()),
    }
}

/// Returns why nothing can be concluded from a record without a defect.
fn unproved(sealed: &SealedRecord) -> Option<String> {
    if sealed.head.is_none() {
        // Also without a row: the first tenant and the first key leave one, so an empty record was emptied or is of a
        // relay that has never started.
        return Some(
            "there is no seal. A running relay makes the first one within minutes; if this relay has made one before, \
             it was removed, perhaps together with rows"
                .to_owned(),
        );
    }
    if let Some(row) = sealed.unproved_upto {
        return Some(format!(
            "another key file signed the seals up to row {row} (see `audit list --action audit.key_changed`); the present one \
             proves the rows from {} on",
            row + 1
        ));
    }
    if let Some(row) = sealed.absent_upto {
        return Some(format!(
            "the rows 1 to {row} were gone before the first seal was made: they were removed together with older seals, \
             or an earlier version of the relay, which made no seals, deleted them by age"
        ));
    }
    (sealed.expired > 0).then(|| {
        format!(
            "{} older than audit.keep and not checked: the relay was stopped while it deleted old rows, and continues \
             ten minutes after its start",
            match sealed.expired {
                1 => "1 row is".to_owned(),
                rows => format!("{rows} rows are"),
            }
        )
    })
}

/// Returns a row as JSON. A tenant that was deleted has no name.
fn document(row: &AuditRow, tenant: Option<&str>) -> Value {
    json!({
        "seq": row.seq,
        "at": Timestamp::Millis(row.at_ms),
        "tenant": tenant,
        "tenant_id": row.tenant,
        "actor": row.actor,
        "action": row.action,
        "object": row.object,
        "bridge": row.bridge,
        "result": row.result,
        "execution": row.execution,
        "bytes_up": row.bytes_up,
        "bytes_down": row.bytes_down,
        "took_ms": row.took_ms,
        "count": row.count,
        "detail": serde_json::from_str(&row.detail).unwrap_or(Value::Null),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Database;
    use crate::testing::TempDir;

    #[test]
    fn filter_without_a_hit_is_no_empty_record() {
        assert_eq!(
            no_row(&AuditFilter::default()),
            "The audit record is empty."
        );
        let of = |object: &str| AuditFilter {
            object: Some(object.to_owned()),
            ..AuditFilter::default()
        };
        assert_eq!(no_row(&of("call_1")), "No row of the audit record matches.");
        assert!(no_row(&of("req_1")).contains("in the log alone"));
    }

    /// Another program changes the database of a relay that is stopped.
    #[tokio::test]
    async fn verify_rejects_added_rows_and_emptied_record() {
        let dir = TempDir::new("audit-verify");
        let database = Database::Sqlite(dir.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let key_file = dir.path().join("secret.key");
        let master = MasterKey::load_or_create(&key_file).unwrap();
        let run = async |statement: &'static str| {
            sqlx::query(statement)
                .execute(storage.pool())
                .await
                .unwrap();
        };
        let verify = async || verify(&storage, &key_file, None, true).await;
        // Nothing distinguishes a new record from an emptied one.
        let fresh = verify().await.unwrap_err();
        assert!(matches!(fresh, CliError::AuditUnproved(_)), "{fresh}");
        storage.create_tenant("acme").await.unwrap();
        let last = storage.last_audit_row().await.unwrap();
        let key = master.audit_key();
        storage.seal_audit(&key, last, now_ms()).await.unwrap();
        verify().await.unwrap();
        run(
            "INSERT INTO audit (seq, at_ms, tenant_id, actor, action, object, result)
             VALUES (-1, 1, '', 'x', 'call', 'forged', 'ok')",
        )
        .await;
        let added = verify().await.unwrap_err();
        assert!(matches!(added, CliError::AuditBroken(_)), "{added}");
        run("DELETE FROM audit").await;
        run("DELETE FROM audit_seals").await;
        let emptied = verify().await.unwrap_err();
        assert!(matches!(emptied, CliError::AuditUnproved(_)), "{emptied}");
        assert!(
            emptied.to_string().contains("there is no seal"),
            "{emptied}"
        );
    }

    #[test]
    fn record_without_a_seal_proves_nothing() {
        let sealed = SealedRecord {
            head: Some((1, "mac".to_owned())),
            checked: 12,
            unsealed: 3,
            ..SealedRecord::default()
        };
        assert_eq!((unproved(&sealed), sealed.rows()), (None, 15));
        // Emptied, or never used: without a seal the two are the same.
        let why = unproved(&SealedRecord::default()).unwrap();
        assert!(why.starts_with("there is no seal"), "{why}");
        let begins_late = SealedRecord {
            absent_upto: Some(4),
            ..sealed.clone()
        };
        let why = unproved(&begins_late).unwrap();
        assert!(why.starts_with("the rows 1 to 4 were gone"), "{why}");
        let expired = SealedRecord {
            expired: 2,
            ..sealed
        };
        assert_eq!(expired.rows(), 17);
        let why = unproved(&expired).unwrap();
        assert!(why.starts_with("2 rows are older than audit.keep"), "{why}");
    }
}
