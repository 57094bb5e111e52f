//! Ends responses that their caller does not read.
//!
//! | what the caller does not read | what is ended |
//! | --- | --- |
//! | a response over HTTP/1.1 | the connection |
//! | a response over HTTP/2 | its stream |
//! | what is left in an HTTP/2 connection's queue after its streams' ends | the connection |
//!
//! The caller must take a piece within `limits.caller_idle_timeout`, however small the pieces are that the
//! flow-control window or the socket lets through. A response without a permit (the caller showed no valid
//! key) has only `limits.header_read_timeout`.

use crate::connection::Connection;
use crate::sending::Progress;
use hyper::rt::Executor;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A limit is checked so many times while it runs: a response is ended at the latest one such part after
/// its limit.
const ROUNDS: u32 = 8;

/// How many limits the rest of an HTTP/2 connection's queue has. Its streams are ended after one.
const CONNECTION_LIMITS: u32 = 2;

/// How long a caller may read nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct IdleLimits {
    /// With a permit.
    pub(super) usual: Duration,
    /// Without one.
    pub(super) without_permit: Duration,
}

/// Something that a caller reads.
pub(super) trait Reading {
    /// Whether there is anything.
    fn is_active(&self) -> bool;
    /// Whether it is the caller's turn.
    fn is_caller_due(&self) -> bool;
    /// A number that changes when the caller takes something.
    fn moves(&self) -> u32;
    /// How long the caller may take nothing.
    fn limit(&self, limits: IdleLimits) -> Duration;
}

impl Reading for Arc<Progress> {
    fn is_active(&self) -> bool {
        Progress::is_active(self)
    }

    fn is_caller_due(&self) -> bool {
        Progress::is_caller_due(self)
    }

    fn moves(&self) -> u32 {
        Progress::moves(self)
    }

    fn limit(&self, limits: IdleLimits) -> Duration {
        match self.is_without_permit() {
            true => limits.without_permit.min(limits.usual),
            false => limits.usual,
        }
    }
}

impl Reading for Arc<Connection> {
    fn is_active(&self) -> bool {
        self.unsent().bytes() > 0
    }

    fn is_caller_due(&self) -> bool {
        Reading::is_active(self)
    }

    fn moves(&self) -> u32 {
        self.unsent().moves()
    }

    fn limit(&self, limits: IdleLimits) -> Duration {
        limits.usual * CONNECTION_LIMITS
    }
}

/// Runs while the caller has something to read.
///
/// The time is not read for each piece: the clock looks at a counter, a few times in each limit.
#[derive(Debug)]
pub(super) struct IdleClock<R> {
    reading: R,
    limits: IdleLimits,
    sleep: Option<Pin<Box<Sleep>>>,
    seen: u32,
    /// Looks since something moved.
    rounds: u32,
}

impl<R: Reading> IdleClock<R> {
    pub(super) fn new(reading: R, limits: IdleLimits) -> Self {
        Self {
            seen: reading.moves(),
            reading,
            limits,
            sleep: None,
            rounds: 0,
        }
    }

    /// Ready when the caller has read nothing for too long. To be polled after what writes, in the same
    /// task.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.reading.is_active() {
            return Poll::Pending;
        }
        loop {
            let part = self.reading.limit(self.limits) / ROUNDS;
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(part)));
            std::task::ready!(sleep.as_mut().poll(cx));
            sleep.as_mut().reset(Instant::now() + part);
            let moves = self.reading.moves();
            if moves != self.seen || !self.reading.is_caller_due() {
                (self.seen, self.rounds) = (moves, 0);
                continue;
            }
            self.rounds += 1;
            if self.rounds >= ROUNDS {
                return Poll::Ready(());
            }
        }
    }

    /// Waits until the caller has read nothing for too long.
    pub(super) async fn over(&mut self) {
        std::future::poll_fn(|cx| self.poll_over(cx)).await;
    }
}

tokio::task_local! {
    /// The stream whose request begins.
    static STREAM: Arc<Progress>;
}

/// Returns the HTTP/2 stream that the current task serves.
pub(super) fn current_stream() -> Arc<Progress> {
    STREAM.try_with(Arc::clone).unwrap_or_default()
}

/// Runs the HTTP/2 streams of a connection, each with a clock of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamExecutor {
    limits: IdleLimits,
}

impl StreamExecutor {
    pub(super) fn new(limits: IdleLimits) -> Self {
        Self { limits }
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(serve_stream(stream, self.limits));
    }
}

/// Runs one HTTP/2 stream until its request is answered, or until its caller has read nothing for too long:
/// dropping the library's future resets the stream and discards what is queued of it.
async fn serve_stream(stream: impl Future<Output = ()>, limits: IdleLimits) {
    let mut stream = std::pin::pin!(stream);
    let progress = Arc::<Progress>::default();
    let mut clock = IdleClock::new(progress.clone(), limits);
    // Taken when the request begins, which is in the first poll.
    let mut beginning = Some(progress);
    let is_answered = std::future::poll_fn(|cx| {
        let polled = match beginning.take() {
            Some(progress) => STREAM.sync_scope(progress, || stream.as_mut().poll(cx)),
            None => stream.as_mut().poll(cx),
        };
        if polled.is_ready() {
            return Poll::Ready(true);
        }
        clock.poll_over(cx).map(|()| false)
    });
    if !is_answered.await {
        // No louder: the caller decides how often this happens.
        tracing::debug!("an HTTP/2 stream was reset: its caller did not read the response");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    #[derive(Default)]
    struct Script {
        is_due: AtomicBool,
        moves: AtomicU32,
    }

    impl Reading for Arc<Script> {
        fn is_active(&self) -> bool {
            true
        }

        fn is_caller_due(&self) -> bool {
            self.is_due.load(Ordering::Relaxed)
        }

        fn moves(&self) -> u32 {
            self.moves.load(Ordering::Relaxed)
        }

        fn limit(&self, limits: IdleLimits) -> Duration {
            limits.usual
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clock_ends_only_what_the_caller_does_not_read() {
        let limit = Duration::from_secs(8);
        let limits = IdleLimits {
            usual: limit,
            without_permit: limit,
        };
        let script = Arc::<Script>::default();
        let mut clock = IdleClock::new(script.clone(), limits);
        // The target is silent.
        let waited = tokio::time::timeout(limit * 10, clock.over()).await;
        assert!(waited.is_err());
        // The caller takes a piece now and then.
        script.is_due.store(true, Ordering::Relaxed);
        for _ in 0..10 {
            let waited = tokio::time::timeout(limit / 2, clock.over()).await;
            assert!(waited.is_err());
            script.moves.fetch_add(1, Ordering::Relaxed);
        }
        let began = Instant::now();
        clock.over().await;
        let took = began.elapsed();
        assert!(took >= limit && took <= limit * 3 / 2, "{took:?}");
    }
}
