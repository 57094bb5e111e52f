//! `POST /v1/pairing-files`: a file with which `integration-bridge pair --bundle FILE` pairs one bridge.
//!
//! ```json
//! {"format": "integration-bridge-pairing", "version": 1, "relay_url": "https://relay.example.com:443",
//!  "ca_pem": null, "tenant": "acme", "bridge": "berlin-dc1", "client_id": "ibk_...", "client_secret": "ibs_...",
//!  "expires_at": "2026-12-01T12:00:00Z"}
//! ```
//!
//! The file has the key of one pairing: [`crate::storage::Storage::pair`] spends it. `proto/vectors/pairing-file.json` is
//! such a file, which the tests of both programs read. `integration-relay key create --bundle` writes the same.

mod contact;

pub(crate) use contact::{Contact, ContactError};

use super::errors::failed;
use super::keys::{ExistingName, ScopeDocument};
use super::timestamp::Timestamp;
use super::{Context, Handling, json};
use crate::access::Object;
use crate::problem::Problem;
use crate::storage::keys::{NewKey, ONE_TIME_DEFAULT};
use crate::storage::{ApiKey, Role, Scope, Secret, now};
use bytes::Bytes;
use http::{Request, StatusCode};
use protocol::Code;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the first member of every file is.
const FORMAT: &str = "integration-bridge-pairing";

/// The version of the format.
const VERSION: u32 = 1;

/// A pairing file. It has a secret: store it in a file that only its receiver can read.
#[derive(Serialize, JsonSchema)]
pub(crate) struct PairingFile<'a> {
    /// Always `integration-bridge-pairing`.
    format: &'static str,
    /// The version of the format.
    version: u32,
    /// The URL that the bridge dials.
    relay_url: String,
    /// The CA of the relay's certificate, in PEM; null for a public one.
    ca_pem: Option<String>,
    /// Name of the tenant.
    tenant: String,
    /// The bridge's suggested name; null if its administrator chooses one.
    bridge: Option<String>,
    /// The key's client id.
    client_id: String,
    /// The key's secret. It pairs one bridge.
    // Not a copy, which would stay in freed memory.
    client_secret: &'a str,
    /// When the key expires.
    expires_at: Timestamp,
}

impl<'a> PairingFile<'a> {
    /// Returns the file of a new key.
    pub(crate) fn new(
        contact: &Contact,
        tenant: &str,
        bridge: Option<String>,
        (key, secret): (&ApiKey, &'a Secret),
    ) -> Self {
        Self {
            format: FORMAT,
            version: VERSION,
            relay_url: contact.url.to_string(),
            ca_pem: contact.ca_pem.clone(),
            tenant: tenant.to_owned(),
            bridge,
            client_id: key.client_id.to_string(),
            client_secret: secret.reveal(),
            // The key of a file always expires.
            expires_at: Timestamp::Seconds(key.expires.unwrap_or(key.created)),
        }
    }
}

/// Returns when the key of a file expires if nothing else is asked for, in seconds since 1970.
pub(crate) fn default_expiry() -> i64 {
    now().saturating_add(ONE_TIME_DEFAULT)
}

/// Returns the name that a file suggests: the given one, else the only one that the key may pair.
///
/// # Errors
/// The name is not valid, or the key may not pair it.
pub(crate) fn suggested(given: Option<String>, scope: &Scope) -> Result<Option<String>, String> {
    let Some(name) = given else {
        return Ok(match scope.bridges.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        });
    };
    protocol::name::check("a bridge", &name).map_err(|error| error.to_string())?;
    if !scope.bridges.is_empty() && !scope.bridges.contains(&name) {
        return Err(format!(
            "the file would suggest the name {name}, and its key may pair only {}",
            scope.bridges.join(", ")
        ));
    }
    Ok(Some(name))
}

/// A pairing file to create.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPairingFile {
    /// Name of the tenant. Only site administrators name it.
    tenant: Option<String>,
    /// The bridge's name that the file suggests. Defaults to the only one of `scope.bridges`, if there is one.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    bridge: Option<String>,
    /// A name of the key for people, at most 64 bytes.
    #[serde(default)]
    #[schemars(length(max = 64))]
    name: String,
    /// When the key expires, at most 7 days from now. Defaults to 24 hours from now.
    expires_at: Option<Timestamp>,
    /// What the key may do with the name of an existing bridge. Defaults to `none`.
    #[serde(default)]
    existing: ExistingName,
    /// What the key is narrowed to: bridges, and endpoints that the bridge may declare.
    #[serde(default)]
    scope: ScopeDocument,
    /// The URL that the bridge dials. Defaults to `listen.public_url` of the relay.
    relay_url: Option<String>,
}

pub(super) fn create<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let new: NewPairingFile = json::read(&request)?;
        let id = cx.tenant_of(new.tenant.as_deref())?;
        let tenant = cx.state.directory.tenant_name(&id);
        let tenant = tenant.map_or_else(String::new, |name| name.to_string());
        let scope = new.scope.into_scope()?;
        // A narrowed key must not create one that may do more than itself.
        cx.check(Object::Key(Role::Bridge, &scope))?;
        let bridge = suggested(new.bridge, &scope).map_err(Problem::invalid)?;
        let (config, url) = (cx.state.config.clone(), new.relay_url);
        let contact =
            tokio::task::spawn_blocking(move || Contact::of(&config, url.as_deref(), None));
        let contact = contact
            .await
            .map_err(|error| unusable(&error.to_string()))?;
        let contact = contact.map_err(|error| match error {
            ContactError::Url(detail) => Problem::invalid(detail),
            // It has paths of this machine, which callers need not know.
            ContactError::Ca(detail) => unusable(&detail),
        })?;
        if let Some(warning) = &contact.warning {
            tracing::warn!("{warning}");
        }
        let new = NewKey {
            role: Role::Bridge,
            name: new.name,
            existing: new.existing.into(),
            expires: Some(
                new.expires_at
                    .map_or_else(default_expiry, Timestamp::seconds),
            ),
            scope,
            is_one_time: true,
        };
        let created = cx.storage().create_key_with(&tenant, new).await;
        let (key, secret) = created.map_err(failed)?;
        cx.state.directory.follow_change().await;
        let file = PairingFile::new(&contact, &tenant, bridge, (&key, &secret));
        json::reply(StatusCode::CREATED, &file)
    })
}

fn unusable(detail: &str) -> Problem {
    tracing::error!(detail, "no pairing file can be made");
    Problem::not_sent(
        Code::Internal,
        "the relay cannot read the CA of its certificate: its log has the reason",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{ClientId, Existing, SecretHash};
    use serde_json::Value;

    #[test]
    fn suggested_name_is_one_that_the_key_may_pair() {
        let scope = |bridges: &[&str]| Scope {
            bridges: bridges.iter().map(|name| (*name).to_owned()).collect(),
            ..Scope::default()
        };
        let of = |given: Option<&str>, bridges: &[&str]| {
            suggested(given.map(str::to_owned), &scope(bridges))
        };
        assert_eq!(of(None, &[]), Ok(None));
        assert_eq!(of(None, &["a"]), Ok(Some("a".to_owned())));
        assert_eq!(of(None, &["a", "b"]), Ok(None));
        assert_eq!(of(Some("b"), &["a", "b"]), Ok(Some("b".to_owned())));
        assert!(of(Some("c"), &["a", "b"]).is_err());
        assert!(of(Some("c\u{1b}[31m"), &[]).is_err());
    }

    #[test]
    fn golden_file_is_what_the_relay_writes() {
        let golden = include_str!("../../../../proto/vectors/pairing-file.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        let contact = Contact {
            url: "https://relay.example.com".parse().unwrap(),
            ca_pem: golden["ca_pem"].as_str().map(str::to_owned),
            warning: None,
        };
        let key = ApiKey {
            client_id: ClientId::from("ibk_4Yb1m0x7QnqkW2aZ"),
            tenant: "ten_1".into(),
            role: Role::Bridge,
            name: String::new(),
            secret_hash: SecretHash::unmatchable(),
            previous: None,
            existing: Existing::Refuse,
            created: 0,
            expires: Some(1_796_126_400),
            revoked: None,
            last_used: None,
            scope: Scope::default(),
            is_one_time: true,
            spent: None,
        };
        let secret = Secret::presented("ibs_not-a-secret-of-any-relay".to_owned());
        let bridge = Some("berlin-dc1".to_owned());
        let file = PairingFile::new(&contact, "acme", bridge, (&key, &secret));
        assert_eq!(serde_json::to_value(&file).unwrap(), golden);
    }
}
