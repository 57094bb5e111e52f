//! One idempotency key has one effect, also across a restart of the relay.
//!
//! ```text
//! request -> begun, committed -> made -> outcome, committed -> response
//!   repeat while it runs   -> waits for the same response
//!   repeat later           -> the stored response, with `Idempotency-Replayed: true`
//!   repeat after a crash   -> `outcome_unknown`, `possibly_executed`: nothing is made
//!   it certainly had no effect (`not_sent`, `not_dispatched`) -> the key is free again
//! ```
//!
//! What is stored is in [`crate::storage::idempotency`]; responses are sealed there under the tenant's
//! key, for a secret may be in them. Only requests that carry a key pay for it, with a share of a
//! group commit before and after. Keys of calls belong to a
//! tenant: its API keys share them, but a narrowed one gets no response of another. Keys of API operations
//! belong to one API key.

use crate::body::{self, Body};
use crate::problem::Problem;
use crate::state::State;
use crate::storage::batch::WriteError;
use crate::storage::calls::{Write, Written};
use crate::storage::idempotency::{Begin, Begun, Finish, KeyedRow, Stored};
use crate::storage::{StorageError, random};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use protocol::{Code, Failure};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Says that a response is the first one's.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Keys that are stored for all tenants.
const KEYS_MAX: u64 = 1_000_000;

/// Keys that are stored for one tenant.
const KEYS_PER_TENANT: u64 = 16_384;

/// Bytes of outcomes that are stored for one tenant. Beyond, outcomes are stored without the target's
/// body.
const BYTES_PER_TENANT: u64 = 8 * 1024 * 1024;

/// The largest outcome that is stored. One that is larger has an unknown outcome for a repeat.
const OUTCOME_MAX_BYTES: usize = 256 * 1024;

/// Outcomes in memory that the database did not take.
const UNSTORED_MAX: usize = 1024;

/// How long an outcome is kept in memory that the database did not take.
const UNSTORED_KEPT: Duration = Duration::from_secs(600);

/// How long a response waits until its outcome is stored.
const STORED_WITHIN: Duration = Duration::from_secs(2);

/// How often expired keys are deleted.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// A request with an idempotency key.
#[derive(Debug, Clone)]
pub struct Keyed {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// The API key that makes it.
    pub client_id: Arc<str>,
    /// `call`, or the id of the operation.
    pub operation: &'static str,
    /// The caller's key.
    pub key: String,
    /// Hash of the request.
    pub digest: Vec<u8>,
}

/// A response that can be given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: Bytes,
}

#[derive(Serialize, Deserialize)]
struct KeptDocument {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Kept {
    /// From a response whose body is there.
    ///
    /// # Errors
    /// The body's own.
    pub async fn read(response: Response<Body>) -> Result<Self, Failure> {
        let (parts, body) = response.into_parts();
        let headers = parts.headers.iter().filter_map(|(name, value)| {
            let value = value.to_str().ok()?;
            (name != header::DATE).then(|| (name.as_str().to_owned(), value.to_owned()))
        });
        Ok(Self {
            status: parts.status,
            headers: headers.collect(),
            body: body.collect().await?.to_bytes(),
        })
    }

    /// The response.
    pub fn response(self) -> Response<Body> {
        let mut response = Response::new(body::full(self.body));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::try_from(value),
            ) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }

    fn replayed(self) -> Response<Body> {
        let mut response = self.response();
        let replayed = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED, replayed);
        response
    }

    fn encode(&self) -> Vec<u8> {
        let document = KeptDocument {
            status: self.status.as_u16(),
            headers: self.headers.clone(),
            body: STANDARD.encode(&self.body),
        };
        serde_json::to_vec(&document).unwrap_or_default()
    }

    fn decode(text: &[u8]) -> Option<Self> {
        let document: KeptDocument = serde_json::from_slice(text).ok()?;
        Some(Self {
            status: StatusCode::from_u16(document.status).ok()?,
            headers: document.headers,
            body: STANDARD.decode(document.body).ok()?.into(),
        })
    }
}

/// A request that was made.
#[derive(Debug)]
pub struct Made {
    /// What its caller gets.
    pub response: Response<Body>,
    /// What a repeat gets.
    pub kept: Kept,
    /// The same without the target's body, where it has one.
    pub small: Option<Kept>,
    /// It certainly had no effect: a repeat is made.
    pub had_no_effect: bool,
}

type Name = (Arc<str>, &'static str, String);
type Outcome = Result<Kept, Failure>;

#[derive(Debug)]
struct Running {
    digest: Vec<u8>,
    outcome: watch::Receiver<Option<Outcome>>,
    /// Since when an outcome is here that the database did not take.
    unstored: Option<Instant>,
}

#[derive(Debug, Default)]
struct Inner {
    running: HashMap<Name, Running>,
    /// Tokens of attempts that had no effect, and whose row may still be there.
    idle_tokens: HashMap<Name, [u8; 16]>,
    stored: HashMap<Arc<str>, HashMap<Arc<str>, Stored>>,
    /// Rows of all tenants.
    rows: u64,
}

/// The keys of requests that run here, and how many are stored.
#[derive(Debug, Default)]
pub struct Idempotency {
    inner: Mutex<Inner>,
}

enum Place {
    /// This one makes the request.
    Mine(watch::Sender<Option<Outcome>>),
    /// It is made now, or its outcome is in memory.
    Other(watch::Receiver<Option<Outcome>>),
}

impl Idempotency {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process does not serve any more: what is in the database counts.
    pub fn clear(&self) {
        let mut inner = self.lock();
        inner
            .running
            .retain(|_, running| running.outcome.borrow().is_none());
        inner.idle_tokens.clear();
        inner.stored.clear();
        inner.rows = 0;
    }

    fn place(&self, keyed: &Keyed) -> Result<Place, Problem> {
        let mut inner = self.lock();
        let name = name_of(keyed);
        if let Some(running) = inner.running.get(&name) {
            if running.digest != keyed.digest {
                return Err(of_other());
            }
            return Ok(Place::Other(running.outcome.clone()));
        }
        inner.check_room(keyed)?;
        let (tell, outcome) = watch::channel(None);
        let running = Running {
            digest: keyed.digest.clone(),
            outcome,
            unstored: None,
        };
        inner.running.insert(name, running);
        Ok(Place::Mine(tell))
    }
}

impl Inner {
    /// Each API key may store as many keys as are left for others, and each tenant, too.
    fn check_room(&self, keyed: &Keyed) -> Result<(), Problem> {
        let rows = |of_tenant: &HashMap<Arc<str>, Stored>| -> u64 {
            of_tenant.values().map(|stored| stored.rows).sum()
        };
        let of_tenant = self.stored.get(&keyed.tenant);
        let in_tenant = of_tenant.map_or(0, rows);
        let own = of_tenant
            .and_then(|of_tenant| of_tenant.get(&keyed.client_id))
            .map_or(0, |stored| stored.rows);
        let full = |what: &str, stored: u64, limit: u64| {
            let detail = format!(
                "{what} stored {stored} idempotency keys of requests of the last minutes: a share of \
                 {limit} is its limit"
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

    fn stored_of(&mut self, keyed: &Keyed) -> &mut Stored {
        let of_tenant = self.stored.entry(keyed.tenant.clone()).or_default();
        of_tenant.entry(keyed.client_id.clone()).or_default()
    }

    fn bytes_of(&self, tenant: &str) -> u64 {
        let of_tenant = self.stored.get(tenant);
        of_tenant.map_or(0, |of_tenant| of_tenant.values().map(|one| one.bytes).sum())
    }
}

fn name_of(keyed: &Keyed) -> Name {
    (keyed.tenant.clone(), keyed.operation, keyed.key.clone())
}

fn of_other() -> Problem {
    let detail = "this idempotency key was used for another request";
    Problem::not_sent(Code::Conflict, detail)
}

fn unknown() -> Failure {
    let detail = "a request with this idempotency key was begun, and the relay that made it ended \
                  before its outcome was known; it is not made again";
    Failure::possibly_executed(Code::OutcomeUnknown, detail)
}

fn unwritten(error: &WriteError) -> Failure {
    let failure = match error {
        WriteError::Storage(error) => match &**error {
            StorageError::Unavailable(_) => Failure::not_sent(
                Code::Overloaded,
                "the relay cannot store the idempotency key now",
            ),
            _ => Failure::not_sent(
                Code::Internal,
                "the relay could not store the idempotency key",
            ),
        },
        WriteError::LeaseLost => Failure::not_sent(Code::Standby, error.to_string()),
        WriteError::Closed => Failure::not_sent(Code::Overloaded, "the relay is stopping"),
    };
    tracing::debug!(%error, "an idempotency key could not be stored");
    failure
}

/// What a sealed outcome is bound to: it opens for its own key alone.
fn context(row: &KeyedRow) -> String {
    format!("idempotency {} {}", row.operation, row.key)
}

/// Makes a request unless one with its key was made, or runs: then its response is this one's, too.
/// The caller may go away; what is made is finished.
///
/// # Errors
/// `conflict` for a key of another request, `outcome_unknown`, `rate_limited` when too many keys are
/// stored, and what keeps a key from being stored.
pub async fn once<F>(state: &Arc<State>, keyed: Keyed, make: F) -> Result<Response<Body>, Problem>
where
    F: Future<Output = Made> + Send + 'static,
{
    match state.idempotency.place(&keyed)? {
        Place::Other(mut outcome) => {
            let told = outcome.wait_for(Option::is_some).await;
            let told = told.ok().and_then(|told| told.clone());
            let kept = told.unwrap_or_else(|| Err(unknown()))?;
            Ok(kept.replayed())
        }
        Place::Mine(tell) => {
            let attempt = Attempt {
                state: state.clone(),
                keyed,
                tell,
                is_unstored: false,
            };
            let making = tokio::spawn(attempt.run(make));
            making.await.map_err(|_| {
                let detail = "the request was not finished";
                Problem::from(Failure::possibly_executed(Code::Internal, detail))
            })?
        }
    }
}

/// The request that this process makes for a key.
struct Attempt {
    state: Arc<State>,
    keyed: Keyed,
    tell: watch::Sender<Option<Outcome>>,
    /// The outcome stays in memory, for the database did not take it.
    is_unstored: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.is_unstored {
            let mut inner = self.state.idempotency.lock();
            inner.running.remove(&name_of(&self.keyed));
        }
    }
}

impl Attempt {
    async fn run<F>(mut self, make: F) -> Result<Response<Body>, Problem>
    where
        F: Future<Output = Made> + Send,
    {
        let result = self.run_to_end(make).await;
        match result {
            Ok((response, kept)) => {
                self.tell.send_replace(Some(Ok(kept)));
                Ok(response)
            }
            Err(problem) => {
                self.tell.send_replace(Some(Err(problem.failure.clone())));
                Err(problem)
            }
        }
    }

    async fn run_to_end<F>(&mut self, make: F) -> Result<(Response<Body>, Kept), Problem>
    where
        F: Future<Output = Made> + Send,
    {
        let row = self.begin().await?;
        let row = match row {
            Ok(row) => row,
            Err(kept) => return Ok((kept.clone().replayed(), kept)),
        };
        let Made {
            response,
            kept,
            small,
            had_no_effect,
        } = make.await;
        let outcome = (!had_no_effect).then(|| self.fit(&kept, small.as_ref()));
        let stored = tokio::time::timeout(STORED_WITHIN, self.finish(&row, outcome)).await;
        if !matches!(stored, Ok(Ok(()))) {
            self.keep_in_memory(&row, had_no_effect);
        }
        Ok((response, kept))
    }

    /// Commits that the request begins. Otherwise the response that is known of it.
    async fn begin(&self) -> Result<Result<KeyedRow, Kept>, Problem> {
        let (state, keyed) = (&self.state, &self.keyed);
        let token: [u8; 16] =
            random().map_err(|error| Problem::not_sent(Code::Internal, error.to_string()))?;
        let storage = state.directory.storage();
        let row = storage.keyed_row(
            keyed.tenant.clone(),
            keyed.operation,
            keyed.key.clone(),
            token,
        );
        let name = name_of(keyed);
        let prior = state.idempotency.lock().idle_tokens.get(&name).copied();
        let begin = Begin {
            row: row.clone(),
            client_id: keyed.client_id.clone(),
            digest: keyed.digest.clone(),
            prior,
        };
        let written = state.deliveries.write(Write::BeginKeyed(Box::new(begin)));
        let begun = match written.await {
            Ok(Written::Keyed(begun)) => begun,
            Ok(_) => Begun::NoTenant,
            Err(error) => {
                // It may be on disk nevertheless, and nothing was sent: the next one takes it over.
                state.idempotency.lock().remember_idle(name, token);
                return Err(unwritten(&error).into());
            }
        };
        match begun {
            Begun::New => {
                let mut inner = state.idempotency.lock();
                inner.idle_tokens.remove(&name);
                inner.stored_of(keyed).rows += 1;
                inner.rows += 1;
                Ok(Ok(row))
            }
            Begun::Known { is_same: false, .. } | Begun::OfDelivery => Err(of_other()),
            Begun::Known { outcome: None, .. } => Err(unknown().into()),
            Begun::Known {
                outcome: Some(sealed),
                ..
            } => self.open(&row, sealed).await.map(Err),
            Begun::NoTenant => {
                let detail = "the tenant is no longer there";
                Err(Problem::not_sent(Code::Unauthorized, detail))
            }
        }
    }

    async fn open(&self, row: &KeyedRow, sealed: Vec<u8>) -> Result<Kept, Problem> {
        let key = self.state.deliveries.vault().of_tenant(&row.tenant).await;
        let opened = key.and_then(|key| Ok(key.open(&context(row), sealed)?));
        match opened {
            Ok(text) => Kept::decode(&text).ok_or_else(|| unknown().into()),
            Err(error) => {
                tracing::error!(%error, "the response to a repeated request cannot be read");
                Err(unknown().into())
            }
        }
    }

    /// What is stored of an outcome.
    fn fit(&self, kept: &Kept, small: Option<&Kept>) -> Vec<u8> {
        let stored = self.state.idempotency.lock().bytes_of(&self.keyed.tenant);
        match small {
            Some(small) if stored >= BYTES_PER_TENANT => small.encode(),
            _ => kept.encode(),
        }
    }

    /// Commits the outcome; without one, the key is forgotten.
    async fn finish(&self, row: &KeyedRow, outcome: Option<Vec<u8>>) -> Result<(), ()> {
        let (state, keyed) = (&self.state, &self.keyed);
        let outcome = match outcome {
            None => None,
            Some(text) if text.len() > OUTCOME_MAX_BYTES => return Ok(()),
            Some(text) => {
                let key = state.deliveries.vault().of_tenant(&row.tenant).await;
                let sealed = key.and_then(|key| Ok(key.seal(&context(row), &text)?));
                Some(sealed.map_err(|error| {
                    tracing::error!(%error, "the response to a request with an idempotency key cannot be stored");
                })?)
            }
        };
        let bytes = outcome.as_ref().map_or(0, Vec::len) as u64;
        let is_forgotten = outcome.is_none();
        let finish = Finish {
            row: row.clone(),
            outcome,
        };
        let written = state.deliveries.write(Write::FinishKeyed(Box::new(finish)));
        written.await.map_err(|error| {
            tracing::warn!(%error, "the outcome of a request with an idempotency key could not be stored");
        })?;
        let mut inner = state.idempotency.lock();
        let stored = inner.stored_of(keyed);
        stored.bytes += bytes;
        if is_forgotten {
            stored.rows = stored.rows.saturating_sub(1);
            inner.rows = inner.rows.saturating_sub(1);
        }
        Ok(())
    }

    /// The database did not take the outcome: as long as this process serves, it knows better.
    fn keep_in_memory(&mut self, row: &KeyedRow, had_no_effect: bool) {
        let name = name_of(&self.keyed);
        let mut inner = self.state.idempotency.lock();
        if had_no_effect {
            inner.remember_idle(name, row.token);
            return;
        }
        inner.sweep_unstored();
        let unstored = inner.running.values().filter(|one| one.unstored.is_some());
        if unstored.count() >= UNSTORED_MAX {
            return;
        }
        if let Some(running) = inner.running.get_mut(&name) {
            running.unstored = Some(Instant::now());
            drop(inner);
            self.is_unstored = true;
        }
    }
}

impl Inner {
    fn remember_idle(&mut self, name: Name, token: [u8; 16]) {
        if self.idle_tokens.len() < UNSTORED_MAX {
            self.idle_tokens.insert(name, token);
        }
    }

    fn sweep_unstored(&mut self) {
        self.running.retain(|_, running| {
            running
                .unstored
                .is_none_or(|since| since.elapsed() < UNSTORED_KEPT)
        });
    }
}

/// Deletes expired keys, and counts those that are stored, until the relay stops.
pub async fn keep_clean(state: Arc<State>) {
    loop {
        state.serving.active().await;
        if let Err(error) = round(&state).await {
            tracing::debug!(%error, "expired idempotency keys wait: the database does not answer");
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

async fn round(state: &State) -> Result<(), StorageError> {
    let storage = state.directory.storage();
    while storage.forget_keyed().await? {}
    let counts = storage.keyed_counts().await?;
    let mut inner = state.idempotency.lock();
    let rows = |stored: &Stored| stored.rows;
    inner.rows = counts.values().flat_map(HashMap::values).map(rows).sum();
    inner.stored = counts;
    inner.sweep_unstored();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(tenant: &str, client: &str, key: &str) -> Keyed {
        Keyed {
            tenant: tenant.into(),
            client_id: client.into(),
            operation: "call",
            key: key.to_owned(),
            digest: vec![1],
        }
    }

    #[test]
    fn repeat_waits_for_the_running_request_and_another_request_conflicts() {
        let idempotency = Idempotency::default();
        let Ok(Place::Mine(_tell)) = idempotency.place(&keyed("t", "c", "k")) else {
            panic!("the key is free");
        };
        assert!(matches!(
            idempotency.place(&keyed("t", "d", "k")),
            Ok(Place::Other(_))
        ));
        let other = Keyed {
            digest: vec![2],
            ..keyed("t", "c", "k")
        };
        let conflict = idempotency.place(&other).err().unwrap();
        assert_eq!(conflict.failure.code, Code::Conflict);
        assert!(matches!(
            idempotency.place(&keyed("u", "c", "k")),
            Ok(Place::Mine(_))
        ));
    }

    #[test]
    fn stored_keys_are_shared_by_api_key_and_tenant() {
        let idempotency = Idempotency::default();
        let fill = |tenant: &str, client: &str| {
            let mut stored = 0;
            let new = keyed(tenant, client, "x");
            let mut inner = idempotency.lock();
            while inner.check_room(&new).is_ok() {
                inner.stored_of(&new).rows += 1;
                stored += 1;
            }
            stored
        };
        assert_eq!(fill("t", "greedy"), KEYS_PER_TENANT / 2);
        assert_eq!(fill("t", "later"), KEYS_PER_TENANT / 4);
        let full = idempotency.place(&keyed("t", "greedy", "k")).err().unwrap();
        assert_eq!(full.failure.code, Code::RateLimited);
        assert!(fill("u", "other") >= KEYS_PER_TENANT / 2);
    }

    #[tokio::test]
    async fn kept_response_is_given_again_as_it_was() {
        let problem = Problem::from(Failure::possibly_executed(Code::TunnelLost, "lost"));
        let kept = Kept::read(problem.of_call("c1").into_response())
            .await
            .unwrap();
        let again = Kept::decode(&kept.encode()).unwrap();
        assert_eq!(again, kept);
        let response = again.replayed();
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers()["bridge-error"], "tunnel_lost");
        assert_eq!(response.headers()[REPLAYED], "true");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, kept.body);
    }
}
