//! The calls whose callers wait (`mode: "wait"`), for the lists of the API: what was called, by whom, and how it ended.
//!
//! In memory, so that a call costs no write on the disk; a restart forgets them. The audit record has each finished
//! call for as long as it is kept. No URL, header field or body is here.
//!
//! Bounded by number and by age (`calls.recent_max`, `calls.recent_keep`). When it is full, the tenant with more than
//! its share loses its oldest call, so one tenant cannot push out the calls of another.

use crate::progress::CALLER_LEFT;
use crate::storage::calls::{CallAttemptRow, CallFilter, CallState, CallSummary};
use crate::storage::now_ms;
use protocol::{Code, Execution, Failure};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a detail that are kept.
const DETAIL_MAX_BYTES: usize = 512;

/// A call as it begins.
#[derive(Debug)]
pub(crate) struct StartedCall {
    /// Its id.
    pub id: String,
    /// The caller's label.
    pub label: Option<String>,
    /// The client id of the key.
    pub client_id: Arc<str>,
    /// The request's method.
    pub method: String,
    /// The URL's host.
    pub host: String,
    /// The bridge that the caller names.
    pub bridge: Option<String>,
    /// Bytes of the request's body.
    pub bytes: usize,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct CallEnd<'a> {
    /// The target's status, or the failure.
    pub result: Result<u16, &'a Failure>,
    /// `bridge` or `direct`; `none` if it was sent nowhere.
    pub route: &'static str,
    /// The bridge that the last attempt was sent to.
    pub bridge: Option<&'a str>,
}

/// The calls of every tenant.
#[derive(Debug)]
pub(crate) struct RecentCalls {
    inner: Mutex<Inner>,
    count_max: usize,
    keep_ms: i64,
}

#[derive(Debug, Default)]
struct Inner {
    /// Oldest first, by rising `seq`.
    tenants: HashMap<Arc<str>, VecDeque<RecentCall>>,
    count: usize,
    seq: i64,
}

/// A call in the list.
#[derive(Debug, Clone)]
pub(crate) struct RecentCall {
    /// As the lists of stored calls have it. `seq` counts the calls of this list alone.
    pub summary: CallSummary,
    /// Its attempt, once it has ended.
    pub attempt: Option<CallAttemptRow>,
}

/// A call in progress. If it is dropped before its end is recorded, its caller has left.
#[derive(Debug)]
pub(crate) struct RecentGuard {
    calls: Arc<RecentCalls>,
    tenant: Arc<str>,
    seq: i64,
    is_recorded: bool,
}

impl RecentCalls {
    /// Returns an empty list for so many calls, for so many milliseconds.
    pub(crate) fn new(count_max: u32, keep_ms: i64) -> Self {
        Self {
            inner: Mutex::default(),
            count_max: count_max as usize,
            keep_ms,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a call that begins.
    pub(crate) fn begin(self: &Arc<Self>, tenant: &Arc<str>, call: StartedCall) -> RecentGuard {
        let now = now_ms();
        let mut inner = self.lock();
        inner.seq += 1;
        let seq = inner.seq;
        if self.count_max > 0 {
            inner.forget_older(tenant, now.saturating_sub(self.keep_ms));
            if inner.count >= self.count_max {
                inner.evict(tenant, self.count_max);
            }
            let own = inner.tenants.entry(tenant.clone()).or_default();
            own.push_back(RecentCall {
                summary: started(call, seq, now),
                attempt: None,
            });
            inner.count += 1;
        }
        RecentGuard {
            calls: self.clone(),
            tenant: tenant.clone(),
            seq,
            is_recorded: false,
        }
    }

    /// Returns up to `limit` calls of a tenant, newest first, those before `before`.
    pub(crate) fn page(
        &self,
        tenant: &str,
        filter: &CallFilter,
        before: i64,
        limit: u32,
    ) -> Vec<CallSummary> {
        let oldest = now_ms().saturating_sub(self.keep_ms);
        let inner = self.lock();
        let own = inner.tenants.get(tenant).into_iter().flatten().rev();
        let fitting = own
            .map(|call| &call.summary)
            .filter(|call| call.seq < before && call.created_ms >= oldest)
            .filter(|call| fits(filter, call));
        fitting.take(limit as usize).cloned().collect()
    }

    /// Returns a tenant's call.
    pub(crate) fn find(&self, tenant: &str, id: &str) -> Option<RecentCall> {
        let oldest = now_ms().saturating_sub(self.keep_ms);
        let inner = self.lock();
        let mut own = inner.tenants.get(tenant)?.iter().rev();
        own.find(|call| call.summary.id == id && call.summary.created_ms >= oldest)
            .cloned()
    }

    /// Forgets the calls of a deleted tenant.
    pub(crate) fn forget_tenant(&self, tenant: &str) {
        let mut inner = self.lock();
        if let Some(gone) = inner.tenants.remove(tenant) {
            inner.count -= gone.len();
        }
    }
}

impl Inner {
    /// Forgets the calls of a tenant that began before a moment.
    fn forget_older(&mut self, tenant: &str, moment_ms: i64) {
        let Some(own) = self.tenants.get_mut(tenant) else {
            return;
        };
        while own
            .front()
            .is_some_and(|call| call.summary.created_ms < moment_ms)
        {
            own.pop_front();
            self.count -= 1;
        }
    }

    /// Makes room for a call of a tenant: its own oldest call goes, unless it has less than its share.
    fn evict(&mut self, tenant: &str, count_max: usize) {
        let share = count_max / self.tenants.len().max(1);
        let own = self.tenants.get(tenant).map_or(0, VecDeque::len);
        let loser = if own > 0 && own >= share {
            Some(Arc::from(tenant))
        } else {
            // A scan over the tenants. It is rare: a tenant that is at its share pays itself.
            let most = self.tenants.iter().max_by_key(|(_, calls)| calls.len());
            most.map(|(tenant, _)| tenant.clone())
        };
        let Some(loser) = loser else { return };
        if let Some(calls) = self.tenants.get_mut(&loser) {
            if calls.pop_front().is_some() {
                self.count -= 1;
            }
            if calls.is_empty() {
                self.tenants.remove(&loser);
            }
        }
    }
}

impl RecentGuard {
    /// Records how the call ended.
    pub(crate) fn end(mut self, end: &CallEnd<'_>) {
        self.record(end);
    }

    fn record(&mut self, end: &CallEnd<'_>) {
        self.is_recorded = true;
        let now = now_ms();
        let mut inner = self.calls.lock();
        // It may have been evicted meanwhile.
        let Some(own) = inner.tenants.get_mut(&self.tenant) else {
            return;
        };
        let Ok(at) = own.binary_search_by_key(&self.seq, |call| call.summary.seq) else {
            return;
        };
        let call = &mut own[at];
        let summary = &mut call.summary;
        let (state, status, code, execution, detail) = match end.result {
            Ok(status) => {
                let state = match status {
                    200..=299 => CallState::Succeeded,
                    _ => CallState::Failed,
                };
                let detail = format!("the target responded with {status}");
                (
                    state,
                    Some(i64::from(status)),
                    None,
                    Execution::Executed,
                    detail,
                )
            }
            Err(failure) => {
                let code = Some(failure.code.as_str().to_owned());
                let detail = cut(&failure.detail);
                (state_of(failure), None, code, failure.execution, detail)
            }
        };
        summary.state = state;
        summary.attempts = i64::from(end.route != "none");
        summary.finished_ms = Some(now);
        summary.status = status;
        summary.code.clone_from(&code);
        summary.execution = Some(execution.as_str().to_owned());
        summary.detail = Some(detail.clone());
        call.attempt = (end.route != "none").then(|| CallAttemptRow {
            attempt: 1,
            began_ms: summary.created_ms,
            took_ms: now.saturating_sub(summary.created_ms),
            route: end.route.to_owned(),
            bridge: end.bridge.unwrap_or_default().to_owned(),
            status,
            code,
            execution: execution.as_str().to_owned(),
            detail,
        });
    }
}

impl Drop for RecentGuard {
    fn drop(&mut self) {
        if self.is_recorded {
            return;
        }
        let failure = Failure::possibly_executed(Code::Cancelled, CALLER_LEFT);
        self.record(&CallEnd {
            result: Err(&failure),
            route: "none",
            bridge: None,
        });
    }
}

/// Returns the state that a failure leaves a call in.
fn state_of(failure: &Failure) -> CallState {
    match (failure.code, failure.execution) {
        (Code::Cancelled, _) => CallState::Cancelled,
        (Code::RefusedByPolicy, _) => CallState::Refused,
        (_, Execution::PossiblyExecuted) => CallState::OutcomeUnknown,
        (_, Execution::NotSent | Execution::NotDispatched | Execution::Executed) => {
            CallState::Failed
        }
    }
}

fn cut(detail: &str) -> String {
    let end = detail.floor_char_boundary(DETAIL_MAX_BYTES);
    detail[..end].to_owned()
}

fn started(call: StartedCall, seq: i64, now: i64) -> CallSummary {
    CallSummary {
        seq,
        id: call.id,
        client_id: call.client_id.to_string(),
        label: call.label,
        created_ms: now,
        state: CallState::Attempting,
        method: call.method,
        host: call.host,
        bridge: call.bridge,
        at_least_once: false,
        bytes: i64::try_from(call.bytes).unwrap_or(i64::MAX),
        attempts: 0,
        due_ms: None,
        expires_ms: None,
        finished_ms: None,
        status: None,
        code: None,
        execution: None,
        detail: None,
        is_waited_for: true,
    }
}

fn fits(filter: &CallFilter, call: &CallSummary) -> bool {
    filter.state.is_none_or(|state| state == call.state)
        && filter.host.as_ref().is_none_or(|host| *host == call.host)
        && filter
            .label
            .as_ref()
            .is_none_or(|label| call.label.as_ref() == Some(label))
        && filter.since_ms.is_none_or(|since| call.created_ms >= since)
        && filter.until_ms.is_none_or(|until| call.created_ms < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str) -> StartedCall {
        StartedCall {
            id: id.to_owned(),
            label: Some(format!("label of {id}")),
            client_id: "ibk_1".into(),
            method: "POST".to_owned(),
            host: "ci.corp.example".to_owned(),
            bridge: None,
            bytes: 7,
        }
    }

    fn ids(calls: &RecentCalls, tenant: &str) -> Vec<String> {
        let page = calls.page(tenant, &CallFilter::default(), i64::MAX, 100);
        page.into_iter().map(|call| call.id).collect()
    }

    fn ended(calls: &Arc<RecentCalls>, tenant: &str, id: &str, result: Result<u16, &Failure>) {
        calls.begin(&tenant.into(), call(id)).end(&CallEnd {
            result,
            route: "bridge",
            bridge: Some("dc1"),
        });
    }

    #[test]
    fn running_and_finished_calls_are_listed() {
        let calls = Arc::new(RecentCalls::new(10, 60_000));
        let running = calls.begin(&"a".into(), call("c1"));
        let state = |id| calls.find("a", id).unwrap().summary.state;
        assert_eq!(state("c1"), CallState::Attempting);
        drop(running);
        assert_eq!(state("c1"), CallState::Cancelled);
        let left = calls.find("a", "c1").unwrap();
        assert_eq!(left.summary.detail.as_deref(), Some(CALLER_LEFT));
        ended(&calls, "a", "c2", Ok(204));
        ended(&calls, "a", "c3", Ok(500));
        let refused = Failure::not_dispatched(Code::RefusedByPolicy, "no rule");
        ended(&calls, "a", "c4", Err(&refused));
        let lost = Failure::possibly_executed(Code::TunnelLost, "lost");
        ended(&calls, "a", "c5", Err(&lost));
        assert_eq!(state("c2"), CallState::Succeeded);
        assert_eq!(state("c3"), CallState::Failed);
        assert_eq!(state("c4"), CallState::Refused);
        assert_eq!(state("c5"), CallState::OutcomeUnknown);
        assert_eq!(ids(&calls, "a"), ["c5", "c4", "c3", "c2", "c1"]);
        let filter = CallFilter {
            state: Some(CallState::Refused),
            ..CallFilter::default()
        };
        assert_eq!(calls.page("a", &filter, i64::MAX, 10).len(), 1);
        let found = calls.find("a", "c4").unwrap();
        assert_eq!(found.summary.detail.as_deref(), Some("no rule"));
        assert_eq!(found.attempt.unwrap().bridge, "dc1");
        assert!(calls.find("b", "c4").is_none());
    }

    #[test]
    fn full_list_evicts_from_the_largest_tenant() {
        let calls = Arc::new(RecentCalls::new(4, 60_000));
        for id in ["a1", "a2", "a3", "a4"] {
            ended(&calls, "a", id, Ok(200));
        }
        ended(&calls, "b", "b1", Ok(200));
        ended(&calls, "b", "b2", Ok(200));
        assert_eq!(ids(&calls, "a"), ["a4", "a3"]);
        for id in ["a5", "a6", "a7"] {
            ended(&calls, "a", id, Ok(200));
        }
        assert_eq!(ids(&calls, "a"), ["a7", "a6"]);
        assert_eq!(ids(&calls, "b"), ["b2", "b1"]);
        calls.forget_tenant("a");
        assert!(ids(&calls, "a").is_empty());
        ended(&calls, "b", "b3", Ok(200));
        assert_eq!(ids(&calls, "b"), ["b3", "b2", "b1"]);
    }

    #[test]
    fn old_calls_and_calls_of_an_empty_list_are_absent() {
        let none = Arc::new(RecentCalls::new(0, 60_000));
        ended(&none, "a", "c1", Ok(200));
        assert!(ids(&none, "a").is_empty());
        let short = Arc::new(RecentCalls::new(10, -1));
        ended(&short, "a", "c1", Ok(200));
        assert!(ids(&short, "a").is_empty());
        assert!(short.find("a", "c1").is_none());
    }
}
