//! `bridge list | disable | enable | endpoints | assign | release | inspected | revoke`. Whether a bridge is connected is the running relay's to say
//! (`GET /v1/bridges`).

use super::args::BridgeCommand;
use super::{CliError, key, output};
use crate::api::timestamp::Timestamp;
use crate::storage::notices::Notice;
use crate::storage::{Bridge, Storage};
use runtime::time::to_minute;
use serde_json::{Value, json};

/// Open notices that are read for what is wrong with bridges.
const ALARMS_MAX: u32 = 10_000;

const CLONED: &str = "bridge_cloned";
const CONFLICT: &str = "endpoint_conflict";

pub(super) async fn run(storage: &Storage, command: BridgeCommand) -> Result<(), CliError> {
    match command {
        BridgeCommand::List { tenant, json } => {
            let bridges = storage.bridges(tenant.as_deref()).await?;
            let alarms = Alarms::open(storage).await?;
            let names = key::names(storage).await?;
            let name_of = |bridge: &Bridge| names.get(&bridge.tenant).cloned().unwrap_or_default();
            if json {
                let documents = bridges
                    .iter()
                    .map(|bridge| document(bridge, &name_of(bridge), &alarms));
                return output::json(&documents.collect());
            }
            let rows: Vec<_> = bridges
                .iter()
                .map(|bridge| {
                    [
                        bridge.name.clone(),
                        name_of(bridge),
                        bridge.id.to_string(),
                        alarms.state(bridge),
                        to_minute(bridge.created),
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
        BridgeCommand::Endpoints { tenant, json } => {
            let claims = storage.claimed_endpoints(tenant.as_deref()).await?;
            let names = key::names(storage).await?;
            let name_of = |id: &str| names.get(id).cloned().unwrap_or_default();
            if json {
                let documents = claims.iter().map(|claim| {
                    json!({
                        "endpoint": claim.endpoint,
                        "bridge": claim.bridge,
                        "tenant": name_of(&claim.tenant),
                        "created_at": Timestamp::Seconds(claim.created),
                    })
                });
                return output::json(&documents.collect());
            }
            let rows: Vec<_> = claims
                .iter()
                .map(|claim| {
                    [
                        claim.endpoint.clone(),
                        claim.bridge.clone(),
                        name_of(&claim.tenant),
                        to_minute(claim.created),
                    ]
                })
                .collect();
            let header = ["ENDPOINT", "BRIDGE", "TENANT", "SINCE"];
            output::table(header, &rows, "No bridge has declared an endpoint yet.")
        }
        BridgeCommand::Assign {
            name,
            endpoint,
            also,
            tenant,
        } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.assign_endpoint(id, &name, &endpoint, also).await?;
            let alone = if also { "too" } else { "alone" };
            output::lines(&[
                format!(
                    "Endpoint {endpoint} of tenant {} belongs to bridge {name} {alone}.",
                    tenant.name
                ),
                "A running relay follows within a second.".into(),
            ])
        }
        BridgeCommand::Release {
            name,
            endpoint,
            tenant,
        } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.release_endpoint(id, &name, &endpoint).await?;
            output::lines(&[format!(
                "Endpoint {endpoint} of tenant {} no longer belongs to bridge {name}.",
                tenant.name
            )])
        }
        BridgeCommand::AllowTlsInspection { name, tenant, no } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.set_bridge_inspected(id, &name, !no).await?;
            let state = if no { "forbidden" } else { "allowed" };
            output::lines(&[format!(
                "TLS inspection is {state} for bridge {name} of tenant {}, from its next tunnel on.",
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

/// What running relays have noticed of bridges.
struct Alarms(Vec<Notice>);

impl Alarms {
    async fn open(storage: &Storage) -> Result<Self, CliError> {
        let mut open = storage.notices("", true, "", ALARMS_MAX).await?;
        open.retain(|notice| notice.kind == CLONED || notice.kind == CONFLICT);
        Ok(Self(open))
    }

    fn has(&self, bridge: &Bridge, kind: &str) -> bool {
        bridge.revoked.is_none()
            && self.0.iter().any(|notice| {
                notice.kind == kind
                    && *notice.tenant == *bridge.tenant.as_str()
                    && notice.object == bridge.name
            })
    }

    /// The bridge's state, and what is wrong with it.
    fn state(&self, bridge: &Bridge) -> String {
        let mut words = vec![state(bridge)];
        if self.has(bridge, CLONED) {
            words.push("cloned");
        }
        if self.has(bridge, CONFLICT) {
            words.push("endpoints refused");
        }
        words.join(", ")
    }
}

fn document(bridge: &Bridge, tenant: &str, alarms: &Alarms) -> Value {
    json!({
        "name": bridge.name,
        "tenant": tenant,
        "id": bridge.id,
        "state": state(bridge),
        "cloned": alarms.has(bridge, CLONED),
        "endpoints_refused": alarms.has(bridge, CONFLICT),
        "created_at": Timestamp::Seconds(bridge.created),
        "last_seen_at": bridge.last_seen.map(Timestamp::Seconds),
    })
}
