//! The body of a request to a target.
//!
//! A body that arrived in full with its head is bytes, and can be sent again. Other bodies are streamed, and
//! credit returns to the relay as the target reads them. A streamed body that is dropped before its end asks
//! the relay to stop.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use policy::Overrides;
use protocol::frame::BodyLength;
use protocol::{Code, Execution, Failure};
use runtime::body::PrefetchedBody;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use transport::RecvStream;
use transport::handle::INLINE_MAX_BYTES;

/// When a body last moved, and whether all of it was handed to the connection.
#[derive(Debug)]
pub struct Progress {
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
        // Relaxed: the time is compared with a deadline and orders nothing.
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// Returns when a frame was last handed to the connection.
    pub fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    /// Returns why the body failed. It is kept here because hyper does not always return a body's error.
    pub fn failure(&self) -> Option<Failure> {
        self.failed.get().cloned()
    }

    fn failed(&self, failure: &Failure) {
        let _ = self.failed.set(failure.clone());
    }

    /// Returns whether the whole body was handed over.
    pub fn is_done(&self) -> bool {
        // With `done`: an HTTP/2 body is polled by another task than the one that asks.
        self.is_done.load(Ordering::Acquire)
    }
}

/// The body of a request to a target.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    length: BodyLength,
    is_done: bool,
    bytes_left_max: Option<u64>,
    /// Trailers that must not be sent. A target may join them with the fields of the head.
    overrides: Overrides,
    progress: Arc<Progress>,
}

#[derive(Debug)]
enum Source {
    Buffered(Bytes),
    Streamed(PrefetchedBody<RecvStream>),
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        match &mut self.source {
            // Without this, the relay would go on sending a body that no one reads.
            Source::Streamed(stream) if !self.is_done => stream.get_mut().stop(),
            Source::Streamed(_) | Source::Buffered(_) => {}
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
        let source = match length {
            BodyLength::None | BodyLength::Known(0) => Source::Buffered(Bytes::new()),
            BodyLength::Known(bytes) if bytes_max.is_some_and(|max| bytes > max) => {
                return Err(too_large(Execution::NotDispatched));
            }
            BodyLength::Known(bytes) if bytes <= INLINE_MAX_BYTES as u64 => {
                let (front, failed) = arrived(&mut recv, bytes);
                if front.len() as u64 == bytes {
                    Source::Buffered(front)
                } else {
                    let mut stream = PrefetchedBody::new(recv);
                    if !front.is_empty() {
                        stream.push(Frame::data(front));
                    }
                    if let Some(failure) = failed {
                        stream.fail(failure);
                    }
                    Source::Streamed(stream)
                }
            }
            BodyLength::Known(_) | BodyLength::Unknown => {
                Source::Streamed(PrefetchedBody::new(recv))
            }
        };
        Ok(Self::of(source, length, bytes_max))
    }

    fn of(source: Source, length: BodyLength, bytes_left_max: Option<u64>) -> Self {
        let progress = Progress::new();
        let is_done = matches!(&source, Source::Buffered(bytes) if bytes.is_empty());
        progress.is_done.store(is_done, Ordering::Release);
        Self {
            source,
            length,
            is_done,
            bytes_left_max,
            overrides: Overrides::default(),
            progress,
        }
    }

    /// Makes a body of its bytes.
    pub fn from_bytes(bytes: Bytes, length: BodyLength) -> Self {
        Self::of(Source::Buffered(bytes), length, None)
    }

    /// Makes the body of a request that has none.
    pub fn empty() -> Self {
        Self::from_bytes(Bytes::new(), BodyLength::None)
    }

    /// Returns its bytes, if all of them are here.
    pub fn buffered(&self) -> Option<Bytes> {
        match &self.source {
            Source::Buffered(bytes) => Some(bytes.clone()),
            Source::Streamed(_) => None,
        }
    }

    /// Returns its length as the caller declared it.
    pub fn length(&self) -> BodyLength {
        self.length
    }

    /// Returns a handle that shows how much was sent.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Sets which trailers are dropped.
    pub(crate) fn set_overrides(&mut self, overrides: Overrides) {
        self.overrides = overrides;
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

/// Returns the frame without trailers that are dropped; `None` where no trailer is left.
fn without_overrides(frame: Frame<Bytes>, overrides: Overrides) -> Option<Frame<Bytes>> {
    if frame.is_data() || overrides == Overrides::default() {
        return Some(frame);
    }
    match frame.into_trailers() {
        Ok(trailers) => {
            let mut kept = HeaderMap::with_capacity(trailers.len());
            for (name, value) in &trailers {
                if !overrides.drops(name.as_str()) {
                    kept.append(name, value.clone());
                }
            }
            (!kept.is_empty()).then(|| Frame::trailers(kept))
        }
        Err(other) => Some(other),
    }
}

fn too_large(execution: Execution) -> Failure {
    let detail = "the request's body is larger than this bridge passes on (limits.request_max)";
    Failure::new(Code::RequestTooLarge, execution, detail)
}

/// Returns the bytes that arrived with the head, without waiting, and the failure after them.
fn arrived<B>(recv: &mut B, wanted: u64) -> (Bytes, Option<Failure>)
where
    B: Body<Data = Bytes, Error = Failure> + Unpin,
{
    // Polled once without a waker: only bytes that are here already are taken, and the body is polled again
    // later.
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
            // Trailers: the body has ended before its declared length, which the target will notice.
            Err(_) => break,
        }
    }
    // One chunk, the usual case, is not copied.
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
        let frame = match &mut self.source {
            Source::Buffered(bytes) => {
                let data = bytes.clone();
                self.done();
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Source::Streamed(stream) => std::task::ready!(Pin::new(stream).poll_frame(cx)),
        };
        self.progress.moved();
        let overrides = self.overrides;
        let frame = frame.and_then(|frame| match frame {
            Ok(frame) => without_overrides(frame, overrides).map(Ok),
            Err(failure) => Some(Err(failure)),
        });
        match &frame {
            None => self.done(),
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if let Err(failure) = self.count(bytes) {
                    self.progress.failed(&failure);
                    return Poll::Ready(Some(Err(failure)));
                }
                // hyper does not poll a body of known length after its last byte, so the end is noted with
                // that byte. Without this, dropping the body would ask the relay to stop.
                if matches!(self.length, BodyLength::Known(_))
                    && matches!(&self.source, Source::Streamed(stream) if stream.is_end_stream())
                {
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
        match &self.source {
            _ if self.is_done => SizeHint::with_exact(0),
            Source::Buffered(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Streamed(stream) => stream.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffered_body_can_be_sent_again() {
        let bytes = Bytes::from_static(b"{}");
        let mut body = RequestBody::of(Source::Buffered(bytes.clone()), BodyLength::Known(2), None);
        let again = RequestBody::from_bytes(body.buffered().unwrap(), BodyLength::Known(2));
        assert!(!body.progress().is_done());
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else {
            panic!("a buffered body is ready");
        };
        assert_eq!(frame.into_data().unwrap(), bytes);
        assert!(body.is_end_stream() && body.progress().is_done());
        assert_eq!(again.size_hint().exact(), Some(2));
    }

    #[test]
    fn override_trailers_are_dropped() {
        let overrides = Overrides {
            no_method: true,
            no_path: false,
        };
        let trailers = |names: &[&'static str]| {
            let mut map = HeaderMap::new();
            for name in names {
                map.append(*name, "1".parse().unwrap());
            }
            let frame = without_overrides(Frame::trailers(map), overrides);
            frame.map(|frame| frame.into_trailers().unwrap().len())
        };
        assert_eq!(trailers(&["x-digest", "x_http_method_override"]), Some(1));
        assert_eq!(trailers(&["x-http-method"]), None);
        assert_eq!(trailers(&["x-original-url"]), Some(1));
    }

    #[test]
    fn failure_after_arrived_bytes_is_kept() {
        let lost = Failure::possibly_executed(Code::Cancelled, "lost");
        let frames = [b"a", b"b"].map(|data| Ok(Frame::data(Bytes::from_static(data))));
        let mut body = Frames(frames.into_iter().chain([Err(lost.clone())]).collect());
        assert_eq!(
            arrived(&mut body, 9),
            (Bytes::from_static(b"ab"), Some(lost))
        );
    }

    /// Yields each of these once.
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
