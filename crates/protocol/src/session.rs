//! Many exchanges in one tunnel, without IO: streams, credit, order, timers.
//!
//! See [`Session`] for the contract with its owner.

mod budget;
mod closing;
mod commands;
mod config;
mod event;
mod read;
mod recv;
mod schedule;
mod scheduler;
mod send;
mod stream;
mod timers;
mod unsent;
mod windows;

pub use budget::Budget;
pub use config::{Config, EndReason, Side};
pub use event::{Event, OpenError, Read, SendCapacity};

use crate::code::{Code, Execution, Failure};
use crate::frame::{self, Frame, GoAway, GoAwayReason, Report, Serves};
use crate::limits::{RESULTS_QUEUED_MAX, STREAM_ID_RENEW};
use bytes::Bytes;
use schedule::Schedule;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::Stream;
use timers::{Due, Timers};
use unsent::Unsent;
use windows::CallerUsage;

/// The state of one tunnel after its opening.
///
/// The owner has a socket and a clock; the session has neither. There are four kinds of methods:
///
/// 1. *What came in*: [`handle_frame`](Self::handle_frame) for each message, and
///    [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) is due. An
///    `Err` is the session's end: call [`fail`](Self::fail) with it.
/// 2. *What the users of streams want*: [`open`](Self::open), [`send_head`](Self::send_head),
///    [`send_data`](Self::send_data), [`finish`](Self::finish), [`read`](Self::read),
///    [`reset`](Self::reset), [`release`](Self::release) and so on. They never wait.
/// 3. *What goes out*: [`poll_transmit`](Self::poll_transmit), one frame at a time, until `None`.
///    Call it only when the frames before are in the kernel: what it returned cannot be
///    overtaken any more.
/// 4. *Whom to wake*: [`poll_event`](Self::poll_event) until `None`.
///
/// After any call of the first two kinds, drain the fourth, then the third, then ask
/// [`poll_timeout`](Self::poll_timeout) again.
///
/// Nothing that a peer sends makes a session panic or hold more bodies than its windows allow:
/// `streams_max` times the reserve, plus the session's window, plus what was borrowed from the
/// [`Budget`]. Heads and trailers that nobody reads come on top: at most
/// [`INFORMATIONAL_MAX`](crate::limits::INFORMATIONAL_MAX) + 2 a stream.
///
/// The relay names a stream from [`open`](Self::open) on; its id on the wire is settled when OPEN
/// leaves, so that ids rise on the wire although an urgent OPEN may pass a patient one (W-20).
#[derive(Debug)]
pub struct Session {
    config: Config,
    streams: StreamMap<Stream>,
    /// Streams that are not over on the wire.
    live: u32,
    /// Highest id opened (relay) or taken (bridge).
    last_id: u32,
    /// Relay: the stream behind an id on the wire. On the bridge they are the same.
    wired: StreamMap<u32>,
    /// Highest id on the wire in an OPEN, taken or not.
    wire_last: u32,
    /// The time of the last call that told it.
    clock: Instant,
    schedule: Schedule,
    /// Streams with control frames pending.
    controls: VecDeque<u32>,
    /// Streams that wait for the session's send window.
    blocked: VecDeque<u32>,
    /// Streams that owe DISPATCHED.
    owed: VecDeque<u32>,
    /// Refusals of streams that were never taken.
    refusals: VecDeque<(u32, Failure)>,
    /// Whole-session frames, already encoded.
    outbox: VecDeque<Bytes>,
    results_queued: usize,
    pong: Option<u64>,
    /// Bytes charged to the session, as sender and as receiver.
    send_charge: u64,
    recv_charge: u64,
    unsent: Unsent,
    underrun: bool,
    events: VecDeque<Event>,
    /// What the last long transfer on this path needed as a window.
    window_needed: u64,
    /// Relay: the stream that was granted that from its beginning.
    advanced: Option<u32>,
    /// What callers have outstanding, and when that was added up.
    usage: CallerUsage,
    usage_at: Option<Instant>,
    timers: Timers,
    serves: Arc<Serves>,
    report: Option<Arc<Report>>,
    local_goaway: Option<GoAway>,
    peer_goaway: Option<GoAway>,
    drained_emitted: bool,
    ended: Option<EndReason>,
}

/// A map by stream id.
pub type StreamMap<V> = HashMap<u32, V, BuildHasherDefault<IdHasher>>;

/// Ids are chosen by the relay; multiplying spreads whatever it chooses.
#[derive(Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

impl Session {
    /// A session that begins now, with what the opening settled.
    pub fn new(now: Instant, config: Config, serves: Serves) -> Self {
        let timers = Timers::new(now, config.heartbeat, config.dead_after, config.rtt);
        Self {
            config,
            streams: HashMap::default(),
            live: 0,
            last_id: 0,
            wired: HashMap::default(),
            wire_last: 0,
            clock: now,
            schedule: Schedule::default(),
            controls: VecDeque::new(),
            blocked: VecDeque::new(),
            owed: VecDeque::new(),
            refusals: VecDeque::new(),
            outbox: VecDeque::new(),
            results_queued: 0,
            pong: None,
            send_charge: 0,
            recv_charge: 0,
            unsent: Unsent::default(),
            underrun: false,
            events: VecDeque::new(),
            window_needed: 0,
            advanced: None,
            usage: CallerUsage::default(),
            usage_at: None,
            timers,
            serves: Arc::new(serves),
            report: None,
            local_goaway: None,
            peer_goaway: None,
            drained_emitted: false,
            ended: None,
        }
    }

    // ---- the session as a whole ----------------------------------------------------------

    /// Streams that are not over on the wire.
    pub fn streams_live(&self) -> u32 {
        self.live
    }

    /// The smallest round trip measured so far.
    pub fn rtt(&self) -> Duration {
        self.timers.rtt()
    }

    /// What the bridge serves, as it said last.
    pub fn serves(&self) -> Arc<Serves> {
        self.serves.clone()
    }

    /// How long nothing was heard of the peer: what comes over the session is an echo of what it carries.
    pub fn silent_for(&self, now: Instant) -> Duration {
        self.timers.silent_for(now)
    }

    /// Relay: how the bridge is, if it has said so of what it serves now.
    pub fn report(&self) -> Option<Arc<Report>> {
        self.report.clone()
    }

    /// Why the session is over, once it is.
    pub fn ended(&self) -> Option<&EndReason> {
        self.ended.as_ref()
    }

    /// Whether new streams may be opened, now or when others end.
    pub fn accepts_streams(&self) -> bool {
        self.ended.is_none()
            && self.local_goaway.is_none()
            && self.peer_goaway.is_none()
            && self.last_id < STREAM_ID_RENEW
    }

    /// Highest stream id that was opened (relay) or taken (bridge).
    pub fn last_stream(&self) -> u32 {
        self.last_id
    }

    /// Relay: the id that a stream has on the wire, once its OPEN has left; what the bridge calls
    /// it in GOAWAY and in [`PreviousSession`](frame::PreviousSession).
    pub fn wire_id(&self, id: u32) -> Option<u32> {
        let stream = self.streams.get(&id)?;
        (stream.wire != 0).then_some(stream.wire)
    }

    /// Whether no stream is kept, nothing is charged, and nothing waits to leave: all that was
    /// begun is over. For tests.
    #[doc(hidden)]
    pub fn is_quiescent(&self) -> bool {
        let charged = self.live != 0
            || self.send_charge != 0
            || self.recv_charge != 0
            || !self.unsent.is_empty();
        let kept = !self.streams.is_empty() || !self.wired.is_empty() || !self.blocked.is_empty();
        !charged && !kept && !self.has_frames()
    }

    /// Bridge: the streams that were never dispatched and will not be, for the next HELLO (W-51).
    pub fn undispatched(&self) -> Vec<u32> {
        let abandoned = |(id, stream): (&u32, &Stream)| (!stream.dispatched).then_some(*id);
        self.streams.iter().filter_map(abandoned).collect()
    }

    /// Bridge: tells the relay what is served from now on. Host patterns that do not fit a frame
    /// are kept to itself, and so are endpoints.
    pub fn set_serves(&mut self, serves: Serves) {
        let mut status = Frame::Status(serves.clone());
        if status.encode().is_err() {
            status = Frame::Status(Serves {
                hosts: None,
                ..serves
            });
        }
        if status.encode().is_err() {
            status = Frame::Status(Serves::default());
        }
        self.push_frame(&status);
        if let Frame::Status(told) = status {
            self.serves = Arc::new(told);
        }
    }

    /// Bridge: tells the relay how the bridge is (W-63). Returns whether it left: not beside many
    /// frames that wait already.
    pub fn send_report(&mut self, report: Report) -> bool {
        if self.ended.is_some() || self.outbox.len() >= RESULTS_QUEUED_MAX {
            return false;
        }
        self.push_frame(&Frame::Report(Box::new(report.cut())));
        true
    }

    /// Says GOAWAY. What runs may finish; [`Event::Drained`] follows when nothing runs (on the
    /// relay: and the bridge has said GOAWAY too).
    pub fn drain(&mut self, reason: GoAwayReason, retry_after: Duration) {
        if self.local_goaway.is_some() || self.ended.is_some() {
            return;
        }
        let goaway = GoAway {
            last_stream: (self.config.side == Side::Bridge).then_some(self.last_id),
            reason,
            retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX),
        };
        self.local_goaway = Some(goaway);
        self.push_frame(&Frame::GoAway(goaway));
        self.emit_drained();
    }

    /// The clock jumped, or the network changed: the peer must show life soon.
    pub fn probe(&mut self, now: Instant) {
        self.timers.probe(now);
        let token = self.timers.ping(now);
        self.push_frame(&Frame::Ping(token));
    }

    /// Bridge: sends a delivery's outcome. Returns whether there was room for it.
    pub fn send_result(&mut self, result: frame::DeliveryResult) -> bool {
        self.push_result(&Frame::Result(result))
    }

    /// Relay: acknowledges an outcome. Returns whether there was room for it.
    pub fn ack_result(&mut self, attempt: frame::CallAttempt) -> bool {
        self.push_result(&Frame::ResultAck(attempt))
    }

    fn push_result(&mut self, frame: &Frame) -> bool {
        if self.ended.is_some() || self.results_queued >= RESULTS_QUEUED_MAX {
            return false;
        }
        self.results_queued += 1;
        self.push_frame(frame);
        true
    }

    fn push_frame(&mut self, frame: &Frame) {
        if self.ended.is_some() {
            return;
        }
        let encoded = frame.encode();
        self.outbox
            .push_back(encoded.expect("own control frames are within their limits"));
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ended.is_none().then(|| self.timers.next())
    }

    /// Does what is due.
    ///
    /// # Errors
    /// [`EndReason::Dead`] when the peer was silent for too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), EndReason> {
        self.clock = now;
        loop {
            match self.timers.due(now) {
                Due::Dead(silence) => return Err(EndReason::Dead(silence)),
                Due::Ping => {
                    let token = self.timers.ping(now);
                    self.push_frame(&Frame::Ping(token));
                }
                Due::Dispatched => self.send_owed(),
                Due::Nothing => return Ok(()),
            }
        }
    }

    /// Gives back the room that more streams have used than there are now.
    pub fn trim(&mut self) {
        self.streams.shrink_to_fit();
        self.wired.shrink_to_fit();
        self.schedule.trim();
        for queue in [&mut self.controls, &mut self.blocked, &mut self.owed] {
            queue.shrink_to_fit();
        }
        self.refusals.shrink_to_fit();
        self.outbox.shrink_to_fit();
        self.events.shrink_to_fit();
    }

    /// Whether [`Self::poll_event`] has something.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What the owner should pass on, until `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for (id, stream) in std::mem::take(&mut self.streams) {
            self.give_growth(id, &stream);
        }
    }
}

fn unknown_stream() -> Failure {
    Failure::new(
        Code::TunnelLost,
        Execution::PossiblyExecuted,
        "the exchange is over",
    )
}
