//! Many exchanges in one tunnel, without IO: streams, credit, order, timers.
//!
//! See [`Session`] for the contract with its owner.

mod config;
mod event;
mod recv;
mod schedule;
mod send;
mod stream;
mod timers;

pub use config::{Budget, Config, EndReason, Side};
pub use event::{Event, OpenError, Read, Room};

use crate::code::{Code, Execution, Failure};
use crate::frame::{self, Frame, GoAway, GoAwayReason, Headers, RequestHead, ResponseHead, Serves};
use crate::limits::{INFORMATIONAL_MAX, RESULTS_QUEUED_MAX, STREAM_ID_RENEW};
use bytes::Bytes;
use schedule::Schedule;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::{Outgoing, Pending, Stream};
use timers::{Due, Timers};

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
/// [`INFORMATIONAL_MAX`] + 2 a stream.
///
/// The relay names a stream from [`open`](Self::open) on; its id on the wire is settled when OPEN
/// leaves, so that ids rise on the wire although an urgent OPEN may pass a patient one (W-20).
#[derive(Debug)]
pub struct Session {
    config: Config,
    streams: HashMap<u32, Stream, BuildHasherDefault<IdHasher>>,
    /// Streams that are not over on the wire.
    live: u32,
    /// Highest id opened (relay) or taken (bridge).
    last_id: u32,
    /// Relay: the stream behind an id on the wire. On the bridge they are the same.
    wired: HashMap<u32, u32, BuildHasherDefault<IdHasher>>,
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
    send_queued: usize,
    events: VecDeque<Event>,
    timers: Timers,
    serves: Arc<Serves>,
    local_goaway: Option<GoAway>,
    peer_goaway: Option<GoAway>,
    drained_told: bool,
    ended: Option<EndReason>,
}

/// Ids are chosen by the relay; multiplying spreads whatever it chooses.
#[derive(Default)]
struct IdHasher(u64);

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
            send_queued: 0,
            events: VecDeque::new(),
            timers,
            serves: Arc::new(serves),
            local_goaway: None,
            peer_goaway: None,
            drained_told: false,
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

    /// Why the session is over, once it is.
    pub fn ended(&self) -> Option<&EndReason> {
        self.ended.as_ref()
    }

    /// Whether new streams may be opened, now or when others end.
    pub fn takes_streams(&self) -> bool {
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
            || self.send_queued != 0;
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
            let endpoints = serves.endpoints;
            let hosts = None;
            status = Frame::Status(Serves { endpoints, hosts });
        }
        if status.encode().is_err() {
            status = Frame::Status(Serves::default());
        }
        self.push_frame(&status);
        if let Frame::Status(told) = status {
            self.serves = Arc::new(told);
        }
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
        self.tell_if_drained();
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

    /// Whether [`Self::poll_event`] has something.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What the owner should pass on, until `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Ends the session. Every stream fails exactly once, with how far it came. An answer that
    /// had come whole can still be read; whoever writes its request learns that nobody reads on.
    pub fn fail(&mut self, reason: EndReason) {
        if self.ended.is_some() {
            return;
        }
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            if stream.failure.is_none() || stream.awaits_word {
                let execution = self.execution_of(stream);
                let whole = stream.recv.ended && !stream.awaits_word && stream.recv.final_head;
                if whole && self.config.side == Side::Relay {
                    self.stop_sending(id);
                } else {
                    let detail = format!("the tunnel was lost: {reason}");
                    self.close_stream(id, Failure::new(Code::TunnelLost, execution, detail));
                }
            }
        }
        self.ended = Some(reason);
        self.forget_the_wire();
    }

    /// Nothing leaves any more, and nobody counts what came.
    fn forget_the_wire(&mut self) {
        self.schedule = Schedule::default();
        self.controls.clear();
        self.blocked.clear();
        self.owed.clear();
        self.refusals.clear();
        self.outbox.clear();
        self.results_queued = 0;
        self.pong = None;
        self.send_charge = 0;
        self.recv_charge = 0;
        for stream in self.streams.values_mut() {
            stream.pending = Pending::default();
            stream.send.scheduled = false;
            stream.send.blocked = false;
            stream.send.window.outstanding = 0;
            stream.recv.window.outstanding = 0;
        }
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            self.forget_if_done(id);
        }
    }

    /// The peer takes no more of what this side sends; the exchange goes on.
    fn stop_sending(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.stopped = true;
            stream.send.ended = true;
            self.drop_unsent(id);
            self.events.push_back(Event::Writable(id));
        }
    }

    /// How far a stream came, as far as this side knows.
    fn execution_of(&self, stream: &Stream) -> Execution {
        match self.config.side {
            Side::Relay if stream.recv.final_head => Execution::Executed,
            Side::Relay if !stream.send.head_left => Execution::NotSent,
            Side::Relay => Execution::PossiblyExecuted,
            Side::Bridge if stream.send.head_left => Execution::Executed,
            Side::Bridge if stream.dispatched => Execution::PossiblyExecuted,
            Side::Bridge => Execution::NotDispatched,
        }
    }

    // ---- what users of streams want ------------------------------------------------------

    /// Relay: opens a stream. A `body` (at most 16 KiB) travels inside OPEN; `end` says that it
    /// is the whole.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was sent.
    pub fn open(&mut self, head: &RequestHead, body: &[u8], end: bool) -> Result<u32, OpenError> {
        if self.ended.is_some() {
            return Err(OpenError::Ended);
        }
        if !self.takes_streams() {
            return Err(OpenError::Draining);
        }
        if self.live >= self.config.peer.streams_max {
            return Err(OpenError::Full);
        }
        let id = self.last_id + 1;
        let frame = frame::encode_open(0, head, body, end)?;
        self.last_id = id;
        let mut stream = Stream::new(
            head.class,
            self.config.peer.stream_bytes,
            self.config.local.stream_bytes,
            frame::BodyLength::Unknown,
        );
        stream.send.finished = end;
        stream.send.queued = body.len();
        self.send_queued += body.len();
        stream.send.queue.push_back(Outgoing::Head {
            frame,
            body: body.len() as u64,
            end,
            last: true,
        });
        self.streams.insert(id, stream);
        self.live += 1;
        self.line_up(id);
        Ok(id)
    }

    /// Bridge: sends a head of the answer. Only the last one has a `body` (at most 16 KiB) or an
    /// `end`. Heads with an informational status above
    /// [`INFORMATIONAL_MAX`] are left out: they are only hints,
    /// and the relay would take them for a flood.
    ///
    /// # Errors
    /// The stream's failure if it has failed; `HeadersTooLarge` when the head does not fit.
    pub fn send_head(
        &mut self,
        id: u32,
        head: &ResponseHead,
        body: &[u8],
        end: bool,
    ) -> Result<(), Failure> {
        let informational = head.is_informational();
        debug_assert!(
            !informational || (body.is_empty() && !end),
            "a body before the head"
        );
        let stream = self.sending(id)?;
        let frame = frame::encode_head(id, head, body, end).map_err(|error| {
            let detail = format!("the answer's head does not fit a frame: {error}");
            Failure::new(Code::TargetProtocol, Execution::Executed, detail)
        })?;
        stream.dispatched = true;
        if stream.send.ended {
            return Ok(());
        }
        if informational {
            if stream.send.informational >= INFORMATIONAL_MAX {
                return Ok(());
            }
            stream.send.informational += 1;
        }
        stream.dispatched_owed = false;
        stream.send.finished |= end;
        stream.send.queued += body.len();
        stream.send.queue.push_back(Outgoing::Head {
            frame,
            body: body.len() as u64,
            end,
            last: !informational,
        });
        self.send_queued += body.len();
        self.line_up(id);
        Ok(())
    }

    /// Bridge: the first byte is about to leave for the target. From here on the exchange is
    /// `possibly_executed`. Returns whether [`Self::poll_timeout`] came nearer.
    ///
    /// # Errors
    /// The stream's failure: it was taken back, and nothing may leave.
    pub fn mark_dispatched(&mut self, now: Instant, id: u32) -> Result<bool, Failure> {
        let stream = self.streams.get_mut(&id).ok_or_else(unknown_stream)?;
        if let Some(failure) = &stream.failure {
            return Err(failure.clone());
        }
        if !stream.dispatched {
            stream.dispatched = true;
            stream.dispatched_owed = true;
            self.owed.push_back(id);
            return Ok(self.timers.owe_dispatched(now));
        }
        Ok(false)
    }

    /// Whether there is room for more bytes. After `Full`, [`Event::Writable`] follows.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn room(&mut self, id: u32) -> Result<Room, Failure> {
        let session_full = self.send_queued >= crate::limits::SEND_QUEUE_SESSION_BYTES;
        let stream = self.sending(id)?;
        if stream.send.stopped {
            return Ok(Room::Stopped);
        }
        if stream.send.is_full() || (session_full && stream.send.queued > 0) {
            stream.send.writer_waits = true;
            return Ok(Room::Full);
        }
        Ok(Room::Free)
    }

    /// Queues bytes of the body. Ask [`Self::room`] first: this takes them in any case.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn send_data(&mut self, id: u32, data: Bytes) -> Result<(), Failure> {
        let stream = self.sending(id)?;
        debug_assert!(!stream.send.finished, "data after the end");
        if data.is_empty() || stream.send.ended || stream.send.finished {
            return Ok(());
        }
        let bytes = data.len();
        stream.send.queued += bytes;
        stream.send.queue.push_back(Outgoing::Data(data));
        self.send_queued += bytes;
        self.line_up(id);
        Ok(())
    }

    /// Ends the sending direction, with trailers if there are any.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn finish(&mut self, id: u32, trailers: Option<Headers>) -> Result<(), Failure> {
        let stream = self.sending(id)?;
        if stream.send.finished || stream.send.ended {
            return Ok(());
        }
        stream.send.finished = true;
        let trailers = trailers.filter(|fields| !fields.is_empty());
        stream.send.queue.push_back(Outgoing::End(trailers));
        self.line_up(id);
        Ok(())
    }

    fn sending(&mut self, id: u32) -> Result<&mut Stream, Failure> {
        let stream = self.streams.get_mut(&id).ok_or_else(unknown_stream)?;
        match &stream.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(stream),
        }
    }

    /// The failure of a stream, once it has failed for good: after a cancel, once the bridge's
    /// word has come.
    pub fn failure(&self, id: u32) -> Option<Failure> {
        match self.streams.get(&id) {
            None => Some(unknown_stream()),
            Some(stream) if stream.awaits_word => None,
            Some(stream) => stream.failure.clone(),
        }
    }

    /// Ends an exchange in both directions.
    ///
    /// On the relay this takes the request back; [`Event::Failed`] follows when it is settled how
    /// far it came: at once when OPEN had not left, else with the bridge's word (W-42). On the
    /// bridge it is the answer.
    pub fn reset(&mut self, id: u32, failure: Failure) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if stream.failure.is_some() || stream.is_closed() {
            return;
        }
        let left = stream.send.head_left;
        // A bridge that has sent its whole answer may have forgotten the stream.
        let word_needed = self.config.side == Side::Relay && left && !stream.recv.ended;
        if self.config.side == Side::Relay && !left {
            let failure = Failure {
                execution: Execution::NotSent,
                ..failure
            };
            self.close_stream(id, failure);
            self.end_on_wire(id);
            return;
        }
        self.close_stream(id, failure.clone());
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.awaits_word = word_needed;
            stream.pending.reset = Some(failure);
        }
        self.list_control(id);
        self.end_on_wire(id);
    }

    /// The user of a stream lets go of it. An exchange that is not over is reset.
    pub fn release(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if self.is_answered(stream) {
            self.stop(id);
        } else if stream.failure.is_none() && !stream.is_closed() {
            let failure = match self.config.side {
                Side::Relay => Failure::possibly_executed(Code::Cancelled, "the caller went away"),
                Side::Bridge => Failure::new(
                    Code::Internal,
                    self.execution_of(stream),
                    "the answer was left unfinished",
                ),
            };
            self.reset(id, failure);
        }
        self.take_all(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.released = true;
        }
        self.forget_if_done(id);
    }

    /// Bridge: the whole answer is queued, so that letting go is no failure. What is still to
    /// come of the request is of no interest.
    fn is_answered(&self, stream: &Stream) -> bool {
        self.config.side == Side::Bridge && stream.failure.is_none() && stream.send.finished
    }

    // ---- a stream's end ------------------------------------------------------------------

    /// The exchange is over in both directions, with a failure.
    fn close_stream(&mut self, id: u32, failure: Failure) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.failure = Some(failure);
        stream.awaits_word = false;
        stream.send.finished = true;
        self.drop_unsent(id);
        self.drop_unread(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.ended = true;
            stream.recv.ended = true;
            stream.dispatched_owed = false;
        }
        self.events.push_back(Event::Failed(id));
    }

    /// Counts a stream out once it is over on the wire, and forgets it once nobody needs it.
    fn end_on_wire(&mut self, id: u32) {
        self.forget_if_done(id);
        self.tell_if_drained();
    }

    fn forget_if_done(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.is_over() || !stream.is_closed() {
            return;
        }
        if stream.live {
            stream.live = false;
            self.live -= 1;
        }
        if stream.released && !stream.pending.listed && !stream.send.scheduled {
            if let Some(stream) = self.streams.remove(&id) {
                self.wired.remove(&stream.wire);
                self.give_growth(&stream);
            }
            self.tell_if_drained();
        }
    }

    fn give_growth(&self, stream: &Stream) {
        let grown = stream.recv.window.size - stream.recv.window.initial;
        if grown > 0 {
            self.config.budget.give(grown);
        }
    }

    fn tell_if_drained(&mut self) {
        // The bridge closes; the relay, once it has asked, waits for the bridge to have made its
        // next session.
        let leaving = match self.config.side {
            Side::Bridge => self.local_goaway.is_some(),
            Side::Relay => self.local_goaway.is_some() && self.peer_goaway.is_some(),
        };
        if leaving && self.live == 0 && !self.drained_told && self.ended.is_none() {
            self.drained_told = true;
            self.events.push_back(Event::Drained);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for stream in self.streams.values() {
            self.give_growth(stream);
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
