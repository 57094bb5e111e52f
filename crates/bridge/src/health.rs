//! Whether the endpoints can be reached from here, apart from whether the tunnel is up.
//!
//! ```text
//! watch: every interval, and when asked --> probe each endpoint --> what was found --> REPORT to the relay
//! ```
//!
//! A look goes the way of every request: policy, resolver, policy, connection. Without a
//! `health_path` it ends there, and the target sees a connection that asks for nothing.

mod probe;

pub(crate) use probe::{Probe, probe};

use crate::dispatcher::Active;
use protocol::Code;
use protocol::frame::{Bounded, EndpointHealth, Reach, Report};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

/// Endpoints that are looked at at once.
const AT_ONCE_MAX: usize = 8;

/// How often endpoints are looked at while one of them is down, unless it is more often anyway.
const DOWN_EVERY: Duration = Duration::from_secs(10);

/// Longest that one look may take, all its steps together.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// What was found at an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) endpoint: String,
    pub(crate) reach: Reach,
    pub(crate) status: Option<u16>,
    pub(crate) code: Option<Code>,
    /// What is wrong, in words.
    pub(crate) detail: Option<String>,
    pub(crate) at: Instant,
}

impl Found {
    fn of(endpoint: String, probe: Probe) -> Self {
        let answers = probe.status.is_none_or(|status| status < 500);
        let reach = match &probe.failure {
            None if answers => Reach::Up,
            // This machine is short of something: that says nothing of the endpoint.
            Some(failure) if failure.code == Code::Overloaded => Reach::Unknown,
            None | Some(_) => Reach::Down,
        };
        let detail = match (&probe.failure, probe.status) {
            (Some(failure), _) => Some(failure.detail.clone()),
            (None, Some(status)) if !answers => Some(format!("it answers with {status}")),
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

/// Why a config was not taken.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    /// In full, for this machine.
    pub(crate) detail: String,
    /// What the bridge reports to the relay.
    pub(crate) for_relay: String,
}

/// What is known of the endpoints, and what else the relay is told of this bridge.
#[derive(Debug, Default)]
pub(crate) struct Health {
    found: Mutex<Vec<Found>>,
    config_refused: Mutex<Option<Refused>>,
    asked: Notify,
}

impl Health {
    /// What was found last, by endpoint.
    pub(crate) fn found(&self) -> Vec<Found> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.clone()
    }

    /// Looks again soon: the config has changed, or somebody wants to know.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Why the config was not taken when it was read last; none when it was.
    pub(crate) fn set_config_refused(&self, why: Option<Refused>) {
        *self.refused() = why;
    }

    /// See [`Self::set_config_refused`]; in full.
    pub(crate) fn config_refused(&self) -> Option<String> {
        self.refused().as_ref().map(|why| why.detail.clone())
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Option<Refused>> {
        self.config_refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What the relay is told, of endpoints in this order.
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

    /// Looks at the endpoints for as long as it is polled; `told` is called after each round.
    pub(crate) async fn watch(&self, active: impl Fn() -> Arc<Active>, told: impl Fn()) {
        loop {
            let now = active();
            let interval = now.config.targets.health_interval.get();
            if interval.is_some() {
                let found = round(&now).await;
                self.keep(found);
                told();
            }
            // What is down is looked at sooner: somebody may be mending it.
            let is_down = self.found().iter().any(|found| found.reach == Reach::Down);
            let interval = interval.map(|interval| match is_down {
                true => interval.min(DOWN_EVERY),
                false => interval,
            });
            let pause = async {
                match interval {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = self.asked.notified() => {}
            }
        }
    }

    fn keep(&self, found: Vec<Found>) {
        let mut known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for new in &found {
            let before = known.iter().find(|old| old.endpoint == new.endpoint);
            let was = before.map_or(Reach::Unknown, |old| old.reach);
            match new.reach {
                Reach::Down if was != Reach::Down => tracing::warn!(
                    endpoint = new.endpoint,
                    code = new.code.map(tracing::field::display),
                    detail = new.detail,
                    "the endpoint cannot be reached"
                ),
                Reach::Up if was == Reach::Down => {
                    tracing::info!(endpoint = new.endpoint, "the endpoint can be reached again");
                }
                Reach::Down | Reach::Up | Reach::Unknown => {}
            }
        }
        *known = found;
    }
}

/// Looks at every endpoint once. In the config's order.
async fn round(active: &Arc<Active>) -> Vec<Found> {
    let permits = Arc::new(Semaphore::new(AT_ONCE_MAX));
    let mut looks = JoinSet::new();
    for (index, endpoint) in active.config.rules.endpoints.iter().enumerate() {
        let (active, permits, name) = (active.clone(), permits.clone(), endpoint.name.clone());
        looks.spawn(async move {
            // Nobody closes the semaphore.
            let _permit = permits.acquire_owned().await;
            let probe = probe(&active, &name, false).await;
            (index, Found::of(name, probe))
        });
    }
    let mut found = looks.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, found)| found).collect()
}
