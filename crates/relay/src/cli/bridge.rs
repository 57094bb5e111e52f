//! `bridge list | disable | enable | endpoints | assign | release | allow-tls-inspection | revoke`. Only the
//! running relay knows whether a bridge is connected: `list` asks it by its control socket.

use super::args::{BridgeCommand, BridgeName, ListOptions};
use super::control::{self, ControlError, Tunnel};
use super::{CliError, key, output};
use crate::api::timestamp::Timestamp;
use crate::config::Config;
use crate::storage::bridges::Installation;
use crate::storage::notices::Notice;
use crate::storage::{Bridge, Storage, now};
use runtime::time::to_minute;
use serde_json::{Value, json};

/// Open notices that are read for the states of bridges.
const ALARMS_MAX: u32 = 10_000;

const CLONED: &str = "bridge_cloned";
const CONFLICT: &str = "endpoint_conflict";
const OUTDATED: &str = "bridge_outdated";

pub(super) async fn run(
    storage: &Storage,
    config: &Config,
    command: BridgeCommand,
) -> Result<(), CliError> {
    match command {
        BridgeCommand::List {
            list: ListOptions { tenant, json },
        } => {
            let bridges = storage.bridges(tenant.as_deref()).await?;
            let alarms = Alarms::open(storage).await?;
            let names = key::names(storage).await?;
            let name_of = |bridge: &Bridge| names.get(&bridge.tenant).cloned().unwrap_or_default();
            let installations = storage.installations(tenant.as_deref()).await?;
            let connected = Connected::ask(config);
            if json {
                let documents = bridges.iter().map(|bridge| {
                    let mut document =
                        document(bridge, &name_of(bridge), &alarms, connected.of(bridge));
                    document["pairings"] = pairings(bridge, &installations);
                    document
                });
                return output::json(&documents.collect());
            }
            let rows: Vec<_> = bridges
                .iter()
                .map(|bridge| {
                    let connected = connected.of(bridge);
                    [
                        bridge.name.clone(),
                        name_of(bridge),
                        bridge.id.to_string(),
                        alarms.state(bridge),
                        paired(bridge, &installations),
                        bridge.last_seen.map_or_else(|| "never".into(), to_minute),
                        connected.map_or_else(|| "unknown".into(), |own| summary(&own)),
                    ]
                })
                .collect();
            let header = [
                "NAME",
                "TENANT",
                "ID",
                "STATE",
                "PAIRED",
                "LAST SEEN",
                "CONNECTED",
            ];
            output::table(header, &rows, "No bridges are paired.")?;
            match connected.0 {
                Err(why) if !rows.is_empty() => {
                    output::lines(&[format!("Whether bridges are connected is unknown: {why}.")])
                }
                Ok(_) | Err(_) => Ok(()),
            }
        }
        BridgeCommand::Disable {
            bridge: BridgeName { name, tenant },
        } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.set_bridge_disabled(id, &name, true).await?;
            output::lines(&[
                format!("Bridge {name} of tenant {} is disabled.", tenant.name),
                "A running relay disconnects it within two seconds.".into(),
            ])
        }
        BridgeCommand::Enable {
            bridge: BridgeName { name, tenant },
        } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.set_bridge_disabled(id, &name, false).await?;
            output::lines(&[format!(
                "Bridge {name} of tenant {} may connect, which it does within about a minute.",
                tenant.name
            )])
        }
        BridgeCommand::Endpoints {
            list: ListOptions { tenant, json },
        } => {
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
            output::table(header, &rows, "No bridge has declared an endpoint.")
        }
        BridgeCommand::Assign {
            bridge: BridgeName { name, tenant },
            endpoint,
            also,
        } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.assign_endpoint(id, &name, &endpoint, also).await?;
            let alone = if also {
                "in addition to its other owners"
            } else {
                "only"
            };
            output::lines(&[
                format!(
                    "Endpoint {endpoint} of tenant {} belongs to bridge {name} {alone}.",
                    tenant.name
                ),
                "A running relay applies it within a second.".into(),
            ])
        }
        BridgeCommand::Release {
            bridge: BridgeName { name, tenant },
            endpoint,
        } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.release_endpoint(id, &name, &endpoint).await?;
            output::lines(&[format!(
                "Endpoint {endpoint} of tenant {} no longer belongs to bridge {name}.",
                tenant.name
            )])
        }
        BridgeCommand::AllowTlsInspection {
            bridge: BridgeName { name, tenant },
            no,
        } => {
            let tenant = owner(storage, tenant).await?;
            let id = tenant.id.as_str();
            storage.set_bridge_inspected(id, &name, !no).await?;
            let state = if no { "forbidden" } else { "allowed" };
            output::lines(&[format!(
                "TLS inspection is {state} for bridge {name} of tenant {}, from its next tunnel on.",
                tenant.name
            )])
        }
        BridgeCommand::Revoke {
            bridge: BridgeName { name, tenant },
        } => {
            let tenant = owner(storage, tenant).await?;
            storage.revoke_bridge(tenant.id.as_str(), &name).await?;
            output::lines(&[
                format!("Bridge {name} of tenant {} is revoked.", tenant.name),
                "A running relay disconnects it within two seconds.".into(),
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
        None => only_tenant(storage).await,
    }
}

async fn only_tenant(storage: &Storage) -> Result<crate::storage::Tenant, CliError> {
    let mut tenants = storage.tenants().await?;
    // Most installations have one tenant, which commands need not name.
    match (tenants.pop(), tenants.len()) {
        (Some(tenant), 0) => Ok(tenant),
        (None, _) => Err(CliError::WhichTenant("there are no tenants yet".into())),
        (Some(_), others) => Err(CliError::WhichTenant(format!(
            "there are {} tenants",
            others + 1
        ))),
    }
}

fn state(bridge: &Bridge) -> &'static str {
    match bridge.revoked {
        Some(_) => "revoked",
        None if bridge.disabled.is_some() => "disabled",
        None => "paired",
    }
}

/// The tunnels of the running relay, or why they are not known.
struct Connected(Result<Vec<Tunnel>, ControlError>);

impl Connected {
    fn ask(config: &Config) -> Self {
        Self(match control::send(config, &control::Request::Tunnels) {
            Ok(control::Response::Tunnels(tunnels)) => Ok(tunnels),
            Ok(control::Response::Done | control::Response::Error(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        })
    }

    /// Returns a bridge's tunnels; `None` where they are not known.
    fn of(&self, bridge: &Bridge) -> Option<Vec<&Tunnel>> {
        let all = self.0.as_ref().ok()?;
        let own = all.iter().filter(|one| one.bridge == *bridge.id.as_str());
        Some(own.collect())
    }
}

/// Returns a bridge's tunnels, for people: since when, from where, by which program.
fn summary(tunnels: &[&Tunnel]) -> String {
    // The oldest tells how long the bridge has been connected.
    let Some(oldest) = tunnels.iter().max_by_key(|tunnel| tunnel.up_s) else {
        return "no".to_owned();
    };
    let since = now() - i64::try_from(oldest.up_s).unwrap_or(0);
    let sessions = runtime::output::counted(tunnels.len(), "session");
    format!(
        "since {}, {sessions}, {} at {} ({})",
        to_minute(since),
        oldest.software,
        oldest.address,
        oldest.host
    )
}

/// Returns when the bridge's latest installation was paired, and from where: an operator sees whether it was the right
/// machine.
fn paired(bridge: &Bridge, installations: &[Installation]) -> String {
    let mut latest_first = installations.iter().rev();
    let Some(latest) = latest_first.find(|one| one.bridge == bridge.id) else {
        return to_minute(bridge.created);
    };
    let at = to_minute(latest.paired);
    match latest.address.as_str() {
        "" => at,
        address => format!("{at} from {address} ({})", latest.host),
    }
}

/// Returns the bridge's installations, oldest first.
fn pairings(bridge: &Bridge, installations: &[Installation]) -> Value {
    let own = installations.iter().filter(|one| one.bridge == bridge.id);
    let documents = own.map(|one| {
        json!({
            "paired_at": Timestamp::Seconds(one.paired),
            "address": one.address,
            "host": one.host,
            "client_id": one.paired_by,
        })
    });
    documents.collect()
}

/// Open notices about bridges, which running relays have raised.
struct Alarms(Vec<Notice>);

impl Alarms {
    async fn open(storage: &Storage) -> Result<Self, CliError> {
        let mut open = storage.notices("", true, "", ALARMS_MAX).await?;
        // The command has only the database; notices are how running relays share what they see.
        open.retain(|notice| [CLONED, CONFLICT, OUTDATED].contains(&&*notice.kind));
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

    /// Returns the bridge's state and its problems.
    fn state(&self, bridge: &Bridge) -> String {
        let mut words = vec![state(bridge)];
        if self.has(bridge, CLONED) {
            words.push("cloned");
        }
        if self.has(bridge, CONFLICT) {
            words.push("endpoints refused");
        }
        if self.has(bridge, OUTDATED) {
            words.push("outdated");
        }
        words.join(", ")
    }
}

fn document(
    bridge: &Bridge,
    tenant: &str,
    alarms: &Alarms,
    connected: Option<Vec<&Tunnel>>,
) -> Value {
    let sessions = connected.map(|tunnels| {
        let sessions = tunnels.iter().map(|tunnel| {
            json!({
                "host": tunnel.host,
                "address": tunnel.address,
                "software": tunnel.software,
                "up_s": tunnel.up_s,
                "draining": tunnel.draining,
            })
        });
        sessions.collect::<Vec<_>>()
    });
    json!({
        "name": bridge.name,
        "tenant": tenant,
        "id": bridge.id,
        "state": state(bridge),
        "tls_inspection": bridge.inspected.is_some(),
        "cloned": alarms.has(bridge, CLONED),
        "endpoints_refused": alarms.has(bridge, CONFLICT),
        "outdated": alarms.has(bridge, OUTDATED),
        "created_at": Timestamp::Seconds(bridge.created),
        "last_seen_at": bridge.last_seen.map(Timestamp::Seconds),
        // Null: no relay that runs with this config on this machine responds.
        "online": sessions.as_ref().map(|sessions| !sessions.is_empty()),
        "sessions": sessions,
    })
}
