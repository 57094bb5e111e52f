//! A request's body on its way to a target.
//!
//! One that arrived whole with its head is bytes, and can be sent again; the others are streamed,
//! and credit returns to the relay as the target takes them. A body that is let go before its end
//! asks the relay to stop.

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use protocol::frame::BodyLength;
use protocol::{Code, Execution, Failure};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use transport::RecvStream;
use transport::handle::INLINE_MAX_BYTES;

/// When a body last moved, and whether all of it is gone.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    millis: AtomicU64,
    is_done: AtomicBool,
    failed: OnceLock<Failure>,
}

impl Progress {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            millis: AtomicU64::new(0),
            is_done: AtomicBool::new(false),
            failed: OnceLock::new(),
        })
    }

    fn moved(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// When a piece of it was last handed to the target's connection.
    pub(crate) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    /// Why the body came to no end. The HTTP library does not always say.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failed.get().cloned()
    }

    fn failed(&self, failure: &Failure) {
        let _ = self.failed.set(failure.clone());
    }

    /// Whether the whole body was handed over.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }
}

/// The body of a request to a target.
#[derive(Debug)]
pub struct RequestBody {
    kind: Kind,
    length: BodyLength,
    is_done: bool,
    bytes_left_max: Option<u64>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
enum Kind {
    Whole(Bytes),
    Stream {
        front: Bytes,
        /// What came behind `front`; the stream itself says it only once.
        failed: Option<Failure>,
        recv: RecvStream,
    },
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        match &mut self.kind {
            Kind::Stream { recv, .. } if !self.is_done => recv.stop(),
            Kind::Stream { .. } | Kind::Whole(_) => {}
        }
    }
}

impl RequestBody {
    /// Takes what has arrived already. With `bytes_max`, a longer body fails.
    ///
    /// # Errors
    /// `request_too_large` when the length is known and too large.
    pub fn new(
        mut recv: RecvStream,
        length: BodyLength,
        bytes_max: Option<u64>,
    ) -> Result<Self, Failure> {
        let kind = match length {
            BodyLength::None | BodyLength::Known(0) => Kind::Whole(Bytes::new()),
            BodyLength::Known(bytes) if bytes_max.is_some_and(|max| bytes > max) => {
                return Err(too_large(Execution::NotDispatched));
            }
            BodyLength::Known(bytes) if bytes <= INLINE_MAX_BYTES as u64 => {
                let (front, failed) = arrived(&mut recv, bytes);
                if front.len() as u64 == bytes {
                    Kind::Whole(front)
                } else {
                    Kind::Stream {
                        front,
                        failed,
                        recv,
                    }
                }
            }
            BodyLength::Known(_) | BodyLength::Unknown => Kind::Stream {
                front: Bytes::new(),
                failed: None,
                recv,
            },
        };
        Ok(Self::of(kind, length, bytes_max))
    }

    fn of(kind: Kind, length: BodyLength, bytes_left_max: Option<u64>) -> Self {
        let progress = Progress::new();
        let is_done = matches!(&kind, Kind::Whole(bytes) if bytes.is_empty());
        progress.is_done.store(is_done, Ordering::Release);
        Self {
            kind,
            length,
            is_done,
            bytes_left_max,
            progress,
        }
    }

    /// From its bytes.
    pub fn of_whole(bytes: Bytes, length: BodyLength) -> Self {
        Self::of(Kind::Whole(bytes), length, None)
    }

    /// Its bytes, where it is whole.
    pub fn whole(&self) -> Option<Bytes> {
        match &self.kind {
            Kind::Whole(bytes) => Some(bytes.clone()),
            Kind::Stream { .. } => None,
        }
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    fn done(&mut self) {
        self.is_done = true;
        self.progress.is_done.store(true, Ordering::Release);
    }

    fn count(&mut self, bytes: usize) -> Result<(), Failure> {
        if let Some(left) = &mut self.bytes_left_max {
            *left = left
                .checked_sub(bytes as u64)
                .ok_or_else(|| too_large(Execution::PossiblyExecuted))?;
        }
        Ok(())
    }
}

fn too_large(execution: Execution) -> Failure {
    let detail = "the request's body is larger than this bridge passes on (limits.request_max)";
    Failure::new(Code::RequestTooLarge, execution, detail)
}

/// What came with the head, without waiting, and the failure behind it.
fn arrived<B>(recv: &mut B, wanted: u64) -> (Bytes, Option<Failure>)
where
    B: Body<Data = Bytes, Error = Failure> + Unpin,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    let mut failed = None;
    while ((first.len() + more.len()) as u64) < wanted {
        let frame = match Pin::new(&mut *recv).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(failure))) => {
                failed = Some(failure);
                break;
            }
            Poll::Ready(None) | Poll::Pending => break,
        };
        match frame.into_data() {
            Ok(data) if first.is_empty() => first = data,
            Ok(data) => more.extend_from_slice(&data),
            Err(_) => break,
        }
    }
    if more.is_empty() {
        return (first, failed);
    }
    let mut all = BytesMut::with_capacity(first.len() + more.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&more);
    (all.freeze(), failed)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.is_done {
            return Poll::Ready(None);
        }
        let frame = match &mut self.kind {
            Kind::Whole(bytes) => {
                let data = bytes.clone();
                self.done();
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Kind::Stream { front, .. } if !front.is_empty() => {
                Some(Ok(Frame::data(std::mem::take(front))))
            }
            Kind::Stream { failed, recv, .. } => match failed.take() {
                Some(failure) => Some(Err(failure)),
                None => std::task::ready!(Pin::new(recv).poll_frame(cx)),
            },
        };
        self.progress.moved();
        match &frame {
            None => self.done(),
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if let Err(failure) = self.count(bytes) {
                    self.progress.failed(&failure);
                    return Poll::Ready(Some(Err(failure)));
                }
                // A body of known length is never polled behind its last byte.
                let is_end = matches!(&self.kind, Kind::Stream { front, failed: None, recv }
                    if front.is_empty() && recv.is_end_stream());
                if matches!(self.length, BodyLength::Known(_)) && is_end {
                    self.done();
                }
            }
            Some(Err(failure)) => self.progress.failed(failure),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_done
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            _ if self.is_done => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream { front, recv, .. } => {
                recv.size_hint().exact().map_or_else(SizeHint::new, |rest| {
                    SizeHint::with_exact(rest + front.len() as u64)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_body_can_be_sent_again() {
        let bytes = Bytes::from_static(b"{}");
        let mut body = RequestBody::of(Kind::Whole(bytes.clone()), BodyLength::Known(2), None);
        let again = RequestBody::of_whole(body.whole().unwrap(), BodyLength::Known(2));
        assert!(!body.progress().is_done());
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else {
            panic!("a whole body is ready");
        };
        assert_eq!(frame.into_data().unwrap(), bytes);
        assert!(body.is_end_stream() && body.progress().is_done());
        assert_eq!(again.size_hint().exact(), Some(2));
    }

    #[test]
    fn a_failure_behind_what_has_arrived_is_kept() {
        let lost = Failure::possibly_executed(Code::Cancelled, "lost");
        let frames = [b"a", b"b"].map(|data| Ok(Frame::data(Bytes::from_static(data))));
        let mut body = Frames(frames.into_iter().chain([Err(lost.clone())]).collect());
        assert_eq!(
            arrived(&mut body, 9),
            (Bytes::from_static(b"ab"), Some(lost))
        );
    }

    /// Says each of these once.
    struct Frames(std::collections::VecDeque<Result<Frame<Bytes>, Failure>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Failure;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
            Poll::Ready(self.0.pop_front())
        }
    }
}
