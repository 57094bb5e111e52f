//! Responses on their way to the caller: what each holds until its bytes are written.
//!
//! ```text
//! handler -> Body -> ResponseBody -> Piece (in hyper's queue) -> socket
//!                        \______ Holds ______/   permit, memory, counts
//! ```
//!
//! A response keeps its permit and its memory until its last byte has left hyper's queue or was dropped, not only
//! until hyper has accepted it. [`Progress`] reports whether the caller reads: a caller that reads nothing within
//! `limits.caller_idle_timeout` loses the response (`listener::idle`).
//!
//! Over HTTP/2, hyper takes the next piece before the flow-control window has room for it, and resets a stream
//! only while its body has not ended. So the last byte of a body is a piece of its own: it leaves this module
//! only when the window covers everything before it. What remains in hyper's queue after a body's end then waits
//! for the socket only, never for the caller's window.

use crate::body::{Body, PIECE_MAX_BYTES};
use crate::capacity::{ExchangePermit, KeyMemory, Reservation};
use crate::connection::Connection;
use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use protocol::Failure;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Bytes of one response that may wait in hyper's queue.
const UNSENT_MAX_BYTES: u64 = 64 * 1024;

/// Bytes of all responses of one connection that may wait there. Each response may always have one piece there.
const UNSENT_PER_CONNECTION_BYTES: u64 = 1024 * 1024;

/// Whether the caller reads the responses of one HTTP/2 stream, or of one HTTP/1.1 connection.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Responses that are not completely written.
    responses: AtomicU32,
    /// Those of them without a permit: no API key was accepted for them.
    without_permit: AtomicU32,
    /// Bytes in hyper's queue.
    unsent_bytes: AtomicU64,
    /// Incremented whenever a piece enters the queue or leaves it.
    moves: AtomicU32,
    /// The body has no piece: the response waits for the target, not for the caller.
    awaits_source: AtomicBool,
    /// A body waits for room in the queue.
    is_blocked: AtomicBool,
    blocked: Mutex<Option<Waker>>,
}

impl Progress {
    /// Returns whether a response is in progress.
    pub(crate) fn is_active(&self) -> bool {
        self.responses.load(Ordering::Relaxed) > 0
    }

    /// Returns whether the caller has something to read: not while the body has no piece and every piece
    /// before is written.
    pub(crate) fn is_caller_due(&self) -> bool {
        let is_quiet = self.awaits_source.load(Ordering::Relaxed)
            && self.unsent_bytes.load(Ordering::Relaxed) == 0;
        self.is_active() && !is_quiet
    }

    /// Returns whether a response is in progress to a caller without a valid key.
    pub(crate) fn is_without_permit(&self) -> bool {
        self.without_permit.load(Ordering::Relaxed) > 0
    }

    /// Returns a number that changes when the caller reads.
    pub(crate) fn moves(&self) -> u32 {
        self.moves.load(Ordering::Relaxed)
    }

    fn added(&self, bytes: u64) {
        self.unsent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    fn removed(&self, bytes: u64) {
        // SeqCst, in one order with `block`: either this sees the flag, or the body sees that the bytes are gone.
        // With weaker orderings both could read the old value, and the body would never be woken.
        self.unsent_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.moves.fetch_add(1, Ordering::Relaxed);
        if self.is_blocked.swap(false, Ordering::SeqCst) {
            let waker = self.lock().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes `waker` when a piece leaves the queue.
    fn block(&self, waker: &Waker) {
        *self.lock() = Some(waker.clone());
        self.is_blocked.store(true, Ordering::SeqCst);
    }
}

/// What a response holds until its last piece is written or dropped.
#[derive(Debug)]
struct Holds {
    progress: Arc<Progress>,
    connection: Arc<Connection>,
    /// The memory that pieces in the queue count for.
    memory: Option<Arc<KeyMemory>>,
    permit: Option<ExchangePermit>,
    _reservation: Option<Reservation>,
}

impl Holds {
    /// Returns whether hyper may have one more piece.
    fn has_room(&self) -> bool {
        let unsent = self.progress.unsent_bytes.load(Ordering::SeqCst);
        // One piece is always allowed: a caller that reads makes progress even when the shares are used up.
        if unsent == 0 {
            return true;
        }
        let piece = PIECE_MAX_BYTES as u64;
        unsent < UNSENT_MAX_BYTES
            && self.connection.unsent().bytes() < UNSENT_PER_CONNECTION_BYTES
            && self
                .memory
                .as_ref()
                .is_none_or(|memory| memory.has_room(piece))
    }

    fn added(&self, bytes: u64) {
        self.progress.added(bytes);
        self.connection.unsent().add(bytes);
        if let Some(memory) = &self.memory {
            memory.add(bytes);
        }
    }

    fn removed(&self, bytes: u64) {
        if let Some(memory) = &self.memory {
            memory.release(bytes);
        }
        self.connection.unsent().release(bytes);
        self.progress.removed(bytes);
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        if self.permit.is_none() {
            self.progress.without_permit.fetch_sub(1, Ordering::Relaxed);
        }
        self.progress.responses.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A piece of a response in hyper's queue.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    /// Its bytes at the start, which it is counted with.
    counted: u64,
    holds: Arc<Holds>,
}

impl Piece {
    fn new(bytes: Bytes, holds: &Arc<Holds>) -> Self {
        let counted = bytes.len() as u64;
        holds.added(counted);
        Self {
            bytes,
            counted,
            holds: holds.clone(),
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.holds.removed(self.counted);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(dst)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        self.bytes.copy_to_bytes(len)
    }
}

/// The body of a response, as hyper reads it.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    body: Body,
    holds: Arc<Holds>,
    is_http2: bool,
    /// Over HTTP/2, the last byte.
    last: Option<Bytes>,
    /// The body has reported its end.
    has_ended: bool,
}

impl ResponseBody {
    /// Returns the body of a response on this connection and stream.
    pub(crate) fn new(
        mut body: Body,
        connection: &Arc<Connection>,
        progress: &Arc<Progress>,
        is_http2: bool,
    ) -> Self {
        // Taken out of the body: they must be held until the last piece is written, and hyper drops the body before.
        let (permit, reservation) = body.take_holds();
        progress.responses.fetch_add(1, Ordering::Relaxed);
        if permit.is_none() {
            progress.without_permit.fetch_add(1, Ordering::Relaxed);
        }
        progress.moves.fetch_add(1, Ordering::Relaxed);
        progress.awaits_source.store(false, Ordering::Relaxed);
        let holds = Arc::new(Holds {
            progress: progress.clone(),
            connection: connection.clone(),
            memory: permit.as_ref().map(|permit| permit.memory().clone()),
            permit,
            _reservation: reservation,
        });
        Self {
            body,
            holds,
            is_http2,
            last: None,
            has_ended: false,
        }
    }

    /// Waits for room in the queue.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.holds.has_room() {
            return Poll::Ready(());
        }
        let progress = &self.holds.progress;
        progress.block(cx.waker());
        // Checked again: a piece may have left the queue just before the registration.
        match self.holds.has_room() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Waits until everything before the end is written: after the end the stream could not be reset any more.
    fn poll_written(&self, cx: &Context<'_>) -> Poll<()> {
        let progress = &self.holds.progress;
        let is_written = || progress.unsent_bytes.load(Ordering::SeqCst) == 0;
        if !self.is_http2 || is_written() {
            return Poll::Ready(());
        }
        progress.block(cx.waker());
        match is_written() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn piece(&mut self, mut bytes: Bytes) -> Piece {
        // The last byte is held back, see the top of the file.
        if self.is_http2 && bytes.len() > 1 && self.body.is_end_stream() {
            self.last = Some(bytes.split_off(bytes.len() - 1));
        }
        Piece::new(bytes, &self.holds)
    }
}

impl HttpBody for ResponseBody {
    type Data = Piece;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Failure>>> {
        let this = self.get_mut();
        if let Some(last) = this.last.take() {
            let piece = Piece::new(last, &this.holds);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if this.has_ended {
            std::task::ready!(this.poll_written(cx));
            return Poll::Ready(None);
        }
        std::task::ready!(this.poll_room(cx));
        let progress = this.holds.progress.clone();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            progress.awaits_source.store(true, Ordering::Relaxed);
            return Poll::Pending;
        };
        progress.awaits_source.store(false, Ordering::Relaxed);
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(data) => Frame::data(this.piece(data)),
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(trailers),
                    // HTTP has no third kind of frame.
                    Err(_) => return Poll::Ready(None),
                },
            })),
            Some(Err(failure)) => Some(Err(failure)),
            None => {
                this.has_ended = true;
                std::task::ready!(this.poll_written(cx));
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        // Not at the end while the last byte is held back.
        self.last.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.size_hint();
        match &self.last {
            None => hint,
            Some(last) => SizeHint::with_exact(last.len() as u64),
        }
    }
}
