//! `/v1/signing-secrets`: the secrets that sign a tenant's deliveries, for its administrators.

use super::errors::failed;
use super::timestamp::Timestamp;
use super::{Context, Handling, json};
use crate::deliveries::ShownSecret;
use crate::deliveries::sign::SigningSecret;
use crate::problem::Problem;
use crate::storage::audit::AuditEvent;
use crate::vault::VaultError;
use bytes::Bytes;
use http::{Request, StatusCode};
use protocol::Code;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Default of `overlap_s`.
const OVERLAP: u64 = 24 * 3600;

/// Largest value of `overlap_s`.
const OVERLAP_MAX: u64 = 30 * 24 * 3600;

/// A signing secret.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SecretView {
    /// The secret's id.
    id: String,
    /// When it was created.
    created_at: Timestamp,
    /// When it stops signing next to a newer secret; null for the newest one.
    expires_at: Option<Timestamp>,
    /// `whsec_` and base64, as libraries of Standard Webhooks expect it.
    secret: String,
}

/// The signing secrets.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SecretList {
    /// Newest first.
    signing_secrets: Vec<SecretView>,
}

/// A signing secret to add.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NewSecret {
    /// Seconds for which the previous secrets sign next to the new one: 0 to 2592000. Defaults to 86400.
    #[schemars(range(min = 0, max = 2_592_000))]
    overlap_s: Option<u64>,
    /// `whsec_` and base64 of 24 to 64 bytes. Defaults to a random secret.
    secret: Option<String>,
}

fn view(shown: ShownSecret) -> SecretView {
    SecretView {
        id: shown.id,
        created_at: Timestamp::Seconds(shown.created),
        expires_at: shown.expires.map(Timestamp::Seconds),
        secret: shown.secret.reveal(),
    }
}

fn sealed(error: VaultError) -> Problem {
    match error {
        VaultError::Storage(error) => failed(error),
        VaultError::Broken | VaultError::Random(_) => {
            tracing::error!(%error, "cannot use a signing secret");
            Problem::not_sent(Code::Internal, "the signing secrets cannot be used")
        }
    }
}

pub(super) fn list<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let tenant = cx.tenant()?;
        let shown = cx.state.deliveries.all_secrets(&tenant).await;
        let shown = shown.map_err(sealed)?;
        // A reader of a secret can sign with it, so the reading itself is recorded.
        let act = AuditEvent {
            tenant: tenant.clone(),
            action: "signing_secret.reveal",
            result: "ok",
            count: 1,
            ..AuditEvent::default()
        };
        cx.storage().audit(&[act]).await.map_err(failed)?;
        let signing_secrets = shown.into_iter().map(view).collect();
        json::reply(StatusCode::OK, &SecretList { signing_secrets })
    })
}

pub(super) fn rotate<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let new: NewSecret = json::read(&request)?;
        // Receivers need time to switch, and verify against either secret meanwhile.
        let overlap = new.overlap_s.unwrap_or(OVERLAP);
        if overlap > OVERLAP_MAX {
            return Err(Problem::invalid(format!(
                "overlap_s is {overlap}; it must be from 0 to {OVERLAP_MAX}"
            )));
        }
        let secret = match new.secret {
            // A tenant may bring the secret that its receivers already have.
            Some(text) => SigningSecret::parse(&text).ok_or_else(|| {
                Problem::invalid("secret must be whsec_ and base64 of 24 to 64 bytes")
            })?,
            None => SigningSecret::random()
                .map_err(|error| Problem::not_sent(Code::Internal, error.to_string()))?,
        };
        let tenant = cx.tenant()?;
        let rotated =
            cx.state
                .deliveries
                .rotate_secret(&tenant, secret, Duration::from_secs(overlap));
        let shown = rotated.await.map_err(sealed)?;
        let act = AuditEvent {
            tenant: tenant.clone(),
            action: "signing_secret.rotate",
            actor: cx.principal.client_id.clone(),
            object: shown.id.clone(),
            result: "ok",
            count: 1,
            ..AuditEvent::default()
        };
        // Not undone if it cannot be recorded: the secret signs already, and a repeated request would add
        // another.
        cx.state.audit.record(act).await;
        json::reply(StatusCode::CREATED, &view(shown))
    })
}
