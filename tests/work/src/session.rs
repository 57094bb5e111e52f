//! A relay's and a bridge's session back to back: what one sends is given to the other at once.
//! The clock is virtual, and goes on by a millisecond a round.

use crate::{Work, samples};
use bytes::Bytes;
use protocol::frame::{BodyLength, Class, RequestHead, ResponseHead, Serves};
use protocol::limits::DATA_MAX_BYTES;
use protocol::session::{Config, Event, Read, Session, Side};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Exchanges under way at once in a batch.
const BATCH: u32 = 64;

/// Frames of a body of 1 MiB.
const MIB_FRAMES: u32 = 64;

pub(crate) fn works() -> Vec<Work> {
    vec![
        Work {
            name: "session/one exchange",
            unit: "exchange",
            units: 1,
            rounds: 2_000,
            start: || exchanges(1),
        },
        Work {
            name: "session/64 exchanges at once",
            unit: "exchange",
            units: BATCH,
            rounds: 40,
            start: || exchanges(BATCH),
        },
        Work {
            name: "session/1 MiB of an answer",
            unit: "frame",
            units: MIB_FRAMES,
            rounds: 60,
            start: || {
                let mut pair = Pair::new();
                let request = samples::request(Class::Bulk);
                let response = samples::response(BodyLength::Known(1024 * 1024));
                let piece = samples::piece();
                Box::new(move || pair.mib(&request, &response, &piece))
            },
        },
    ]
}

/// Rounds of so many small exchanges, all opened before the first is answered.
fn exchanges(at_once: u32) -> crate::Round {
    let mut pair = Pair::new();
    let request = samples::request(Class::Interactive);
    let response = samples::response(BodyLength::Known(samples::SMALL.len() as u64));
    Box::new(move || pair.small(at_once, &request, &response))
}

struct Pair {
    now: Instant,
    relay: Session,
    bridge: Session,
    /// How many streams the relay opened and has not read to their end.
    open: usize,
    /// Streams that the bridge has taken and not answered.
    taken: Vec<u32>,
    /// Streams of which the relay has something to read.
    readable: Vec<u32>,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let session = |side| Session::new(now, Config::new(side), Serves::default());
        Self {
            now,
            relay: session(Side::Relay),
            bridge: session(Side::Bridge),
            open: 0,
            taken: Vec::new(),
            readable: Vec::new(),
        }
    }

    /// Small exchanges, from their OPEN to the last frame that concerns them.
    fn small(&mut self, at_once: u32, request: &RequestHead, response: &ResponseHead) {
        self.go_on();
        for _ in 0..at_once {
            self.open(request);
        }
        self.settle();
        for id in std::mem::take(&mut self.taken) {
            self.take(id);
            self.bridge
                .send_head(id, response, &samples::SMALL, true)
                .expect("nothing failed");
            self.bridge.release(id);
        }
        self.settle();
        assert_eq!(self.readable.len(), self.open, "an answer each");
        for id in std::mem::take(&mut self.readable) {
            self.read_answer_head(id);
            let read = self.read_to_end(id);
            assert_eq!(read, samples::SMALL.len(), "the whole answer");
        }
        self.settle();
        self.assert_over();
    }

    /// One exchange whose answer has 1 MiB of body, in DATA frames.
    fn mib(&mut self, request: &RequestHead, response: &ResponseHead, piece: &Bytes) {
        self.go_on();
        let opened = self.open(request);
        self.settle();
        let id = self.taken.pop().expect("it was opened");
        self.take(id);
        self.bridge
            .send_head(id, response, b"", false)
            .expect("nothing failed");
        let mut read = 0;
        let mut head_is_read = false;
        for _ in 0..MIB_FRAMES {
            self.bridge
                .send_data(id, piece.clone())
                .expect("nothing failed");
            self.settle();
            for id in std::mem::take(&mut self.readable) {
                if !std::mem::replace(&mut head_is_read, true) {
                    self.read_answer_head(id);
                }
                read += self.read_what_came(id);
            }
        }
        self.bridge.finish(id, None).expect("nothing failed");
        self.bridge.release(id);
        self.settle();
        self.readable.clear();
        read += self.read_to_end(opened);
        assert_eq!(read, 64 * DATA_MAX_BYTES, "the whole answer");
        self.settle();
        self.assert_over();
    }

    /// A millisecond passes.
    fn go_on(&mut self) {
        self.now += Duration::from_millis(1);
        for session in [&mut self.relay, &mut self.bridge] {
            if session.poll_timeout().is_some_and(|at| at <= self.now) {
                session.handle_timeout(self.now).expect("no peer is silent");
            }
        }
    }

    fn open(&mut self, request: &RequestHead) -> u32 {
        let id = self.relay.open(request, &samples::SMALL, true);
        self.open += 1;
        id.expect("there is room")
    }

    /// What the bridge does before it answers: reads the request, and marks it as dispatched.
    fn take(&mut self, id: u32) {
        while let Read::Data(data) = self.bridge.read(self.now, id) {
            black_box(data);
        }
        self.bridge
            .mark_dispatched(self.now, id)
            .expect("it was not cancelled");
    }

    fn read_answer_head(&mut self, id: u32) {
        let head = self.relay.read_head(id).expect("nothing failed");
        black_box(head.expect("the head came first"));
    }

    fn read_what_came(&mut self, id: u32) -> usize {
        let mut bytes = 0;
        while let Read::Data(data) = self.relay.read(self.now, id) {
            bytes += data.len();
        }
        bytes
    }

    /// Reads the rest of a response that has arrived completely, and releases it.
    fn read_to_end(&mut self, id: u32) -> usize {
        let bytes = self.read_what_came(id);
        assert_eq!(self.relay.read(self.now, id), Read::End);
        self.relay.release(id);
        self.open -= 1;
        bytes
    }

    /// Moves frames until there are none.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            while let Some(frame) = self.relay.poll_transmit(self.now) {
                moved = true;
                let taken = self.bridge.handle_frame(self.now, frame);
                taken.expect("the relay keeps to the protocol");
                while let Some(event) = self.bridge.poll_event() {
                    if let Event::Opened { id, head } = event {
                        black_box(head);
                        self.taken.push(id);
                    }
                }
            }
            while let Some(frame) = self.bridge.poll_transmit(self.now) {
                moved = true;
                let taken = self.relay.handle_frame(self.now, frame);
                taken.expect("the bridge keeps to the protocol");
                while let Some(event) = self.relay.poll_event() {
                    // Head, body and end of one frame tell of themselves one by one.
                    if let Event::Readable(id) = event
                        && self.readable.last() != Some(&id)
                    {
                        self.readable.push(id);
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Nothing of a round is left for the next one.
    fn assert_over(&self) {
        assert!(self.open == 0 && self.taken.is_empty() && self.readable.is_empty());
        assert_eq!(self.relay.streams_live() + self.bridge.streams_live(), 0);
    }
}
