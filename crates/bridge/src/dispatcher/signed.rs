//! Signed calls, where the config requires them: verified first, and their nonce used up before anything is
//! sent.
//!
//! ```text
//! whole body -> verify signature, reserve nonce, drop other fields -> ... -> spend nonce -> dispatch -> settle nonce
//! ```

use super::exchange::Exchange;
use crate::signed::{Audience, Binding, Nonces, ReserveResult, Reserved, SignedRequest, verify};
use bytes::Bytes;
use protocol::frame::{Headers, HeadersBuilder, RequestTarget};
use protocol::{Code, Execution, Failure};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// The nonce that this exchange may use. Dropping it unspent makes the nonce usable again.
pub(super) struct NonceReservation {
    reserved: Reserved,
    /// Whether another attempt may follow after a response that is a failure.
    is_delivery: bool,
}

fn refused(detail: impl Into<String>) -> Failure {
    Failure::not_dispatched(Code::RefusedByPolicy, detail)
}

fn unwritable(error: &str) -> Failure {
    let detail = format!("cannot write the nonce: {error}");
    Failure::not_dispatched(Code::Overloaded, detail)
}

impl Exchange {
    /// Returns whether this exchange must be signed.
    pub(super) fn must_be_signed(&self) -> bool {
        if self.active.tenant_key.is_none() {
            return false;
        }
        match &self.head.target {
            RequestTarget::Endpoint { name, .. } => {
                let settings = self.active.config.rules.settings(name);
                !settings.is_some_and(|settings| settings.unsigned)
            }
            RequestTarget::Url(_) | RequestTarget::Connect { .. } => true,
        }
    }

    /// Verifies the signature of a request with this body, reserves its nonce, and removes the fields that the
    /// signature does not cover.
    pub(super) async fn verify_signature(
        &mut self,
        nonces: &NonceStore,
        body: &Bytes,
    ) -> Result<(), Failure> {
        let Some(key) = &self.active.tenant_key else {
            return Err(refused("this bridge has no key for signed calls"));
        };
        let target_uri = match &self.head.target {
            RequestTarget::Url(url) => url.clone(),
            RequestTarget::Endpoint {
                name,
                path_and_query,
            } => format!("endpoint://{name}{path_and_query}"),
            RequestTarget::Connect { .. } => {
                return Err(refused(
                    "a raw stream cannot be signed, and this bridge accepts signed requests only",
                ));
            }
        };
        let request = SignedRequest {
            method: &self.head.method,
            target_uri: &target_uri,
            headers: &self.head.headers,
            body,
            credential: self.head.credential.as_deref(),
        };
        let config = &self.active.config;
        let section = &config.signed_calls;
        let audience = Audience {
            name: &config.bridge.name,
            key: nonces.fingerprint(),
            is_key_required: section.require_bridge_key,
        };
        let validity = section.validity_max.get();
        let signed =
            verify(key, &audience, validity, &request, SystemTime::now()).map_err(refused)?;
        let binding = Binding::of(self.head.call, &signed.base);
        let store = nonces.get(config.bridge.data_dir.get());
        let (nonce, times) = (signed.nonce.clone(), (signed.created, signed.expires));
        // The store reads and writes its file: it blocks.
        let reserving = tokio::task::spawn_blocking(move || store.reserve(&nonce, times, binding));
        let result = reserving
            .await
            .unwrap_or_else(|error| Err(error.to_string()));
        let reserved = match result.map_err(|error| unwritable(&error))? {
            ReserveResult::Reserved(reserved) => reserved,
            ReserveResult::InUse => {
                let detail = "a request with this nonce is in progress";
                return Err(Failure::not_dispatched(Code::Overloaded, detail));
            }
            ReserveResult::Used => {
                return Err(refused("a request with this nonce was executed already"));
            }
            ReserveResult::TooOld => {
                return Err(refused(
                    "the signature is older than this bridge's store of nonces: sign the request again",
                ));
            }
            ReserveResult::Full => {
                let detail = "nonce store is full; retry later";
                return Err(Failure::not_dispatched(Code::Overloaded, detail));
            }
        };
        // The relay could have added or changed any other field.
        self.head.headers = covered_fields(&self.head.headers, |name| signed.passes(name))?;
        self.nonce = Some(NonceReservation {
            reserved,
            is_delivery: self.head.call.is_some(),
        });
        Ok(())
    }

    /// Uses the nonce up on disk, where the exchange is signed. Must complete before anything is sent: after a
    /// crash, the same signature must not be accepted again.
    pub(super) async fn spend_nonce(&mut self) -> Result<(), Failure> {
        let Some(mut nonce) = self.nonce.take() else {
            return Ok(());
        };
        if nonce.reserved.is_spent {
            self.nonce = Some(nonce);
            return Ok(());
        }
        // The reservation moves into the thread and back: if this future is dropped, the write still completes.
        let spending = tokio::task::spawn_blocking(move || {
            let spent = nonce.reserved.spend();
            (nonce, spent)
        });
        let (nonce, spent) = spending
            .await
            .map_err(|error| unwritable(&error.to_string()))?;
        self.nonce = Some(nonce);
        spent.map_err(|error| unwritable(&error))
    }

    /// Frees the nonce of an exchange that was not dispatched: the request may come again with it.
    pub(super) async fn settle_nonce(&mut self, result: &Result<(), Failure>) {
        let Some(nonce) = self.nonce.take() else {
            return;
        };
        if !nonce.reserved.is_spent {
            return;
        }
        let is_failure = self.status.is_some_and(|status| status >= 300);
        // Only what certainly did nothing frees the nonce; "possibly executed" keeps it used.
        let is_free = result.as_ref().is_err_and(|failure| {
            matches!(
                failure.execution,
                Execution::NotSent | Execution::NotDispatched
            )
        });
        let is_repeatable = nonce.is_delivery && is_failure;
        if !(is_free || is_repeatable) {
            return;
        }
        let settling = move || match is_free {
            true => nonce.reserved.free(),
            false => nonce.reserved.repeatable(),
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(settling).await {
            tracing::warn!(error, "cannot free a nonce; it stays used");
        }
    }
}

/// Returns the fields that the signature covers.
fn covered_fields(headers: &Headers, passes: impl Fn(&str) -> bool) -> Result<Headers, Failure> {
    let mut kept = HeadersBuilder::default();
    for (name, value) in headers.iter() {
        let is_kept =
            std::str::from_utf8(name).is_ok_and(|name| passes(&name.to_ascii_lowercase()));
        if is_kept {
            let pushed = kept.push(name, value);
            pushed.map_err(|error| Failure::not_dispatched(Code::Internal, error.to_string()))?;
        }
    }
    Ok(kept.build())
}

/// The store of nonces, and the fingerprint of the bridge's own key.
#[derive(Debug)]
pub(crate) struct NonceStore {
    nonces: OnceLock<Arc<Nonces>>,
    fingerprint: String,
}

impl NonceStore {
    pub(super) fn new(fingerprint: String) -> Self {
        Self {
            nonces: OnceLock::new(),
            fingerprint,
        }
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Returns the store in the data directory. That directory cannot change while the bridge runs, so the
    /// store is made once.
    pub(super) fn get(&self, data_dir: &Path) -> Arc<Nonces> {
        let made = || Nonces::new(data_dir.join("nonces.redb"));
        self.nonces.get_or_init(made).clone()
    }
}
