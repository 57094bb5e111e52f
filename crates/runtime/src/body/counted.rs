//! A body whose bytes are counted as they pass.

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Calls a function with the size of each data frame. An error of that function replaces the frame, so the
/// same adapter enforces a limit.
#[derive(Debug)]
pub struct CountedBody<B, F> {
    body: B,
    count: F,
}

impl<B: Body, F: FnMut(u64) -> Result<(), B::Error>> CountedBody<B, F> {
    /// Wraps a body. `count` gets the bytes of one data frame, before the frame is passed on.
    pub fn new(body: B, count: F) -> Self {
        Self { body, count }
    }
}

impl<B, F> CountedBody<B, F> {
    /// Returns the body.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Returns the body.
    pub fn into_inner(self) -> B {
        self.body
    }
}

impl<B, F> Body for CountedBody<B, F>
where
    B: Body + Unpin,
    F: FnMut(u64) -> Result<(), B::Error> + Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        // Trailers have no size that a limit could count.
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(error) = (self.count)(data.remaining() as u64)
        {
            return Poll::Ready(Some(Err(error)));
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
    use super::super::testing::{Script, bytes, data, error, poll};
    use super::*;

    #[test]
    fn counted_body_rejects_the_frame_over_its_limit() {
        let mut left = 3_u64;
        let count = |bytes: u64| {
            left = left.checked_sub(bytes).ok_or("too large")?;
            Ok(())
        };
        let mut body = CountedBody::new(Script::of([data(b"ab"), data(b"cd")]), count);
        assert_eq!(body.size_hint().exact(), Some(4));
        assert_eq!(poll(&mut body), bytes(b"ab"));
        assert_eq!(poll(&mut body), error("too large"));
    }
}
