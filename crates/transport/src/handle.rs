//! Handles on a live tunnel.
//!
//! A [`Session`] is shared by the task that drives it (`driver`) and by everybody who has an
//! exchange on it. They meet in one short lock around the sans-IO session: a user puts frames in
//! and takes bytes out right there, without a channel and a task between, and wakes the driver;
//! only the driver touches the socket and the clock.

mod shared;
mod streams;

pub use streams::{AbortHandle, PumpEnd, PumpError, RecvStream, SendStream};

pub(crate) use shared::{Shared, Writer};

use bytes::Bytes;
use protocol::frame::{
    CallAttempt, DeliveryResult, GoAway, GoAwayReason, Reach, Report, RequestHead, Serves, Windows,
};
use protocol::session::{Budget, EndReason, OpenError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a side brings to a session.
#[derive(Clone)]
pub struct Settings {
    /// What the peer may have outstanding here.
    pub windows: Windows,
    /// What the peer lets this side have outstanding is in the opening; this is where growth of
    /// its own windows is borrowed from.
    pub budget: Arc<Budget>,
    /// Largest window of one stream, in bytes.
    pub stream_window_cap: u64,
    /// Bridge: called by the driver for each exchange that the relay opens. It must not block:
    /// it spawns.
    pub on_open: Option<Arc<dyn Fn(Incoming) + Send + Sync>>,
    /// Relay: called by the driver when the bridge tells what became of an attempt of a delivery
    /// (W-55). It must not block.
    pub on_result: Option<OnResult>,
    /// Bridge: called by the driver when the relay acknowledges an outcome. It must not block.
    pub on_result_ack: Option<OnResultAck>,
}

/// Takes a delivery's outcome, and the session that it came by.
pub type OnResult = Arc<dyn Fn(Session, DeliveryResult) + Send + Sync>;

/// Takes the acknowledgement of an outcome.
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
    /// What is asked for.
    pub head: RequestHead,
    /// Where the answer goes.
    pub send: SendStream,
    /// The request's body.
    pub recv: RecvStream,
}

/// A live tunnel. Cheap to clone; the session goes on while its driver runs.
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

    /// The session's id, chosen by the relay.
    pub fn id(&self) -> [u8; 16] {
        self.shared.id
    }

    /// Whether both are handles on the same session.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Relay: opens an exchange. A `body` of up to 16 KiB travels with the head; `end` says that
    /// it is the whole. Never waits.
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

    /// Streams that are open.
    pub fn streams_open(&self) -> u32 {
        self.shared.peek(|session| session.streams_live())
    }

    /// Streams that are open, if new ones may be opened.
    pub fn load(&self) -> Option<u32> {
        self.shared.peek(|session| {
            let takes_more = session.accepts_streams();
            takes_more.then(|| session.streams_live())
        })
    }

    /// The smallest round trip measured so far.
    pub fn rtt(&self) -> Duration {
        self.shared.peek(|session| session.rtt())
    }

    /// What the bridge serves, as it said last.
    pub fn serves(&self) -> Arc<Serves> {
        self.shared.peek(|session| session.serves())
    }

    /// Whether new exchanges may be opened.
    pub fn is_open(&self) -> bool {
        self.shared.peek(|session| session.accepts_streams())
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.shared.peek(|session| session.ended().is_some())
    }

    /// Highest stream id that was opened (relay) or seen (bridge).
    pub fn last_stream(&self) -> u32 {
        self.shared.peek(|session| session.last_stream())
    }

    /// Says GOAWAY: what runs may finish, nothing new begins, and the session closes when
    /// nothing runs.
    pub fn drain(&self, reason: GoAwayReason, retry_after: Duration) {
        self.shared
            .with(|core| core.session.drain(reason, retry_after));
    }

    /// Ends the session now. The peer is told why, if it still listens.
    pub fn close(&self, reason: EndReason) {
        self.shared.close(reason);
    }

    /// The clock jumped or the network changed: the peer must show life soon.
    pub fn probe(&self) {
        self.shared
            .with(|core| core.session.probe(std::time::Instant::now()));
    }

    /// Bridge: tells the relay what is served from now on.
    pub fn set_serves(&self, serves: Serves) {
        self.shared.with(|core| core.session.set_serves(serves));
    }

    /// Bridge: tells the relay how the bridge is. Returns whether there was room for it.
    pub fn send_report(&self, report: Report) -> bool {
        self.shared.with(|core| core.session.send_report(report))
    }

    /// Relay: whether the bridge has said that it does not reach this endpoint.
    pub fn endpoint_is_down(&self, endpoint: &str) -> bool {
        self.shared.peek(|session| {
            let Some(report) = session.report() else {
                return false;
            };
            let serves = session.serves();
            let at = serves.endpoints.iter().position(|name| name == endpoint);
            at.and_then(|at| report.endpoints.get(at))
                .is_some_and(|found| found.reach == Reach::Down)
        })
    }

    /// How long nothing was heard of the peer.
    pub fn silent_for(&self) -> Duration {
        let now = std::time::Instant::now();
        self.shared.peek(|session| session.silent_for(now))
    }

    /// Relay: how the bridge is, if it has said so.
    pub fn report(&self) -> Option<Arc<Report>> {
        self.shared.peek(|session| session.report())
    }

    /// Bridge: tells what became of an attempt of a delivery. Returns whether there was room for it;
    /// where there was none, it is to be told later.
    pub fn send_result(&self, result: DeliveryResult) -> bool {
        self.shared.with(|core| core.session.send_result(result))
    }

    /// Relay: acknowledges an outcome: it is stored, and that attempt is never sent again. Returns
    /// whether there was room for it; where there was none, the bridge tells again.
    pub fn ack_result(&self, attempt: CallAttempt) -> bool {
        self.shared.with(|core| core.session.ack_result(attempt))
    }

    /// Waits until the session is over, and says why. Cancel safe.
    pub async fn ended(&self) -> EndReason {
        let mut states = self.shared.states();
        match states.wait_for(|state| state.ended.is_some()).await {
            Ok(state) => state.ended.clone().unwrap_or(EndReason::Closed),
            Err(_) => EndReason::Closed,
        }
    }

    /// Waits until the peer says GOAWAY, or the session is over (`None`). Cancel safe.
    pub async fn goaway(&self) -> Option<GoAway> {
        let mut states = self.shared.states();
        let state = states
            .wait_for(|state| state.ended.is_some() || state.goaway.is_some())
            .await
            .ok()?;
        state.goaway
    }

    /// Waits until what the bridge serves has changed since `seen`, or the session is over.
    /// Cancel safe.
    pub async fn serves_changed(&self, seen: &Arc<Serves>) {
        let mut states = self.shared.states();
        let _ = states
            .wait_for(|state| state.ended.is_some() || !Arc::ptr_eq(&self.serves(), seen))
            .await;
    }

    /// Bridge: what the next session of this slot says about this one, once it is over (W-51).
    pub fn previous_session_report(&self) -> protocol::frame::PreviousSession {
        self.shared.previous_session_report()
    }
}

/// The largest body that travels with a head.
pub const INLINE_MAX_BYTES: usize = protocol::limits::DATA_MAX_BYTES;

/// Cuts `body` to what travels with a head, if all of it does.
pub fn inlines(body: &Bytes) -> bool {
    body.len() <= INLINE_MAX_BYTES
}
