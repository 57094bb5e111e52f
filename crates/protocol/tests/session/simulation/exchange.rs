//! One exchange of a simulation: its users on both sides, and its invariants.

use crate::support::{Body, Pair, Reader, Writer, cancelled, piece, refused, request, response};
use protocol::frame::Class;
use protocol::session::{Event, OpenError, Read, Session};
use protocol::{Execution, Failure};
use std::time::Instant;

/// xorshift64*: the same numbers for the same seed.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }
}

#[derive(Debug)]
pub(super) struct Exchange {
    up: Writer,
    down_reader: Reader,
    /// The bridge's users, once OPEN has arrived.
    bridge: Option<BridgeUser>,
    relay_gone: bool,
    relay_stopped: bool,
    cancelled: bool,
    final_head: bool,
    settled: Option<Failure>,
}

#[derive(Debug)]
struct BridgeUser {
    down: Writer,
    up_reader: Reader,
    dispatched: bool,
    headed: bool,
    stopped: bool,
    gone: bool,
}

impl Exchange {
    pub(super) fn open(index: usize, rng: &mut Rng, relay: &mut Session) -> Option<Self> {
        let bytes = rng.of(&[0, 1, 500, 16_384, 16_385, 70_000, 400_000]);
        let key = index as u64;
        let body = Body { key, bytes };
        let inlined = rng.below(bytes.min(16_384) + 1);
        let mut head = request(rng.of(&[Class::Interactive, Class::Bulk]));
        head.credential = Some(index.to_string());
        let end = inlined == bytes && rng.one_in(2);
        let id = match relay.open(&head, &piece(body, 0, inlined), end) {
            Ok(id) => id,
            Err(OpenError::Full | OpenError::Draining) => return None,
            Err(error) => panic!("{error}"),
        };
        let mut up = Writer::new(id, body);
        up.sent = inlined;
        up.done = end;
        up.piece_bytes = rng.of(&[1000, 10_000, 100_000]);
        Some(Self {
            up,
            down_reader: Reader::new(id, key + 1_000_000),
            bridge: None,
            relay_gone: false,
            relay_stopped: false,
            cancelled: false,
            final_head: false,
            settled: None,
        })
    }

    /// OPEN came to the bridge, under this id.
    pub(super) fn arrived(&mut self, id: u32) {
        assert!(self.bridge.is_none(), "opened twice");
        let key = self.up.body.key;
        let bytes = [0, 30, 16_384, 90_000, 300_000][usize::try_from(key % 5).unwrap()];
        let body = Body {
            key: key + 1_000_000,
            bytes,
        };
        self.bridge = Some(BridgeUser {
            down: Writer::new(id, body),
            up_reader: Reader::new(id, key),
            dispatched: false,
            headed: false,
            stopped: false,
            gone: false,
        });
    }

    pub(super) fn wake_relay(&mut self, event: &Event) {
        wake(event, &mut self.down_reader, &mut self.up);
    }

    pub(super) fn wake_bridge(&mut self, event: &Event) {
        if let Some(user) = &mut self.bridge {
            wake(event, &mut user.up_reader, &mut user.down);
        }
    }

    /// Does one random action of a user.
    pub(super) fn act(&mut self, rng: &mut Rng, pair: &mut Pair) {
        let now = pair.now;
        if !self.relay_gone {
            let id = self.up.id;
            match rng.below(60) {
                0 => {
                    self.cancelled = true;
                    pair.relay.reset(id, cancelled());
                }
                1 => self.let_go_of_relay(&mut pair.relay),
                2 => {
                    self.relay_stopped = true;
                    self.down_reader.waits = false;
                    pair.relay.stop(id);
                }
                3..30 => {
                    self.up.write(&mut pair.relay);
                }
                _ => {
                    self.read_head(&mut pair.relay);
                    self.down_reader.read(now, &mut pair.relay);
                }
            }
        }
        if let Some(user) = &mut self.bridge
            && !user.gone
        {
            match rng.below(60) {
                0 => user.refuse(&mut pair.bridge),
                1 => user.let_go(&mut pair.bridge),
                2 => {
                    user.stopped = true;
                    user.up_reader.waits = false;
                    pair.bridge.stop(user.down.id);
                }
                3..8 => user.dispatch(now, &mut pair.bridge),
                8..11 => user.hint(&mut pair.bridge),
                11..20 => user.answer(rng.below(16_385), now, &mut pair.bridge),
                20..40 => {
                    if user.headed {
                        user.down.write(&mut pair.bridge);
                    }
                }
                _ => {
                    user.up_reader.read(now, &mut pair.bridge);
                }
            }
        }
    }

    /// Does the remaining work, as far as possible now.
    pub(super) fn go_on(&mut self, now: Instant, pair: &mut Pair) {
        if !self.relay_gone {
            self.up.write(&mut pair.relay);
            self.read_head(&mut pair.relay);
            self.down_reader.read(now, &mut pair.relay);
        }
        if let Some(user) = &mut self.bridge
            && !user.gone
        {
            user.answer(100, now, &mut pair.bridge);
            if user.headed {
                user.down.write(&mut pair.bridge);
            }
            user.up_reader.read(now, &mut pair.bridge);
            if user.down.done && user.up_reader.done {
                user.let_go(&mut pair.bridge);
            }
        }
    }

    fn read_head(&mut self, relay: &mut Session) {
        while let Ok(Some(head)) = relay.read_head(self.up.id) {
            assert!(!self.final_head, "a head after the last");
            self.final_head = !head.is_informational();
        }
    }

    /// Whether a reader can proceed without an event.
    pub(super) fn is_busy(&self) -> bool {
        let goes_on = |reader: &Reader| !reader.waits && !reader.done;
        let bridge = self.bridge.as_ref();
        (!self.relay_gone && goes_on(&self.down_reader))
            || bridge.is_some_and(|user| !user.gone && goes_on(&user.up_reader))
    }

    pub(super) fn is_over(&self) -> bool {
        let relay = self.relay_gone || (self.up.done && self.down_reader.done);
        relay && self.bridge.as_ref().is_none_or(|user| user.gone)
    }

    /// Checks the invariants.
    pub(super) fn check(&mut self, relay: &Session) {
        let dispatched = self.bridge.as_ref().is_some_and(|user| user.dispatched);
        let headed = self.bridge.as_ref().is_some_and(|user| user.headed);
        if !self.relay_gone {
            let failure = relay.failure(self.up.id);
            if self.settled.is_some() {
                assert_eq!(failure, self.settled, "ended twice");
            }
            self.settled = failure;
        }
        match self.settled.as_ref().map(|failure| failure.execution) {
            None | Some(Execution::PossiblyExecuted) => {}
            Some(Execution::NotSent) => assert!(self.bridge.is_none(), "it was sent"),
            Some(Execution::NotDispatched) => assert!(!dispatched, "it was dispatched"),
            Some(Execution::Executed) => assert!(headed, "the target never answered"),
        }
        // A body that reads to its end is whole.
        if self.down_reader.done && !self.down_reader.failed && !self.relay_stopped {
            let user = self.bridge.as_ref().expect("a response without a bridge");
            assert_eq!(self.down_reader.got, user.down.body.bytes);
        }
        if let Some(user) = &self.bridge
            && user.up_reader.done
            && !user.up_reader.failed
            && !user.stopped
        {
            assert_eq!(user.up_reader.got, self.up.body.bytes);
        }
    }

    /// After the session was lost: the exchange failed, or its complete response can be read.
    pub(super) fn survive(&mut self, now: Instant, relay: &mut Session) {
        if self.relay_gone {
            return;
        }
        self.up.write(relay);
        assert!(self.up.done, "a writer sleeps on");
        self.down_reader.read_all(now, relay);
        assert!(self.down_reader.done, "a reader sleeps on");
        self.check(relay);
        let failed = self.down_reader.failed;
        assert!(
            !failed || self.settled.is_some(),
            "failed without an execution state"
        );
        assert!(matches!(
            relay.read(now, self.up.id),
            Read::End | Read::Failed(_)
        ));
    }

    fn let_go_of_relay(&mut self, relay: &mut Session) {
        self.relay_gone = true;
        relay.release(self.up.id);
    }

    pub(super) fn let_go(&mut self, pair: &mut Pair) {
        if !self.relay_gone {
            self.let_go_of_relay(&mut pair.relay);
        }
        if let Some(user) = &mut self.bridge
            && !user.gone
        {
            user.let_go(&mut pair.bridge);
        }
    }
}

impl BridgeUser {
    fn dispatch(&mut self, now: Instant, bridge: &mut Session) {
        self.dispatched |= bridge.mark_dispatched(now, self.down.id).is_ok();
    }

    fn hint(&mut self, bridge: &mut Session) {
        if self.dispatched && !self.headed {
            let _ = bridge.send_head(self.down.id, &response(103), b"", false);
        }
    }

    fn refuse(&mut self, bridge: &mut Session) {
        let execution = match (self.dispatched, self.headed) {
            (false, _) => Execution::NotDispatched,
            (true, false) => Execution::PossiblyExecuted,
            (true, true) => Execution::Executed,
        };
        let failure = Failure {
            execution,
            ..refused()
        };
        bridge.reset(self.down.id, failure);
    }

    /// The target responds.
    fn answer(&mut self, inlined: u64, now: Instant, bridge: &mut Session) {
        self.dispatch(now, bridge);
        if self.headed || !self.dispatched {
            self.down.done |= !self.headed;
            return;
        }
        let body = piece(self.down.body, 0, inlined);
        let end = body.len() as u64 == self.down.body.bytes;
        match bridge.send_head(self.down.id, &response(200), &body, end) {
            Ok(()) => {
                self.headed = true;
                self.down.sent = body.len() as u64;
                self.down.done = end;
            }
            Err(_) => self.down.done = true,
        }
    }

    fn let_go(&mut self, bridge: &mut Session) {
        self.gone = true;
        bridge.release(self.down.id);
    }
}

fn wake(event: &Event, reader: &mut Reader, writer: &mut Writer) {
    match event {
        Event::Readable(id) if *id == reader.id => reader.waits = false,
        Event::Writable(id) if *id == writer.id => writer.waits = false,
        Event::Failed(id) if *id == reader.id => {
            reader.waits = false;
            writer.waits = false;
        }
        _ => {}
    }
}
