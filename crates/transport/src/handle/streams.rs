//! The two halves of one exchange.
//!
//! Dropping both halves of an unfinished exchange cancels it: the relay resets it with
//! `cancelled`, the bridge with `internal`.

use super::shared::{Shared, Waiting};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use protocol::frame::{BodyLength, ResponseHead};
use protocol::session::{Read, SendCapacity};
use protocol::{Code, Execution, Failure};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What both halves of an exchange share; dropping the last one releases the stream.
#[derive(Debug)]
struct Stream {
    shared: Arc<Shared>,
    id: u32,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.with(|core| {
            // Before the release: its events must not wake tasks that no longer hold this stream.
            core.waiting.remove(&self.id);
            core.session.release(self.id);
        });
    }
}

/// Stores the waker of the current task, without a clone where it is the same one.
fn store_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        // `clone_from` compares first: a task that polls again usually has the same waker.
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

impl Stream {
    fn poll_closed(
        &self,
        cx: &Context<'_>,
        slot: fn(&mut Waiting) -> &mut Option<Waker>,
    ) -> Poll<Failure> {
        let mut core = self.shared.lock();
        match core.session.failure(self.id) {
            Some(failure) => Poll::Ready(failure),
            None => {
                store_waker(slot(core.waiting.entry(self.id).or_default()), cx);
                Poll::Pending
            }
        }
    }
}

pub(super) fn pair(shared: &Arc<Shared>, id: u32) -> (SendStream, RecvStream) {
    incoming(shared, id, BodyLength::Unknown)
}

pub(super) fn incoming(
    shared: &Arc<Shared>,
    id: u32,
    body: BodyLength,
) -> (SendStream, RecvStream) {
    let stream = Arc::new(Stream {
        shared: shared.clone(),
        id,
    });
    let send = SendStream {
        stream: stream.clone(),
    };
    let recv = RecvStream {
        stream,
        left: length(body),
        done: false,
    };
    (send, recv)
}

fn length(body: BodyLength) -> Option<u64> {
    match body {
        BodyLength::None => Some(0),
        BodyLength::Known(bytes) => Some(bytes),
        BodyLength::Unknown => None,
    }
}

/// Aborts an exchange from outside, without keeping it alive.
#[derive(Debug, Clone)]
pub struct AbortHandle {
    stream: Weak<Stream>,
}

impl AbortHandle {
    /// Aborts the exchange in both directions, if it still runs.
    pub fn abort(&self, failure: Failure) {
        if let Some(stream) = self.stream.upgrade() {
            stream
                .shared
                .with(|core| core.session.reset(stream.id, failure));
        }
    }

    /// Returns how far the exchange has come, as far as this side knows it. `None` once it is released.
    pub fn execution(&self) -> Option<Execution> {
        let stream = self.stream.upgrade()?;
        stream.shared.peek(|session| session.execution(stream.id))
    }
}

/// How sending a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PumpEnd {
    /// All of it was queued.
    Finished,
    /// The peer sent STOP: it wants no more.
    Stopped,
}

/// Why sending a body failed.
#[derive(Debug)]
pub enum PumpError<E> {
    /// The source failed. The user of the stream decides how to reset the exchange.
    Body(E),
    /// The exchange failed.
    Stream(Failure),
}

/// The direction that this side sends.
#[derive(Debug)]
pub struct SendStream {
    stream: Arc<Stream>,
}

impl SendStream {
    fn poll_capacity(&self, cx: &Context<'_>) -> Poll<Result<SendCapacity, Failure>> {
        let mut core = self.stream.shared.lock();
        match core.session.send_capacity(self.stream.id) {
            Ok(SendCapacity::Full) => {
                store_waker(
                    &mut core.waiting.entry(self.stream.id).or_default().writer,
                    cx,
                );
                Poll::Pending
            }
            ready => Poll::Ready(ready),
        }
    }

    /// Waits for capacity, then queues bytes of the body. Returns whether the peer wants more. Cancel
    /// safe: either all of `data` is queued or nothing.
    ///
    /// # Errors
    /// The exchange's failure.
    pub async fn data(&mut self, data: Bytes) -> Result<PumpEnd, Failure> {
        match poll_fn(|cx| self.poll_capacity(cx)).await? {
            SendCapacity::Stopped => Ok(PumpEnd::Stopped),
            SendCapacity::Free | SendCapacity::Full => {
                let id = self.stream.id;
                self.stream
                    .shared
                    .with(|core| core.session.send_data(id, data))?;
                Ok(PumpEnd::Finished)
            }
        }
    }

    /// Ends this direction.
    ///
    /// # Errors
    /// The exchange's failure.
    pub fn finish(&mut self) -> Result<(), Failure> {
        let id = self.stream.id;
        self.stream
            .shared
            .with(|core| core.session.finish(id, None))
    }

    /// Ends this direction with trailer fields.
    ///
    /// # Errors
    /// The exchange's failure.
    pub fn trailers(&mut self, trailers: protocol::frame::Headers) -> Result<(), Failure> {
        let id = self.stream.id;
        self.stream
            .shared
            .with(|core| core.session.finish(id, Some(trailers)))
    }

    /// Sends a body with its trailers, as fast as the peer takes it.
    ///
    /// # Errors
    /// [`PumpError`].
    pub async fn pump<B>(&mut self, body: B) -> Result<PumpEnd, PumpError<B::Error>>
    where
        B: Body<Data = Bytes>,
    {
        let mut body = pin!(body);
        loop {
            // Capacity first: bytes that were read from the source cannot be returned to it.
            let capacity = poll_fn(|cx| self.poll_capacity(cx)).await;
            if capacity.map_err(PumpError::Stream)? == SendCapacity::Stopped {
                return Ok(PumpEnd::Stopped);
            }
            let next = poll_fn(|cx| {
                if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
                    return Poll::Ready(Ok(frame));
                }
                // While the source is slow, the peer may send STOP, or the exchange may fail.
                self.poll_stopped(cx).map(Err)
            });
            let frame = match next.await {
                Ok(frame) => frame,
                Err(end) => return end.map_err(PumpError::Stream),
            };
            match frame {
                None => {
                    self.finish().map_err(PumpError::Stream)?;
                    return Ok(PumpEnd::Finished);
                }
                Some(Err(error)) => return Err(PumpError::Body(error)),
                Some(Ok(frame)) => {
                    if let Some(end) = self.pump_frame(frame).map_err(PumpError::Stream)? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Polls for STOP or a failure; `Pending` while the peer wants more.
    fn poll_stopped(&self, cx: &Context<'_>) -> Poll<Result<PumpEnd, Failure>> {
        let mut core = self.stream.shared.lock();
        match core.session.send_capacity(self.stream.id) {
            Ok(SendCapacity::Free | SendCapacity::Full) => {
                store_waker(
                    &mut core.waiting.entry(self.stream.id).or_default().writer,
                    cx,
                );
                Poll::Pending
            }
            Ok(SendCapacity::Stopped) => Poll::Ready(Ok(PumpEnd::Stopped)),
            Err(failure) => Poll::Ready(Err(failure)),
        }
    }

    /// Queues one frame of a body, for which there was capacity.
    fn pump_frame(&mut self, frame: Frame<Bytes>) -> Result<Option<PumpEnd>, Failure> {
        let id = self.stream.id;
        match frame.into_data() {
            Ok(data) => {
                self.stream
                    .shared
                    .with(|core| core.session.send_data(id, data))?;
                Ok(None)
            }
            Err(frame) => {
                let Ok(trailers) = frame.into_trailers() else {
                    return Ok(None);
                };
                match crate::http::to_wire(&trailers, |_| false) {
                    Ok(trailers) => self.trailers(trailers)?,
                    Err(error) => {
                        let detail = format!("the trailers cannot be forwarded: {error}");
                        let failure =
                            Failure::new(Code::InvalidRequest, Execution::PossiblyExecuted, detail);
                        self.reset(failure);
                    }
                }
                Ok(Some(PumpEnd::Finished))
            }
        }
    }

    /// Bridge: the first byte is about to leave for the target.
    ///
    /// # Errors
    /// The relay cancelled the exchange: nothing may leave.
    pub fn dispatched(&self) -> Result<(), Failure> {
        let id = self.stream.id;
        self.stream.shared.with(|core| {
            if core.session.mark_dispatched(Instant::now(), id)?
                && let Some(driver) = core.driver.take()
            {
                // Its timer is set for a later time than DISPATCHED is due (W-22).
                driver.wake();
            }
            Ok(())
        })
    }

    /// Bridge: sends a head of the response. Informational heads may precede the final one. A `body` of
    /// up to 16 KiB travels with the final head; `end` marks it as complete.
    ///
    /// # Errors
    /// The exchange's failure, or `response_too_large` when the head does not fit a frame.
    pub fn head(&mut self, head: &ResponseHead, body: &[u8], end: bool) -> Result<(), Failure> {
        let id = self.stream.id;
        self.stream
            .shared
            .with(|core| core.session.send_head(id, head, body, end))
    }

    /// Ends the exchange in both directions. On the bridge this is its response.
    pub fn reset(&mut self, failure: Failure) {
        let id = self.stream.id;
        self.stream
            .shared
            .with(|core| core.session.reset(id, failure));
    }

    /// Polls for the exchange's failure: cancelled by the peer, or lost with the session.
    pub fn poll_closed(&self, cx: &Context<'_>) -> Poll<Failure> {
        self.stream.poll_closed(cx, |waiting| &mut waiting.closer)
    }

    /// Waits until the exchange has failed. Does not return for an exchange that succeeds. Cancel safe.
    pub async fn closed(&self) -> Failure {
        poll_fn(|cx| self.poll_closed(cx)).await
    }
}

/// The direction that the peer sends, as a body. Taking its frames returns credit. A reset or a lost session is
/// an error, never an end.
#[derive(Debug)]
pub struct RecvStream {
    stream: Arc<Stream>,
    /// Bytes that are still to come, if known.
    left: Option<u64>,
    done: bool,
}

impl RecvStream {
    fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<ResponseHead, Failure>> {
        let id = self.stream.id;
        let mut core = self.stream.shared.lock();
        match core.session.read_head(id) {
            Ok(Some(head)) => {
                self.left = length(head.body);
                Poll::Ready(Ok(head))
            }
            Ok(None) => {
                store_waker(&mut core.waiting.entry(id).or_default().reader, cx);
                Poll::Pending
            }
            Err(failure) => Poll::Ready(Err(failure)),
        }
    }

    /// Relay: waits for the next head of the response, informational ones included. Cancel safe.
    ///
    /// # Errors
    /// The exchange's failure; its `execution` is what callers may rely on.
    pub async fn head(&mut self) -> Result<ResponseHead, Failure> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// Relay: returns the exchange's id on the wire, once its OPEN has left.
    pub fn wire_id(&self) -> Option<u32> {
        let id = self.stream.id;
        self.stream.shared.peek(|session| session.wire_id(id))
    }

    /// Returns a handle that aborts this exchange from outside.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle {
            stream: Arc::downgrade(&self.stream),
        }
    }

    /// Asks the peer to send no more of this direction; the exchange goes on.
    pub fn stop(&mut self) {
        let id = self.stream.id;
        self.stream.shared.with(|core| core.session.stop(id));
    }

    /// Relay: cancels the request, and waits up to `wait` for the bridge's acknowledgement, which
    /// states how far the request came. Without it the failure is `possibly_executed`.
    pub async fn cancel(&mut self, failure: Failure, wait: Duration) -> Failure {
        let id = self.stream.id;
        let given = Failure {
            execution: Execution::PossiblyExecuted,
            ..failure
        };
        self.stream
            .shared
            .with(|core| core.session.reset(id, given.clone()));
        let settled = poll_fn(|cx| self.stream.poll_closed(cx, |waiting| &mut waiting.closer));
        // A bridge that does not acknowledge in time may still have executed the request.
        tokio::time::timeout(wait, settled).await.unwrap_or(given)
    }

    fn poll_read(&mut self, cx: &Context<'_>) -> Poll<Read> {
        let id = self.stream.id;
        let shared = self.stream.shared.clone();
        let read = shared.with(|core| {
            let read = core.session.read(Instant::now(), id);
            // Under the same lock as the read: an event between the two would be lost otherwise.
            if read == Read::Pending {
                store_waker(&mut core.waiting.entry(id).or_default().reader, cx);
            }
            read
        });
        match read {
            Read::Pending => Poll::Pending,
            ready => Poll::Ready(ready),
        }
    }

    fn count(&mut self, bytes: u64) -> Result<(), Failure> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(bytes).ok_or_else(wrong_length)?;
        }
        Ok(())
    }
}

fn wrong_length() -> Failure {
    Failure::new(
        Code::TargetClosed,
        Execution::Executed,
        "the body does not have the length that its head announced",
    )
}

impl Body for RecvStream {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let result = match std::task::ready!(self.poll_read(cx)) {
            Read::Data(data) => match self.count(data.len() as u64) {
                Ok(()) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(failure) => Some(Err(failure)),
            },
            Read::Trailers(headers) => {
                return Poll::Ready(Some(match crate::http::from_wire(&headers) {
                    Ok(trailers) => Ok(Frame::trailers(trailers)),
                    Err(_) => Err(Failure::new(
                        Code::TargetProtocol,
                        Execution::Executed,
                        "the trailers are not valid HTTP",
                    )),
                }));
            }
            // A truncated body must not look complete.
            Read::End if self.left.is_some_and(|left| left > 0) => Some(Err(wrong_length())),
            Read::End => None,
            Read::Failed(failure) => Some(Err(failure)),
            Read::Pending => return Poll::Pending,
        };
        // After an end or an error nothing follows, however often the body is polled.
        self.done = true;
        Poll::Ready(result)
    }

    fn is_end_stream(&self) -> bool {
        let id = self.stream.id;
        self.done
            || (self.left.is_none_or(|left| left == 0)
                && self
                    .stream
                    .shared
                    .peek(|session| session.is_read_to_end(id)))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
