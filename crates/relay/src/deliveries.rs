//! Calls that are stored and delivered (`mode: "deliver"`): an acknowledged call is never lost, and never
//! executed twice unless its caller allows that.
//!
//! ```text
//! POST /v1/calls --> accept: encrypted, committed --> 202
//!                                |
//! engine: which calls are due, and have a route? --> task: committed, then sent to one installation
//!                                |                      |            ^
//!                                |            response or RESULT     | the same attempt again, after
//!                                v                      v            | a lost tunnel
//!                        state::next, committed --> RESULT_ACK    reconcile
//! ```
//!
//! [`routing`](crate::routing) decides where a call goes, `state` what follows an attempt, and `settle`
//! stores it. `inbox` holds the engine's events, `sign` creates signatures, `rate` has the rate limits. All
//! writes go through [`Batch`]; stored requests are encrypted by the `vault`. An attempt belongs to the
//! installation that accepted it until the journal there reports how it ended: when that installation connects
//! again, the engine sends the attempt again with the same number.
//!
//! The engine and its tasks work with a [`DeliveryContext`]; [`Deliveries`] is the part that ingress,
//! tunnels and the API use, and knows nothing of them.

mod attempt;
mod call_id;
mod context;
mod engine;
mod error;
mod expiry;
mod in_flight;
mod inbox;
pub(crate) mod rate;
mod reconcile;
pub(crate) mod request;
mod route;
mod secrets;
mod settle;
pub(crate) mod sign;
pub(crate) mod state;
mod task;

pub(crate) use context::DeliveryContext;
pub(crate) use engine::run;
pub(crate) use expiry::expire;
pub(crate) use secrets::ShownSecret;

use crate::config;
use crate::problem::Problem;
use crate::registry::{TunnelEntry, TunnelOwner};
use crate::storage::calls::{Accepted, DirectClass, ExpiresIn, NewCall, Via, Write, Written};
use crate::storage::idempotency::RequestDigest;
use crate::storage::{Batch, Storage, StoreError, WriteError, now_ms};
use crate::vault::{Vault, VaultError};
use bytes::Bytes;
use in_flight::AttemptsInFlight;
use inbox::Inbox;
use protocol::frame::{DeliveryResult, Headers};
use protocol::{Code, Execution, Failure};
use rate::SubmissionLimiter;
use reconcile::DeliveryReport;
use request::{About, StoredRequest};
use secrets::Secrets;
use state::CallState;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use transport::Session;

/// `Retry-After` for a caller whose tenant has too many unfinished calls.
const RETRY_QUEUE_FULL: Duration = Duration::from_secs(30);

/// A call that a caller submits for delivery.
#[derive(Debug)]
pub(crate) struct SubmittedCall {
    /// The call's id.
    pub id: String,
    /// The target's URL.
    pub url: String,
    /// The caller's label.
    pub label: Option<String>,
    /// Whether the call may go direct.
    pub class: DirectClass,
    /// The URL's host.
    pub host: String,
    /// The request's method.
    pub method: String,
    /// The caller's header fields.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
    /// Name of the credential that the bridge adds.
    pub credential: Option<String>,
    /// Time limit of an attempt, in milliseconds.
    pub timeout_ms: u32,
    /// The bridge that the caller names.
    pub bridge: Option<String>,
    /// Whether the request may be repeated when its outcome is unknown.
    pub at_least_once: bool,
    /// The caller's idempotency key.
    pub idempotency_key: Option<String>,
    /// Hash of the request, which a repeated request must match.
    pub digest: RequestDigest,
    /// Seconds until the call expires; zero for never. `None`: by the tenant's setting or the config.
    pub expires_in: Option<u32>,
}

/// The result of submitting a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// The call's id. For a repeated request, that of the first one.
    pub id: String,
    /// The call's state.
    pub state: CallState,
    /// Whether the call was submitted before, with the same idempotency key.
    pub is_repeat: bool,
}

/// The stored calls of one relay.
#[derive(Debug)]
pub(crate) struct Deliveries {
    storage: Storage,
    batch: Batch,
    vault: Arc<Vault>,
    config: config::Deliveries,
    secrets: Secrets,
    submissions: SubmissionLimiter,
    /// Number of unfinished calls of each tenant.
    queued: Mutex<HashMap<Arc<str>, u64>>,
    in_flight: AttemptsInFlight,
    inbox: Inbox,
    /// Whether the engine was started.
    has_engine: AtomicBool,
}

impl Deliveries {
    /// Returns the stored calls of a relay that starts. Nothing is delivered until [`run`] runs.
    pub(crate) fn new(storage: Storage, vault: Vault, config: config::Deliveries) -> Self {
        Self {
            batch: storage.start_batch(),
            submissions: SubmissionLimiter::new(config.accepted_per_second),
            storage,
            vault: Arc::new(vault),
            config,
            secrets: Secrets::default(),
            queued: Mutex::default(),
            in_flight: AttemptsInFlight::default(),
            inbox: Inbox::default(),
            has_engine: AtomicBool::new(false),
        }
    }

    /// Stores a call. When this returns, it is on disk.
    ///
    /// # Errors
    /// `conflict` when the idempotency key was used for another request, `rate_limited` when the tenant
    /// submits too many calls, `overloaded` when the database does not respond.
    pub(crate) async fn accept(
        &self,
        tenant: &Arc<str>,
        client_id: &str,
        call: SubmittedCall,
    ) -> Result<Receipt, Problem> {
        self.submissions
            .take(tenant, Instant::now())
            .map_err(|wait| {
                let max = self.config.accepted_per_second;
                let detail = format!(
                    "the tenant submits too many calls: more than {max} a second \
                 (deliveries.accepted_per_second)"
                );
                too_many(detail, wait)
            })?;
        let max = u64::from(self.config.queued_per_tenant);
        if self.queued().get(tenant).is_some_and(|count| *count >= max) {
            let detail = format!(
                "the tenant reached its limit of unfinished calls: {max} (deliveries.queued_per_tenant)"
            );
            return Err(too_many(detail, RETRY_QUEUE_FULL));
        }
        // After the limits, so that a tenant above them costs no database access and no encryption.
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
        let sealed = key.seal(&seal_context(&call.id), &request.encode());
        let new = NewCall {
            id: call.id.clone(),
            tenant: tenant.clone(),
            client_id: client_id.to_owned(),
            label: call.label,
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
                // After the commit, so that a failed one does not count. The engine corrects the number
                // every round.
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
            // An idempotency key of a call with mode `wait` shares the name space.
            Written::Accepted(Accepted::KeyInUse) => {
                let detail = "this idempotency key was used for another call";
                Err(Problem::not_sent(Code::Conflict, detail))
            }
            Written::Accepted(Accepted::NoTenant)
            | Written::Changed(_)
            | Written::Settled(_)
            | Written::Claimed(_) => Err(Problem::not_sent(
                Code::Unauthorized,
                "the tenant does not exist any more",
            )),
        }
    }

    /// Wakes the engine for a new tunnel, which it finds in the registry. Nothing is delivered through the
    /// tunnel before the engine has compared its journal.
    pub(crate) fn tunnel_up(&self, entry: &TunnelEntry) {
        self.inbox.routes(&entry.owner.tenant);
    }

    /// Wakes the engine because a tunnel has ended, or serves other hosts or endpoints.
    pub(crate) fn routes_changed(&self, tenant: &Arc<str>) {
        self.inbox.routes(tenant);
    }

    /// Takes a bridge's report on an attempt. A report that finds no room in the inbox is not lost: the
    /// bridge repeats it until it is acknowledged, and the engine sends open attempts again.
    pub(crate) fn on_result(
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
        let id = call_id::call_id(result.attempt.call);
        // The attempt's own task comes first: it stores the outcome before it acknowledges.
        if self
            .in_flight
            .deliver_report(&id, &owner.tenant, &via, result, &session)
        {
            return;
        }
        let report = DeliveryReport {
            tenant: owner.tenant.clone(),
            via,
            bridge_name: owner.name.clone(),
            session,
            result,
        };
        self.inbox.result(&owner.tenant, report);
    }

    /// Counts finished calls of a tenant that are pending again, and wakes the engine.
    pub(crate) fn calls_redelivered(&self, tenant: &Arc<str>, calls: u64) {
        *self.queued().entry(tenant.clone()).or_default() += calls;
        self.inbox.routes(tenant);
        self.inbox.due(tenant);
    }

    /// Counts calls of a tenant that were cancelled.
    pub(crate) fn calls_cancelled(&self, tenant: &Arc<str>, calls: u64) {
        if let Some(count) = self.queued().get_mut(tenant) {
            *count = count.saturating_sub(calls);
        }
    }

    /// Forgets a deleted tenant and its keys.
    pub(crate) fn forget_tenant(&self, tenant: &str) {
        // The keys in memory would otherwise outlive the rows that they decrypt.
        self.vault.forget(tenant);
        self.secrets.forget(tenant);
        self.queued().remove(tenant);
    }

    /// Sets the epoch of the lease under which deliveries are written from now on; zero for none. A write
    /// under an older epoch has no effect.
    pub(crate) fn hold(&self, epoch: i64) {
        self.batch.hold(epoch);
    }

    /// Returns the group commit of changes. When one of its writes returns, the change is on disk.
    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Returns the tenants' keys.
    pub(crate) fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// Returns how many attempts run.
    pub(crate) fn attempts_running(&self) -> usize {
        self.in_flight.count()
    }

    /// Returns whether the caller is the first to start the engine.
    fn claim_engine(&self) -> bool {
        // A second engine would start attempts that the first one has in memory only.
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

/// Returns the id of a new call of the relay itself: 128 random bits.
///
/// # Errors
/// [`NoRandom`](crate::storage::NoRandom).
pub(crate) fn fresh_id() -> Result<String, crate::storage::NoRandom> {
    Ok(call_id::call_id(crate::storage::random()?))
}

/// Returns the context that a request is encrypted for. It binds the request to its row: moved to another
/// one, it does not decrypt.
fn seal_context(call: &str) -> String {
    format!("call {call}")
}

fn too_many(detail: String, wait: Duration) -> Problem {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    Problem::not_sent(Code::RateLimited, detail).later(Duration::from_secs_f64(seconds))
}

fn sealing(error: VaultError) -> Problem {
    match error {
        VaultError::Storage(error) => {
            tracing::error!(%error, "cannot encrypt a call");
            Failure::from(error).into()
        }
        VaultError::Broken | VaultError::Random(_) => {
            tracing::error!(%error, "cannot encrypt a call");
            Problem::not_sent(Code::Internal, "the relay cannot store the call")
        }
    }
}

fn unwritten(error: &WriteError) -> Problem {
    let stored = match error {
        WriteError::Store(error) => error,
        WriteError::LeaseLost => return Problem::not_sent(Code::Standby, error.to_string()),
        WriteError::Closed => {
            return Problem::not_sent(Code::Overloaded, "the relay is stopping");
        }
    };
    tracing::error!(%error, "cannot store a call");
    let failure = match stored {
        StoreError::Unavailable(_) => Failure::not_sent(
            Code::Overloaded,
            "the relay cannot store calls now: its database does not respond",
        ),
        // If the commit succeeded, the call is delivered. `possibly_executed` keeps a caller without an
        // idempotency key from submitting it twice.
        StoreError::OutcomeUnknown(_) => Failure::new(
            Code::Overloaded,
            Execution::PossiblyExecuted,
            "it is unknown whether the call was stored; submit it again with the same idempotency key, \
             which cannot store it twice",
        ),
        StoreError::Unusable(_) | StoreError::Database(_) | StoreError::LeaseLost => {
            Failure::not_sent(Code::Internal, "the relay cannot store the call")
        }
    };
    failure.into()
}
