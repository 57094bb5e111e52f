//! A request's body, on its way from the caller to a tunnel.
//!
//! Its beginning is kept until an answer has come: a tunnel that provably dispatched nothing is then no
//! reason to trouble the caller, for the next one gets the body from its first byte. Bounded for each
//! body, and by the memory that its key may use; what is longer is not repeated.

use crate::capacity::KeyMemory;
use bytes::Bytes;
use http_body::{Body, Frame};
use protocol::{Code, Failure};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use transport::{PumpError, SendStream};

/// What is kept of one body, in bytes.
const KEPT_MAX_BYTES: usize = 64 * 1024;

/// Pieces that are kept of one body.
const KEPT_MAX_PIECES: usize = 256;

/// How long the bridge's word is waited for that the target wants a body; it has one after a second.
const GO_AHEAD_WAIT: Duration = Duration::from_secs(3);

/// Why a body came to no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The caller broke it off.
    Off,
    /// The caller sent nothing for so long.
    Idle(Duration),
    /// Another attempt reads it.
    Handed,
}

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Broken {
    /// What its exchange is ended with.
    fn failure(self) -> Failure {
        match self {
            Self::Off | Self::Handed => {
                Failure::possibly_executed(Code::Cancelled, "the caller broke off its body")
            }
            Self::Idle(limit) => {
                let detail = format!("the caller sent nothing of its body for {limit:?}");
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
    /// Whether all that was taken of it is kept.
    is_whole: bool,
    /// How it ended.
    end: Option<Result<(), Broken>>,
    /// Which reader may read.
    reader: u32,
    idle: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B> Drop for Source<B> {
    fn drop(&mut self) {
        self.forget();
    }
}

impl<B> Source<B> {
    fn forget(&mut self) {
        self.memory.release(self.kept_bytes as u64);
        self.kept = Vec::new();
        self.kept_bytes = 0;
        self.is_whole = false;
    }

    /// Its reader has all that is kept.
    fn keep(&mut self, data: &Bytes) {
        if !self.is_whole {
            return;
        }
        let fits = self.kept_bytes + data.len() <= KEPT_MAX_BYTES
            && self.kept.len() < KEPT_MAX_PIECES
            && self.memory.has_room_to_spare(data.len() as u64);
        if fits {
            self.memory.add(data.len() as u64);
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
        } else {
            self.forget();
        }
    }

    /// A piece of what is kept. It goes with its reader where nobody will want it once more.
    fn piece(&mut self, at: &mut usize) -> Option<Bytes> {
        let piece = self.kept.get(*at)?.clone();
        *at += 1;
        if !self.is_whole && *at == self.kept.len() {
            self.forget();
            *at = 0;
        }
        Some(piece)
    }
}

impl<B: Body<Data = Bytes>> Source<B> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.end {
            None => {}
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(broken)) => return Poll::Ready(Some(Err(broken))),
        }
        let frame = match self.body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => frame.map(|frame| frame.map_err(|_| Broken::Off)),
            Poll::Pending => {
                let Some(idle) = self.idle else {
                    return Poll::Pending;
                };
                let sleep = self
                    .sleep
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
                std::task::ready!(sleep.as_mut().poll(cx));
                Some(Err(Broken::Idle(idle)))
            }
        };
        if let (Some(sleep), Some(idle)) = (&mut self.sleep, self.idle) {
            sleep.as_mut().reset(Instant::now() + idle);
        }
        match &frame {
            None => self.end = Some(Ok(())),
            // It is said once; whoever asks again must not take it for an end.
            Some(Err(broken)) => {
                self.end = Some(Err(*broken));
                self.forget();
            }
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => self.keep(data),
                // Trailers are told once.
                None => self.forget(),
            },
        }
        Poll::Ready(frame)
    }
}

impl<B> Upload<B> {
    /// With the time that the caller may be silent for.
    pub(super) fn new(memory: &Arc<KeyMemory>, body: B, idle: Option<Duration>) -> Self {
        Self(Arc::new(Mutex::new(Source {
            memory: memory.clone(),
            body: Box::pin(body),
            kept: Vec::new(),
            kept_bytes: 0,
            is_whole: true,
            end: None,
            reader: 0,
            idle,
            sleep: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Source<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it from its reader, for good. Whether another can have it from its first byte.
    pub(super) fn reclaim(&self) -> bool {
        let mut source = self.lock();
        source.reader += 1;
        source.is_whole
    }

    /// Nobody will want it once more. What its reader has not read of it stays.
    pub(super) fn release(&self) {
        let mut source = self.lock();
        source.is_whole = false;
    }

    /// The body for an attempt.
    pub(super) fn reader(&self) -> Reader<B> {
        let mut source = self.lock();
        source.reader += 1;
        Reader {
            number: source.reader,
            source: Self(self.0.clone()),
            at: 0,
        }
    }
}

/// The body as one attempt reads it.
#[derive(Debug)]
pub(super) struct Reader<B> {
    source: Upload<B>,
    number: u32,
    /// Pieces that were read of what is kept.
    at: usize,
}

impl<B: Body<Data = Bytes>> Body for Reader<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let mut source = this.source.lock();
        if source.reader != this.number {
            return Poll::Ready(Some(Err(Broken::Handed)));
        }
        if let Some(piece) = source.piece(&mut this.at) {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let next = source.poll_next(cx);
        this.at = source.kept.len();
        next
    }
}

/// Passes a body on from the caller. If the caller breaks off, so does the request.
pub(crate) async fn pump<B>(mut send: SendStream, source: B)
where
    B: Body<Data = Bytes, Error: Into<Broken>>,
{
    match send.pump(source).await {
        Ok(_) | Err(PumpError::Stream(_)) => {}
        Err(PumpError::Body(broken)) => send.reset(broken.into().failure()),
    }
}

/// A body that its caller holds back until the target wants it (RFC 9110, 10.1.1). Asking for it makes the
/// HTTP library say 100.
pub(super) struct ExpectContinueBody<B> {
    wanted: Wanting,
    /// The bridge does not let the caller wait without end; nor does the relay, should it be silent.
    latest: Pin<Box<Sleep>>,
    body: Pin<Box<B>>,
}

/// Whether a body is wanted.
enum Wanting {
    NotYet(oneshot::Receiver<()>),
    Yes,
    /// An error came instead. The stream is told when nobody takes the body any more.
    No,
}

impl<B> ExpectContinueBody<B> {
    pub(super) fn new(word: oneshot::Receiver<()>, body: B) -> Self {
        Self {
            wanted: Wanting::NotYet(word),
            latest: Box::pin(tokio::time::sleep(GO_AHEAD_WAIT)),
            body: Box::pin(body),
        }
    }
}

impl<B: Body<Data = Bytes>> Body for ExpectContinueBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if let Wanting::NotYet(word) = &mut this.wanted {
            this.wanted = match Pin::new(word).poll(cx) {
                Poll::Ready(Ok(())) => Wanting::Yes,
                Poll::Ready(Err(_)) => Wanting::No,
                Poll::Pending => {
                    std::task::ready!(this.latest.as_mut().poll(cx));
                    Wanting::Yes
                }
            };
        }
        match this.wanted {
            Wanting::Yes => this.body.as_mut().poll_frame(cx),
            Wanting::No | Wanting::NotYet(_) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::{BodyMemory, TenantMemory};
    use std::collections::VecDeque;
    use std::task::Waker;

    /// Says each of these once, and then nothing, as a caller that is slow.
    struct Script(VecDeque<Option<Result<Frame<Bytes>, ()>>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = ();

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
            self.0.pop_front().map_or(Poll::Pending, Poll::Ready)
        }
    }

    /// The memory of a key, in a pool of this size.
    fn memory(bytes: u64) -> Arc<KeyMemory> {
        KeyMemory::new(&TenantMemory::new(&BodyMemory::new(bytes), 1), 1)
    }

    fn data(bytes: &'static [u8]) -> Option<Result<Frame<Bytes>, ()>> {
        Some(Ok(Frame::data(Bytes::from_static(bytes))))
    }

    fn upload(said: impl IntoIterator<Item = Option<Result<Frame<Bytes>, ()>>>) -> Upload<Script> {
        let script = Script(said.into_iter().collect());
        Upload::new(&memory(1024 * 1024), script, None)
    }

    type Polled = Poll<Option<Result<Bytes, Broken>>>;

    fn next(reader: &mut Reader<Script>) -> Polled {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(reader).poll_frame(&mut cx).map(|frame| {
            frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
        })
    }

    fn piece(bytes: &'static [u8]) -> Polled {
        Poll::Ready(Some(Ok(Bytes::from_static(bytes))))
    }

    #[test]
    fn the_next_attempt_gets_it_from_its_first_byte() {
        let upload = upload([data(b"a"), data(b"b"), data(b"c"), None]);
        let mut first = upload.reader();
        assert_eq!(
            (next(&mut first), next(&mut first)),
            (piece(b"a"), piece(b"b"))
        );
        assert!(upload.reclaim());
        assert_eq!(next(&mut first), Poll::Ready(Some(Err(Broken::Handed))));
        let mut second = upload.reader();
        for expected in [piece(b"a"), piece(b"b"), piece(b"c"), Poll::Ready(None)] {
            assert_eq!(next(&mut second), expected);
        }
        assert_eq!(next(&mut second), Poll::Ready(None));
    }

    #[test]
    fn an_early_answer_takes_nothing_out_of_the_middle() {
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
    fn what_is_longer_or_in_more_pieces_than_is_kept_is_not_repeated() {
        const CHUNK: &[u8] = &[b'x'; 16 * 1024];
        for (chunk, fits) in [(CHUNK, 4), (&b"x"[..], KEPT_MAX_PIECES)] {
            let upload = upload(std::iter::repeat_n(chunk, fits + 1).map(data));
            let mut reader = upload.reader();
            for _ in 0..fits {
                assert_eq!(next(&mut reader), piece(chunk));
            }
            assert!(upload.lock().is_whole);
            assert_eq!(next(&mut reader), piece(chunk));
            assert_eq!(next(&mut reader), Poll::Pending);
            assert!(!upload.reclaim());
            assert_eq!(upload.lock().memory.used_bytes(), 0);
        }
    }

    #[test]
    fn what_broke_off_stays_broken_and_is_not_repeated() {
        let upload = upload([data(b"a"), Some(Err(())), None]);
        let mut reader = upload.reader();
        assert_eq!(next(&mut reader), piece(b"a"));
        for _ in 0..2 {
            assert_eq!(next(&mut reader), Poll::Ready(Some(Err(Broken::Off))));
        }
        assert!(!upload.reclaim());
    }

    #[test]
    fn trailers_are_told_once() {
        let trailers = Some(Ok(Frame::trailers(http::HeaderMap::new())));
        let upload = upload([data(b"a"), trailers, None]);
        let mut reader = upload.reader();
        let _ = (next(&mut reader), next(&mut reader));
        assert!(!upload.reclaim());
    }

    #[test]
    fn kept_bytes_are_within_the_keys_memory_and_given_back() {
        let memory = memory(400);
        memory.add(90);
        let script = Script([data(&[b'a'; 20]), data(b"b")].into());
        let upload = Upload::new(&memory, script, None);
        assert_eq!(next(&mut upload.reader()), piece(&[b'a'; 20]));
        assert!(!upload.reclaim());
        memory.release(90);
        drop(upload);
        let upload = Upload::new(&memory, Script([data(b"a")].into()), None);
        assert_eq!(next(&mut upload.reader()), piece(b"a"));
        assert_eq!(memory.used_bytes(), 1);
        assert!(upload.reclaim());
        drop(upload);
        assert_eq!(memory.used_bytes(), 0);
    }
}
