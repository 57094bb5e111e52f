//! The one task that moves frames between a session and its WebSocket.
//!
//! ```text
//! loop   read   available messages -> session, at most READ_RUN in a row
//!        clock  heartbeat, death, a write that makes no progress
//!        write  if the last batch is in the kernel: the next one, at most 64 KiB -> flush
//! ```
//!
//! The first batch after a pause waits for tasks that are ready, so that their frames leave in the same
//! write. With a single exchange it does not wait, and rarely where nothing was added while it waited before.
//!
//! Reading never waits for a stream or for the writer. Credit guarantees the space for a stream's
//! bytes, and a flush that cannot proceed does not stop the reader.

use crate::failure;
use crate::handle::{Shared, Writer};
use crate::socket::Socket;
use bytes::Bytes;
use protocol::frame::GoAwayReason;
use protocol::limits::{DATA_MAX_BYTES, WRITE_BATCH_BYTES, WRITE_STALL};
use protocol::session::EndReason;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Messages read in a row before the writer is served.
const READ_RUN: usize = 64;

/// Additions of other tasks that a first batch waits for: enough to share the cost of a write, and few
/// enough that the peer does not run idle meanwhile.
const GATHER_MAX: u32 = 32;

/// Batches that do not wait after one that waited in vain. Each further one in vain adds one, up to this many.
const GATHER_PAUSE_MAX: u8 = 15;

/// How often large buffers are checked.
const FIT_INTERVAL: Duration = Duration::from_secs(1);

/// Frames that are still sent to a peer that broke the protocol.
const LAST_FRAMES: usize = 4;

/// The time for an orderly close: the last frames, and the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The state of the writing side.
enum Writing {
    /// All chosen frames are in the kernel.
    Idle,
    /// There are frames to send; other tasks that are ready may add to them.
    Gathering,
    /// Frames were queued during the last write. They have waited long enough.
    Following,
    /// A batch is being written. `written` is the count at its last progress; without more progress the
    /// write is stalled at `stalled_at`.
    Flushing { written: u64, stalled_at: Instant },
}

/// Drives a session until it ends. The task that polls this future owns the session's life; dropping it
/// ends the session.
pub(crate) struct Driver<IO> {
    socket: Socket<IO>,
    shared: Arc<Shared>,
    writing: Writing,
    timer: Pin<Box<Sleep>>,
    timer_at: Instant,
    /// When the buffers are checked next.
    fit_at: Option<Instant>,
    /// The buffers must be checked as soon as nothing is being written.
    is_fit_due: bool,
    /// The reason and the deadline of an orderly close.
    closing: Option<(EndReason, Instant)>,
    /// Our Close is in the kernel.
    is_close_sent: bool,
    batch: Vec<Bytes>,
    gather: Gather,
}

/// Whether waiting for other tasks pays. Where exchanges are few, or do not move, it costs a system call and time, and
/// brings no frames.
#[derive(Debug, Default)]
struct Gather {
    /// Batches in a row that waited in vain.
    in_vain: u8,
    /// Batches that do not wait.
    pause: u8,
}

impl Gather {
    /// Returns whether the next batch waits.
    fn is_due(&mut self) -> bool {
        let is_due = self.pause == 0;
        self.pause = self.pause.saturating_sub(1);
        is_due
    }

    /// Notes whether another task added frames to a batch that waited.
    fn note(&mut self, has_paid: bool) {
        self.in_vain = match has_paid {
            true => 0,
            false => (self.in_vain + 1).min(GATHER_PAUSE_MAX),
        };
        self.pause = self.in_vain;
    }
}

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    pub(crate) fn new(socket: Socket<IO>, shared: Arc<Shared>) -> Self {
        let timer_at = Instant::now();
        Self {
            socket,
            shared,
            writing: Writing::Idle,
            timer: Box::pin(tokio::time::sleep_until(timer_at.into())),
            timer_at,
            fit_at: None,
            is_fit_due: false,
            closing: None,
            is_close_sent: false,
            batch: Vec::new(),
            gather: Gather::default(),
        }
    }

    /// Reads the available messages. `Ready` when there may be more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EndReason>> {
        for _ in 0..READ_RUN {
            let message = match ready!(self.socket.poll_next(cx)) {
                Some(Ok(Message::Binary(message))) => message,
                // tungstenite responds to pings itself. They are no sign of life for the session: a balancer may send
                // them (W-2).
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_))) | None => {
                    return Poll::Ready(Err(self.peer_closed()));
                }
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    let reason = EndReason::Protocol("a message that is not binary".into());
                    return Poll::Ready(Err(reason));
                }
                Some(Err(error)) => return Poll::Ready(Err(end_reason(&error))),
            };
            let mut core = self.shared.lock();
            let result = core.session.handle_frame(Instant::now(), message);
            self.shared.notify_all(core);
            if let Err(reason) = result {
                return Poll::Ready(Err(reason));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn peer_closed(&self) -> EndReason {
        let goaway = self.shared.states().borrow().goaway;
        goaway.map_or(EndReason::Closed, |sent| EndReason::PeerLeft(sent.reason))
    }

    /// Flushes the current batch, then chooses the next one, until there is nothing to send (`Ready`) or the
    /// connection accepts no more.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EndReason>> {
        loop {
            if let Writing::Flushing {
                written,
                stalled_at,
            } = &mut self.writing
            {
                match self.socket.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {
                        self.writing = Writing::Following;
                        // One yield lets callers whose queue ran empty refill it; otherwise the next batch
                        // would contain only the streams of others.
                        let is_underrun = self.shared.lock().session.take_underrun();
                        if is_underrun && pin!(tokio::task::yield_now()).poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(end_reason(&error))),
                    Poll::Pending => {
                        let now = Instant::now();
                        let so_far = self.socket.written();
                        if so_far != *written {
                            *written = so_far;
                            *stalled_at = now + WRITE_STALL;
                        } else if now >= *stalled_at {
                            return Poll::Ready(Err(EndReason::WriteStalled(WRITE_STALL)));
                        }
                        return Poll::Pending;
                    }
                }
            }
            if matches!(self.writing, Writing::Idle) && self.gathers(cx) {
                self.writing = Writing::Gathering;
                return Poll::Pending;
            }
            self.choose_batch();
            if self.batch.is_empty() {
                self.writing = Writing::Idle;
                return Poll::Ready(Ok(()));
            }
            for frame in self.batch.drain(..) {
                let sent = self.socket.start_send(frame);
                if let Err(error) = sent {
                    return Poll::Ready(Err(end_reason(&error)));
                }
            }
            self.writing = Writing::Flushing {
                written: self.socket.written(),
                stalled_at: Instant::now() + WRITE_STALL,
            };
        }
    }

    /// After a pause: whether there are frames to send and the driver yields first. It is polled again
    /// once the ready tasks have run, or after enough of them.
    fn gathers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut core = self.shared.lock();
        // A single exchange has no others to share a write with.
        if !core.session.has_frames() || core.session.streams_live() < 2 || !self.gather.is_due() {
            return false;
        }
        core.writer = Writer::Gathers { more: GATHER_MAX };
        drop(core);
        pin!(tokio::task::yield_now()).poll(cx).is_pending()
    }

    /// Takes the frames for one write out of the session.
    fn choose_batch(&mut self) {
        let mut core = self.shared.lock();
        if matches!(self.writing, Writing::Gathering) {
            let is_unchanged = core.writer == Writer::Gathers { more: GATHER_MAX };
            self.gather.note(!is_unchanged);
        }
        let mut bytes = 0;
        let now = Instant::now();
        // A frame that was chosen cannot be overtaken any more, so a batch is bounded. It ends where a
        // full DATA frame would not fit.
        while bytes + DATA_MAX_BYTES <= WRITE_BATCH_BYTES {
            let Some(frame) = core.session.poll_transmit(now) else {
                break;
            };
            bytes += frame.len();
            self.batch.push(frame);
        }
        // Under the same lock as the last `poll_transmit`: a frame that is queued afterwards sees `Idle`
        // and wakes the driver, so no frame is left without a wake-up.
        core.writer = if self.batch.is_empty() {
            Writer::Idle
        } else {
            Writer::Busy
        };
        if core.session.has_events() {
            self.shared.notify_all(core);
        }
    }

    /// Runs the timers that are due, and sets the timer for the next one.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Result<(), EndReason> {
        loop {
            let now = Instant::now();
            let mut core = self.shared.lock();
            match &mut core.driver {
                Some(waker) => waker.clone_from(cx.waker()),
                None => core.driver = Some(cx.waker().clone()),
            }
            let result = core.session.handle_timeout(now);
            let mut next = core.session.poll_timeout().unwrap_or(now + WRITE_STALL);
            if core.session.has_events() {
                self.shared.notify_all(core);
            } else {
                drop(core);
            }
            result?;
            if let Writing::Flushing { stalled_at, .. } = &self.writing {
                next = next.min(*stalled_at);
            }
            if let Some((_, until)) = &self.closing {
                next = next.min(*until);
            }
            match self.fit_at {
                // A deadline that has passed must be cleared, or the timer would fire again at once, for ever.
                Some(at) if at <= now => {
                    self.fit_at = None;
                    self.is_fit_due = true;
                }
                Some(at) => next = next.min(at),
                None if !self.is_fit_due && self.socket.is_large() => {
                    self.fit_at = Some(now + FIT_INTERVAL);
                    next = next.min(now + FIT_INTERVAL);
                }
                None => {}
            }
            // Most deadlines only move away. A timer that fires early costs less than resetting it each time.
            if next < self.timer_at || self.timer.is_elapsed() {
                self.timer_at = next;
                self.timer.as_mut().reset(next.into());
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
        }
    }

    /// Replaces the socket's buffers, if that is due. Returns whether they were replaced, so that the
    /// socket must be read again.
    fn fits(&mut self) -> bool {
        // Not during a write: the write buffer would be lost with the old WebSocket.
        let is_due = self.is_fit_due || self.socket.outgrew();
        if !is_due || !matches!(self.writing, Writing::Idle) {
            return false;
        }
        self.is_fit_due = false;
        let mut core = self.shared.lock();
        if core.session.streams_live() == 0 {
            core.trim();
            self.batch = Vec::new();
        }
        drop(core);
        self.socket.fit()
    }

    /// Returns the reason of a planned end, if the session has reached it.
    fn planned_end(&self) -> Option<EndReason> {
        let core = self.shared.lock();
        if let Some(reason) = &core.closing {
            return Some(reason.clone());
        }
        core.drained.then_some(EndReason::Draining)
    }

    fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<EndReason> {
        loop {
            let read = self.poll_read(cx);
            if let Poll::Ready(Err(reason)) = read {
                return Poll::Ready(reason);
            }
            if let Err(reason) = self.poll_clock(cx) {
                return Poll::Ready(reason);
            }
            let write = self.poll_write(cx);
            if let Poll::Ready(Err(reason)) = write {
                return Poll::Ready(reason);
            }
            if self.closing.is_none()
                && let Some(reason) = self.planned_end()
            {
                self.closing = Some((reason, Instant::now() + CLOSE_TIMEOUT));
                continue;
            }
            if let Some((reason, until)) = &self.closing {
                if write.is_ready() && !self.is_close_sent {
                    self.is_close_sent = self.socket.poll_close(cx).is_ready();
                }
                // The peer's Close ends the reading above. Dropping the connection before that could lose our
                // last frames: unread bytes turn the close into a TCP reset.
                if Instant::now() >= *until {
                    return Poll::Ready(reason.clone());
                }
            }
            if read.is_pending() && self.fits() {
                continue;
            }
            if read.is_pending() {
                // The flush may have set an earlier deadline.
                return match self.poll_clock(cx) {
                    Ok(()) => Poll::Pending,
                    Err(reason) => Poll::Ready(reason),
                };
            }
            // There may be more messages. Yield, so that other tasks run in between.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
    }
}

impl<IO> Driver<IO> {
    fn end(&self, reason: EndReason) -> EndReason {
        self.shared.end(reason)
    }
}

impl<IO> Future for Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    type Output = EndReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<EndReason> {
        let this = self.get_mut();
        let mut reason = ready!(this.poll_session(cx));
        if let Some((planned, _)) = this.closing.take() {
            reason = planned;
        } else if matches!(reason, EndReason::Protocol(_)) {
            this.send_protocol_error();
        }
        Poll::Ready(this.end(reason))
    }
}

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// Sends GOAWAY to a peer that broke the protocol, as far as the kernel accepts it without waiting.
    fn send_protocol_error(&mut self) {
        let mut core = self.shared.lock();
        core.session.drain(GoAwayReason::Protocol, Duration::ZERO);
        // Only a few other control frames precede GOAWAY. More of them are not worth a peer that is faulty.
        let frames: Vec<Bytes> = std::iter::from_fn(|| core.session.poll_transmit(Instant::now()))
            .take(LAST_FRAMES)
            .collect();
        drop(core);
        // During a flush the kernel is full, and a task that ends must not wait for it.
        if !matches!(self.writing, Writing::Flushing { .. }) {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            for frame in frames {
                let _ = self.socket.start_send(frame);
            }
            let _ = self.socket.poll_flush(&mut cx);
            let _ = self.socket.poll_close(&mut cx);
        }
    }
}

impl<IO> Drop for Driver<IO> {
    fn drop(&mut self) {
        self.end(EndReason::Io("the session's task was cancelled".into()));
    }
}

/// Returns why a connection ended, in words for people.
pub(crate) fn end_reason(error: &Error) -> EndReason {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => EndReason::Closed,
        Error::Io(error) => EndReason::Io(failure::ended(error)),
        // A message above the largest frame: the peer violates the limits, the connection is fine.
        Error::Capacity(error) => EndReason::Protocol(error.to_string()),
        Error::Protocol(error) => match error {
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake => {
                EndReason::Io("the connection was closed without a closing handshake".into())
            }
            other => EndReason::Protocol(other.to_string()),
        },
        other => EndReason::Io(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_that_does_not_pay_becomes_rare() {
        let mut gather = Gather::default();
        let waits = |gather: &mut Gather, has_paid: bool| {
            let batches = 1_000;
            let waited = (0..batches).filter(|_| {
                let is_due = gather.is_due();
                if is_due {
                    gather.note(has_paid);
                }
                is_due
            });
            waited.count()
        };
        let in_vain = waits(&mut gather, false);
        assert!((60..90).contains(&in_vain), "{in_vain}");
        // Of those that paid, the first comes after a pause.
        assert!(waits(&mut gather, true) >= 1_000 - usize::from(GATHER_PAUSE_MAX));
    }
}
