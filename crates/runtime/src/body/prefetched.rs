//! A body of which the first frames were read already.

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Yields the frames that were read, then how reading ended if it failed, then the rest of the body.
///
/// One prefetched frame costs no allocation.
#[derive(Debug)]
pub struct PrefetchedBody<B: Body> {
    first: Option<Frame<B::Data>>,
    more: VecDeque<Frame<B::Data>>,
    failed: Option<B::Error>,
    rest: B,
}

impl<B: Body> PrefetchedBody<B> {
    /// Wraps a body of which nothing was read.
    pub fn new(rest: B) -> Self {
        Self {
            first: None,
            more: VecDeque::new(),
            failed: None,
            rest,
        }
    }

    /// Adds a frame that was read, after those that were added before.
    pub fn push(&mut self, frame: Frame<B::Data>) {
        // With frames in `more`, this one is not the first.
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(frame);
        } else {
            self.more.push_back(frame);
        }
    }

    /// Puts a frame back that was taken from this body last.
    pub fn put_back(&mut self, frame: Frame<B::Data>) {
        if let Some(second) = self.first.replace(frame) {
            self.more.push_front(second);
        }
    }

    /// Keeps the error that reading ahead ended with: a body reports an error only once.
    pub fn fail(&mut self, error: B::Error) {
        self.failed = Some(error);
    }

    /// Returns the body that the remaining frames come from.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.rest
    }

    /// Returns the body that the remaining frames come from.
    pub fn get_ref(&self) -> &B {
        &self.rest
    }

    /// Returns whether all prefetched frames, and the error after them, were taken.
    pub fn is_drained(&self) -> bool {
        self.first.is_none() && self.more.is_empty() && self.failed.is_none()
    }
}

impl<B: Body + Unpin> Body for PrefetchedBody<B>
where
    B::Data: Unpin,
    B::Error: Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if let Some(frame) = self.first.take().or_else(|| self.more.pop_front()) {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_drained() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let frames = self.first.iter().chain(&self.more);
        let front: u64 = frames
            .filter_map(Frame::data_ref)
            .map(|data| data.remaining() as u64)
            .sum();
        // A lower bound alone would be of no use: a length is either declared or not.
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + front),
            None => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Script, bytes, data, error, poll};
    use super::*;
    use bytes::Bytes;

    #[test]
    fn prefetched_frames_come_before_the_rest() {
        let mut body = PrefetchedBody::new(Script::of([data(b"c")]));
        body.push(Frame::data(Bytes::from_static(b"a")));
        body.push(Frame::data(Bytes::from_static(b"b")));
        assert_eq!(body.size_hint().exact(), Some(3));
        for expected in [bytes(b"a"), bytes(b"b"), bytes(b"c")] {
            assert!(!body.is_end_stream());
            assert_eq!(poll(&mut body), expected);
        }
        assert!(body.is_end_stream());
        assert_eq!(poll(&mut body), Poll::Ready(None));
    }

    #[test]
    fn frame_put_back_comes_first() {
        let mut body = PrefetchedBody::new(Script::of([data(b"c")]));
        body.push(Frame::data(Bytes::from_static(b"b")));
        body.put_back(Frame::data(Bytes::from_static(b"a")));
        for expected in [bytes(b"a"), bytes(b"b"), bytes(b"c")] {
            assert_eq!(poll(&mut body), expected);
        }
    }

    #[test]
    fn prefetched_error_follows_the_frames() {
        let mut body = PrefetchedBody::new(Script::of([]));
        body.push(Frame::data(Bytes::from_static(b"a")));
        body.fail("lost".to_owned());
        assert_eq!(poll(&mut body), bytes(b"a"));
        assert!(!body.is_end_stream());
        assert_eq!(poll(&mut body), error("lost"));
        assert!(body.is_end_stream());
    }
}
