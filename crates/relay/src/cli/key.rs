//! `key create | list | rotate | revoke`.

use super::args::{KeyCommand, ListOptions};
use super::{CliError, output, pairing_file};
use crate::api::keys::state;
use crate::api::timestamp::Timestamp;
use crate::config::{Config, ConfigDuration};
use crate::storage::{ApiKey, Existing, NewKey, Role, Scope, Secret, Storage, TenantId, now};
use runtime::time::to_minute;
use serde_json::{Value, json};
use std::collections::HashMap;

pub(super) async fn run(
    storage: &Storage,
    config: &Config,
    command: KeyCommand,
) -> Result<(), CliError> {
    match command {
        KeyCommand::Create {
            tenant,
            role,
            name,
            existing,
            expires,
            bridge,
            endpoint,
            host,
            credential,
            file,
            output,
        } => {
            let new = NewKey {
                role,
                name,
                existing: existing.unwrap_or(Existing::Refuse),
                // Saturating: a huge time means never, not an instant in the past.
                expires: expires.map(|span| now().saturating_add(seconds(span))),
                scope: Scope {
                    bridges: bridge,
                    endpoints: endpoint,
                    hosts: host,
                    credentials: credential,
                },
                is_one_time: false,
            };
            let tenant = tenant.unwrap_or_default();
            if let Some(path) = &file.bundle {
                let key = (tenant.as_str(), new);
                return pairing_file::create(
                    storage,
                    config,
                    key,
                    (&file, path.as_path()),
                    output.json,
                )
                .await;
            }
            check_output()?;
            let (key, secret) = storage.create_key_with(&tenant, new).await?;
            let whose = match role {
                Role::SiteAdmin => format!("Key of the role {role}:"),
                _ => format!("Key of the role {role} for tenant {tenant}:"),
            };
            match shown(&key, &secret, &tenant, whose, output.json) {
                Ok(()) => Ok(()),
                Err(error) => Err(revoked(storage, &key, error).await),
            }
        }
        KeyCommand::Rotate {
            client_id,
            overlap,
            output,
        } => {
            check_output()?;
            let rotated = storage.rotate_key("", &client_id, seconds(overlap)).await;
            let (key, secret) = rotated?;
            let names = names(storage).await?;
            let tenant = names.get(&key.tenant).cloned().unwrap_or_default();
            let whose =
                format!("The key has a new secret. The previous one stays valid for {overlap}:");
            shown(&key, &secret, &tenant, whose, output.json).map_err(|error| {
                // One previous secret is kept: another rotation ends the one that the programs have.
                let remains = match overlap.0.is_zero() {
                    true => "the previous secret has ended".to_owned(),
                    false => format!(
                        "this ends the previous secret, which otherwise stays valid for {overlap}"
                    ),
                };
                let outcome = format!(
                    "run `integration-relay key rotate {}` again; {remains}",
                    key.client_id
                );
                unshown(&key, error, outcome)
            })
        }
        KeyCommand::List {
            list: ListOptions { tenant, json },
        } => {
            let keys = storage.keys(tenant.as_deref()).await?;
            let names = names(storage).await?;
            let name_of = |key: &ApiKey| names.get(&key.tenant).cloned().unwrap_or_default();
            if json {
                let documents = keys.iter().map(|key| document(key, &name_of(key)));
                return output::json(&documents.collect());
            }
            let rows: Vec<_> = keys
                .iter()
                .map(|key| {
                    [
                        key.client_id.to_string(),
                        name_of(key),
                        key.role.to_string(),
                        key.name.clone(),
                        // By the same rule as in the API.
                        state(key).to_owned(),
                        to_minute(key.created),
                        key.expires.map_or_else(|| "never".into(), to_minute),
                        key.last_used.map_or_else(|| "never".into(), to_minute),
                        narrowing(&key.scope),
                    ]
                })
                .collect();
            let header = [
                "CLIENT ID",
                "TENANT",
                "ROLE",
                "NAME",
                "STATE",
                "CREATED",
                "EXPIRES",
                "LAST USED",
                "NARROWED TO",
            ];
            output::table(header, &rows, "There are no keys.")
        }
        KeyCommand::Revoke {
            client_id,
            keep_bridges,
        } => {
            let revoked = storage.revoke_key(&client_id, keep_bridges).await?;
            let mut lines = vec![format!("Key {client_id} is revoked.")];
            if !revoked.bridges.is_empty() {
                lines.push(format!(
                    "Bridges that were paired with it are revoked as well: {}.",
                    revoked.bridges.join(", ")
                ));
            }
            lines.push("A running relay closes what uses it within two seconds.".into());
            output::lines(&lines)
        }
    }
}

/// Checks that what a command prints is not discarded, before it makes a secret.
pub(super) fn check_output() -> Result<(), CliError> {
    match runtime::output::is_discarded() {
        true => Err(CliError::Discarded),
        false => Ok(()),
    }
}

/// Revokes a new key whose secret could not be shown: no program could use it, and it would stay valid. Returns the
/// error that says so.
pub(super) async fn revoked(storage: &Storage, key: &ApiKey, error: CliError) -> CliError {
    let outcome = match storage.revoke_key(key.client_id.as_str(), false).await {
        Ok(_) => "the key is revoked; create another one".to_owned(),
        Err(_) => format!(
            "revoke the key with `integration-relay key revoke {}`, and create another one",
            key.client_id
        ),
    };
    unshown(key, error, outcome)
}

/// Names the key whose secret was not shown; another error than that of the output stays as it is.
fn unshown(key: &ApiKey, error: CliError, outcome: String) -> CliError {
    match error {
        CliError::Output(error) => CliError::Unshown {
            client_id: key.client_id.to_string(),
            outcome,
            error,
        },
        other => other,
    }
}

/// Prints a key with its secret, which is shown only once.
pub(super) fn shown(
    key: &ApiKey,
    secret: &Secret,
    tenant: &str,
    whose: String,
    json: bool,
) -> Result<(), CliError> {
    if json {
        let mut document = document(key, tenant);
        document["client_secret"] = json!(secret.reveal());
        return output::json(&document);
    }
    output::lines(&[
        whose,
        format!("  client id      {}", key.client_id),
        format!("  client secret  {}", secret.reveal()),
        "Store the secret now: the relay keeps only its hash and cannot show it again.".into(),
    ])
}

fn seconds(span: ConfigDuration) -> i64 {
    i64::try_from(span.0.as_secs()).unwrap_or(i64::MAX)
}

/// Returns the names of all tenants.
pub(super) async fn names(storage: &Storage) -> Result<HashMap<TenantId, String>, CliError> {
    let tenants = storage.tenants().await?;
    Ok(tenants
        .into_iter()
        .map(|tenant| (tenant.id, tenant.name))
        .collect())
}

/// Returns what a key is narrowed to, in the words of the options of `key create`.
fn narrowing(scope: &Scope) -> String {
    let lists = [
        ("bridge", &scope.bridges),
        ("endpoint", &scope.endpoints),
        ("host", &scope.hosts),
        ("credential", &scope.credentials),
    ];
    let named = lists.iter().filter(|(_, names)| !names.is_empty());
    let parts: Vec<_> = named
        .map(|(what, names)| format!("{what} {}", names.join(", ")))
        .collect();
    match parts.is_empty() {
        true => "-".to_owned(),
        false => parts.join("; "),
    }
}

pub(super) fn document(key: &ApiKey, tenant: &str) -> Value {
    json!({
        "client_id": key.client_id,
        "tenant": tenant,
        "role": key.role.as_str(),
        "name": key.name,
        "existing": key.existing.as_str(),
        "state": state(key),
        "created_at": Timestamp::Seconds(key.created),
        "expires_at": key.expires.map(Timestamp::Seconds),
        "last_used_at": key.last_used.map(Timestamp::Seconds),
        "one_time": key.is_one_time,
        "scope": key.scope,
    })
}
