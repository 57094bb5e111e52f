//! A relay's and a bridge's session with a link between them, on a virtual clock.

use super::{origin, windows};
use bytes::Bytes;
use protocol::frame::{Frame, RequestHead, Serves, Windows};
use protocol::limits::{SESSION_WINDOW_BYTES, STREAM_WINDOW_INITIAL_BYTES, STREAMS_MAX};
use protocol::session::{Config, EndReason, Event, Read, Session, Side};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The link between the two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Delay of one direction.
    pub(crate) latency: Duration,
    /// Bytes per second of each direction; unlimited if `None`.
    pub(crate) bytes_per_second: Option<u64>,
}

impl Link {
    pub(crate) const INSTANT: Self = Self {
        latency: Duration::ZERO,
        bytes_per_second: None,
    };

    pub(crate) fn new(latency: Duration, bytes_per_second: u64) -> Self {
        Self {
            latency,
            bytes_per_second: Some(bytes_per_second),
        }
    }
}

/// Frames in flight in one direction, in order.
#[derive(Debug)]
struct Way {
    flying: VecDeque<(Instant, Bytes)>,
    free_at: Instant,
    frames: Vec<Frame>,
    bytes: u64,
}

impl Way {
    fn new(now: Instant) -> Self {
        Self {
            flying: VecDeque::new(),
            free_at: now,
            frames: Vec::new(),
            bytes: 0,
        }
    }

    fn fill(&mut self, now: Instant, link: Link, session: &mut Session, keep: bool) -> bool {
        let mut any = false;
        while self.free_at <= now {
            let Some(frame) = session.poll_transmit(now) else {
                break;
            };
            any = true;
            self.bytes += frame.len() as u64;
            if let Some(rate) = link.bytes_per_second {
                let nanos = frame.len() as u64 * 1_000_000_000 / rate;
                self.free_at = now + Duration::from_nanos(nanos);
            }
            if keep {
                let decoded = Frame::decode(frame.clone()).unwrap().unwrap();
                assert_eq!(decoded.encode().unwrap(), frame, "not canonical");
                self.frames.push(decoded);
            }
            self.flying
                .push_back((self.free_at.max(now) + link.latency, frame));
        }
        any
    }

    fn due(&mut self, now: Instant) -> Option<Bytes> {
        self.flying
            .pop_front_if(|(at, _)| *at <= now)
            .map(|(_, frame)| frame)
    }
}

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) relay: Session,
    pub(crate) bridge: Session,
    pub(crate) link: Link,
    /// Events that the test has not taken.
    pub(crate) relay_events: Vec<Event>,
    pub(crate) bridge_events: Vec<Event>,
    /// Whether to record the frames on the wire.
    pub(crate) keep_frames: bool,
    to_bridge: Way,
    to_relay: Way,
}

impl Pair {
    /// Creates both sides with the default windows and no delay.
    pub(crate) fn new() -> Self {
        Self::with(Link::INSTANT, default_windows())
    }

    pub(crate) fn with(link: Link, both: Windows) -> Self {
        let config = |side| super::config(side, both);
        Self::configured(link, config(Side::Relay), config(Side::Bridge))
    }

    /// Creates both sides with tiny windows.
    pub(crate) fn tight(streams_max: u32, stream_kib: u64, session_bytes: u64) -> Self {
        Self::with(
            Link::INSTANT,
            windows(streams_max, stream_kib, session_bytes),
        )
    }

    pub(crate) fn configured(link: Link, relay: Config, bridge: Config) -> Self {
        let now = origin();
        Self {
            now,
            relay: Session::new(now, relay, Serves::default()),
            bridge: Session::new(now, bridge, Serves::default()),
            link,
            relay_events: Vec::new(),
            bridge_events: Vec::new(),
            keep_frames: true,
            to_bridge: Way::new(now),
            to_relay: Way::new(now),
        }
    }

    /// Moves all frames that may move now. Returns whether any did.
    pub(crate) fn settle(&mut self) -> bool {
        let mut any = false;
        loop {
            let (now, link, keep) = (self.now, self.link, self.keep_frames);
            let mut moved = self.to_bridge.fill(now, link, &mut self.relay, keep);
            moved |= self.to_relay.fill(now, link, &mut self.bridge, keep);
            while let Some(frame) = self.to_bridge.due(now) {
                moved = true;
                self.bridge.handle_frame(now, frame).unwrap();
                self.bridge_events
                    .extend(std::iter::from_fn(|| self.bridge.poll_event()));
            }
            while let Some(frame) = self.to_relay.due(now) {
                moved = true;
                self.relay.handle_frame(now, frame).unwrap();
                self.relay_events
                    .extend(std::iter::from_fn(|| self.relay.poll_event()));
            }
            self.relay_events
                .extend(std::iter::from_fn(|| self.relay.poll_event()));
            self.bridge_events
                .extend(std::iter::from_fn(|| self.bridge.poll_event()));
            if !moved {
                return any;
            }
            any = true;
        }
    }

    /// Returns when the next frame arrives, regardless of timers.
    pub(crate) fn next_move(&self) -> Option<Instant> {
        let way = |way: &Way, session: &Session| {
            let arrival = way.flying.front().map(|(at, _)| *at);
            let free = session.has_frames().then_some(way.free_at);
            [arrival, free].into_iter().flatten().min()
        };
        let ways = [
            way(&self.to_bridge, &self.relay),
            way(&self.to_relay, &self.bridge),
        ];
        ways.into_iter().flatten().filter(|at| *at > self.now).min()
    }

    /// Advances the clock until no frame is in flight.
    pub(crate) fn run(&mut self) {
        self.settle();
        while let Some(at) = self.next_move() {
            self.now = at;
            self.settle();
        }
    }

    /// Calls `act` whenever something may have changed, until it returns that it is done.
    ///
    /// Panics when no frame is in flight and `act` is not done: a deadlock.
    pub(crate) fn run_until(&mut self, mut act: impl FnMut(&mut Self) -> bool) {
        loop {
            self.settle();
            if act(self) {
                return;
            }
            let acted = self.relay.has_frames() || self.bridge.has_frames();
            if self.settle() || (acted && self.next_move().is_none()) {
                continue;
            }
            match self.next_move() {
                Some(at) => self.now = at,
                None => panic!("nothing moves, and it is not over"),
            }
        }
    }

    /// Advances the clock by `time`, timers included.
    pub(crate) fn advance(&mut self, time: Duration) -> Result<(), (Side, EndReason)> {
        let until = self.now + time;
        loop {
            self.settle();
            let timers = [self.relay.poll_timeout(), self.bridge.poll_timeout()];
            let next = timers.into_iter().flatten().chain(self.next_move()).min();
            self.now = next.unwrap_or(until).clamp(self.now, until);
            let (relay, bridge) = (&mut self.relay, &mut self.bridge);
            relay
                .handle_timeout(self.now)
                .map_err(|end| (Side::Relay, end))?;
            bridge
                .handle_timeout(self.now)
                .map_err(|end| (Side::Bridge, end))?;
            if self.now == until {
                self.settle();
                return Ok(());
            }
        }
    }

    /// Loses the connection, with all frames in flight.
    pub(crate) fn lose(&mut self) {
        self.to_bridge.flying.clear();
        self.to_relay.flying.clear();
        self.relay.fail(EndReason::Io("connection reset".into()));
        self.bridge.fail(EndReason::Io("connection reset".into()));
        self.settle();
    }

    /// Opens a stream without a body, and delivers it to the bridge.
    pub(crate) fn opened(&mut self, head: &RequestHead) -> u32 {
        let id = self.relay.open(head, b"", true).unwrap();
        self.run();
        id
    }

    /// Returns the frames of the relay since the last call.
    pub(crate) fn sent_by_relay(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.to_bridge.frames)
    }

    pub(crate) fn sent_by_bridge(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.to_relay.frames)
    }

    /// Returns the bytes that the relay has sent, headers included.
    pub(crate) fn bytes_to_bridge(&self) -> u64 {
        self.to_bridge.bytes
    }

    pub(crate) fn take_relay_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.relay_events)
    }

    pub(crate) fn take_bridge_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.bridge_events)
    }

    pub(crate) fn read_relay(&mut self, id: u32) -> Read {
        self.relay.read(self.now, id)
    }

    pub(crate) fn read_bridge(&mut self, id: u32) -> Read {
        self.bridge.read(self.now, id)
    }

    /// Both users release a stream.
    pub(crate) fn release(&mut self, id: u32) {
        self.relay.release(id);
        self.bridge.release(id);
        self.run();
    }

    /// Asserts that both sessions are quiescent.
    pub(crate) fn assert_quiescent(&self) {
        assert!(self.relay.is_quiescent(), "relay: {:#?}", self.relay);
        assert!(self.bridge.is_quiescent(), "bridge: {:#?}", self.bridge);
    }
}

fn default_windows() -> Windows {
    Windows {
        streams_max: STREAMS_MAX,
        stream_bytes: STREAM_WINDOW_INITIAL_BYTES,
        session_bytes: SESSION_WINDOW_BYTES,
    }
}
