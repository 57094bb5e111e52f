//! One exchange, as its session stores it.
//!
//! ```text
//!            relay                                   bridge
//!   send: OPEN DATA* (TRAILERS)        ->   recv
//!   recv                               <-   send: HEAD+ DATA* (TRAILERS)
//! ```
//!
//! [`state`] has the states with their diagram, [`window`] the flow control. A stream is forgotten when
//! both directions are closed on the wire, its user has released it, and nothing of it is charged to
//! the session's window any more.

mod state;
mod window;

pub(super) use state::{DispatchState, QueuedIn, RecvClosed, RecvState, ResetState, SendState};
pub(super) use window::Window;

use super::windows::ReceiveRate;
use crate::frame::{BodyLength, CallerWeight, Class, Headers, ResponseHead};
use crate::limits::{SEND_QUEUE_STREAM_BYTES, SEND_QUEUE_STREAM_PIECES};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Instant;

/// Received pieces below this size are copied together. A small piece then does not pin the buffer that
/// it arrived in, and a flood of tiny frames costs no more memory than its bytes.
const COPY_BELOW_BYTES: usize = 4 * 1024;

/// An item of a stream's send queue.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// An encoded OPEN or HEAD, with the bytes of body inside it.
    Head {
        frame: Bytes,
        body: u64,
        end: bool,
        /// Whether its status is not informational.
        is_final: bool,
    },
    /// A piece of body, of any size.
    Data(Bytes),
    /// The end of the direction.
    End(Option<Headers>),
}

/// The sending direction.
#[derive(Debug)]
pub(super) struct SendHalf {
    pub(super) state: SendState,
    pub(super) window: Window,
    pub(super) queue: VecDeque<Outgoing>,
    /// Bytes of body in `queue`.
    pub(super) queued: usize,
    /// The writer found the queue full and waits for `Event::Writable`.
    pub(super) is_writer_waiting: bool,
    /// Where the stream waits to send.
    pub(super) queued_in: QueuedIn,
    /// Bytes sent since it was last idle.
    pub(super) burst: u64,
    /// Since when the queue has been empty.
    pub(super) idle_since: Option<Instant>,
}

impl SendHalf {
    /// Whether the queue has reached its bound.
    pub(super) fn is_full(&self) -> bool {
        self.queued >= SEND_QUEUE_STREAM_BYTES || self.queue.len() >= SEND_QUEUE_STREAM_PIECES
    }
}

/// The receiving direction.
#[derive(Debug)]
pub(super) struct RecvHalf {
    pub(super) state: RecvState,
    pub(super) window: Window,
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes in `chunks` and `tail`.
    pub(super) buffered: u64,
    /// Bytes that the consumer took and that were not returned yet.
    pub(super) taken: u64,
    /// Bytes by which the next CREDIT enlarges the window.
    pub(super) growth: u64,
    /// Bytes that the consumer took in total.
    pub(super) total: u64,
    pub(super) rate: ReceiveRate,
    pub(super) heads: VecDeque<ResponseHead>,
    pub(super) body: BodyLength,
    pub(super) trailers: Option<Headers>,
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

    /// Drops what is buffered. Returns its bytes.
    pub(super) fn discard(&mut self) -> u64 {
        let bytes = self.buffered;
        self.chunks = VecDeque::new();
        self.tail = BytesMut::new();
        self.buffered = 0;
        bytes
    }
}

/// Control frames that wait to be sent for a stream; each at most once. RESET carries the failure of
/// [`ResetState`].
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// The stream is in the session's list of streams with control frames.
    pub(super) is_listed: bool,
    pub(super) credit: bool,
    pub(super) stop: bool,
    pub(super) reset: bool,
}

/// The state of one exchange.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its id on the wire; zero on the relay until OPEN leaves.
    pub(super) wire: u32,
    pub(super) class: Class,
    pub(super) share: CallerWeight,
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
    pub(super) pending: Pending,
    pub(super) dispatch: DispatchState,
    pub(super) reset: ResetState,
    /// The user has dropped its handles.
    pub(super) is_released: bool,
    /// Counts as one of the session's streams.
    pub(super) is_live: bool,
}

impl Stream {
    pub(super) fn new(
        (class, share): (Class, CallerWeight),
        send_window: u64,
        recv_window: u64,
        recv_state: RecvState,
        body: BodyLength,
    ) -> Self {
        Self {
            wire: 0,
            class,
            share,
            send: SendHalf {
                state: SendState::new(),
                window: Window::new(send_window),
                queue: VecDeque::new(),
                queued: 0,
                is_writer_waiting: false,
                queued_in: QueuedIn::Nothing,
                burst: 0,
                idle_since: None,
            },
            recv: RecvHalf {
                state: recv_state,
                window: Window::new(recv_window),
                chunks: VecDeque::new(),
                tail: BytesMut::new(),
                buffered: 0,
                taken: 0,
                growth: 0,
                total: 0,
                rate: ReceiveRate::default(),
                heads: VecDeque::new(),
                body,
                trailers: None,
            },
            pending: Pending::default(),
            dispatch: DispatchState::NotDispatched,
            reset: ResetState::None,
            is_released: false,
            is_live: true,
        }
    }

    /// Whether nothing of it is charged to the session's windows.
    pub(super) fn is_uncharged(&self) -> bool {
        self.send.window.charge() == 0 && self.recv.window.charge() == 0
    }

    /// Whether this side queued everything that it had to send, and received everything from the peer.
    pub(super) fn is_complete(&self) -> bool {
        self.send.state.is_finished()
            && self.recv.state.is_closed()
            && !self.reset.is_awaiting_ack()
    }

    /// Whether both directions are closed on the wire.
    pub(super) fn is_closed(&self) -> bool {
        self.send.state.is_closed() && self.recv.state.is_closed() && !self.reset.is_awaiting_ack()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_copied_together() {
        let mut stream = Stream::new(
            (Class::Bulk, CallerWeight::default()),
            1,
            1,
            RecvState::Open,
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
