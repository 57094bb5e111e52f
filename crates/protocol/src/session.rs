//! Many exchanges in one tunnel, without I/O: streams, credit, order, timers.
//!
//! ```text
//! recv     frames from the peer        commands  what users of streams do (open, send, finish)
//! send     frames to the peer          read      what readers do, and the credit that it returns
//! stream   one exchange and its states closing   how exchanges and the session end
//! schedule which stream sends next     windows   how receive windows grow
//! ```
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
use crate::limits::{HEADER_BYTES, RESULTS_QUEUED_MAX, STREAM_ID_RENEW};
use crate::version::AcceptedVersions;
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
/// 1. *Input*: [`handle_frame`](Self::handle_frame) for each message, and
///    [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) is due. An
///    `Err` ends the session: call [`fail`](Self::fail) with it.
/// 2. *Commands from the users of streams*: [`open`](Self::open), [`send_head`](Self::send_head),
///    [`send_data`](Self::send_data), [`finish`](Self::finish), [`read`](Self::read),
///    [`reset`](Self::reset), [`release`](Self::release) and so on. They never wait.
/// 3. *Output*: [`poll_transmit`](Self::poll_transmit), one frame at a time, until `None`.
///    Call it only when the frames before are in the kernel: what it returned cannot be
///    overtaken any more.
/// 4. *Events*: [`poll_event`](Self::poll_event) until `None`. They name the tasks to wake.
///
/// After any call of the first two kinds, drain the fourth, then the third, then ask
/// [`poll_timeout`](Self::poll_timeout) again.
///
/// Nothing that a peer sends makes a session panic, or buffer more body bytes than its windows allow:
/// `streams_max` times the reserve, plus the session's window, plus what was taken from the
/// [`Budget`]. Heads and trailers that are not read yet come on top: at most
/// [`INFORMATIONAL_MAX`](crate::limits::INFORMATIONAL_MAX) + 2 per stream.
///
/// The relay identifies a stream from [`open`](Self::open) on. Its id on the wire is assigned when OPEN
/// leaves, so that ids rise on the wire although an urgent OPEN may overtake another one (W-20).
#[derive(Debug)]
pub struct Session {
    config: Config,
    streams: StreamMap<Stream>,
    /// Streams that are not closed on the wire.
    live: u32,
    /// Highest id opened (relay) or accepted (bridge).
    last_id: u32,
    /// Relay: the stream of each id on the wire. On the bridge the two ids are the same.
    wired: StreamMap<u32>,
    /// Highest id on the wire in an OPEN, accepted or not.
    wire_last: u32,
    /// The time of the last call that passed one.
    clock: Instant,
    schedule: Schedule,
    /// Streams with control frames pending.
    controls: VecDeque<u32>,
    /// Streams that wait for the session's send window.
    blocked: VecDeque<u32>,
    /// Streams that owe DISPATCHED.
    owed: VecDeque<u32>,
    /// Rejections of streams that were never accepted.
    refusals: VecDeque<(u32, Failure)>,
    /// Frames of the session as a whole, already encoded.
    outbox: VecDeque<Bytes>,
    results_queued: usize,
    pong: Option<u64>,
    /// Bytes charged to the session's windows, as sender and as receiver.
    send_charge: u64,
    recv_charge: u64,
    unsent: Unsent,
    /// A caller's send queue ran empty while others have more, see [`Self::take_underrun`].
    is_underrun: bool,
    events: VecDeque<Event>,
    /// The window that the last long transfer on this path needed, in bytes.
    window_needed: u64,
    /// Relay: the stream that was granted that window from its beginning.
    advanced: Option<u32>,
    /// Receive windows by caller, and when they were summed up.
    usage: CallerUsage,
    usage_at: Option<Instant>,
    timers: Timers,
    serves: Arc<Serves>,
    report: Option<Arc<Report>>,
    versions: Option<Arc<AcceptedVersions>>,
    local_goaway: Option<GoAway>,
    peer_goaway: Option<GoAway>,
    drained_emitted: bool,
    ended: Option<EndReason>,
}

/// A map by stream id.
pub type StreamMap<V> = HashMap<u32, V, BuildHasherDefault<IdHasher>>;

/// A hasher for stream ids. The relay chooses them one after the other, so multiplying spreads them
/// well; a relay that chose colliding ids would slow down its own tunnel only.
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
    /// Creates a session that begins now, with what the opening agreed on.
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
            is_underrun: false,
            events: VecDeque::new(),
            window_needed: 0,
            advanced: None,
            usage: CallerUsage::default(),
            usage_at: None,
            timers,
            serves: Arc::new(serves),
            report: None,
            versions: None,
            local_goaway: None,
            peer_goaway: None,
            drained_emitted: false,
            ended: None,
        }
    }

    // ---- the session as a whole ----------------------------------------------------------

    /// Returns the number of streams that are not closed on the wire.
    pub fn streams_live(&self) -> u32 {
        self.live
    }

    /// Returns the smallest round trip measured so far.
    pub fn rtt(&self) -> Duration {
        self.timers.rtt()
    }

    /// Returns what the bridge serves, as last announced.
    pub fn serves(&self) -> Arc<Serves> {
        self.serves.clone()
    }

    /// Returns for how long nothing has come from the peer.
    pub fn silent_for(&self, now: Instant) -> Duration {
        self.timers.silent_for(now)
    }

    /// Relay: returns the bridge's last REPORT, if it is about what the bridge serves now.
    pub fn report(&self) -> Option<Arc<Report>> {
        self.report.clone()
    }

    /// Bridge: returns the versions that the relay named last on this session (W-70).
    pub fn versions(&self) -> Option<Arc<AcceptedVersions>> {
        self.versions.clone()
    }

    /// Returns why the session ended, once it has.
    pub fn ended(&self) -> Option<&EndReason> {
        self.ended.as_ref()
    }

    /// Whether new streams may be opened, at once or as soon as others end.
    pub fn accepts_streams(&self) -> bool {
        self.ended.is_none()
            && self.local_goaway.is_none()
            && self.peer_goaway.is_none()
            // Ids are never reused (W-20). The relay stops long before they are exhausted, so that the next
            // session exists in time.
            && self.last_id < STREAM_ID_RENEW
    }

    /// Returns the highest stream id that was opened (relay) or accepted (bridge).
    pub fn last_stream(&self) -> u32 {
        self.last_id
    }

    /// Relay: returns the id of a stream on the wire, once its OPEN has left. The bridge uses this id in
    /// GOAWAY and in [`PreviousSession`](frame::PreviousSession).
    pub fn wire_id(&self, id: u32) -> Option<u32> {
        let stream = self.streams.get(&id)?;
        // Zero until OPEN leaves: the bridge does not know such a stream under any id.
        (stream.wire != 0).then_some(stream.wire)
    }

    /// Whether no stream is stored, nothing is charged, and nothing waits to leave. For tests.
    #[doc(hidden)]
    pub fn is_quiescent(&self) -> bool {
        let charged = self.live != 0
            || self.send_charge != 0
            || self.recv_charge != 0
            || !self.unsent.is_empty();
        let kept = !self.streams.is_empty() || !self.wired.is_empty() || !self.blocked.is_empty();
        !charged && !kept && !self.has_frames()
    }

    /// Bridge: returns the streams that were never dispatched and will not be, for the next HELLO (W-51).
    pub fn undispatched(&self) -> Vec<u32> {
        let abandoned =
            |(id, stream): (&u32, &Stream)| (!stream.dispatch.is_dispatched()).then_some(*id);
        self.streams.iter().filter_map(abandoned).collect()
    }

    /// Bridge: announces to the relay what is served from now on.
    pub fn set_serves(&mut self, serves: Serves) {
        let mut status = Frame::Status(serves.clone());
        // Host patterns that do not fit a frame are left out, then the endpoints: the relay asks the bridge
        // for each request then, which is slower and still correct.
        let max = HEADER_BYTES + self.config.head_max_bytes();
        let fits = |status: &Frame| status.encode().is_ok_and(|frame| frame.len() <= max);
        if !fits(&status) {
            status = Frame::Status(Serves {
                hosts: None,
                ..serves
            });
        }
        if !fits(&status) {
            status = Frame::Status(Serves::default());
        }
        self.push_frame(&status);
        if let Frame::Status(announced) = status {
            self.serves = Arc::new(announced);
        }
    }

    /// Bridge: reports the bridge's health to the relay (W-63). Returns whether the report was queued.
    pub fn send_report(&mut self, report: Report) -> bool {
        // No decision depends on a report, so it must not add to a queue that is long already.
        if self.ended.is_some() || self.outbox.len() >= RESULTS_QUEUED_MAX {
            return false;
        }
        self.push_frame(&Frame::Report(Box::new(report.truncated())));
        true
    }

    /// Relay: names the versions of bridges that its operator wants (W-70). Returns whether they were queued.
    pub fn send_versions(&mut self, versions: AcceptedVersions) -> bool {
        // As for a report.
        if self.ended.is_some() || self.outbox.len() >= RESULTS_QUEUED_MAX {
            return false;
        }
        self.push_frame(&Frame::Versions(Box::new(versions)));
        true
    }

    /// Sends GOAWAY. Running exchanges may finish; [`Event::Drained`] follows when none is left (on the
    /// relay: and the bridge has sent GOAWAY as well).
    pub fn drain(&mut self, reason: GoAwayReason, retry_after: Duration) {
        // Only the first GOAWAY of a side counts (W-50).
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

    /// Checks that the peer is alive, after a jump of the clock or a change of the network.
    pub fn probe(&mut self, now: Instant) {
        self.timers.probe(now);
        let token = self.timers.ping(now);
        self.push_frame(&Frame::Ping(token));
    }

    /// Bridge: sends the outcome of a delivery. Returns whether it was queued.
    pub fn send_result(&mut self, result: frame::DeliveryResult) -> bool {
        self.push_result(&Frame::Result(result))
    }

    /// Relay: acknowledges an outcome. Returns whether the acknowledgement was queued.
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

    /// Returns when [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ended.is_none().then(|| self.timers.next())
    }

    /// Runs the timers that are due.
    ///
    /// # Errors
    /// [`EndReason::Dead`] when the peer was silent for too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), EndReason> {
        self.clock = now;
        loop {
            // Several timers may be due at once, after a jump of the clock or a busy executor.
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

    /// Returns memory that was used by more streams than there are now.
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

    /// Returns the next event, until `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The budget belongs to the process. A session that is dropped without `fail` must return its
        // growth as well.
        for (id, stream) in std::mem::take(&mut self.streams) {
            self.return_growth(id, &stream);
        }
    }
}

fn unknown_stream() -> Failure {
    Failure::new(
        Code::TunnelLost,
        Execution::PossiblyExecuted,
        "the exchange has ended",
    )
}
