//! Calls that are stored and delivered (`mode: "deliver"`): nothing that was acknowledged is lost,
//! and nothing is done twice.
//!
//! ```text
//! POST /v1/calls --> accept: sealed, committed --> 202
//!                                |
//! engine: who is due, and which route is there? -> task: committed, then sent to one installation
//!                                |                      |            ^
//!                                |            answer or RESULT       | the same attempt again, after
//!                                v                      v            | a lost tunnel
//!                        state::next, committed --> RESULT_ACK     reconcile
//! ```
//!
//! [`route`](crate::routing) decides where a call goes, `state` what follows an attempt, and `settle` writes it
//! down; `inbox` holds the engine's events; `sign` makes a signature; `rate` bounds what comes and how
//! fast it goes. What is written goes through [`Batch`]; what is stored of a request is sealed by the
//! `vault`. An attempt belongs to the installation that took it until that one's journal says how it ended:
//! the engine asks it again, with the same number, when it comes back.

mod attempt;
mod engine;
mod expiry;
mod id;
mod inbox;
pub mod rate;
mod reconcile;
pub mod request;
mod running;
mod secrets;
mod settle;
pub mod sign;
pub mod state;
mod task;
mod way;

pub use engine::run;
pub use expiry::expire;
pub use secrets::ShownSecret;

use crate::config;
use crate::problem::Problem;
use crate::registry::{TunnelEntry, TunnelOwner};
use crate::routing::DirectClass;
use crate::storage::batch::{Batch, WriteError};
use crate::storage::calls::{Accepted, ExpiresIn, NewCall, Via, Write, Written};
use crate::storage::{Storage, StorageError, now_ms};
use crate::vault::{Vault, VaultError};
use bytes::Bytes;
use inbox::Inbox;
use protocol::frame::{DeliveryResult, Headers};
use protocol::{Code, Execution, Failure};
use rate::Rate;
use reconcile::Heard;
use request::{About, StoredRequest};
use running::Running;
use secrets::Secrets;
use state::CallState;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use transport::Session;

/// Whoever finds the queue full comes again after this.
const RETRY_QUEUE_FULL: Duration = Duration::from_secs(30);

/// A call that is handed over.
#[derive(Debug)]
pub struct Handed {
    /// Its id.
    pub id: String,
    /// Where it goes.
    pub url: String,
    /// Whether it may go direct.
    pub class: DirectClass,
    /// The URL's host.
    pub host: String,
    /// The request's method.
    pub method: String,
    /// The header fields that the caller gave.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
    /// The credential that the bridge shall add.
    pub credential: Option<String>,
    /// How long an attempt may take.
    pub timeout_ms: u32,
    /// The bridge that it shall go through.
    pub bridge: Option<String>,
    /// Whether it may be made again when nobody can say what became of it.
    pub at_least_once: bool,
    /// The caller's key for repeats.
    pub idempotency_key: Option<String>,
    /// Hash of the request.
    pub digest: Vec<u8>,
    /// After how many seconds it expires, if it says so; zero: never.
    pub expires_in: Option<u32>,
}

/// What became of a call that was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Its id; of the one before, if it was handed over before.
    pub id: String,
    /// Where it stands.
    pub state: CallState,
    /// It had been handed over before, with the same idempotency key.
    pub is_repeat: bool,
}

/// The deliveries of one relay.
#[derive(Debug)]
pub struct Deliveries {
    storage: Storage,
    batch: Batch,
    vault: Vault,
    config: config::Deliveries,
    secrets: Secrets,
    rate: Rate,
    /// Calls of each tenant that are not finished.
    queued: Mutex<HashMap<Arc<str>, u64>>,
    running: Running,
    inbox: Inbox,
    /// The engine was started.
    has_engine: AtomicBool,
}

impl Deliveries {
    /// Those of a relay that begins. Nothing is delivered until [`run`] runs.
    pub fn new(storage: Storage, vault: Vault, config: config::Deliveries) -> Self {
        Self {
            batch: Batch::start(storage.clone()),
            rate: Rate::new(config.accepted_per_second),
            storage,
            vault,
            config,
            secrets: Secrets::default(),
            queued: Mutex::default(),
            running: Running::default(),
            inbox: Inbox::default(),
            has_engine: AtomicBool::new(false),
        }
    }

    /// Stores a call. When this returns, it is on disk.
    ///
    /// # Errors
    /// `conflict` when the idempotency key was used for another request, `rate_limited` when the
    /// tenant has handed over too much, `overloaded` when nothing can be stored.
    pub async fn accept(
        &self,
        tenant: &Arc<str>,
        client_id: &str,
        call: Handed,
    ) -> Result<Receipt, Problem> {
        self.rate.take(tenant, Instant::now()).map_err(|wait| {
            let most = self.config.accepted_per_second;
            let detail = format!("the tenant hands over more than {most} calls a second");
            too_many(detail, wait)
        })?;
        let most = u64::from(self.config.queued_per_tenant);
        if self
            .queued()
            .get(tenant)
            .is_some_and(|count| *count >= most)
        {
            let detail = format!("the tenant has {most} calls that are not finished, its limit");
            return Err(too_many(detail, RETRY_QUEUE_FULL));
        }
        let key = self.vault.of_tenant(tenant).await.map_err(sealing)?;
        let request = StoredRequest {
            about: About {
                url: call.url,
                timeout_ms: call.timeout_ms,
                credential: call.credential,
            },
            headers: call.headers,
            body: call.body,
        };
        let sealed = key.seal(&context(&call.id), &request.encode());
        let new = NewCall {
            id: call.id.clone(),
            tenant: tenant.clone(),
            client_id: client_id.to_owned(),
            created_ms: now_ms(),
            method: call.method,
            host: call.host,
            bridge: call.bridge,
            at_least_once: call.at_least_once,
            idempotency_key: call.idempotency_key,
            digest: call.digest,
            sealed: sealed.map_err(|error| sealing(error.into()))?,
            bytes: i64::try_from(request.body.len()).unwrap_or(i64::MAX),
            expires_in: match call.expires_in {
                Some(seconds) => ExpiresIn::Own(i64::from(seconds) * 1000),
                None => ExpiresIn::Default(self.config.expires_in_ms()),
            },
            class: call.class,
        };
        let written = self.batch.write(Write::Accept(Box::new(new))).await;
        match written.map_err(|error| unwritten(&error))? {
            Written::Accepted(Accepted::Stored) => {
                self.count_in(tenant);
                self.inbox.due(tenant);
                Ok(Receipt {
                    id: call.id,
                    state: CallState::Pending,
                    is_repeat: false,
                })
            }
            Written::Accepted(Accepted::Known { id, state, is_same }) => {
                if !is_same {
                    let detail = "this idempotency key was used for another call";
                    return Err(Problem::not_sent(Code::Conflict, detail));
                }
                Ok(Receipt {
                    id,
                    state,
                    is_repeat: true,
                })
            }
            Written::Accepted(Accepted::KeyInUse) => {
                let detail = "this idempotency key was used for another call";
                Err(Problem::not_sent(Code::Conflict, detail))
            }
            Written::Accepted(Accepted::NoTenant)
            | Written::Changed(_)
            | Written::Settled(_)
            | Written::Keyed(_) => Err(Problem::not_sent(
                Code::Unauthorized,
                "the tenant is no longer there",
            )),
        }
    }

    /// A tunnel is up. Before the engine has compared its journal with what it knows, nothing is delivered
    /// through it. The engine finds it in the registry.
    pub fn tunnel_up(&self, entry: &TunnelEntry) {
        self.inbox.routes(&entry.owner.tenant);
    }

    /// A tunnel is gone, or serves something else.
    pub fn routes_changed(&self, tenant: &Arc<str>) {
        self.inbox.routes(tenant);
    }

    /// A bridge says what became of an attempt. It says so again until it is acknowledged, and it is asked
    /// as long as the attempt is open, so what finds no room here is not lost.
    pub fn on_result(
        &self,
        owner: &TunnelOwner,
        instance: [u8; 16],
        session: Session,
        result: DeliveryResult,
    ) {
        let via = Via {
            bridge: owner.bridge.clone(),
            instance: instance.to_vec(),
        };
        let id = id::call_id(result.attempt.call);
        if self
            .running
            .hear(&id, &owner.tenant, &via, result, &session)
        {
            return;
        }
        let heard = Heard {
            tenant: owner.tenant.clone(),
            via,
            bridge_name: owner.name.clone(),
            session,
            result,
        };
        self.inbox.result(&owner.tenant, heard);
    }

    /// Calls of a tenant that had come to their end are pending again.
    pub fn came_back(&self, tenant: &Arc<str>, calls: u64) {
        *self.queued().entry(tenant.clone()).or_default() += calls;
        self.inbox.routes(tenant);
        self.inbox.due(tenant);
    }

    /// Calls of a tenant were taken back.
    pub fn taken_back(&self, tenant: &Arc<str>, calls: u64) {
        if let Some(count) = self.queued().get_mut(tenant) {
            *count = count.saturating_sub(calls);
        }
    }

    /// A tenant is gone, and its keys with it.
    pub fn forget_tenant(&self, tenant: &str) {
        self.vault.forget(tenant);
        self.secrets.forget(tenant);
        self.queued().remove(tenant);
    }

    /// What is written of deliveries is written under this epoch of the lease from now on; zero for
    /// none.
    pub fn hold(&self, epoch: i64) {
        self.batch.hold(epoch);
    }

    /// Makes a change, and returns when it is on disk.
    ///
    /// # Errors
    /// As [`Batch::write`].
    pub(crate) async fn write(&self, write: Write) -> Result<Written, WriteError> {
        self.batch.write(write).await
    }

    /// The tenants' keys.
    pub(crate) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Attempts that run.
    pub fn attempts_running(&self) -> usize {
        self.running.count()
    }

    /// Calls that a tenant may have unfinished and has.
    pub fn queued_of(&self, tenant: &str) -> u64 {
        self.queued().get(tenant).copied().unwrap_or(0)
    }

    /// The database.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Commits, and the changes in them, since the start.
    pub fn commits(&self) -> (u64, u64) {
        self.batch.counts()
    }

    /// Whether the caller is the first to start the engine.
    fn take_engine(&self) -> bool {
        !self.has_engine.swap(true, Ordering::AcqRel)
    }

    fn queued(&self) -> MutexGuard<'_, HashMap<Arc<str>, u64>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_in(&self, tenant: &Arc<str>) {
        *self.queued().entry(tenant.clone()).or_default() += 1;
    }

    fn count_out(&self, tenant: &Arc<str>) {
        let mut queued = self.queued();
        if let Some(count) = queued.get_mut(tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                queued.remove(tenant);
            }
        }
    }
}

/// A new call's id: 128 random bits.
///
/// # Errors
/// [`NoRandom`](crate::storage::NoRandom).
pub fn fresh_id() -> Result<String, crate::storage::NoRandom> {
    Ok(id::call_id(crate::storage::random()?))
}

/// What a request is sealed for: it opens in its own row alone.
fn context(call: &str) -> String {
    format!("call {call}")
}

fn too_many(detail: String, wait: Duration) -> Problem {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    Problem::not_sent(Code::RateLimited, detail).later(Duration::from_secs_f64(seconds))
}

fn sealing(error: VaultError) -> Problem {
    match error {
        VaultError::Storage(error) => crate::api::pairing::failed(error),
        VaultError::Broken | VaultError::Random(_) => {
            tracing::error!(%error, "a call could not be sealed");
            Problem::not_sent(Code::Internal, "the relay could not store it")
        }
    }
}

fn unwritten(error: &WriteError) -> Problem {
    let stored = match error {
        WriteError::Storage(error) => &**error,
        WriteError::LeaseLost => return Problem::not_sent(Code::Standby, error.to_string()),
        WriteError::Closed => {
            return Problem::not_sent(Code::Overloaded, "the relay is stopping");
        }
    };
    tracing::error!(%error, "a call could not be stored");
    let failure = match stored {
        StorageError::Unavailable(_) => {
            Failure::not_sent(Code::Overloaded, "the relay cannot store anything now")
        }
        // It may be stored, and is then delivered.
        StorageError::Unknown(_) => Failure::new(
            Code::Overloaded,
            Execution::PossiblyExecuted,
            "the database did not say whether the call was stored; a repeat with the same \
             idempotency key makes no second one",
        ),
        StorageError::Conflict(_)
        | StorageError::NotFound(_)
        | StorageError::Invalid(_)
        | StorageError::Changed
        | StorageError::KeyGone
        | StorageError::Unusable(_)
        | StorageError::Database(_)
        | StorageError::Random(_)
        | StorageError::LeaseLost => {
            Failure::not_sent(Code::Internal, "the relay could not store it")
        }
    };
    failure.into()
}
