//! Ends responses that their caller does not read.
//!
//! | the caller does not read | ends |
//! | --- | --- |
//! | a response over HTTP/1.1 | the connection |
//! | a response over HTTP/2 | its stream |
//! | the queue of an HTTP/2 connection after its streams have ended | the connection |
//!
//! The caller must read a piece within `limits.caller_idle_timeout`, however small the pieces are that the
//! flow-control window or the socket lets through. A response without a permit (no valid API key) has only `limits.header_read_timeout`.

use crate::connection::Connection;
use crate::sending::Progress;
use hyper::rt::Executor;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Checks in each limit. A response ends at the latest one such interval after its limit.
const ROUNDS: u32 = 8;

/// The limit of an HTTP/2 connection's queue, in limits of a stream: the streams must end first.
const CONNECTION_LIMITS: u32 = 2;

/// How long a caller may read nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct IdleLimits {
    /// For a response with a permit.
    pub(super) usual: Duration,
    /// For a response without one.
    pub(super) without_permit: Duration,
}

/// Something that a caller reads.
pub(super) trait Reading {
    /// Returns whether there is anything to read.
    fn is_active(&self) -> bool;
    /// Returns whether the caller must read next.
    fn is_caller_due(&self) -> bool;
    /// Returns a number that changes when the caller reads.
    fn moves(&self) -> u32;
    /// Returns how long the caller may read nothing.
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
/// It does not read the time for each piece, but compares a counter a few times in each limit.
#[derive(Debug)]
pub(super) struct IdleClock<R> {
    reading: R,
    limits: IdleLimits,
    sleep: Option<Pin<Box<Sleep>>>,
    seen: u32,
    /// Checks since the last progress.
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

    /// Returns ready when the caller has read nothing for too long. Must be polled after the writing future, in the same
    /// task, so that it sees its progress.
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
            // Progress of the caller, or a target that has sent nothing: the time starts again.
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

/// Runs the HTTP/2 streams of a connection, each with its own clock.
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
        // Boxed: a future that is pinned inside another one is there twice.
        tokio::spawn(serve_stream(Box::pin(stream), self.limits));
    }
}

/// Runs one HTTP/2 stream until its response is written, or until its caller has read nothing for too long: dropping
/// hyper's future resets the stream and discards its queue.
async fn serve_stream(mut stream: Pin<Box<impl Future<Output = ()>>>, limits: IdleLimits) {
    let progress = Arc::<Progress>::default();
    let mut clock = IdleClock::new(progress.clone(), limits);
    // hyper calls the service in the first poll of the stream's future, so the task-local is set for that poll only.
    let mut beginning = Some(progress);
    let is_written = std::future::poll_fn(|cx| {
        let polled = match beginning.take() {
            Some(progress) => STREAM.sync_scope(progress, || stream.as_mut().poll(cx)),
            None => stream.as_mut().poll(cx),
        };
        if polled.is_ready() {
            return Poll::Ready(true);
        }
        clock.poll_over(cx).map(|()| false)
    });
    if !is_written.await {
        // DEBUG: the caller decides how often this happens.
        tracing::debug!("HTTP/2 stream reset: its caller did not read the response");
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
    async fn clock_ends_only_unread_responses() {
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
