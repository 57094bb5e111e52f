//! Signed calls, where the config asks for them: verified before anything is done, used up before anything
//! leaves.
//!
//! ```text
//! whole body -> sign: verify, reserve the nonce, keep the covered fields -> ... -> spend -> dispatched -> settle
//! ```

use super::exchange::Exchange;
use crate::signed::{Asked, Audience, Binding, Nonces, Reserved, Taken, verify};
use bytes::Bytes;
use protocol::frame::{Headers, HeadersBuilder, RequestTarget};
use protocol::{Code, Execution, Failure};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// The nonce that this exchange may use.
pub(super) struct Ticket {
    reserved: Reserved,
    /// Whether another attempt may follow one that the target responded to with a failure.
    is_delivery: bool,
}

fn refused(detail: impl Into<String>) -> Failure {
    Failure::not_dispatched(Code::RefusedByPolicy, detail)
}

fn unwritable(error: &str) -> Failure {
    let detail = format!("the nonce cannot be written down: {error}");
    Failure::not_dispatched(Code::Overloaded, detail)
}

impl Exchange {
    /// Whether this exchange has to be signed.
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

    /// Verifies the signature over a request whose whole body is this, reserves its nonce, and removes the
    /// fields that the signature does not cover.
    pub(super) async fn sign(&mut self, nonces: &NonceStore, body: &Bytes) -> Result<(), Failure> {
        let Some(key) = &self.active.tenant_key else {
            return Err(refused("there is no key"));
        };
        let target_uri = match &self.head.target {
            RequestTarget::Url(url) => url.clone(),
            RequestTarget::Endpoint {
                name,
                path_and_query,
            } => format!("endpoint://{name}{path_and_query}"),
            RequestTarget::Connect { .. } => {
                return Err(refused(
                    "a raw stream cannot be signed, and this bridge takes signed requests only",
                ));
            }
        };
        let asked = Asked {
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
            verify(key, &audience, validity, &asked, SystemTime::now()).map_err(refused)?;
        let binding = Binding::of(self.head.call, &signed.base);
        let store = nonces.get(config.bridge.data_dir.get());
        let (nonce, times) = (signed.nonce.clone(), (signed.created, signed.expires));
        let reserving = tokio::task::spawn_blocking(move || store.reserve(&nonce, times, binding));
        let taken = reserving
            .await
            .unwrap_or_else(|error| Err(error.to_string()));
        let reserved = match taken.map_err(|error| unwritable(&error))? {
            Taken::Reserved(reserved) => reserved,
            Taken::InUse => {
                let detail = "a request with this nonce is on its way";
                return Err(Failure::not_dispatched(Code::Overloaded, detail));
            }
            Taken::Used => return Err(refused("a request with this nonce was executed already")),
            Taken::TooOld => {
                return Err(refused(
                    "the signature is older than this bridge's store of nonces: sign the request again",
                ));
            }
            Taken::Full => {
                let detail = "as many nonces are remembered as may be; some expire soon";
                return Err(Failure::not_dispatched(Code::Overloaded, detail));
            }
        };
        self.head.headers = passed(&self.head.headers, |name| signed.passes(name))?;
        self.ticket = Some(Ticket {
            reserved,
            is_delivery: self.head.call.is_some(),
        });
        Ok(())
    }

    /// Uses the nonce up, where the exchange is signed. To be called before anything leaves.
    pub(super) async fn spend(&mut self) -> Result<(), Failure> {
        let Some(mut ticket) = self.ticket.take() else {
            return Ok(());
        };
        if ticket.reserved.is_spent {
            self.ticket = Some(ticket);
            return Ok(());
        }
        let spending = tokio::task::spawn_blocking(move || {
            let spent = ticket.reserved.spend();
            (ticket, spent)
        });
        let (ticket, spent) = spending
            .await
            .map_err(|error| unwritable(&error.to_string()))?;
        self.ticket = Some(ticket);
        spent.map_err(|error| unwritable(&error))
    }

    /// The exchange is over: what was not dispatched may come again with its nonce.
    pub(super) async fn settle(&mut self, result: &Result<(), Failure>) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        if !ticket.reserved.is_spent {
            return;
        }
        let is_failure = self.status.is_some_and(|status| status >= 300);
        let is_free = result.as_ref().is_err_and(|failure| {
            matches!(
                failure.execution,
                Execution::NotSent | Execution::NotDispatched
            )
        });
        let is_repeatable = ticket.is_delivery && is_failure;
        if !(is_free || is_repeatable) {
            return;
        }
        let settling = move || match is_free {
            true => ticket.reserved.free(),
            false => ticket.reserved.repeatable(),
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(settling).await {
            tracing::warn!(error, "a nonce stays used");
        }
    }
}

/// The fields that go on.
fn passed(headers: &Headers, passes: impl Fn(&str) -> bool) -> Result<Headers, Failure> {
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

/// The store of nonces, and what the bridge's own key is known by.
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

    /// The store in the data directory, which does not change while the bridge runs.
    pub(super) fn get(&self, data_dir: &Path) -> Arc<Nonces> {
        let made = || Nonces::new(data_dir.join("nonces.redb"));
        self.nonces.get_or_init(made).clone()
    }
}
