//! The attempts that run in this process, so that none is made twice at once, and what bridges say
//! of them meanwhile.

use super::rate::Lane;
use crate::storage::calls::Via;
use protocol::frame::{CallAttempt, DeliveryResult};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use transport::Session;

#[derive(Debug)]
struct Attempt {
    /// Its number; zero until it was begun.
    number: u32,
    heard: Option<DeliveryResult>,
    to_ack: Option<(Session, CallAttempt)>,
}

#[derive(Debug, Default)]
struct Inner {
    calls: HashMap<Arc<str>, Attempt>,
    lanes: HashMap<(Arc<str>, Vec<u8>), Lane>,
}

/// What runs.
#[derive(Debug, Default)]
pub(super) struct Running {
    inner: Mutex<Inner>,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many run.
    pub(super) fn count(&self) -> usize {
        self.lock().calls.len()
    }

    /// Whether an attempt of this call runs.
    pub(super) fn has(&self, id: &str) -> bool {
        self.lock().calls.contains_key(id)
    }

    /// Takes a call and a place in its lane; returns when the attempt may begin. `None` when the
    /// call has an attempt, or the lane is full.
    pub(super) fn enter(
        &self,
        id: &Arc<str>,
        lane: &Via,
        places: u32,
        per_second: u32,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut inner = self.lock();
        if inner.calls.contains_key(id) {
            return None;
        }
        let key = (lane.bridge.clone(), lane.instance.clone());
        let begin = inner
            .lanes
            .entry(key)
            .or_default()
            .enter(now, places, per_second)?;
        let attempt = Attempt {
            number: 0,
            heard: None,
            to_ack: None,
        };
        inner.calls.insert(id.clone(), attempt);
        Some(begin)
    }

    /// The attempt has its number: what bridges say of it is kept for it.
    pub(super) fn number(&self, id: &str, number: u32) {
        if let Some(attempt) = self.lock().calls.get_mut(id) {
            attempt.number = number;
        }
    }

    /// A bridge says what became of an attempt. Returns whether it runs here; then whoever runs it
    /// acknowledges.
    pub(super) fn hear(&self, id: &str, result: DeliveryResult, session: &Session) -> bool {
        let mut inner = self.lock();
        let Some(attempt) = inner.calls.get_mut(id) else {
            return false;
        };
        if attempt.number != result.attempt.attempt {
            return false;
        }
        attempt.heard = Some(result);
        attempt.to_ack = Some((session.clone(), result.attempt));
        true
    }

    /// What was heard of an attempt that has no answer; if nothing was, it does not run any more.
    pub(super) fn heard_or_gone(&self, id: &str) -> Option<DeliveryResult> {
        let mut inner = self.lock();
        let heard = inner.calls.get(id).and_then(|attempt| attempt.heard);
        if heard.is_none() {
            inner.calls.remove(id);
        }
        heard
    }

    /// The attempt is over and its outcome on disk: it is acknowledged if its bridge waits for that.
    pub(super) fn over(&self, id: &str) {
        let gone = self.lock().calls.remove(id);
        if let Some((session, attempt)) = gone.and_then(|gone| gone.to_ack) {
            // Without room the bridge tells again, and is answered then.
            session.ack_result(attempt);
        }
    }

    /// A place in a lane is free.
    pub(super) fn leave(&self, lane: &Via) {
        let now = Instant::now();
        let mut inner = self.lock();
        if let Some(lane) = inner
            .lanes
            .get_mut(&(lane.bridge.clone(), lane.instance.clone()))
        {
            lane.leave();
        }
        inner.lanes.retain(|_, lane| !lane.is_idle(now));
    }
}
