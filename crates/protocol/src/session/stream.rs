//! One exchange, as its session keeps it.
//!
//! ```text
//!            relay                                   bridge
//!   send: OPEN DATA* (TRAILERS)        ->   recv
//!   recv                               <-   send: HEAD+ DATA* (TRAILERS)
//!
//!   a direction:   open --END/TRAILERS--> ended
//!                  open --STOP----------> ended   (what was queued is dropped)
//!   a stream:      open --RESET---------> closed  (both directions at once)
//! ```
//!
//! A stream is forgotten when both directions are over on the wire, its user has let go of it,
//! and nothing of it is charged to the session's window any more.

use super::windows::ReceiveRate;
use crate::code::Failure;
use crate::frame::{BodyLength, CallerWeight, Class, Headers, ResponseHead};
use crate::limits::{SEND_QUEUE_STREAM_BYTES, SEND_QUEUE_STREAM_PIECES, STREAM_RESERVE_BYTES};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Instant;

/// Received pieces below this are copied together, so that a small piece does not pin the buffer
/// that it arrived in and a flood of tiny frames costs no more than its bytes.
const COPY_BELOW_BYTES: usize = 4 * 1024;

/// What one direction of a stream may have outstanding, counted alike by both sides (W-30).
#[derive(Debug)]
pub(super) struct Window {
    /// Bytes sent and not yet returned.
    pub(super) outstanding: u64,
    /// Bytes that may be outstanding.
    pub(super) size: u64,
    /// What `size` began with: growth beyond it is not the session's to pay.
    pub(super) initial: u64,
}

impl Window {
    pub(super) fn new(initial: u64) -> Self {
        Self {
            outstanding: 0,
            size: initial,
            initial,
        }
    }

    /// Bytes that count against the session: those between the reserve and the initial window.
    pub(super) fn charge(&self) -> u64 {
        charge_of(self.outstanding, self.initial)
    }

    /// How many of `wanted` bytes fit, when the session has `session_left` uncharged.
    pub(super) fn fits(&self, wanted: u64, session_left: u64) -> u64 {
        let wanted = wanted.min(self.size.saturating_sub(self.outstanding));
        let free_below = STREAM_RESERVE_BYTES.saturating_sub(self.outstanding);
        if wanted <= free_below || self.outstanding >= self.initial {
            return wanted;
        }
        let charged_end = self.initial.max(STREAM_RESERVE_BYTES);
        let from = self.outstanding.max(STREAM_RESERVE_BYTES);
        let chargeable = charged_end.saturating_sub(from);
        if chargeable <= session_left {
            wanted
        } else {
            wanted.min(free_below + session_left)
        }
    }
}

fn charge_of(outstanding: u64, initial: u64) -> u64 {
    outstanding
        .min(initial)
        .saturating_sub(STREAM_RESERVE_BYTES)
}

/// What waits to be sent on a stream, in order.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// An encoded OPEN or HEAD, with the bytes of body inside it.
    Head {
        frame: Bytes,
        body: u64,
        end: bool,
        /// Not one of those with an informational status.
        last: bool,
    },
    /// A piece of body, of any size.
    Data(Bytes),
    /// The end of the direction.
    End(Option<Headers>),
}

/// The sending direction.
#[derive(Debug)]
pub(super) struct SendHalf {
    pub(super) window: Window,
    pub(super) queue: VecDeque<Outgoing>,
    /// Bytes of body in `queue`.
    pub(super) queued: usize,
    /// END was queued: nothing more may follow.
    pub(super) finished: bool,
    /// END left, or STOP came.
    pub(super) ended: bool,
    /// STOP came.
    pub(super) stopped: bool,
    /// The writer found no room and waits for `Event::Writable`.
    pub(super) writer_waits: bool,
    /// Stands in a queue of the scheduler.
    pub(super) scheduled: bool,
    /// Stands in the list of those that wait for the session's window.
    pub(super) blocked: bool,
    /// Bytes sent since it was last idle.
    pub(super) burst: u64,
    /// When it last ran dry.
    pub(super) idle_since: Option<Instant>,
    /// The frame with the head has left: OPEN, or the last HEAD, was handed to the socket.
    pub(super) head_left: bool,
    /// Heads with an informational status that were queued.
    pub(super) informational: u32,
}

impl SendHalf {
    /// As much waits to be sent as may.
    pub(super) fn is_full(&self) -> bool {
        self.queued >= SEND_QUEUE_STREAM_BYTES || self.queue.len() >= SEND_QUEUE_STREAM_PIECES
    }
}

/// The receiving direction.
#[derive(Debug)]
pub(super) struct RecvHalf {
    pub(super) window: Window,
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes in `chunks` and `tail`.
    pub(super) buffered: u64,
    /// Bytes that the consumer took and that were not returned yet.
    pub(super) taken: u64,
    /// Bytes by which the window shall grow with the next CREDIT.
    pub(super) growth: u64,
    /// Bytes that the consumer took in all.
    pub(super) total: u64,
    pub(super) rate: ReceiveRate,
    pub(super) heads: VecDeque<ResponseHead>,
    pub(super) informational: u32,
    pub(super) final_head: bool,
    pub(super) body: BodyLength,
    pub(super) trailers: Option<Headers>,
    /// END came, or STOP left.
    pub(super) ended: bool,
    /// STOP was asked for: what still comes is dropped.
    pub(super) stopped: bool,
}

impl RecvHalf {
    pub(super) fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.buffered += data.len() as u64;
        if data.len() < COPY_BELOW_BYTES {
            self.tail.extend_from_slice(&data);
        } else {
            self.seal_tail();
            self.chunks.push_back(data);
        }
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks
                .push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.seal_tail();
        }
        let chunk = self.chunks.pop_front()?;
        self.buffered -= chunk.len() as u64;
        Some(chunk)
    }

    pub(super) fn discard(&mut self) -> u64 {
        let bytes = self.buffered;
        self.chunks = VecDeque::new();
        self.tail = BytesMut::new();
        self.buffered = 0;
        bytes
    }
}

/// Control frames that wait to be sent for a stream; each at most once.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) listed: bool,
    pub(super) credit: bool,
    pub(super) stop: bool,
    pub(super) reset: Option<Failure>,
}

/// Everything that a session knows of an exchange.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its id on the wire; zero on the relay until OPEN leaves.
    pub(super) wire: u32,
    pub(super) class: Class,
    pub(super) share: CallerWeight,
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
    pub(super) pending: Pending,
    /// Bridge: the first byte is about to leave for the target. Relay: DISPATCHED or HEAD came.
    pub(super) dispatched: bool,
    /// Bridge: DISPATCHED is owed.
    pub(super) dispatched_owed: bool,
    /// Why the exchange failed, once it has.
    pub(super) failure: Option<Failure>,
    /// Relay: RESET left and the bridge's word on it has not come.
    pub(super) awaits_word: bool,
    /// The user has let go.
    pub(super) released: bool,
    /// Counts as one of the session's streams.
    pub(super) live: bool,
}

impl Stream {
    pub(super) fn new(
        (class, share): (Class, CallerWeight),
        send_window: u64,
        recv_window: u64,
        body: BodyLength,
    ) -> Self {
        Self {
            wire: 0,
            class,
            share,
            send: SendHalf {
                window: Window::new(send_window),
                queue: VecDeque::new(),
                queued: 0,
                finished: false,
                ended: false,
                stopped: false,
                writer_waits: false,
                scheduled: false,
                blocked: false,
                burst: 0,
                idle_since: None,
                head_left: false,
                informational: 0,
            },
            recv: RecvHalf {
                window: Window::new(recv_window),
                chunks: VecDeque::new(),
                tail: BytesMut::new(),
                buffered: 0,
                taken: 0,
                growth: 0,
                total: 0,
                rate: ReceiveRate::default(),
                heads: VecDeque::new(),
                informational: 0,
                final_head: false,
                body,
                trailers: None,
                ended: false,
                stopped: false,
            },
            pending: Pending::default(),
            dispatched: false,
            dispatched_owed: false,
            failure: None,
            awaits_word: false,
            released: false,
            live: true,
        }
    }

    /// Nothing of it is charged to the session's windows any more.
    pub(super) fn is_uncharged(&self) -> bool {
        self.send.window.charge() == 0 && self.recv.window.charge() == 0
    }

    /// Whether this side queued all that it had to say, and got all that the other had.
    pub(super) fn is_complete(&self) -> bool {
        self.send.finished && self.recv.ended && !self.awaits_word
    }

    /// Both directions are over on the wire.
    pub(super) fn is_closed(&self) -> bool {
        self.send.ended && self.recv.ended && !self.awaits_word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_and_what_was_grown_cost_the_session_nothing() {
        let mut window = Window::new(64 * 1024);
        window.outstanding = STREAM_RESERVE_BYTES;
        assert_eq!(window.charge(), 0);
        window.outstanding = 20 * 1024;
        assert_eq!(window.charge(), 4 * 1024);
        window.size = 1 << 20;
        window.outstanding = 1 << 19;
        assert_eq!(window.charge(), 64 * 1024 - STREAM_RESERVE_BYTES);
    }

    #[test]
    fn fits_never_charges_more_than_the_session_has_left() {
        for initial in [STREAM_RESERVE_BYTES, 20_000, 64 * 1024] {
            for size in [initial, initial + 100_000] {
                for outstanding in (0..=size).step_by(997) {
                    for left in [0, 1, 500, 10_000, 1 << 20] {
                        let mut window = Window::new(initial);
                        window.size = size;
                        window.outstanding = outstanding;
                        let before = window.charge();
                        let fits = window.fits(16 * 1024, left);
                        window.outstanding += fits;
                        assert!(window.outstanding <= size);
                        assert!(window.charge() - before <= left);
                        if fits < 16 * 1024 && window.outstanding < size {
                            window.outstanding += 1;
                            assert!(window.charge() - before > left, "stopped too early");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn small_pieces_are_copied_together() {
        let mut stream = Stream::new(
            (Class::Bulk, CallerWeight::default()),
            1,
            1,
            BodyLength::Unknown,
        );
        for _ in 0..1000 {
            stream.recv.push(Bytes::from_static(b"x"));
        }
        assert_eq!(stream.recv.chunks.len(), 0);
        assert_eq!(stream.recv.pop().unwrap().len(), 1000);
        assert_eq!(stream.recv.buffered, 0);
        assert!(stream.recv.pop().is_none());
    }
}
