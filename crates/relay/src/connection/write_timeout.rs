//! A timeout for writes: how long a peer may read nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Runs while a write waits for the peer, and fails a write that waits for too long.
#[derive(Debug)]
pub(crate) struct WriteTimeout {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl WriteTimeout {
    /// Returns a timeout that does not run yet.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, sleep: None }
    }

    /// Returns the result of a write that ended in `result`: a timeout instead of `Pending` after the limit.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            // Any progress starts the time again.
            self.sleep = None;
            return result;
        }
        let limit = self.limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        std::task::ready!(sleep.as_mut().poll(cx));
        let detail = format!("the peer read nothing for {limit:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, detail)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn stalled_write_times_out_and_progress_resets_it() {
        let mut timeout = WriteTimeout::new(Duration::from_millis(100));
        let mut stuck = |cx: &mut Context<'_>| timeout.poll(cx, Poll::<io::Result<()>>::Pending);
        let early = tokio::time::timeout(Duration::from_millis(20), poll_fn(&mut stuck)).await;
        assert!(early.is_err());
        let error = poll_fn(&mut stuck).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(timeout.poll(&mut cx, Poll::Ready(Ok(()))).is_ready());
        assert!(timeout.sleep.is_none());
    }
}
