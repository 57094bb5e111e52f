//! `/v1/keys ...`: API keys, for administrators.

use super::errors::failed;
use super::page::{Page, SCANNED_MAX, wrong_cursor};
use super::timestamp::Timestamp;
use super::{Context, Handling, json};
use crate::access::Object;
use crate::problem::Problem;
use crate::storage::keys::{NewKey, OVERLAP_MAX, no_key};
use crate::storage::{ApiKey, Existing, Role, Scope, Secret, now};
use bytes::Bytes;
use http::{Request, StatusCode};
use protocol::Code;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An API key, without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeyView {
    /// The key's client id.
    client_id: String,
    /// Name of the tenant; empty for a site administrator's key.
    tenant: String,
    /// The key's role.
    role: &'static str,
    /// A name for people.
    name: String,
    /// `valid`, `spent` (the key of a pairing file that has paired its bridge), `expired` or `revoked`.
    state: &'static str,
    /// What a bridge key may do with the name of an existing bridge: `none`, `join` or `replace`.
    existing: &'static str,
    /// When it was created.
    created_at: Timestamp,
    /// When it expires; null for a key without an end.
    expires_at: Option<Timestamp>,
    /// When it was revoked.
    revoked_at: Option<Timestamp>,
    /// When it was last used, accurate to about two minutes.
    last_used_at: Option<Timestamp>,
    /// Whether it pairs one bridge only, as the key of a pairing file.
    one_time: bool,
    /// When the secret before the last rotation expires; null if there is none.
    previous_secret_expires_at: Option<Timestamp>,
    /// What the key is narrowed to. A list that is left out narrows nothing.
    scope: Scope,
}

/// An API key with its secret, shown this once.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeyWithSecret {
    /// The key.
    #[serde(flatten)]
    key: KeyView,
    /// The secret.
    client_secret: String,
}

/// A page of keys.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeyPage {
    /// Oldest first, including revoked ones.
    keys: Vec<KeyView>,
    /// Cursor of the next page; null on the last one.
    next_cursor: Option<String>,
}

/// The role of an API key.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RoleName {
    /// Pairs bridges.
    Bridge,
    /// Makes calls and uses endpoints.
    Caller,
    /// Uses endpoints, with bulk traffic.
    Synchronizer,
    /// Does what the tenant's other keys do except pairing, and manages keys and bridges.
    Admin,
    /// Manages tenants. Only site administrators create such keys.
    SiteAdmin,
}

/// What a bridge key may do with the name of an existing bridge.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExistingName {
    /// Nothing.
    #[default]
    None,
    /// Adds an installation next to the existing ones.
    Join,
    /// Revokes the existing installations and takes the name over.
    Replace,
}

impl From<ExistingName> for Existing {
    fn from(name: ExistingName) -> Self {
        match name {
            ExistingName::None => Self::Refuse,
            ExistingName::Join => Self::Join,
            ExistingName::Replace => Self::Replace,
        }
    }
}

/// An API key to create.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKeyDocument {
    /// The key's role.
    role: RoleName,
    /// A name for people, at most 64 bytes.
    #[serde(default)]
    #[schemars(length(max = 64))]
    name: String,
    /// Name of the tenant. Only site administrators name it.
    tenant: Option<String>,
    /// When it expires. Defaults to never.
    expires_at: Option<Timestamp>,
    /// What a bridge key may do with the name of an existing bridge. Defaults to `none`.
    #[serde(default)]
    existing: ExistingName,
    /// What the key is narrowed to. A list must not be empty: leave it out to narrow nothing.
    #[serde(default)]
    scope: ScopeDocument,
}

/// What an API key to create is narrowed to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ScopeDocument {
    /// Names of bridges that the key's requests may use, or that it may manage or pair.
    bridges: Option<Vec<String>>,
    /// Names of endpoints that the key may use. For a bridge key: that its bridges may declare.
    endpoints: Option<Vec<String>>,
    /// Host patterns of URLs that the key may call: exact, `*.example.com`, an address, or a network.
    hosts: Option<Vec<String>>,
    /// Names of credentials that the key may request.
    credentials: Option<Vec<String>>,
}

impl ScopeDocument {
    pub(super) fn into_scope(self) -> Result<Scope, Problem> {
        let list = |name: &str, given: Option<Vec<String>>| match given {
            Some(list) if list.is_empty() => Err(Problem::invalid(format!(
                "scope.{name} is an empty list: leave it out to narrow nothing, or name what is \
                 allowed"
            ))),
            given => Ok(given.unwrap_or_default()),
        };
        Ok(Scope {
            bridges: list("bridges", self.bridges)?,
            endpoints: list("endpoints", self.endpoints)?,
            hosts: list("hosts", self.hosts)?,
            credentials: list("credentials", self.credentials)?,
        })
    }
}

/// How to rotate a key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rotation {
    /// Seconds for which the previous secret stays valid: 0 to 2592000. Defaults to 86400.
    #[schemars(range(min = 0, max = 2_592_000))]
    overlap_s: Option<i64>,
}

/// The result of a revocation.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RevokedKey {
    /// The key's client id.
    client_id: String,
    /// Bridges that were revoked with it.
    bridges: Vec<String>,
}

/// Default of `overlap_s`.
const OVERLAP: i64 = 24 * 3600;

pub(crate) fn state(key: &ApiKey) -> &'static str {
    if key.revoked.is_some() {
        "revoked"
    } else if key.spent.is_some() {
        "spent"
    } else if key.expires.is_some_and(|expires| expires <= now()) {
        "expired"
    } else {
        "valid"
    }
}

fn view(cx: &Context<'_>, key: &ApiKey) -> KeyView {
    let tenant = cx.state.directory.tenant_name(key.tenant.as_str());
    let previous = key.previous.map(|(_, until)| until);
    KeyView {
        client_id: key.client_id.to_string(),
        tenant: tenant.map_or_else(String::new, |name| name.to_string()),
        role: key.role.as_str(),
        name: key.name.clone(),
        state: state(key),
        existing: key.existing.as_str(),
        created_at: Timestamp::Seconds(key.created),
        expires_at: key.expires.map(Timestamp::Seconds),
        revoked_at: key.revoked.map(Timestamp::Seconds),
        last_used_at: key.last_used.map(Timestamp::Seconds),
        one_time: key.is_one_time,
        // Stored until the next rotation; after it has expired, clients need not know.
        previous_secret_expires_at: previous
            .filter(|until| *until > now())
            .map(Timestamp::Seconds),
        scope: key.scope.clone(),
    }
}

fn with_secret(cx: &Context<'_>, key: &ApiKey, secret: &Secret) -> KeyWithSecret {
    KeyWithSecret {
        key: view(cx, key),
        client_secret: secret.reveal().to_owned(),
    }
}

/// Returns the tenant whose keys are listed; empty for all, if a site administrator names none.
fn listed_tenant(cx: &Context<'_>) -> Result<String, Problem> {
    if cx.is_site_admin() && cx.query.text("tenant").is_none() {
        return Ok(String::new());
    }
    cx.tenant().map(|tenant| tenant.to_string())
}

pub(super) fn list<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let tenant = listed_tenant(cx)?;
        let page = Page::of(&cx.query)?;
        let after = page.after.clone().unwrap_or_else(|| "0 ".to_owned());
        let (created, client_id) = after.split_once(' ').ok_or_else(wrong_cursor)?;
        // Creation times are not unique, so a cursor has the client id, too.
        let created = created.parse().map_err(|_| wrong_cursor())?;
        let after = (created, client_id.to_owned());
        let (keys, next_cursor) = visible(cx, &tenant, &page, after).await?;
        let keys = keys.iter().map(|key| view(cx, key)).collect();
        json::reply(StatusCode::OK, &KeyPage { keys, next_cursor })
    })
}

/// Returns a page of the keys that this key may manage, and the cursor of the next one.
async fn visible(
    cx: &Context<'_>,
    tenant: &str,
    page: &Page,
    (mut created, mut client_id): (i64, String),
) -> Result<(Vec<ApiKey>, Option<String>), Problem> {
    let storage = cx.state.directory.storage();
    let (mut keys, mut scanned) = (Vec::new(), 0);
    loop {
        let rows = storage.keys_after(tenant, (created, &client_id), page.rows());
        let rows = rows.await.map_err(failed)?;
        let is_end = rows.len() <= page.limit();
        for key in rows.into_iter().take(page.limit()) {
            if keys.len() == page.limit() {
                return Ok((keys, Some(Page::cursor(&format!("{created} {client_id}")))));
            }
            scanned += 1;
            (created, client_id) = (key.created, key.client_id.to_string());
            if cx.principal.sees_key(&key) {
                keys.push(key);
            }
        }
        if is_end {
            return Ok((keys, None));
        }
        if keys.len() == page.limit() || scanned >= SCANNED_MAX {
            return Ok((keys, Some(Page::cursor(&format!("{created} {client_id}")))));
        }
    }
}

/// Returns a key that this key may manage, of the tenant whose keys are listed.
async fn managed(cx: &Context<'_>, tenant: &str) -> Result<ApiKey, Problem> {
    let client_id = cx.path("client_id");
    let found = cx.state.directory.storage().key(tenant, client_id).await;
    let key = found.map_err(failed)?;
    // The same response as for an unknown client id.
    if !cx.principal.sees_key(&key) {
        return Err(failed(no_key(client_id)));
    }
    Ok(key)
}

pub(super) fn create<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let new: NewKeyDocument = json::read(&request)?;
        let role = match new.role {
            RoleName::Bridge => Role::Bridge,
            RoleName::Caller => Role::Caller,
            RoleName::Synchronizer => Role::Synchronizer,
            RoleName::Admin => Role::Admin,
            RoleName::SiteAdmin if cx.is_site_admin() => Role::SiteAdmin,
            RoleName::SiteAdmin => {
                let detail = "only a site administrator can create a key with the role site-admin";
                return Err(Problem::not_sent(Code::Forbidden, detail));
            }
        };
        let tenant = match role {
            Role::SiteAdmin if new.tenant.is_some() => {
                return Err(Problem::invalid(
                    "a key with the role site-admin has no tenant",
                ));
            }
            Role::SiteAdmin => String::new(),
            _ => {
                let id = cx.tenant_of(new.tenant.as_deref())?;
                let name = cx.state.directory.tenant_name(&id);
                name.map_or_else(String::new, |name| name.to_string())
            }
        };
        // An empty list would narrow nothing while it reads as "nothing is allowed".
        let scope = new.scope.into_scope()?;
        // A narrowed key must not create one that may do more than itself.
        cx.check(Object::Key(role, &scope))?;
        let new = NewKey {
            role,
            name: new.name,
            existing: new.existing.into(),
            expires: new.expires_at.map(Timestamp::seconds),
            scope,
            is_one_time: false,
        };
        let created = cx.storage().create_key_with(&tenant, new).await;
        let (key, secret) = created.map_err(failed)?;
        cx.state.directory.follow_change().await;
        json::reply(StatusCode::CREATED, &with_secret(cx, &key, &secret))
    })
}

pub(super) fn show<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let found = managed(cx, &listed_tenant(cx)?).await?;
        json::reply(StatusCode::OK, &view(cx, &found))
    })
}

pub(super) fn rotate<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let rotation: Rotation = json::read(&request)?;
        // Clients need time to switch, and both secrets are valid meanwhile.
        let overlap = rotation.overlap_s.unwrap_or(OVERLAP);
        if !(0..=OVERLAP_MAX).contains(&overlap) {
            return Err(Problem::invalid(format!(
                "overlap_s is {overlap}; it must be from 0 to {OVERLAP_MAX}"
            )));
        }
        let storage = cx.storage();
        let tenant = listed_tenant(cx)?;
        managed(cx, &tenant).await?;
        let rotated = storage.rotate_key(&tenant, cx.path("client_id"), overlap);
        let (key, secret) = rotated.await.map_err(failed)?;
        cx.state.directory.follow_change().await;
        json::reply(StatusCode::OK, &with_secret(cx, &key, &secret))
    })
}

pub(super) fn revoke<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let keep = cx.query.flag("keep_bridges")?;
        let client_id = cx.path("client_id");
        let tenant = listed_tenant(cx)?;
        managed(cx, &tenant).await?;
        let revoked = cx.storage().revoke_key_of(&tenant, client_id, keep).await;
        let revoked = revoked.map_err(failed)?;
        cx.state.directory.follow_change().await;
        let document = RevokedKey {
            client_id: client_id.to_owned(),
            bridges: revoked.bridges,
        };
        json::reply(StatusCode::OK, &document)
    })
}
