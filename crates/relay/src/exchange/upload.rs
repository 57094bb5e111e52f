//! A request's body, on its way from the caller to a tunnel.
//!
//! Its beginning is kept until an answer has come: a tunnel that provably dispatched nothing is then no
//! reason to trouble the caller, for the next one gets the body from its first byte. Bounded for each
//! body and for all together; what is longer is not repeated.

use crate::state::State;
use bytes::Bytes;
use http_body::{Body, Frame};
use protocol::{Code, Failure};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use transport::{PumpError, SendStream};

/// What is kept of one body, in bytes.
const KEPT_MAX_BYTES: usize = 64 * 1024;

/// What is kept of all of them.
const ALL_KEPT_MAX_BYTES: usize = 32 * 1024 * 1024;

/// How long the bridge's word is waited for that the target wants a body; it has one after a second.
const GO_AHEAD_WAIT: Duration = Duration::from_secs(3);

/// Bytes that are kept of all bodies.
#[derive(Debug, Default)]
pub struct Kept(AtomicUsize);

impl Kept {
    fn add(&self, bytes: usize) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= ALL_KEPT_MAX_BYTES;
        if !fits {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn less(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

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
    state: Arc<State>,
    body: Pin<Box<B>>,
    /// Its beginning; nothing once it is longer than what is kept.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    is_whole: bool,
    has_ended: bool,
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
        self.state.uploads_kept.less(self.kept_bytes);
        self.kept = Vec::new();
        self.kept_bytes = 0;
        self.is_whole = false;
    }

    fn keep(&mut self, data: &Bytes) {
        if !self.is_whole {
            return;
        }
        let fits = self.kept_bytes + data.len() <= KEPT_MAX_BYTES;
        if fits && self.state.uploads_kept.add(data.len()) {
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
        } else {
            self.forget();
        }
    }
}

impl<B: Body<Data = Bytes>> Source<B> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = match self.body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let Some(idle) = self.idle else {
                    return Poll::Pending;
                };
                let sleep = self
                    .sleep
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
                std::task::ready!(sleep.as_mut().poll(cx));
                return Poll::Ready(Some(Err(Broken::Idle(idle))));
            }
        };
        if let (Some(sleep), Some(idle)) = (&mut self.sleep, self.idle) {
            sleep.as_mut().reset(Instant::now() + idle);
        }
        Poll::Ready(match frame {
            None => {
                self.has_ended = true;
                None
            }
            Some(Err(_)) => Some(Err(Broken::Off)),
            Some(Ok(frame)) => {
                match frame.data_ref() {
                    Some(data) => {
                        self.state.metrics.bytes_up(data.len() as u64);
                        self.keep(data);
                    }
                    // Trailers are told once.
                    None => self.forget(),
                }
                Some(Ok(frame))
            }
        })
    }
}

impl<B> Upload<B> {
    /// With the time that the caller may be silent for.
    pub(super) fn new(state: &Arc<State>, body: B, idle: Option<Duration>) -> Self {
        Self(Arc::new(Mutex::new(Source {
            state: state.clone(),
            body: Box::pin(body),
            kept: Vec::new(),
            kept_bytes: 0,
            is_whole: true,
            has_ended: false,
            reader: 0,
            idle,
            sleep: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Source<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another attempt can have it from its first byte.
    pub(super) fn is_whole(&self) -> bool {
        self.lock().is_whole
    }

    /// Nobody will want it once more.
    pub(super) fn forget(&self) {
        self.lock().forget();
    }

    /// The body for an attempt, in place of any before.
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
        if let Some(piece) = source.kept.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
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
pub(super) struct Expected<B> {
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

impl<B> Expected<B> {
    pub(super) fn new(word: oneshot::Receiver<()>, body: B) -> Self {
        Self {
            wanted: Wanting::NotYet(word),
            latest: Box::pin(tokio::time::sleep(GO_AHEAD_WAIT)),
            body: Box::pin(body),
        }
    }
}

impl<B: Body<Data = Bytes>> Body for Expected<B> {
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
