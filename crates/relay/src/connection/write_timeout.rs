//! How long a connection may take nothing of what is written to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Runs while writes wait for the other end, and makes an error of one that waits for too long.
#[derive(Debug)]
pub(crate) struct WriteTimeout {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl WriteTimeout {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, sleep: None }
    }

    /// What becomes of a write that came to `result`.
    pub(crate) fn see<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.sleep = None;
            return result;
        }
        let limit = self.limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        std::task::ready!(sleep.as_mut().poll(cx));
        let detail = format!("the other end took nothing for {limit:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, detail)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn a_write_that_waits_too_long_is_an_error_and_one_that_moves_begins_anew() {
        let mut patience = WriteTimeout::new(Duration::from_millis(100));
        let mut stuck = |cx: &mut Context<'_>| patience.see(cx, Poll::<io::Result<()>>::Pending);
        let early = tokio::time::timeout(Duration::from_millis(20), poll_fn(&mut stuck)).await;
        assert!(early.is_err());
        let error = poll_fn(&mut stuck).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(patience.see(&mut cx, Poll::Ready(Ok(()))).is_ready());
        assert!(patience.sleep.is_none());
    }
}
