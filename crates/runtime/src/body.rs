//! Adapters around an [`http_body::Body`], for both programs.
//!
//! ```text
//! source --> PrefetchedBody   frames that were read already, or how reading ended, then the rest
//!        --> CountedBody      sees the size of each data frame; may reject it
//!        --> IdleTimeoutBody  fails when the source sends nothing for too long
//!        --> DeferredBody     polls the source only after something has happened
//! ```
//!
//! Each adapter does one thing, is generic over the body, and allocates nothing per frame. Errors stay those
//! of the body: convert them with `http_body_util::BodyExt::map_err` first. The sources themselves (a
//! tunnel's stream, a target's connection) live with what they read from.

mod counted;
mod deferred;
mod idle_timeout;
mod prefetched;

pub use counted::CountedBody;
pub use deferred::DeferredBody;
pub use idle_timeout::IdleTimeoutBody;
pub use prefetched::PrefetchedBody;

#[cfg(test)]
mod testing {
    use bytes::Bytes;
    use http_body::{Body, Frame, SizeHint};
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    /// Yields its steps in order; `Pending` is a source that has nothing yet.
    pub(crate) struct Script(pub(crate) VecDeque<Poll<Result<Frame<Bytes>, String>>>);

    impl Script {
        pub(crate) fn of<const N: usize>(steps: [Poll<Result<Frame<Bytes>, String>>; N]) -> Self {
            Self(steps.into())
        }
    }

    impl Body for Script {
        type Data = Bytes;
        type Error = String;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, String>>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(step) => step.map(Some),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            let data = self.0.iter().map(|step| match step {
                Poll::Ready(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len) as u64,
                Poll::Ready(Err(_)) | Poll::Pending => 0,
            });
            SizeHint::with_exact(data.sum())
        }
    }

    pub(crate) fn data(bytes: &'static [u8]) -> Poll<Result<Frame<Bytes>, String>> {
        Poll::Ready(Ok(Frame::data(Bytes::from_static(bytes))))
    }

    /// Polls a body once; data frames as bytes.
    pub(crate) fn poll<B>(body: &mut B) -> Poll<Option<Result<Bytes, String>>>
    where
        B: Body<Data = Bytes, Error = String> + Unpin,
    {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(body).poll_frame(&mut cx).map(|frame| {
            frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
        })
    }

    pub(crate) fn bytes(bytes: &'static [u8]) -> Poll<Option<Result<Bytes, String>>> {
        Poll::Ready(Some(Ok(Bytes::from_static(bytes))))
    }

    pub(crate) fn error(why: &str) -> Poll<Option<Result<Bytes, String>>> {
        Poll::Ready(Some(Err(why.to_owned())))
    }
}
