//! The execution of one request with an idempotency key: claim, execute, complete.

use super::response::StoredResponse;
use super::{
    ExecutedRequest, IdempotencyCache, KeyedRequest, Outcome, UNSTORED_MAX, key_of_other_request,
    name_of, unknown,
};
use crate::body::Body;
use crate::problem::Problem;
use crate::storage::calls::{Write, Written};
use crate::storage::idempotency::{ClaimKey, ClaimOutcome, CompleteKey, KeyedRow};
use crate::storage::{StoreError, WriteError, random};
use http::Response;
use protocol::{Code, Failure};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Bytes of outcomes that are stored for one tenant. Beyond, outcomes are stored without the target's body.
const BYTES_PER_TENANT: u64 = 8 * 1024 * 1024;

/// The largest outcome that is stored. A larger one is an unknown outcome for a repeat.
const OUTCOME_MAX_BYTES: usize = 256 * 1024;

/// How long a response waits until its outcome is stored.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The request that this process executes for a key.
pub(super) struct Attempt {
    cache: Arc<IdempotencyCache>,
    request: KeyedRequest,
    outcome: watch::Sender<Option<Outcome>>,
    /// The entry stays in memory, because the database did not accept the outcome.
    keeps_entry: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Also when the task is aborted or panics: the next request then finds the row in the database, and no
        // entry without a sender.
        if !self.keeps_entry {
            let mut entries = self.cache.lock();
            entries.in_flight.remove(&name_of(&self.request));
        }
    }
}

/// What a request finds for its key in the database.
enum DatabaseClaim {
    /// The key is claimed: the request may be executed.
    New(KeyedRow),
    /// An earlier request has this response.
    Completed(StoredResponse),
}

impl Attempt {
    pub(super) fn new(
        cache: Arc<IdempotencyCache>,
        request: KeyedRequest,
        outcome: watch::Sender<Option<Outcome>>,
    ) -> Self {
        Self {
            cache,
            request,
            outcome,
            keeps_entry: false,
        }
    }

    pub(super) async fn run<F>(mut self, execution: F) -> Result<Response<Body>, Problem>
    where
        F: Future<Output = ExecutedRequest> + Send,
    {
        match self.execute(execution).await {
            Ok((response, replay)) => {
                self.outcome.send_replace(Some(Ok(replay)));
                Ok(response)
            }
            Err(problem) => {
                self.outcome
                    .send_replace(Some(Err(problem.failure.clone())));
                Err(problem)
            }
        }
    }

    async fn execute<F>(
        &mut self,
        execution: F,
    ) -> Result<(Response<Body>, StoredResponse), Problem>
    where
        F: Future<Output = ExecutedRequest> + Send,
    {
        let row = match self.claim().await? {
            DatabaseClaim::New(row) => row,
            DatabaseClaim::Completed(stored) => return Ok((stored.clone().replayed(), stored)),
        };
        let ExecutedRequest {
            response,
            replay,
            replay_without_body,
            had_no_effect,
        } = execution.await;
        let outcome = (!had_no_effect).then(|| self.fit(&replay, replay_without_body.as_ref()));
        // The response does not wait for a slow database: until the outcome is stored, this process knows it.
        let stored = tokio::time::timeout(STORE_TIMEOUT, self.complete(&row, outcome)).await;
        if !matches!(stored, Ok(Ok(()))) {
            self.keep_in_memory(&row, had_no_effect);
        }
        Ok((response, replay))
    }

    /// Commits the claim of the key, or returns the response of an earlier request.
    async fn claim(&self) -> Result<DatabaseClaim, Problem> {
        let (cache, request) = (&self.cache, &self.request);
        let token: [u8; 16] =
            random().map_err(|error| Problem::not_sent(Code::Internal, error.to_string()))?;
        let row = cache.storage.keyed_row(
            request.tenant.clone(),
            request.operation,
            request.key.clone(),
            token,
        );
        let name = name_of(request);
        let prior = cache.lock().idle_tokens.get(&name).copied();
        let claim = ClaimKey {
            row: row.clone(),
            client_id: request.client_id.clone(),
            digest: request.digest.clone(),
            prior,
        };
        let written = cache.batch.write(Write::ClaimKey(Box::new(claim)));
        let outcome = match written.await {
            Ok(Written::Claimed(outcome)) => outcome,
            Ok(Written::Accepted(_) | Written::Changed(_) | Written::Settled(_)) => {
                ClaimOutcome::NoTenant
            }
            Err(error) => {
                // The claim may be on disk nevertheless. Nothing was sent under it, so the next attempt may take
                // the row over.
                cache.lock().remember_idle(name, token);
                return Err(not_claimed(&error).into());
            }
        };
        match outcome {
            ClaimOutcome::New => {
                let mut entries = cache.lock();
                entries.idle_tokens.remove(&name);
                entries.usage_of(request).rows += 1;
                entries.rows += 1;
                Ok(DatabaseClaim::New(row))
            }
            ClaimOutcome::Known { is_same: false, .. } | ClaimOutcome::OfStoredCall => {
                Err(key_of_other_request())
            }
            ClaimOutcome::Known { outcome: None, .. } => Err(unknown().into()),
            ClaimOutcome::Known {
                outcome: Some(sealed),
                ..
            } => self.open(&row, sealed).await.map(DatabaseClaim::Completed),
            ClaimOutcome::NoTenant => {
                let detail = "the tenant no longer exists";
                Err(Problem::not_sent(Code::Unauthorized, detail))
            }
        }
    }

    async fn open(&self, row: &KeyedRow, sealed: Vec<u8>) -> Result<StoredResponse, Problem> {
        let key = self.cache.vault.of_tenant(&row.tenant).await;
        let opened = key.and_then(|key| Ok(key.open(&sealing_context(row), sealed)?));
        match opened {
            Ok(text) => StoredResponse::decode(&text).ok_or_else(|| unknown().into()),
            Err(error) => {
                tracing::error!(%error, "cannot read the stored response to a repeated request");
                Err(unknown().into())
            }
        }
    }

    /// Returns the form of an outcome that is stored.
    fn fit(&self, replay: &StoredResponse, without_body: Option<&StoredResponse>) -> Vec<u8> {
        let stored = self.cache.lock().bytes_of(&self.request.tenant);
        match without_body {
            Some(small) if stored >= BYTES_PER_TENANT => small.encode(),
            _ => replay.encode(),
        }
    }

    /// Commits the outcome; without one, the key is released.
    async fn complete(&self, row: &KeyedRow, outcome: Option<Vec<u8>>) -> Result<(), ()> {
        let cache = &self.cache;
        let outcome = match outcome {
            None => None,
            // The claim's row stays as it is: a repeat is refused with `outcome_unknown`.
            Some(text) if text.len() > OUTCOME_MAX_BYTES => return Ok(()),
            Some(text) => {
                let key = cache.vault.of_tenant(&row.tenant).await;
                let sealed = key.and_then(|key| Ok(key.seal(&sealing_context(row), &text)?));
                Some(sealed.map_err(|error| {
                    tracing::error!(%error, "cannot seal the response to a request with an idempotency key");
                })?)
            }
        };
        let bytes = outcome.as_ref().map_or(0, Vec::len) as u64;
        let is_released = outcome.is_none();
        let complete = CompleteKey {
            row: row.clone(),
            outcome,
        };
        let written = cache.batch.write(Write::CompleteKey(Box::new(complete)));
        written.await.map_err(|error| {
            tracing::warn!(%error, "cannot store the outcome of a request with an idempotency key");
        })?;
        let mut entries = cache.lock();
        let usage = entries.usage_of(&self.request);
        usage.bytes += bytes;
        if is_released {
            usage.rows = usage.rows.saturating_sub(1);
            entries.rows = entries.rows.saturating_sub(1);
        }
        Ok(())
    }

    /// Keeps the outcome in memory: while this process serves, it knows more than the database.
    fn keep_in_memory(&mut self, row: &KeyedRow, had_no_effect: bool) {
        let name = name_of(&self.request);
        let mut entries = self.cache.lock();
        if had_no_effect {
            entries.remember_idle(name, row.token);
            return;
        }
        entries.sweep_unstored();
        let unstored = entries.in_flight.values();
        let unstored = unstored.filter(|entry| entry.unstored_since.is_some());
        // Beyond the bound a repeat finds the claim without an outcome, and is refused.
        if unstored.count() >= UNSTORED_MAX {
            return;
        }
        if let Some(entry) = entries.in_flight.get_mut(&name) {
            entry.unstored_since = Some(Instant::now());
            drop(entries);
            self.keeps_entry = true;
        }
    }
}

fn not_claimed(error: &WriteError) -> Failure {
    tracing::debug!(%error, "cannot store an idempotency key");
    match error {
        WriteError::Store(StoreError::Unavailable(_)) => Failure::not_sent(
            Code::Overloaded,
            "the relay cannot store the idempotency key now",
        ),
        WriteError::Store(
            StoreError::OutcomeUnknown(_)
            | StoreError::Unusable(_)
            | StoreError::Database(_)
            | StoreError::LeaseLost,
        ) => Failure::not_sent(
            Code::Internal,
            "the relay could not store the idempotency key",
        ),
        WriteError::LeaseLost => Failure::not_sent(Code::Standby, error.to_string()),
        WriteError::Closed => Failure::not_sent(Code::Overloaded, "the relay is stopping"),
    }
}

/// Returns the context that a sealed outcome is bound to: it opens only for its own key.
fn sealing_context(row: &KeyedRow) -> String {
    // Part of the stored format: another text would make stored outcomes unreadable.
    format!("idempotency {} {}", row.operation, row.key)
}
