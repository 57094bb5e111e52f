//! Whether the endpoints can be reached from this machine. The tunnel's state is not part of it.
//!
//! ```text
//! watch: every interval, and on request --> probe each endpoint --> findings --> REPORT to the relay
//! ```
//!
//! A probe takes the steps of every request: policy, resolver, policy, connection. Without a `health_path` it
//! ends there, and the target gets a connection without a request. A request of a caller that succeeds shows at once
//! that an unreachable endpoint is back; it does not wait for the next probe.

mod probe;

pub(crate) use probe::{Probe, probe};

use crate::dispatcher::Active;
use protocol::Code;
use protocol::frame::{Bounded, EndpointHealth, Reach, Report};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

/// Endpoints that are probed at a time.
const CONCURRENT_MAX: usize = 8;

/// Longest interval between probes while an endpoint is down.
const DOWN_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// How long one probe may take, all its steps together.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// The result of the last probe of an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) endpoint: String,
    pub(crate) reach: Reach,
    pub(crate) status: Option<u16>,
    pub(crate) code: Option<Code>,
    /// What is wrong, for people.
    pub(crate) detail: Option<String>,
    pub(crate) at: Instant,
}

impl Finding {
    /// Whether no connection, or no response, was possible.
    fn is_unreachable(&self) -> bool {
        self.reach == Reach::Down && self.code.is_some()
    }

    fn of(endpoint: String, probe: Probe) -> Self {
        let is_healthy = probe.status.is_none_or(|status| status < 500);
        let reach = match &probe.failure {
            None if is_healthy => Reach::Up,
            // A shortage of this machine states nothing about the endpoint.
            Some(failure) if failure.code == Code::Overloaded => Reach::Unknown,
            None | Some(_) => Reach::Down,
        };
        let detail = match (&probe.failure, probe.status) {
            (Some(failure), _) => Some(failure.detail.clone()),
            (None, Some(status)) if !is_healthy => Some(format!("it responds with {status}")),
            (None, _) => None,
        };
        Self {
            endpoint,
            reach,
            status: probe.status,
            code: probe.failure.map(|failure| failure.code),
            detail,
            at: Instant::now(),
        }
    }
}

/// Why a config was rejected.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    /// The full text, for this machine.
    pub(crate) detail: String,
    /// What the bridge reports to the relay.
    pub(crate) for_relay: String,
}

/// The findings about the endpoints, and the rest of the bridge's report to the relay.
#[derive(Debug, Default)]
pub(crate) struct Health {
    found: Mutex<Vec<Finding>>,
    config_refused: Mutex<Option<Refused>>,
    requested: Notify,
    /// Whether an endpoint is unreachable: a request of a healthy bridge reads this alone.
    has_unreachable: AtomicBool,
    /// A request showed that an endpoint is back.
    recovered: Notify,
}

impl Health {
    /// Returns the last findings.
    pub(crate) fn found(&self) -> Vec<Finding> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.clone()
    }

    /// Requests a round of probes: the config has changed, or an administrator asked.
    pub(crate) fn request_probes(&self) {
        // `notify_one` keeps one request for a watcher that is busy with a round.
        self.requested.notify_one();
    }

    /// Notes that a target responded to a caller's request. An endpoint that no probe could reach is then up. One
    /// whose `health_path` responds with an error stays down: the request says nothing of that path.
    pub(crate) fn responded(&self, endpoint: &str, status: u16) {
        if status >= 500 || !self.has_unreachable.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = known
            .iter_mut()
            .find(|found| found.endpoint == endpoint && found.is_unreachable())
        else {
            return;
        };
        tracing::info!(
            endpoint,
            status,
            "endpoint reachable again: a request succeeded"
        );
        *found = Finding {
            endpoint: endpoint.to_owned(),
            reach: Reach::Up,
            status: None,
            code: None,
            detail: None,
            at: Instant::now(),
        };
        self.note_unreachable(&known);
        drop(known);
        self.recovered.notify_one();
    }

    fn note_unreachable(&self, known: &[Finding]) {
        let any = known.iter().any(Finding::is_unreachable);
        self.has_unreachable.store(any, Ordering::Relaxed);
    }

    /// Sets why the last config was rejected; `None` when it was accepted.
    pub(crate) fn set_config_refused(&self, why: Option<Refused>) {
        *self.refused() = why;
    }

    /// Returns why the last config was rejected, with the full text.
    pub(crate) fn config_refused(&self) -> Option<String> {
        self.refused().as_ref().map(|why| why.detail.clone())
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Option<Refused>> {
        self.config_refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the report for the relay, with the endpoints in this order.
    pub(crate) fn report<'a>(&self, endpoints: impl Iterator<Item = &'a str>) -> Report {
        let found = self.found();
        let of = |name: &str| {
            let Some(found) = found.iter().find(|found| found.endpoint == name) else {
                return EndpointHealth::default();
            };
            EndpointHealth {
                reach: found.reach,
                status: found.status,
                code: found.code.map(Code::to_wire),
                age_s: u32::try_from(found.at.elapsed().as_secs()).unwrap_or(u32::MAX),
            }
        };
        Report {
            endpoints: Bounded::truncated(endpoints.map(of)),
            config_refused: self.refused().as_ref().map(|why| why.for_relay.clone()),
            audit: None,
        }
    }

    /// Probes the endpoints for as long as it is polled. Calls `report` after each round.
    pub(crate) async fn watch(&self, active: impl Fn() -> Arc<Active>, report: impl Fn()) {
        loop {
            let now = active();
            let interval = now.config.targets.health_interval.get();
            if interval.is_some() {
                // With the config of this moment: endpoints may have been added since the last round.
                let found = round(&now).await;
                self.keep(found);
                report();
            }
            // An endpoint that is down is probed more often, so that its repair shows soon.
            let is_down = self.found().iter().any(|found| found.reach == Reach::Down);
            let interval = interval.map(|interval| match is_down {
                true => interval.min(DOWN_INTERVAL_MAX),
                false => interval,
            });
            let pause = async {
                match interval {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            let next_round = async {
                tokio::select! {
                    () = pause => {}
                    () = self.requested.notified() => {}
                }
            };
            let mut next_round = std::pin::pin!(next_round);
            loop {
                tokio::select! {
                    () = &mut next_round => break,
                    () = self.recovered.notified() => report(),
                }
            }
        }
    }

    fn keep(&self, found: Vec<Finding>) {
        let mut known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for new in &found {
            let before = known.iter().find(|old| old.endpoint == new.endpoint);
            let was = before.map_or(Reach::Unknown, |old| old.reach);
            match new.reach {
                Reach::Down if was != Reach::Down => tracing::warn!(
                    endpoint = new.endpoint,
                    code = new.code.map(tracing::field::display),
                    detail = new.detail,
                    "endpoint unreachable"
                ),
                Reach::Up if was == Reach::Down => {
                    tracing::info!(endpoint = new.endpoint, "endpoint reachable again");
                }
                Reach::Down | Reach::Up | Reach::Unknown => {}
            }
        }
        self.note_unreachable(&found);
        *known = found;
    }
}

/// Probes every endpoint once. Returns the findings in the config's order.
async fn round(active: &Arc<Active>) -> Vec<Finding> {
    let permits = Arc::new(Semaphore::new(CONCURRENT_MAX));
    let mut probes = JoinSet::new();
    for (index, endpoint) in active.config.rules.endpoints.iter().enumerate() {
        let (active, permits, name) = (active.clone(), permits.clone(), endpoint.name.clone());
        probes.spawn(async move {
            // An error would mean that the semaphore is closed, which never happens.
            // Bounded, so that many endpoints are not connected to at the same moment.
            let _permit = permits.acquire_owned().await;
            let probe = probe(&active, &name, false).await;
            (index, Finding::of(name, probe))
        });
    }
    let mut found = probes.join_all().await;
    // They finish in any order; the report lists them as the config does.
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, found)| found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(endpoint: &str, code: Option<Code>, status: Option<u16>) -> Finding {
        Finding {
            endpoint: endpoint.to_owned(),
            reach: Reach::Down,
            status,
            code,
            detail: None,
            at: Instant::now(),
        }
    }

    #[test]
    fn request_that_succeeds_marks_an_endpoint_up() {
        let health = Health::default();
        let reach = |at: usize| health.found()[at].reach;
        health.keep(vec![
            down("gone", Some(Code::TargetRefused), None),
            down("ill", None, Some(503)),
        ]);
        health.responded("gone", 502);
        assert_eq!(reach(0), Reach::Down);
        health.responded("gone", 404);
        assert_eq!(reach(0), Reach::Up);
        assert!(!health.has_unreachable.load(Ordering::Relaxed));
        // Its own check of health says more than any other path.
        health.responded("ill", 200);
        assert_eq!(reach(1), Reach::Down);
    }
}
