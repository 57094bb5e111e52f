//! Handles on a live tunnel.
//!
//! A [`Session`] is shared by the task that drives it (`driver`) and by the users of its streams. They meet in
//! one short lock around the sans-IO session. A user queues frames and takes bytes under this lock, without a
//! channel or a task in between, and wakes the driver. Only the driver touches the socket and the clock.

mod shared;
mod streams;

pub use streams::{AbortHandle, PumpEnd, PumpError, RecvStream, SendStream};

pub(crate) use shared::{Shared, Writer};

use protocol::frame::{
    CallAttempt, DeliveryResult, GoAway, GoAwayReason, Reach, Report, RequestHead, Serves, Windows,
};
use protocol::session::{Budget, EndReason, OpenError};
use protocol::version::AcceptedVersions;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The settings of one side of a session.
#[derive(Clone)]
pub struct Settings {
    /// What the peer may have outstanding here. The peer announces its own windows in the opening.
    pub windows: Windows,
    /// The budget that growth of these windows is taken from.
    pub budget: Arc<Budget>,
    /// Largest window of one stream, in bytes.
    pub stream_window_cap: u64,
    /// Bridge: called by the driver for each exchange that the relay opens. It must not block; it
    /// spawns a task.
    pub on_open: Option<Arc<dyn Fn(Incoming) + Send + Sync>>,
    /// Relay: called by the driver when the bridge reports the outcome of a delivery's attempt (W-55).
    /// It must not block.
    pub on_result: Option<OnResult>,
    /// Bridge: called by the driver when the relay acknowledges an outcome. It must not block.
    pub on_result_ack: Option<OnResultAck>,
}

/// Handles the outcome of a delivery, and the session that it came on.
pub type OnResult = Arc<dyn Fn(Session, DeliveryResult) + Send + Sync>;

/// Handles the acknowledgement of an outcome.
pub type OnResultAck = Arc<dyn Fn(CallAttempt) + Send + Sync>;

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("windows", &self.windows)
            .field("stream_window_cap", &self.stream_window_cap)
            .finish_non_exhaustive()
    }
}

/// An exchange that the relay opened, on the bridge.
#[derive(Debug)]
pub struct Incoming {
    /// The request.
    pub head: RequestHead,
    /// The direction of the response.
    pub send: SendStream,
    /// The request's body.
    pub recv: RecvStream,
}

/// A handle on a live tunnel. Cheap to clone; the session lives as long as its driver runs.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id()).finish()
    }
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns the session's id, chosen by the relay.
    pub fn id(&self) -> [u8; 16] {
        self.shared.id
    }

    /// Whether both are handles on the same session.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Relay: opens an exchange. A `body` of up to 16 KiB travels with the head; `end` marks it as
    /// complete. Never waits.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was sent.
    pub fn open(
        &self,
        head: &RequestHead,
        body: &[u8],
        end: bool,
    ) -> Result<(SendStream, RecvStream), OpenError> {
        let id = self
            .shared
            .with(|core| core.session.open(head, body, end))?;
        Ok(streams::pair(&self.shared, id))
    }

    /// Returns the number of open streams.
    pub fn streams_open(&self) -> u32 {
        self.shared.peek(|session| session.streams_live())
    }

    /// Returns the number of open streams, if new ones may be opened.
    pub fn load(&self) -> Option<u32> {
        self.shared.peek(|session| {
            // Both under one lock: a load without the check could choose a session that is draining.
            let takes_more = session.accepts_streams();
            takes_more.then(|| session.streams_live())
        })
    }

    /// Returns the smallest round trip measured so far.
    pub fn rtt(&self) -> Duration {
        self.shared.peek(|session| session.rtt())
    }

    /// Returns what the bridge serves, as last announced.
    pub fn serves(&self) -> Arc<Serves> {
        self.shared.peek(|session| session.serves())
    }

    /// Whether new exchanges may be opened.
    pub fn is_open(&self) -> bool {
        self.shared.peek(|session| session.accepts_streams())
    }

    /// Whether the session has ended.
    pub fn is_over(&self) -> bool {
        self.shared.peek(|session| session.ended().is_some())
    }

    /// Returns the highest stream id that was opened (relay) or accepted (bridge).
    pub fn last_stream(&self) -> u32 {
        self.shared.peek(|session| session.last_stream())
    }

    /// Sends GOAWAY. Running exchanges may finish, no new one starts, and the session closes when none is left.
    pub fn drain(&self, reason: GoAwayReason, retry_after: Duration) {
        self.shared
            .with(|core| core.session.drain(reason, retry_after));
    }

    /// Ends the session now, with a GOAWAY that names the reason.
    pub fn close(&self, reason: EndReason) {
        self.shared.close(reason);
    }

    /// Checks that the peer is alive, after a jump of the clock or a change of the network.
    pub fn probe(&self) {
        self.shared
            .with(|core| core.session.probe(std::time::Instant::now()));
    }

    /// Bridge: announces to the relay what is served from now on.
    pub fn set_serves(&self, serves: Serves) {
        self.shared.with(|core| core.session.set_serves(serves));
    }

    /// Bridge: reports the bridge's health to the relay. Returns whether the report was queued.
    pub fn send_report(&self, report: Report) -> bool {
        self.shared.with(|core| core.session.send_report(report))
    }

    /// Relay: names the versions of bridges that its operator wants. Returns whether they were queued.
    pub fn send_versions(&self, versions: AcceptedVersions) -> bool {
        self.shared
            .with(|core| core.session.send_versions(versions))
    }

    /// Bridge: returns the versions that the relay named last, if it did.
    pub fn versions(&self) -> Option<Arc<AcceptedVersions>> {
        self.shared.peek(|session| session.versions())
    }

    /// Bridge: waits until the relay names other versions than `seen`, and returns them. Returns `None` when the session
    /// has ended. Cancel safe.
    pub async fn versions_changed(
        &self,
        seen: Option<&Arc<AcceptedVersions>>,
    ) -> Option<Arc<AcceptedVersions>> {
        let mut states = self.shared.states();
        loop {
            let is_over = states.borrow_and_update().ended.is_some();
            let now = self.versions();
            let is_same = match (&now, seen) {
                (Some(now), Some(seen)) => Arc::ptr_eq(now, seen),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !is_same {
                return now;
            }
            if is_over || states.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Relay: whether the bridge reported that it does not reach this endpoint.
    pub fn endpoint_is_down(&self, endpoint: &str) -> bool {
        self.shared.peek(|session| {
            let Some(report) = session.report() else {
                return false;
            };
            // The report is positional (W-63). Both are read under one lock, so they belong together.
            let serves = session.serves();
            let at = serves.endpoints.iter().position(|name| name == endpoint);
            at.and_then(|at| report.endpoints.get(at))
                .is_some_and(|found| found.reach == Reach::Down)
        })
    }

    /// Returns for how long nothing has come from the peer.
    pub fn silent_for(&self) -> Duration {
        let now = std::time::Instant::now();
        self.shared.peek(|session| session.silent_for(now))
    }

    /// Relay: returns the bridge's last health report, if there is one.
    pub fn report(&self) -> Option<Arc<Report>> {
        self.shared.peek(|session| session.report())
    }

    /// Bridge: sends the outcome of a delivery's attempt. Returns whether it was queued; otherwise send
    /// it again later.
    pub fn send_result(&self, result: DeliveryResult) -> bool {
        self.shared.with(|core| core.session.send_result(result))
    }

    /// Relay: acknowledges an outcome, which is stored. That attempt is never sent again. Returns whether the
    /// acknowledgement was queued; otherwise the bridge reports the outcome again.
    pub fn ack_result(&self, attempt: CallAttempt) -> bool {
        self.shared.with(|core| core.session.ack_result(attempt))
    }

    /// Waits until the session has ended, and returns why. Cancel safe.
    pub async fn ended(&self) -> EndReason {
        let mut states = self.shared.states();
        match states.wait_for(|state| state.ended.is_some()).await {
            Ok(state) => state.ended.clone().unwrap_or(EndReason::Closed),
            Err(_) => EndReason::Closed,
        }
    }

    /// Waits until the peer sends GOAWAY, or the session has ended (`None`). Cancel safe.
    pub async fn goaway(&self) -> Option<GoAway> {
        let mut states = self.shared.states();
        let state = states
            .wait_for(|state| state.ended.is_some() || state.goaway.is_some())
            .await
            .ok()?;
        state.goaway
    }

    /// Waits until what the bridge serves differs from `seen`, or the session has ended. Cancel safe.
    pub async fn serves_changed(&self, seen: &Arc<Serves>) {
        let mut states = self.shared.states();
        let _ = states
            .wait_for(|state| state.ended.is_some() || !Arc::ptr_eq(&self.serves(), seen))
            .await;
    }

    /// Bridge: returns what the next session of this slot reports about this one, once it has ended (W-51).
    pub fn previous_session_report(&self) -> protocol::frame::PreviousSession {
        self.shared.previous_session_report()
    }
}

/// The largest body that travels with a head.
pub const INLINE_MAX_BYTES: usize = protocol::limits::DATA_MAX_BYTES;
