//! Answers remembered by idempotency key, so that a caller may ask again without a second call.
//!
//! In memory, of this node, for ten minutes: enough for a caller that lost its connection.

use super::Told;
use crate::problem::Problem;
use protocol::{Code, Failure};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long an answer is remembered.
const KEPT: Duration = Duration::from_secs(600);

/// Keys of one tenant that are remembered.
const KEYS_PER_TENANT: usize = 1000;

/// Largest body that is remembered with its answer.
const BODY_KEPT_BYTES: usize = 64 * 1024;

/// Bytes of answers that are remembered for one tenant, about.
const BYTES_PER_TENANT: usize = 8 * 1024 * 1024;

#[derive(Debug)]
struct Memory {
    digest: Vec<u8>,
    since: Instant,
    told: watch::Receiver<Option<Told>>,
}

impl Memory {
    /// Whether it answers a repeat. What was certainly not done is done now instead.
    fn stands(&self, now: Instant) -> bool {
        let not_done = |told: &Told| {
            let failure = told.failure.as_ref();
            failure.is_some_and(|failure| failure.execution.is_safe_to_repeat())
        };
        now.saturating_duration_since(self.since) < KEPT
            && !self.told.borrow().as_ref().is_some_and(not_done)
    }
}

type Keys = HashMap<String, Memory>;

/// How often what is too old is forgotten.
const SWEEP: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Tenants {
    by_id: HashMap<Arc<str>, Keys>,
    swept: Option<Instant>,
}

impl Tenants {
    /// Forgets what is too old, of every tenant.
    fn sweep(&mut self, now: Instant) {
        if self
            .swept
            .is_some_and(|at| now.saturating_duration_since(at) < SWEEP)
        {
            return;
        }
        self.swept = Some(now);
        for keys in self.by_id.values_mut() {
            keys.retain(|_, memory| now.saturating_duration_since(memory.since) < KEPT);
        }
        self.by_id.retain(|_, keys| !keys.is_empty());
    }
}

/// What was answered, by tenant and key.
#[derive(Debug, Default)]
pub struct Remembered {
    tenants: Mutex<Tenants>,
}

/// What a key stands for.
pub(super) enum Place {
    /// Nobody has used it: make the call.
    Mine(Mine),
    /// The call runs.
    Running(Waiting),
    /// The call was made.
    Told(Told),
}

/// The call is this one's to make.
#[derive(Debug)]
pub(super) struct Mine {
    tell: watch::Sender<Option<Told>>,
}

impl Mine {
    /// What became of the call. A large answer is remembered without its body: many keys that ran
    /// at once could not all keep theirs.
    pub(super) fn tell(self, mut told: Told) {
        if told.bytes > BODY_KEPT_BYTES {
            let mut document = Value::clone(&told.document);
            told.body = None;
            if let Some(response) = document["response"].as_object_mut() {
                response.insert("body_omitted".to_owned(), Value::Bool(true));
            }
            told.document = Arc::new(document);
            told.bytes = 0;
        }
        self.tell.send_replace(Some(told));
    }
}

/// Somebody makes the call.
pub(super) struct Waiting {
    told: watch::Receiver<Option<Told>>,
}

impl Waiting {
    pub(super) async fn told(mut self) -> Result<Told, Problem> {
        let told = self.told.wait_for(Option::is_some).await;
        told.ok().and_then(|told| told.clone()).ok_or_else(|| {
            let detail = "the call with this idempotency key was not finished";
            Failure::possibly_executed(Code::Internal, detail).into()
        })
    }
}

impl Remembered {
    /// What to do about a call with this key.
    ///
    /// # Errors
    /// `conflict` when the key was used for another call, `overloaded` when the tenant has too
    /// many keys.
    pub(super) fn place(
        &self,
        tenant: &Arc<str>,
        key: &str,
        digest: &[u8],
    ) -> Result<Place, Problem> {
        let now = Instant::now();
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.sweep(now);
        let keys = tenants.by_id.entry(tenant.clone()).or_default();
        if is_full(keys) {
            keys.retain(|_, memory| now.saturating_duration_since(memory.since) < KEPT);
        }
        let usable = keys.get(key).filter(|memory| memory.stands(now));
        if let Some(memory) = usable {
            if memory.digest != digest {
                let detail = "this idempotency key was used for another call";
                return Err(Problem::not_sent(Code::Conflict, detail));
            }
            let told = memory.told.borrow().clone();
            return Ok(match told {
                Some(told) => Place::Told(told),
                None => Place::Running(Waiting {
                    told: memory.told.clone(),
                }),
            });
        }
        if is_full(keys) {
            let detail = format!(
                "the tenant's idempotency keys of the last ten minutes are at their limit, \
                 {KEYS_PER_TENANT} keys or {BYTES_PER_TENANT} bytes of answers"
            );
            return Err(Problem::not_sent(Code::Overloaded, detail));
        }
        let (tell, told) = watch::channel(None);
        let memory = Memory {
            digest: digest.to_vec(),
            since: now,
            told,
        };
        keys.insert(key.to_owned(), memory);
        Ok(Place::Mine(Mine { tell }))
    }
}

fn is_full(keys: &Keys) -> bool {
    let bytes = |memory: &Memory| memory.told.borrow().as_ref().map_or(0, |told| told.bytes);
    keys.len() >= KEYS_PER_TENANT || keys.values().map(bytes).sum::<usize>() >= BYTES_PER_TENANT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(failure: Option<Failure>, bytes: usize) -> Told {
        Told {
            status: 200,
            document: Arc::new(Value::Null),
            body: None,
            failure,
            bytes,
        }
    }

    fn mine(place: Result<Place, Problem>) -> Mine {
        match place {
            Ok(Place::Mine(mine)) => mine,
            Ok(Place::Running(_) | Place::Told(_)) => panic!("somebody else's"),
            Err(problem) => panic!("{problem:?}"),
        }
    }

    #[test]
    fn what_was_certainly_not_done_may_be_asked_for_again() {
        let remembered = Remembered::default();
        let tenant: Arc<str> = "t".into();
        let place = |digest: &[u8]| remembered.place(&tenant, "k", digest);
        let failure = Failure::not_sent(Code::BridgeOffline, "away");
        mine(place(b"a")).tell(told(Some(failure), 0));
        let failure = Failure::possibly_executed(Code::TunnelLost, "lost");
        mine(place(b"a")).tell(told(Some(failure), 0));
        assert!(matches!(place(b"a"), Ok(Place::Told(_))));
        let conflict = place(b"b").err().unwrap();
        assert_eq!(conflict.failure.code, Code::Conflict);
    }

    #[test]
    fn a_tenants_answers_are_bounded_in_count_and_bytes() {
        let most = BYTES_PER_TENANT / BODY_KEPT_BYTES;
        for (count, bytes) in [(KEYS_PER_TENANT, 0), (most, BODY_KEPT_BYTES)] {
            let remembered = Remembered::default();
            let tenant: Arc<str> = "t".into();
            for n in 0..count {
                mine(remembered.place(&tenant, &format!("k{n}"), b"")).tell(told(None, bytes));
            }
            let full = remembered.place(&tenant, "one more", b"").err().unwrap();
            assert_eq!(full.failure.code, Code::Overloaded);
            assert!(remembered.place(&"u".into(), "other tenant", b"").is_ok());
        }
    }
}
