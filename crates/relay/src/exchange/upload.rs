//! A request's body on its way from the caller to a tunnel.
//!
//! ```text
//! caller's body -> Source (buffers the beginning) -> UploadReader of one attempt -> pump -> stream
//! ```
//!
//! The beginning of the body is buffered until a response arrives. If a tunnel provably dispatched nothing, the next
//! attempt reads the body from its first byte, and the caller does not notice. The buffer is bounded for each
//! body, and by the memory that the caller's key may use. A longer body is not retried.

use crate::capacity::{KeyMemory, MISFRAMED};
use bytes::Bytes;
use http_body::{Body, Frame};
use protocol::{Code, Failure};
use runtime::body::DeferredBody;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use transport::{PumpError, SendStream};

/// What is kept of one body, in bytes.
const KEPT_MAX_BYTES: usize = 64 * 1024;

/// Frames that are kept of one body.
const KEPT_MAX_FRAMES: usize = 256;

/// How long a body is held back at most. A bridge sends its own 100 after one second without one from the
/// target; this limit is for a bridge that does not.
const GO_AHEAD_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a body is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UploadError {
    /// The caller aborted it.
    Aborted,
    /// Its chunks are malformed.
    Misframed,
    /// The caller sent nothing for this time.
    Idle(Duration),
    /// Another attempt reads it.
    Superseded,
}

impl From<Infallible> for UploadError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<io::Error> for UploadError {
    fn from(_: io::Error) -> Self {
        Self::Aborted
    }
}

impl UploadError {
    /// Returns the failure that the exchange ends with.
    fn failure(self) -> Failure {
        match self {
            Self::Aborted | Self::Superseded => {
                Failure::possibly_executed(Code::Cancelled, "the caller aborted its request body")
            }
            // The target may have begun to execute what came before.
            Self::Misframed => Failure::possibly_executed(Code::InvalidRequest, MISFRAMED),
            Self::Idle(limit) => {
                let detail = format!(
                    "the caller sent nothing of its body for {limit:?} (limits.caller_idle_timeout)"
                );
                Failure::possibly_executed(Code::Timeout, detail)
            }
        }
    }
}

/// A body that several attempts may read, one after the other.
#[derive(Debug)]
pub(super) struct Upload<B>(Arc<Mutex<Source<B>>>);

#[derive(Debug)]
struct Source<B> {
    /// The memory of the caller's key.
    memory: Arc<KeyMemory>,
    body: Pin<Box<B>>,
    /// Its beginning, as far as it is kept.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Whether everything that was read of it is kept.
    is_complete: bool,
    /// How it ended.
    end: Option<Result<(), UploadError>>,
    /// The number of the only reader that may read.
    reader: u32,
}

impl<B> Drop for Source<B> {
    fn drop(&mut self) {
        self.discard();
    }
}

impl<B> Source<B> {
    /// Discards what is kept: the body cannot be read from its first byte any more.
    fn discard(&mut self) {
        self.memory.release(self.kept_bytes as u64);
        self.kept = Vec::new();
        self.kept_bytes = 0;
        self.is_complete = false;
    }

    /// Keeps a frame that goes to a reader which has everything before it.
    fn keep(&mut self, data: &Bytes) {
        if !self.is_complete {
            return;
        }
        // Frames are counted, too: a frame of one byte keeps the whole buffer that it arrived in.
        let fits = self.kept_bytes + data.len() <= KEPT_MAX_BYTES
            && self.kept.len() < KEPT_MAX_FRAMES
            && self.memory.has_room_to_spare(data.len() as u64);
        if fits {
            self.memory.add(data.len() as u64);
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
        } else {
            self.discard();
        }
    }

    /// Returns the kept frame at `at`. The memory is released with the last frame, once no other attempt may
    /// follow.
    fn replay(&mut self, at: &mut usize) -> Option<Bytes> {
        let frame = self.kept.get(*at)?.clone();
        *at += 1;
        if !self.is_complete && *at == self.kept.len() {
            self.discard();
            *at = 0;
        }
        Some(frame)
    }
}

impl<B: Body<Data = Bytes, Error: Into<UploadError>>> Source<B> {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.end {
            None => {}
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
        }
        let frame = std::task::ready!(self.body.as_mut().poll_frame(cx));
        let frame = frame.map(|frame| frame.map_err(Into::into));
        match &frame {
            None => self.end = Some(Ok(())),
            // A body reports its error once and then `None`. A later reader must not take that for an
            // orderly end.
            Some(Err(error)) => {
                self.end = Some(Err(*error));
                self.discard();
            }
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => self.keep(data),
                // Trailers are not kept, so a body with trailers is not retried.
                None => self.discard(),
            },
        }
        Poll::Ready(frame)
    }
}

impl<B> Upload<B> {
    /// Returns an upload that counts what it keeps for `memory`.
    pub(super) fn new(memory: &Arc<KeyMemory>, body: B) -> Self {
        Self(Arc::new(Mutex::new(Source {
            memory: memory.clone(),
            body: Box::pin(body),
            kept: Vec::new(),
            kept_bytes: 0,
            is_complete: true,
            end: None,
            reader: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Source<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the body from its reader for good. Returns whether another attempt can read it from its first
    /// byte.
    pub(super) fn reclaim(&self) -> bool {
        let mut source = self.lock();
        source.reader += 1;
        source.is_complete
    }

    /// Ends retries: no other attempt follows. Kept frames that the reader has not read stay for it.
    pub(super) fn release(&self) {
        let mut source = self.lock();
        source.is_complete = false;
    }

    /// Returns the body for an attempt. Readers before it fail from now on.
    pub(super) fn reader(&self) -> UploadReader<B> {
        let mut source = self.lock();
        source.reader += 1;
        UploadReader {
            number: source.reader,
            source: Self(self.0.clone()),
            at: 0,
        }
    }
}

/// The body as one attempt reads it.
#[derive(Debug)]
pub(super) struct UploadReader<B> {
    source: Upload<B>,
    number: u32,
    /// Kept frames that were read.
    at: usize,
}

impl<B: Body<Data = Bytes, Error: Into<UploadError>>> Body for UploadReader<B> {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = self.get_mut();
        let mut source = this.source.lock();
        if source.reader != this.number {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(frame) = source.replay(&mut this.at) {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        let next = source.poll_next(cx);
        this.at = source.kept.len();
        next
    }
}

/// Sends a body into a stream. If the body fails, the stream is reset.
pub(crate) async fn pump<B>(mut send: SendStream, body: B)
where
    B: Body<Data = Bytes, Error: Into<UploadError>>,
{
    match send.pump(body).await {
        // A stream that failed is reported by its receiving half.
        Ok(_) | Err(PumpError::Stream(_)) => {}
        Err(PumpError::Body(error)) => send.reset(error.into().failure()),
    }
}

/// Returns a body that its caller holds back until the target wants it (RFC 9110, 10.1.1).
///
/// Reading it is what makes hyper send the 100. `requested` is completed when the target wants the body, and
/// dropped when an error came instead.
pub(super) fn expect_continue<B>(
    body: B,
    requested: oneshot::Receiver<()>,
) -> DeferredBody<B, Pin<Box<impl Future<Output = ()> + Send>>> {
    let start = async {
        match tokio::time::timeout(GO_AHEAD_TIMEOUT, requested).await {
            Ok(Ok(())) | Err(_) => {}
            // The body is never read then. Its pump ends with the stream.
            Ok(Err(_)) => std::future::pending().await,
        }
    };
    DeferredBody::new(body, Box::pin(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::{BodyMemory, TenantMemory};
    use std::collections::VecDeque;
    use std::task::Waker;

    /// Yields each of these once and is pending then, as the body of a slow caller.
    struct Script(VecDeque<Option<Result<Frame<Bytes>, io::Error>>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            self.0.pop_front().map_or(Poll::Pending, Poll::Ready)
        }
    }

    /// The memory of a key, in a pool of this size.
    fn memory(bytes: u64) -> Arc<KeyMemory> {
        KeyMemory::new(&TenantMemory::new(&BodyMemory::new(bytes), 1), 1)
    }

    fn data(bytes: &'static [u8]) -> Option<Result<Frame<Bytes>, io::Error>> {
        Some(Ok(Frame::data(Bytes::from_static(bytes))))
    }

    fn upload(
        frames: impl IntoIterator<Item = Option<Result<Frame<Bytes>, io::Error>>>,
    ) -> Upload<Script> {
        let script = Script(frames.into_iter().collect());
        Upload::new(&memory(1024 * 1024), script)
    }

    type Polled = Poll<Option<Result<Bytes, UploadError>>>;

    fn next(reader: &mut UploadReader<Script>) -> Polled {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(reader).poll_frame(&mut cx).map(|frame| {
            frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
        })
    }

    fn piece(bytes: &'static [u8]) -> Polled {
        Poll::Ready(Some(Ok(Bytes::from_static(bytes))))
    }

    #[test]
    fn next_attempt_reads_from_first_byte() {
        let upload = upload([data(b"a"), data(b"b"), data(b"c"), None]);
        let mut first = upload.reader();
        assert_eq!(
            (next(&mut first), next(&mut first)),
            (piece(b"a"), piece(b"b"))
        );
        assert!(upload.reclaim());
        assert_eq!(
            next(&mut first),
            Poll::Ready(Some(Err(UploadError::Superseded)))
        );
        let mut second = upload.reader();
        for expected in [piece(b"a"), piece(b"b"), piece(b"c"), Poll::Ready(None)] {
            assert_eq!(next(&mut second), expected);
        }
        assert_eq!(next(&mut second), Poll::Ready(None));
    }

    #[test]
    fn early_response_keeps_unread_frames() {
        let upload = upload([data(b"a"), data(b"b"), None]);
        let mut first = upload.reader();
        let _ = (next(&mut first), next(&mut first));
        assert!(upload.reclaim());
        let mut second = upload.reader();
        assert_eq!(next(&mut second), piece(b"a"));
        upload.release();
        assert_eq!(
            (next(&mut second), next(&mut second)),
            (piece(b"b"), Poll::Ready(None))
        );
        assert_eq!(upload.lock().kept_bytes, 0);
        assert!(!upload.reclaim());
    }

    #[test]
    fn body_beyond_kept_bounds_is_not_retried() {
        const CHUNK: &[u8] = &[b'x'; 16 * 1024];
        for (chunk, fits) in [(CHUNK, 4), (&b"x"[..], KEPT_MAX_FRAMES)] {
            let upload = upload(std::iter::repeat_n(chunk, fits + 1).map(data));
            let mut reader = upload.reader();
            for _ in 0..fits {
                assert_eq!(next(&mut reader), piece(chunk));
            }
            assert!(upload.lock().is_complete);
            assert_eq!(next(&mut reader), piece(chunk));
            assert_eq!(next(&mut reader), Poll::Pending);
            assert!(!upload.reclaim());
            assert_eq!(upload.lock().memory.used_bytes(), 0);
        }
    }

    #[test]
    fn failed_body_stays_failed_and_is_not_retried() {
        let upload = upload([data(b"a"), Some(Err(io::ErrorKind::Other.into())), None]);
        let mut reader = upload.reader();
        assert_eq!(next(&mut reader), piece(b"a"));
        for _ in 0..2 {
            assert_eq!(
                next(&mut reader),
                Poll::Ready(Some(Err(UploadError::Aborted)))
            );
        }
        assert!(!upload.reclaim());
    }

    #[test]
    fn malformed_chunks_are_an_invalid_request() {
        let failure = UploadError::Misframed.failure();
        assert_eq!(failure.code, Code::InvalidRequest);
        assert_eq!(UploadError::Aborted.failure().code, Code::Cancelled);
    }

    #[test]
    fn body_with_trailers_is_not_retried() {
        let trailers = Some(Ok(Frame::trailers(http::HeaderMap::new())));
        let upload = upload([data(b"a"), trailers, None]);
        let mut reader = upload.reader();
        let _ = (next(&mut reader), next(&mut reader));
        assert!(!upload.reclaim());
    }

    #[test]
    fn kept_bytes_count_for_key_and_are_released() {
        let memory = memory(400);
        memory.add(90);
        let script = Script([data(&[b'a'; 20]), data(b"b")].into());
        let upload = Upload::new(&memory, script);
        assert_eq!(next(&mut upload.reader()), piece(&[b'a'; 20]));
        assert!(!upload.reclaim());
        memory.release(90);
        drop(upload);
        let upload = Upload::new(&memory, Script([data(b"a")].into()));
        assert_eq!(next(&mut upload.reader()), piece(b"a"));
        assert_eq!(memory.used_bytes(), 1);
        assert!(upload.reclaim());
        drop(upload);
        assert_eq!(memory.used_bytes(), 0);
    }
}
