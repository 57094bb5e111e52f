//! One idempotency key has one effect, also across a restart of the relay.
//!
//! ```text
//! request -> claimed, committed -> executed -> outcome, committed -> response
//!   repeat while it is in flight -> waits for the same response
//!   repeat later                 -> the stored response, with `Idempotency-Replayed: true`
//!   repeat after a crash         -> `outcome_unknown`, `possibly_executed`; nothing is executed
//!   no effect for certain (`not_sent`, `not_dispatched`) -> the key is free again
//! ```
//!
//! The rows are in [`crate::storage::idempotency`]. Responses are sealed there with the tenant's key, because they
//! may contain a secret. Only requests with a key pay for it: a share of a group commit before and after. Keys of
//! calls belong to a tenant: its API keys share them, but a narrowed one never gets the response of another. Keys of
//! API operations belong to one API key.
//!
//! [`key_header`] reads the header, [`response`] holds the stored form of a response, [`attempt`] executes one request.

mod attempt;
mod key_header;
mod response;

pub(crate) use key_header::key_of;
pub(crate) use response::StoredResponse;

use crate::body::Body;
use crate::problem::Problem;
use crate::serving::Serving;
use crate::storage::idempotency::{KeyUsage, RequestDigest};
use crate::storage::{Batch, Storage, StorageError};
use crate::vault::Vault;
use attempt::Attempt;
use http::Response;
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Keys that are stored for all tenants.
const KEYS_MAX: u64 = 1_000_000;

/// Keys that are stored for one tenant.
const KEYS_PER_TENANT: u64 = 16_384;

/// Outcomes in memory that the database did not accept.
const UNSTORED_MAX: usize = 1024;

/// How long an outcome is kept in memory that the database did not accept.
const UNSTORED_TTL: Duration = Duration::from_secs(600);

/// The interval between deletions of expired keys.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// A request with an idempotency key.
#[derive(Debug, Clone)]
pub(crate) struct KeyedRequest {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// The client id of the API key that sent it.
    pub client_id: Arc<str>,
    /// `call`, or the id of the operation.
    pub operation: &'static str,
    /// The caller's key.
    pub key: String,
    /// Hash of the request.
    pub digest: RequestDigest,
}

/// A request that was executed.
#[derive(Debug)]
pub(crate) struct ExecutedRequest {
    /// The caller's response.
    pub response: Response<Body>,
    /// The response to a repeat.
    pub replay: StoredResponse,
    /// The same without the target's body, if it has one.
    pub replay_without_body: Option<StoredResponse>,
    /// It certainly had no effect: a repeat is executed.
    pub had_no_effect: bool,
}

/// Identifies a request: tenant, operation and key.
type Name = (Arc<str>, &'static str, String);
type Outcome = Result<StoredResponse, Failure>;

/// A request that this process executes, or whose outcome only this process knows.
#[derive(Debug)]
struct Entry {
    digest: RequestDigest,
    outcome: watch::Receiver<Option<Outcome>>,
    /// Since when an outcome is here that the database did not accept.
    unstored_since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Entries {
    in_flight: HashMap<Name, Entry>,
    /// Tokens of attempts that had no effect, and whose row may still exist.
    idle_tokens: HashMap<Name, [u8; 16]>,
    /// What is stored, by tenant and API key.
    usage: HashMap<Arc<str>, HashMap<Arc<str>, KeyUsage>>,
    /// Rows of all tenants.
    rows: u64,
}

/// The keys of requests that are in flight here, in front of those in the database.
#[derive(Debug)]
pub(crate) struct IdempotencyCache {
    entries: Mutex<Entries>,
    storage: Storage,
    batch: Batch,
    vault: Arc<Vault>,
}

/// What a request finds for its key in memory.
enum Claim {
    /// The key is free here: this request claims it in the database.
    New(watch::Sender<Option<Outcome>>),
    /// Another request with the key is being executed.
    InFlight(watch::Receiver<Option<Outcome>>),
    /// Another request with the key has this outcome.
    Completed(Outcome),
}

impl IdempotencyCache {
    /// Returns an empty cache. Claims and outcomes are written by `batch` and sealed by `vault`.
    pub(crate) fn new(storage: Storage, batch: Batch, vault: Arc<Vault>) -> Self {
        Self {
            entries: Mutex::default(),
            storage,
            batch,
            vault,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets outcomes, because this process no longer serves: only the database is right from now on.
    pub(crate) fn clear(&self) {
        let mut entries = self.lock();
        // A request that is in flight keeps its entry: its task removes it.
        entries
            .in_flight
            .retain(|_, entry| entry.outcome.borrow().is_none());
        entries.idle_tokens.clear();
        entries.usage.clear();
        entries.rows = 0;
    }

    /// Executes a request, unless one with its key was executed or is in flight: then its response is returned. The
    /// execution continues if the caller disconnects.
    ///
    /// # Errors
    /// `conflict` for a key of another request, `outcome_unknown`, `rate_limited` when too many keys are stored, and
    /// the errors of storing a key.
    pub(crate) async fn execute<F>(
        self: &Arc<Self>,
        request: KeyedRequest,
        execution: F,
    ) -> Result<Response<Body>, Problem>
    where
        F: Future<Output = ExecutedRequest> + Send + 'static,
    {
        match self.claim(&request)? {
            Claim::Completed(outcome) => Ok(outcome?.replayed()),
            Claim::InFlight(mut outcome) => {
                let outcome = outcome.wait_for(Option::is_some).await;
                // The sender is gone without an outcome only if its task panicked.
                let outcome = outcome.ok().and_then(|outcome| outcome.clone());
                Ok(outcome.unwrap_or_else(|| Err(unknown()))?.replayed())
            }
            Claim::New(outcome) => {
                let attempt = Attempt::new(self.clone(), request, outcome);
                // A task of its own: a caller that disconnects must not cancel a request that was sent.
                let running = tokio::spawn(attempt.run(execution));
                running.await.map_err(|_| {
                    let detail = "the request did not end normally";
                    Problem::from(Failure::possibly_executed(Code::Internal, detail))
                })?
            }
        }
    }

    fn claim(&self, request: &KeyedRequest) -> Result<Claim, Problem> {
        let mut entries = self.lock();
        let name = name_of(request);
        if let Some(entry) = entries.in_flight.get(&name) {
            if !request.digest.is_of(entry.digest.stored()) {
                return Err(key_of_other_request());
            }
            let outcome = entry.outcome.borrow().clone();
            return Ok(match outcome {
                Some(outcome) => Claim::Completed(outcome),
                None => Claim::InFlight(entry.outcome.clone()),
            });
        }
        entries.check_room(request)?;
        let (sender, outcome) = watch::channel(None);
        let entry = Entry {
            digest: request.digest.clone(),
            outcome,
            unstored_since: None,
        };
        entries.in_flight.insert(name, entry);
        Ok(Claim::New(sender))
    }

    /// Deletes expired keys, and counts the stored ones, until the task is aborted.
    pub(crate) async fn keep_clean(&self, serving: &Serving) {
        loop {
            serving.active().await;
            if let Err(error) = self.sweep().await {
                tracing::debug!(%error, "cannot delete expired idempotency keys; retrying");
            }
            tokio::time::sleep(SWEEP_INTERVAL).await;
        }
    }

    async fn sweep(&self) -> Result<(), StorageError> {
        while self.storage.forget_keyed().await? {}
        let usage = self.storage.key_usage().await?;
        let mut entries = self.lock();
        let rows = |usage: &KeyUsage| usage.rows;
        // Replaces the counts that were kept since: they cannot see rows that expired, or that other processes
        // stored.
        entries.rows = usage.values().flat_map(HashMap::values).map(rows).sum();
        entries.usage = usage;
        entries.sweep_unstored();
        Ok(())
    }
}

impl Entries {
    /// Checks whether a request may store another key. Each API key, and each tenant, may store as many keys as
    /// remain free for others.
    fn check_room(&self, request: &KeyedRequest) -> Result<(), Problem> {
        let rows = |of_tenant: &HashMap<Arc<str>, KeyUsage>| -> u64 {
            of_tenant.values().map(|usage| usage.rows).sum()
        };
        let of_tenant = self.usage.get(&request.tenant);
        let in_tenant = of_tenant.map_or(0, rows);
        let own = of_tenant
            .and_then(|of_tenant| of_tenant.get(&request.client_id))
            .map_or(0, |usage| usage.rows);
        let full = |owner: &str, stored: u64, limit: u64| {
            let detail = format!(
                "{owner} reached its limit of idempotency keys: {stored} are stored, and it may use \
                 a share of {limit}; they expire after some minutes"
            );
            Err(Problem::not_sent(Code::RateLimited, detail))
        };
        if own >= KEYS_PER_TENANT.saturating_sub(in_tenant) {
            return full("this API key", own, KEYS_PER_TENANT);
        }
        if in_tenant >= KEYS_MAX.saturating_sub(self.rows) {
            return full("the tenant", in_tenant, KEYS_MAX);
        }
        Ok(())
    }

    fn usage_of(&mut self, request: &KeyedRequest) -> &mut KeyUsage {
        let of_tenant = self.usage.entry(request.tenant.clone()).or_default();
        of_tenant.entry(request.client_id.clone()).or_default()
    }

    fn bytes_of(&self, tenant: &str) -> u64 {
        let of_tenant = self.usage.get(tenant);
        of_tenant.map_or(0, |of_tenant| of_tenant.values().map(|one| one.bytes).sum())
    }

    /// Remembers the token of an attempt that had no effect, so that the next attempt takes its row over.
    fn remember_idle(&mut self, name: Name, token: [u8; 16]) {
        // Beyond the bound, the key stays in use until its row expires: a repeat is refused, never executed twice.
        if self.idle_tokens.len() < UNSTORED_MAX {
            self.idle_tokens.insert(name, token);
        }
    }

    fn sweep_unstored(&mut self) {
        self.in_flight.retain(|_, entry| {
            entry
                .unstored_since
                .is_none_or(|since| since.elapsed() < UNSTORED_TTL)
        });
    }
}

fn name_of(request: &KeyedRequest) -> Name {
    (
        request.tenant.clone(),
        request.operation,
        request.key.clone(),
    )
}

fn key_of_other_request() -> Problem {
    let detail = "this idempotency key was used for another request";
    Problem::not_sent(Code::Conflict, detail)
}

fn unknown() -> Failure {
    let detail = "a request with this idempotency key was begun, and the relay that executed it ended \
                  before it knew the outcome; the request is not repeated";
    Failure::possibly_executed(Code::OutcomeUnknown, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Database;
    use crate::testing::TempDir;
    use crate::vault::MasterKey;

    /// A cache over an empty database, which lives as long as the directory.
    async fn cache() -> (TempDir, IdempotencyCache) {
        let dir = TempDir::new("idempotency");
        let database = Database::Sqlite(dir.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let master = MasterKey::load_or_create(&dir.path().join("relay.key")).unwrap();
        let vault = Vault::new(storage.clone(), master).await.unwrap();
        let cache = IdempotencyCache::new(storage.clone(), storage.start_batch(), Arc::new(vault));
        (dir, cache)
    }

    fn request(tenant: &str, client: &str, key: &str) -> KeyedRequest {
        KeyedRequest {
            tenant: tenant.into(),
            client_id: client.into(),
            operation: "call",
            key: key.to_owned(),
            digest: vec![1_u8].into(),
        }
    }

    #[tokio::test]
    async fn repeat_waits_and_other_request_conflicts() {
        let (_dir, cache) = cache().await;
        let Ok(Claim::New(sender)) = cache.claim(&request("t", "c", "k")) else {
            panic!("the key is free");
        };
        assert!(matches!(
            cache.claim(&request("t", "d", "k")),
            Ok(Claim::InFlight(_))
        ));
        let other = KeyedRequest {
            digest: vec![2_u8].into(),
            ..request("t", "c", "k")
        };
        let conflict = cache.claim(&other).err().unwrap();
        assert_eq!(conflict.failure.code, Code::Conflict);
        assert!(matches!(
            cache.claim(&request("u", "c", "k")),
            Ok(Claim::New(_))
        ));
        sender.send_replace(Some(Err(unknown())));
        assert!(matches!(
            cache.claim(&request("t", "c", "k")),
            Ok(Claim::Completed(Err(_)))
        ));
    }

    #[tokio::test]
    async fn api_keys_and_tenants_share_stored_keys() {
        let (_dir, cache) = cache().await;
        let fill = |tenant: &str, client: &str| {
            let mut stored = 0;
            let new = request(tenant, client, "x");
            let mut entries = cache.lock();
            while entries.check_room(&new).is_ok() {
                entries.usage_of(&new).rows += 1;
                stored += 1;
            }
            stored
        };
        assert_eq!(fill("t", "greedy"), KEYS_PER_TENANT / 2);
        assert_eq!(fill("t", "later"), KEYS_PER_TENANT / 4);
        let full = cache.claim(&request("t", "greedy", "k")).err().unwrap();
        assert_eq!(full.failure.code, Code::RateLimited);
        assert!(fill("u", "other") >= KEYS_PER_TENANT / 2);
    }
}
