//! Signed calls, where the config asks for them: verified before anything is done, used up before anything
//! leaves.

use super::exchange::Exchange;
use crate::signed::{Asked, Nonces, Signed, Use, verify};
use bytes::Bytes;
use protocol::frame::RequestTarget;
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::time::SystemTime;

/// A nonce that this exchange has used; it is good again if the exchange came to nothing.
pub(super) struct Ticket {
    nonces: Arc<Nonces>,
    signed: Signed,
}

fn refused(detail: impl Into<String>) -> Failure {
    Failure::not_dispatched(Code::RefusedByPolicy, detail)
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

    /// Verifies the signature over a request whose whole body is this, and uses its nonce up.
    pub(super) async fn signed(
        &self,
        nonces: &NonceStore,
        body: &Bytes,
    ) -> Result<Ticket, Failure> {
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
        };
        let config = &self.active.config;
        let validity = config.signed_calls.validity_max.get();
        let signed = verify(
            key,
            &config.bridge.name,
            validity,
            &asked,
            SystemTime::now(),
        )
        .map_err(refused)?;
        let nonces = nonces.get(config.bridge.data_dir.get()).await?;
        let (store, nonce, expires) = (nonces.clone(), signed.nonce.clone(), signed.expires);
        let taken = tokio::task::spawn_blocking(move || store.take(&nonce, expires)).await;
        match taken.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(Use::Fresh) => Ok(Ticket { nonces, signed }),
            Ok(Use::Again) => Err(refused("a request with this nonce was executed already")),
            Ok(Use::Full) => {
                let detail = "as many nonces are remembered as may be; some expire soon";
                Err(Failure::not_dispatched(Code::Overloaded, detail))
            }
            Err(error) => {
                let detail = format!("the nonce cannot be written down: {error}");
                Err(Failure::not_dispatched(Code::Overloaded, detail))
            }
        }
    }
}

impl Ticket {
    /// The exchange is over: what certainly did nothing may come again.
    pub(super) async fn ended(self, status: Option<u16>, result: &Result<(), Failure>) {
        let is_free = match (result, status) {
            (Err(failure), _) => matches!(
                failure.execution,
                Execution::NotSent | Execution::NotDispatched
            ),
            // The target took nothing of it.
            (Ok(()), Some(status)) => status >= 300,
            (Ok(()), None) => false,
        };
        if !is_free {
            return;
        }
        let Self { nonces, signed } = self;
        let freeing = move || nonces.free(&signed.nonce, signed.expires);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(freeing).await {
            tracing::warn!(error, "a nonce stays used");
        }
    }
}

/// The store of nonces, opened when it is first needed.
#[derive(Debug, Default)]
pub(super) struct NonceStore(tokio::sync::OnceCell<Arc<Nonces>>);

impl NonceStore {
    async fn get(&self, data_dir: &std::path::Path) -> Result<Arc<Nonces>, Failure> {
        let path = data_dir.join("nonces.redb");
        let opening = || async {
            let opened = tokio::task::spawn_blocking(move || Nonces::open(&path)).await;
            opened
                .unwrap_or_else(|error| Err(error.to_string()))
                .map(Arc::new)
                .map_err(|error| {
                    let detail = format!("the store of nonces cannot be opened: {error}");
                    Failure::not_dispatched(Code::Overloaded, detail)
                })
        };
        self.0.get_or_try_init(opening).await.cloned()
    }
}
