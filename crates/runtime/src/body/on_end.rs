//! A body whose end is noticed.

use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// Its last frame was taken.
    Complete,
    /// It failed.
    Failed,
    /// It was dropped before its end.
    Dropped,
}

/// Calls a function once: with the body's last frame, its error, or when the body is dropped before either.
#[derive(Debug)]
pub struct OnEnd<B, F: FnOnce(BodyEnd)> {
    body: B,
    run: Option<F>,
}

impl<B, F: FnOnce(BodyEnd)> OnEnd<B, F> {
    /// Wraps a body.
    pub fn new(body: B, run: F) -> Self {
        Self {
            body,
            run: Some(run),
        }
    }

    /// Returns the body.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.body
    }

    fn end(&mut self, end: BodyEnd) {
        // Taken, so that the end is reported once, whichever of the three comes first.
        if let Some(run) = self.run.take() {
            run(end);
        }
    }
}

impl<B, F: FnOnce(BodyEnd)> Drop for OnEnd<B, F> {
    fn drop(&mut self) {
        self.end(BodyEnd::Dropped);
    }
}

impl<B: Body + Unpin, F: FnOnce(BodyEnd) + Unpin> Body for OnEnd<B, F> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.end(BodyEnd::Complete),
            Some(Err(_)) => self.end(BodyEnd::Failed),
            // A reader that sees the end with the last frame does not poll again.
            Some(Ok(_)) if self.body.is_end_stream() => self.end(BodyEnd::Complete),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
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
    use super::super::testing::{Script, bytes, data, failure, poll};
    use super::*;

    #[test]
    fn on_end_runs_once_with_the_last_frame() {
        let mut ends = Vec::new();
        let mut body = OnEnd::new(Script::of([data(b"a")]), |end| ends.push(end));
        assert_eq!(poll(&mut body), bytes(b"a"));
        assert_eq!(poll(&mut body), Poll::Ready(None));
        drop(body);
        assert_eq!(ends, [BodyEnd::Complete]);
    }

    #[test]
    fn on_end_reports_failure_and_drop() {
        let mut ends = Vec::new();
        let mut body = OnEnd::new(Script::of([failure("lost")]), |end| ends.push(end));
        assert!(poll(&mut body).is_ready());
        drop(body);
        drop(OnEnd::new(Script::of([data(b"a")]), |end| ends.push(end)));
        assert_eq!(ends, [BodyEnd::Failed, BodyEnd::Dropped]);
    }
}
