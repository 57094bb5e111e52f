//! A body that is not read before something has happened.

use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Polls its body only after `start` has completed, as for a request that waits for `100 Continue`: polling
/// the body is what makes hyper send that response.
///
/// A `start` that never completes leaves the body unread.
#[derive(Debug)]
pub struct DeferredBody<B, S> {
    start: Option<S>,
    body: B,
}

impl<B, S> DeferredBody<B, S> {
    /// Wraps a body.
    pub fn new(body: B, start: S) -> Self {
        Self {
            start: Some(start),
            body,
        }
    }

    /// Returns whether the body may be read.
    pub fn has_started(&self) -> bool {
        self.start.is_none()
    }
}

impl<B, S> Body for DeferredBody<B, S>
where
    B: Body + Unpin,
    S: Future<Output = ()> + Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if let Some(start) = &mut self.start {
            std::task::ready!(Pin::new(start).poll(cx));
            // A future must not be polled after it has completed.
            self.start = None;
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Script, bytes, data, poll};
    use super::*;

    #[test]
    fn deferred_body_waits_for_its_start() {
        let (start, started) = tokio::sync::oneshot::channel::<()>();
        let started = Box::pin(async move {
            let _ = started.await;
        });
        let mut body = DeferredBody::new(Script::of([data(b"a")]), started);
        assert_eq!(poll(&mut body), Poll::Pending);
        assert!(!body.has_started());
        start.send(()).unwrap();
        assert_eq!(poll(&mut body), bytes(b"a"));
        assert!(body.has_started() && body.is_end_stream());
    }
}
