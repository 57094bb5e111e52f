//! Answers remembered by idempotency key, so that a caller may ask again without a second call.
//!
//! In memory, of this node, for ten minutes: enough for a caller that lost its connection.

use super::Told;
use crate::problem::Problem;
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long an answer is remembered.
const KEPT: Duration = Duration::from_secs(600);

/// Keys of one tenant that are remembered.
const KEYS_PER_TENANT: usize = 1000;

#[derive(Debug)]
struct Memory {
    digest: Vec<u8>,
    since: Instant,
    told: watch::Receiver<Option<Told>>,
}

type Keys = HashMap<String, Memory>;

/// What was answered, by tenant and key.
#[derive(Debug, Default)]
pub struct Remembered {
    tenants: Mutex<HashMap<Arc<str>, Keys>>,
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
    pub(super) fn tell(self, told: Told) {
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
        let keys = tenants.entry(tenant.clone()).or_default();
        if keys.len() >= KEYS_PER_TENANT {
            keys.retain(|_, memory| now.saturating_duration_since(memory.since) < KEPT);
        }
        let usable = keys
            .get(key)
            .filter(|memory| now.saturating_duration_since(memory.since) < KEPT);
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
        if keys.len() >= KEYS_PER_TENANT {
            let detail = format!(
                "the tenant used {KEYS_PER_TENANT} idempotency keys within ten minutes, its limit"
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
