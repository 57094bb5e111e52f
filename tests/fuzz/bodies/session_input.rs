//! The body of the target `session_input`. The ordinary tests replay its corpus with it.

use bytes::Bytes;
use protocol::code::{Code, Failure};
use protocol::frame::{
    BodyLength, Class, Frame, Headers, RequestHead, RequestTarget, ResponseHead, Serves, TimeLeft,
    Windows,
};
use protocol::session::{Budget, Config, EndReason, Event, Session, Side};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Drives a session by its input, one byte at a time:
///
/// ```text
/// setup     u8: bit 0 the side, bits 1 to 3 the windows
/// step      op u8
///   op < 128       a frame from the peer: its length u8 (and the low 7 bits of op above it), bytes
///   op >= 128      a user's command: op selects it, the next byte the stream
/// ```
///
/// For any input nothing panics, the session sends valid frames, and it is quiescent at the end.
pub(crate) fn session_input(start: Instant, data: &[u8]) {
    let mut input = Input { data };
    let setup = input.byte();
    let mut run = Run {
        session: Session::new(start, config(setup), Serves::default()),
        side: side(setup),
        now: start,
        opened: Vec::new(),
        finished: HashSet::new(),
        headed: HashSet::new(),
    };
    while !input.data.is_empty() {
        let op = input.byte();
        let done = if op < 128 {
            let length = usize::from(op) << 8 | usize::from(input.byte());
            let frame = Bytes::copy_from_slice(input.take(length));
            run.session.handle_frame(run.now, frame)
        } else {
            run.act(op, u32::from(input.byte()))
        };
        if let Err(reason) = done {
            run.session.fail(reason);
        }
        run.drain();
    }
    run.finish();
}

struct Input<'a> {
    data: &'a [u8],
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.data.split_at(length.min(self.data.len()));
        self.data = rest;
        taken
    }
}

fn side(setup: u8) -> Side {
    if setup & 1 == 0 {
        Side::Bridge
    } else {
        Side::Relay
    }
}

fn config(setup: u8) -> Config {
    let windows = Windows {
        streams_max: if setup & 2 == 0 { 4 } else { 100 },
        stream_bytes: if setup & 4 == 0 { 16 << 10 } else { 256 << 10 },
        session_bytes: if setup & 8 == 0 { 0 } else { 64 << 10 },
    };
    Config {
        local: windows,
        peer: windows,
        budget: Budget::new(1 << 20),
        ..Config::new(side(setup))
    }
}

struct Run {
    session: Session,
    side: Side,
    now: Instant,
    opened: Vec<u32>,
    /// Streams whose user has ended the sending direction: nothing more may be sent on them.
    finished: HashSet<u32>,
    headed: HashSet<u32>,
}

impl Run {
    /// Runs one command of a user of the session or of a stream.
    fn act(&mut self, op: u8, id: u32) -> Result<(), EndReason> {
        let session = &mut self.session;
        let (side, now) = (self.side, self.now);
        match op % 16 {
            0 if side == Side::Relay => {
                let body = vec![0; (id as usize) << 6];
                let end = id & 1 == 1;
                if let Ok(id) = session.open(&request(), &body, end) {
                    self.opened.push(id);
                    if end {
                        self.finished.insert(id);
                    }
                }
            }
            0 => {
                let _ = session.mark_dispatched(now, id);
            }
            1 if side == Side::Bridge && self.headed.insert(id) => {
                let _ = session.mark_dispatched(now, id);
                let _ = session.send_head(id, &response(200), b"body", false);
            }
            1 => {
                let _ = session.read_head(id);
            }
            2 => {
                let _ = session.send_capacity(id);
            }
            3 if !self.finished.contains(&id)
                && (side == Side::Relay || self.headed.contains(&id)) =>
            {
                let _ = session.send_data(id, Bytes::from(vec![1; 20_000]));
            }
            4 if self.finished.insert(id) => {
                let _ = session.finish(id, None);
            }
            5..8 => {
                let _ = session.read(now, id);
            }
            8 => session.stop(id),
            9 => session.reset(id, Failure::not_dispatched(Code::Cancelled, "cancelled")),
            10 => session.release(id),
            11 => {
                self.now += Duration::from_millis(10 * u64::from(id));
                return session.handle_timeout(self.now);
            }
            12 if id == 0 => session.probe(now),
            13 if id == 0 => session.drain(protocol::frame::GoAwayReason::Draining, Duration::ZERO),
            _ => {}
        }
        Ok(())
    }

    fn drain(&mut self) {
        while let Some(event) = self.session.poll_event() {
            if let Event::Opened { id, .. } = event {
                self.opened.push(id);
            }
        }
        while let Some(frame) = self.session.poll_transmit(self.now) {
            let decoded = Frame::decode(frame.clone()).expect("a session sends frames");
            let again = decoded.expect("known frames").encode();
            assert_eq!(again, Ok(frame), "not in canonical encoding");
        }
        let _ = self.session.poll_timeout();
    }

    fn finish(mut self) {
        self.session.fail(EndReason::Closed);
        for id in std::mem::take(&mut self.opened) {
            self.session.release(id);
        }
        self.drain();
        assert!(self.session.is_quiescent(), "{:?}", self.session);
    }
}

pub(crate) fn request() -> RequestHead {
    RequestHead {
        class: Class::Interactive,
        share: protocol::frame::CallerWeight::default(),
        target: RequestTarget::Url("http://a/".into()),
        method: "GET".into(),
        headers: Headers::default(),
        body: BodyLength::Unknown,
        expect_continue: false,
        time_left: TimeLeft::default(),
        call: None,
        credential: None,
    }
}

pub(crate) fn response(status: u16) -> ResponseHead {
    ResponseHead {
        status,
        headers: Headers::default(),
        body: BodyLength::Unknown,
    }
}
