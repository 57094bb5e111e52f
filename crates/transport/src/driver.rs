//! The one task that moves frames between a session and its WebSocket.
//!
//! ```text
//! loop   read   messages that are there  -> session, at most READ_RUN in a row
//!        write  if the last batch is in the kernel: the next one, at most 64 KiB -> flush
//!        clock  heartbeat, death, a write that makes no progress
//! ```
//!
//! The first batch after a pause waits for tasks that are ready: what they send leaves in the same
//! write. Where there is one exchange, it waits for nothing.
//!
//! Reading never waits for a stream or for the writer: a stream's bytes have room by its credit,
//! and a flush that cannot go on leaves reading as it was.

use crate::handle::{Shared, Writer};
use crate::socket::Socket;
use bytes::Bytes;
use protocol::frame::GoAwayReason;
use protocol::limits::{DATA_MAX_BYTES, WRITE_BATCH_BYTES, WRITE_STALL};
use protocol::session::EndReason;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Messages read in a row before the writer has its turn.
const READ_RUN: usize = 64;

/// Steps of other tasks that a first batch waits for: enough to share the cost of a write, few
/// enough that the peer has work meanwhile.
const GATHER_MAX: u32 = 32;

/// How often large buffers are looked at.
const FIT: Duration = Duration::from_secs(1);

/// Frames that go to a peer that broke the protocol.
const LAST_FRAMES: usize = 4;

/// What a farewell may take: the last frames, and the closing handshake.
const FAREWELL: Duration = Duration::from_secs(1);

/// How far the way out is.
enum Writing {
    /// Everything chosen is in the kernel.
    Idle,
    /// There is something to send; other tasks that are ready may add to it.
    Gathering,
    /// A batch is on its way; how much had been written when it last made progress, and when
    /// that will have been too long ago.
    Flushing { written: u64, stalled_at: Instant },
}

/// Drives a session until it ends. A future: whoever spawns it owns the session's life; dropping
/// it ends the session.
pub(crate) struct Driver<IO> {
    socket: Socket<IO>,
    shared: Arc<Shared>,
    writing: Writing,
    timer: Pin<Box<Sleep>>,
    timer_at: Instant,
    /// When the buffers are to be looked at.
    fit_at: Option<Instant>,
    /// They are to be looked at as soon as nothing is being written.
    is_fit_due: bool,
    /// Why the session ends, while the farewell is on its way, and until when it may take.
    farewell: Option<(EndReason, Instant)>,
    /// Our Close is in the kernel.
    said_close: bool,
    batch: Vec<Bytes>,
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
            farewell: None,
            said_close: false,
            batch: Vec::new(),
        }
    }

    /// Reads what is there. `Ready(true)` when there may be more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EndReason>> {
        for _ in 0..READ_RUN {
            let message = match ready!(self.socket.poll_next(cx)) {
                Some(Ok(Message::Binary(message))) => message,
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
            self.shared.settle(core);
            if let Err(reason) = result {
                return Poll::Ready(Err(reason));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn peer_closed(&self) -> EndReason {
        let goaway = self.shared.states().borrow().goaway;
        goaway.map_or(EndReason::Closed, |said| EndReason::PeerLeft(said.reason))
    }

    /// Flushes the batch that is on its way, then chooses the next, until there is nothing to
    /// send (`Ready`) or the connection takes no more.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EndReason>> {
        loop {
            if let Writing::Flushing {
                written,
                stalled_at,
            } = &mut self.writing
            {
                match self.socket.poll_flush(cx) {
                    // What came up meanwhile has waited for long enough.
                    Poll::Ready(Ok(())) => {
                        self.writing = Writing::Gathering;
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

    /// After a pause: whether there is something to send, and the driver is polled again once the
    /// tasks that are ready now have run, or enough of them.
    fn gathers(&self, cx: &mut Context<'_>) -> bool {
        let mut core = self.shared.lock();
        // One exchange alone has nothing to wait for.
        if !core.session.has_frames() || core.session.streams_live() < 2 {
            return false;
        }
        core.writer = Writer::Gathers { more: GATHER_MAX };
        drop(core);
        pin!(tokio::task::yield_now()).poll(cx).is_pending()
    }

    /// Takes frames out of the session: what leaves in one write.
    fn choose_batch(&mut self) {
        let mut core = self.shared.lock();
        let mut bytes = 0;
        let now = Instant::now();
        // As long as a full DATA frame fits.
        while bytes + DATA_MAX_BYTES <= WRITE_BATCH_BYTES {
            let Some(frame) = core.session.poll_transmit(now) else {
                break;
            };
            bytes += frame.len();
            self.batch.push(frame);
        }
        core.writer = if self.batch.is_empty() {
            Writer::Idle
        } else {
            Writer::Busy
        };
        if core.session.has_events() {
            self.shared.settle(core);
        }
    }

    /// Does what is due, and sets the timer for what comes next.
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
                self.shared.settle(core);
            } else {
                drop(core);
            }
            result?;
            if let Writing::Flushing { stalled_at, .. } = &self.writing {
                next = next.min(*stalled_at);
            }
            if let Some((_, until)) = &self.farewell {
                next = next.min(*until);
            }
            match self.fit_at {
                // A deadline that has passed must go: the alarm would ring on and on.
                Some(at) if at <= now => {
                    self.fit_at = None;
                    self.is_fit_due = true;
                }
                Some(at) => next = next.min(at),
                None if !self.is_fit_due && self.socket.is_large() => {
                    self.fit_at = Some(now + FIT);
                    next = next.min(now + FIT);
                }
                None => {}
            }
            // Most deadlines only move away: an early alarm costs less than setting it each time.
            if next < self.timer_at || self.timer.is_elapsed() {
                self.timer_at = next;
                self.timer.as_mut().reset(next.into());
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
        }
    }

    /// Gives the socket other buffers, if it is time for that. Returns whether it has others now,
    /// and must be read again.
    fn fits(&mut self) -> bool {
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

    /// Whether the session has come to its planned end.
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
            if self.farewell.is_none()
                && let Some(reason) = self.planned_end()
            {
                self.farewell = Some((reason, Instant::now() + FAREWELL));
                continue;
            }
            if let Some((reason, until)) = &self.farewell {
                if write.is_ready() && !self.said_close {
                    self.said_close = self.socket.poll_close(cx).is_ready();
                }
                // The peer's Close ends the reading above. Dropping the connection before it came
                // could take our last frames with it.
                if Instant::now() >= *until {
                    return Poll::Ready(reason.clone());
                }
            }
            if read.is_pending() && self.fits() {
                continue;
            }
            if read.is_pending() {
                // The flush may have given rise to a nearer deadline.
                return match self.poll_clock(cx) {
                    Ok(()) => Poll::Pending,
                    Err(reason) => Poll::Ready(reason),
                };
            }
            // More may be there: let others have their turn.
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
        if let Some((planned, _)) = this.farewell.take() {
            reason = planned;
        } else if matches!(reason, EndReason::Protocol(_)) {
            this.last_word();
        }
        Poll::Ready(this.end(reason))
    }
}

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// Tells a peer that broke the protocol, as far as the kernel takes it without waiting.
    fn last_word(&mut self) {
        let mut core = self.shared.lock();
        core.session.drain(GoAwayReason::Protocol, Duration::ZERO);
        // GOAWAY stands behind at most a few other control frames.
        let frames: Vec<Bytes> = std::iter::from_fn(|| core.session.poll_transmit(Instant::now()))
            .take(LAST_FRAMES)
            .collect();
        drop(core);
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
        self.end(EndReason::Io("the session's task was ended".into()));
    }
}

fn end_reason(error: &Error) -> EndReason {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => EndReason::Closed,
        // What rustls says of it is a page of documentation.
        Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            EndReason::Io("the connection was closed without a farewell".into())
        }
        Error::Io(error) => EndReason::Io(error.to_string()),
        Error::Capacity(error) => EndReason::Protocol(error.to_string()),
        Error::Protocol(error) => match error {
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake => {
                EndReason::Io("the connection was closed without a farewell".into())
            }
            other => EndReason::Protocol(other.to_string()),
        },
        other => EndReason::Io(other.to_string()),
    }
}
