//! Whether this process serves, or is in standby while another one does.
//!
//! ```text
//!            lease acquired                    SIGTERM
//!  Standby --------------> Active { epoch } -----------> Leaving
//!     ^                        |
//!     +------------------------+
//! another process acquires it
//! ```
//!
//! On SQLite the lock on the file decides at the start, and the process stays active. On PostgreSQL the
//! lease decides ([`store::lease`]): it is renewed every [`RENEW_INTERVAL`], and a request is
//! served only if the lease was checked recently. So a process that was frozen checks it before it
//! serves anything. While the database does not respond, the state stays unknown: requests in progress
//! continue, and the epoch fences what is written.
//!
//! `crate::running::keeper` acquires and renews the lease, and opens and closes the listeners.

use protocol::{Code, Failure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the lease is renewed.
pub(crate) const RENEW_INTERVAL: Duration = Duration::from_secs(3);

/// Interval between attempts to take the lease, or to renew it after an error.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// A request is served without a further check if the last check began within this. It is shorter than the
/// lease by more than a check takes, so that no request begins under a lease that has expired.
const CHECK_AGE_MAX: Duration = Duration::from_secs(6);

/// Without a renewal for this long, another process may hold the lease. If one waits for it, new tunnels
/// are refused.
const TUNNEL_LEASE_AGE_MAX: Duration = Duration::from_secs(8);

/// How long a request waits for a check of the lease.
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);

/// The role of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// Another process serves.
    Standby {
        /// The name of its node; empty if unknown.
        active: String,
    },
    /// This process serves.
    Active {
        /// The lease's epoch.
        epoch: i64,
    },
    /// This process finishes the requests in progress and begins nothing.
    Leaving,
}

/// The role of this process, and what is known of its lease. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Serving(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    role: watch::Sender<Role>,
    is_active: AtomicBool,
    /// The times below are milliseconds since this instant, which advances while the process is frozen.
    origin: Instant,
    /// Start of the last check of the lease that has ended. [`u64::MAX`]: no other process can hold it.
    checked_ms: AtomicU64,
    /// Start of the last renewal that succeeded.
    renewed_ms: AtomicU64,
    /// Whether another process waits for the lease.
    is_contended: AtomicBool,
    /// Counts checks, to wake requests that wait for one.
    checks: watch::Sender<u64>,
}

impl Default for Serving {
    fn default() -> Self {
        Self::new()
    }
}

impl Serving {
    /// Returns the state of a process in standby.
    pub(crate) fn new() -> Self {
        Self::since(Instant::now())
    }

    fn since(origin: Instant) -> Self {
        let active = String::new();
        Self(Arc::new(Inner {
            role: watch::Sender::new(Role::Standby { active }),
            is_active: AtomicBool::new(false),
            origin,
            checked_ms: AtomicU64::new(0),
            renewed_ms: AtomicU64::new(0),
            is_contended: AtomicBool::new(false),
            checks: watch::Sender::new(0),
        }))
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.0.origin);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Returns the time since then.
    fn age(&self, at_ms: u64) -> Duration {
        let now = self.millis(Instant::now());
        Duration::from_millis(now.saturating_sub(at_ms))
    }

    /// Returns the role.
    pub(crate) fn role(&self) -> Role {
        self.0.role.borrow().clone()
    }

    /// Returns whether this process serves.
    pub(crate) fn is_active(&self) -> bool {
        self.0.is_active.load(Ordering::Acquire)
    }

    /// Waits until this process serves. Returns the lease's epoch.
    pub(crate) async fn active(&self) -> i64 {
        let mut role = self.0.role.subscribe();
        loop {
            if let Role::Active { epoch } = *role.borrow_and_update() {
                return epoch;
            }
            if role.changed().await.is_err() {
                // Not reached: the sender lives as long as `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the lease of this epoch has ended, or the process leaves.
    pub(crate) async fn ended(&self, epoch: i64) {
        let mut role = self.0.role.subscribe();
        let _ = role.wait_for(|role| *role != Role::Active { epoch }).await;
    }

    /// Records that another process serves.
    pub(crate) fn stand_by(&self, active: &str) {
        // Before the role is sent, so that a request that begins now is refused at once.
        self.0.is_active.store(false, Ordering::Release);
        self.0.role.send_if_modified(|role| {
            let next = Role::Standby {
                active: active.to_owned(),
            };
            let is_other = *role != next;
            *role = next;
            is_other
        });
        self.0.checks.send_modify(|checks| *checks += 1);
    }

    /// Records that this process holds the lease, requested at `began`. Without `began`, no other process
    /// can hold it.
    pub(crate) fn activate(&self, epoch: i64, began: Option<Instant>) {
        match began {
            Some(began) => self.renewed(began, false),
            None => {
                self.0.renewed_ms.store(u64::MAX, Ordering::Release);
                self.0.checked_ms.store(u64::MAX, Ordering::Release);
            }
        }
        self.0.is_active.store(true, Ordering::Release);
        self.0.role.send_replace(Role::Active { epoch });
    }

    /// Records that this process begins nothing any more.
    pub(crate) fn leave(&self) {
        self.0.is_active.store(false, Ordering::Release);
        self.0.role.send_replace(Role::Leaving);
    }

    /// Records that a check that began at `began` has renewed the lease.
    pub(crate) fn renewed(&self, began: Instant, is_contended: bool) {
        self.0.is_contended.store(is_contended, Ordering::Relaxed);
        self.0
            .renewed_ms
            .store(self.millis(began), Ordering::Release);
        self.checked(began);
    }

    /// Records that a check of the lease that began at `began` has ended, also without a response of the
    /// database.
    pub(crate) fn checked(&self, began: Instant) {
        self.0
            .checked_ms
            .store(self.millis(began), Ordering::Release);
        self.0.checks.send_modify(|checks| *checks += 1);
    }

    /// Checks that a request may be served now. Waits for a check of the lease if the last one is too old,
    /// since the process may have been frozen. Cancel safe.
    ///
    /// # Errors
    /// `standby`.
    pub(crate) async fn check(&self) -> Result<(), Failure> {
        // The data path: two atomic loads for each request, and no lock.
        if self.is_active() && self.is_checked() {
            return Ok(());
        }
        self.check_slowly().await
    }

    fn is_checked(&self) -> bool {
        let at = self.0.checked_ms.load(Ordering::Acquire);
        // The age is measured by the monotonic clock, which also runs while the process is frozen.
        at == u64::MAX || self.age(at) <= CHECK_AGE_MAX
    }

    #[cold]
    async fn check_slowly(&self) -> Result<(), Failure> {
        let mut checks = self.0.checks.subscribe();
        let checked = checks.wait_for(|_| !self.is_active() || self.is_checked());
        // The result does not matter: the role is read again below.
        let _ = tokio::time::timeout(CHECK_TIMEOUT, checked).await;
        // A relay that drains still finishes requests on open connections.
        let may = match &*self.0.role.borrow() {
            Role::Active { .. } => self.is_checked(),
            Role::Leaving => true,
            Role::Standby { .. } => false,
        };
        match may {
            true => Ok(()),
            false => Err(self.standing_by()),
        }
    }

    /// Checks that a new tunnel may be opened now. Without a renewal for [`TUNNEL_LEASE_AGE_MAX`], a bridge
    /// should connect to the process that waits for the lease, if there is one.
    ///
    /// # Errors
    /// `standby`.
    pub(crate) async fn check_tunnel(&self) -> Result<(), Failure> {
        self.check().await?;
        let renewed = self.0.renewed_ms.load(Ordering::Acquire);
        let is_old = renewed != u64::MAX && self.age(renewed) > TUNNEL_LEASE_AGE_MAX;
        // Without a contender the bridge has no better place, so an outage of the database stops no tunnel.
        if is_old && self.0.is_contended.load(Ordering::Relaxed) {
            let detail = "this relay cannot renew its lease, and another one may serve now";
            return Err(Failure::not_sent(Code::Standby, detail));
        }
        Ok(())
    }

    /// Returns the failure for a caller that reached a process in standby.
    pub(crate) fn standing_by(&self) -> Failure {
        Failure::not_sent(Code::Standby, self.why())
    }

    /// Returns why this process does not serve, for people.
    pub(crate) fn why(&self) -> String {
        match &*self.0.role.borrow() {
            Role::Standby { active } if active.is_empty() => {
                "this relay is in standby: it does not hold the database's lease".to_owned()
            }
            Role::Standby { active } => format!(
                "this relay is in standby: the relay on {active} holds the database's lease and serves"
            ),
            Role::Leaving => "this relay is shutting down".to_owned(),
            Role::Active { .. } => {
                "this relay cannot tell whether it still holds the database's lease".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_ago() -> Instant {
        Instant::now() - Duration::from_secs(60)
    }

    #[tokio::test]
    async fn standby_refuses_and_names_the_active_relay() {
        let serving = Serving::new();
        serving.stand_by("relay-2");
        let refused = serving.check().await.unwrap_err();
        assert_eq!(refused.code, Code::Standby);
        assert!(refused.detail.contains("relay-2"), "{}", refused.detail);
        serving.activate(1, Some(Instant::now()));
        assert_eq!(serving.check().await, Ok(()));
        serving.stand_by("relay-2");
        assert!(serving.check().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn frozen_relay_checks_its_lease_before_serving() {
        let serving = Serving::since(long_ago());
        serving.activate(1, Some(long_ago()));
        for is_lost in [true, false] {
            let waiting = tokio::spawn({
                let serving = serving.clone();
                async move { serving.check().await }
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            match is_lost {
                true => serving.stand_by("relay-2"),
                false => serving.renewed(Instant::now(), false),
            }
            assert_eq!(waiting.await.unwrap().is_err(), is_lost);
            serving.activate(2, Some(long_ago()));
        }
    }

    #[tokio::test]
    async fn outage_stops_only_new_tunnels_if_contended() {
        for is_contended in [false, true] {
            let serving = Serving::since(long_ago());
            serving.activate(1, Some(long_ago()));
            serving.renewed(long_ago(), is_contended);
            serving.checked(Instant::now());
            assert_eq!(serving.check().await, Ok(()));
            assert_eq!(serving.check_tunnel().await.is_err(), is_contended);
        }
    }

    #[tokio::test]
    async fn file_lock_needs_no_lease() {
        let serving = Serving::since(long_ago());
        serving.activate(1, None);
        assert_eq!(serving.check().await, Ok(()));
        assert_eq!(serving.check_tunnel().await, Ok(()));
    }
}
