//! `bridge list | disable | enable | inspected | revoke`. Whether a bridge is connected is the running relay's to say
//! (`GET /v1/bridges`).

use super::args::BridgeCommand;
use super::{CliError, key, output};
use crate::storage::{Bridge, Storage};
use serde_json::{Value, json};

pub(super) async fn run(storage: &Storage, command: BridgeCommand) -> Result<(), CliError> {
    match command {
        BridgeCommand::List { tenant, json } => {
            let bridges = storage.bridges(tenant.as_deref()).await?;
            let names = key::names(storage).await?;
            let name_of = |bridge: &Bridge| names.get(&bridge.tenant).cloned().unwrap_or_default();
            if json {
                let documents = bridges
                    .iter()
                    .map(|bridge| document(bridge, &name_of(bridge)));
                return output::json(&documents.collect());
            }
            let rows: Vec<_> = bridges
                .iter()
                .map(|bridge| {
                    [
                        bridge.name.clone(),
                        name_of(bridge),
                        bridge.id.to_string(),
                        state(bridge).to_owned(),
                        output::moment(bridge.created),
                    ]
                })
                .collect();
            let header = ["NAME", "TENANT", "ID", "STATE", "PAIRED"];
            output::table(header, &rows, "No bridge was paired yet.")
        }
        BridgeCommand::Disable { name, tenant } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.set_bridge_disabled(id, &name, true).await?;
            output::lines(&[
                format!("Bridge {name} of tenant {} is disabled.", tenant.name),
                "A running relay cuts it off within two seconds.".into(),
            ])
        }
        BridgeCommand::Enable { name, tenant } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.set_bridge_disabled(id, &name, false).await?;
            output::lines(&[format!(
                "Bridge {name} of tenant {} may come back, and does within about a minute.",
                tenant.name
            )])
        }
        BridgeCommand::Inspected { name, tenant, no } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.set_bridge_inspected(id, &name, !no).await?;
            let now = if no { "no longer" } else { "now" };
            output::lines(&[format!(
                "Bridge {name} of tenant {} is {now} known to be behind TLS inspection; it counts from its \
                 next tunnel on.",
                tenant.name
            )])
        }
        BridgeCommand::Revoke { name, tenant } => {
            let tenant = owner(storage, tenant).await?;
            storage.revoke_bridge(tenant.id.as_str(), &name).await?;
            output::lines(&[
                format!("Bridge {name} of tenant {} is revoked.", tenant.name),
                "A running relay cuts it off within two seconds.".into(),
            ])
        }
    }
}

async fn owner(
    storage: &Storage,
    tenant: Option<String>,
) -> Result<crate::storage::Tenant, CliError> {
    match tenant {
        Some(tenant) => Ok(storage.tenant(&tenant).await?),
        None => the_only_one(storage).await,
    }
}

async fn the_only_one(storage: &Storage) -> Result<crate::storage::Tenant, CliError> {
    let mut tenants = storage.tenants().await?;
    match (tenants.pop(), tenants.len()) {
        (Some(tenant), 0) => Ok(tenant),
        (None, _) => Err(CliError::WhichTenant("there is none yet".into())),
        (Some(_), others) => Err(CliError::WhichTenant(format!("there are {}", others + 1))),
    }
}

fn state(bridge: &Bridge) -> &'static str {
    match bridge.revoked {
        Some(_) => "revoked",
        None if bridge.disabled.is_some() => "disabled",
        None => "paired",
    }
}

fn document(bridge: &Bridge, tenant: &str) -> Value {
    json!({
        "name": bridge.name,
        "tenant": tenant,
        "id": bridge.id,
        "state": state(bridge),
        "created": bridge.created,
        "last_seen": bridge.last_seen,
    })
}
