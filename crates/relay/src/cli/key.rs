//! `key create | list | rotate | revoke`.

use super::args::KeyCommand;
use super::{CliError, output};
use crate::api::keys::state;
use crate::config::ConfigDuration;
use crate::storage::{ApiKey, Existing, NewKey, Role, Scope, Secret, Storage, TenantId, now};
use serde_json::{Value, json};
use std::collections::HashMap;

pub(super) async fn run(storage: &Storage, command: KeyCommand) -> Result<(), CliError> {
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
            json,
        } => {
            let new = NewKey {
                role,
                name,
                existing: existing.unwrap_or(Existing::Refuse),
                expires: expires.map(|span| now().saturating_add(seconds(span))),
                scope: Scope {
                    bridges: bridge,
                    endpoints: endpoint,
                    hosts: host,
                    credentials: credential,
                },
            };
            let tenant = tenant.unwrap_or_default();
            let (key, secret) = storage.create_key_with(&tenant, new).await?;
            let whose = match role {
                Role::SiteAdmin => format!("A {role} key:"),
                _ => format!("A {role} key for tenant {tenant}:"),
            };
            shown(&key, &secret, &tenant, whose, json)
        }
        KeyCommand::Rotate {
            client_id,
            overlap,
            json,
        } => {
            let rotated = storage.rotate_key("", &client_id, seconds(overlap)).await;
            let (key, secret) = rotated?;
            let names = names(storage).await?;
            let tenant = names.get(&key.tenant).cloned().unwrap_or_default();
            let whose =
                format!("The key has another secret; the one before is good for {overlap}:");
            shown(&key, &secret, &tenant, whose, json)
        }
        KeyCommand::List { tenant, json } => {
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
                        state(key).to_owned(),
                        output::moment(key.created),
                    ]
                })
                .collect();
            let header = ["CLIENT ID", "TENANT", "ROLE", "NAME", "STATE", "CREATED"];
            output::table(header, &rows, "There are no keys yet.")
        }
        KeyCommand::Revoke {
            client_id,
            keep_bridges,
        } => {
            let revoked = storage.revoke_key(&client_id, keep_bridges).await?;
            let mut lines = vec![format!("Key {client_id} is revoked.")];
            if !revoked.bridges.is_empty() {
                lines.push(format!(
                    "Bridges that were paired with it are revoked, too: {}.",
                    revoked.bridges.join(", ")
                ));
            }
            lines.push("A running relay cuts off what uses it within two seconds.".into());
            output::lines(&lines)
        }
    }
}

/// A key with its secret, this one time.
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
        "Keep the secret now: it is stored as a hash and will not be shown again.".into(),
    ])
}

fn seconds(span: ConfigDuration) -> i64 {
    i64::try_from(span.0.as_secs()).unwrap_or(i64::MAX)
}

/// The names of tenants.
pub(super) async fn names(storage: &Storage) -> Result<HashMap<TenantId, String>, CliError> {
    let tenants = storage.tenants().await?;
    Ok(tenants
        .into_iter()
        .map(|tenant| (tenant.id, tenant.name))
        .collect())
}

fn document(key: &ApiKey, tenant: &str) -> Value {
    json!({
        "client_id": key.client_id,
        "tenant": tenant,
        "role": key.role.as_str(),
        "name": key.name,
        "existing": key.existing.as_str(),
        "state": state(key),
        "created": key.created,
        "expires": key.expires,
        "last_used": key.last_used,
        "scope": key.scope,
    })
}
