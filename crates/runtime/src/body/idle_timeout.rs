//! A body that fails when no frame arrives for too long.

use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Fails when its source yields nothing for `idle`. The time runs only while the source is waited for, not
/// while the reader does something else.
///
/// The timer is allocated when the source is waited for the first time: a body that is there already costs
/// none.
#[derive(Debug)]
pub struct IdleTimeoutBody<B, F> {
    body: B,
    idle: Duration,
    timed_out: F,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B: Body, F: FnMut(Duration) -> B::Error> IdleTimeoutBody<B, F> {
    /// Wraps a body. `timed_out` makes the error from the time that nothing came for.
    pub fn new(body: B, idle: Duration, timed_out: F) -> Self {
        Self {
            body,
            idle,
            timed_out,
            sleep: None,
        }
    }
}

impl<B, F> IdleTimeoutBody<B, F> {
    /// Returns the body.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Returns the body.
    pub fn into_inner(self) -> B {
        self.body
    }
}

impl<B, F> Body for IdleTimeoutBody<B, F>
where
    B: Body + Unpin,
    F: FnMut(Duration) -> B::Error + Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        // The source is polled before the timer: a frame that is there wins over a timeout in the same moment.
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            // Reset, not created again: the allocation lives as long as the body.
            if let Some(sleep) = &mut this.sleep {
                sleep.as_mut().reset(Instant::now() + this.idle);
            }
            return Poll::Ready(frame);
        }
        let idle = this.idle;
        let sleep = this
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        std::task::ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Some(Err((this.timed_out)(idle))))
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
    use super::super::testing::{Script, data};
    use super::*;
    use bytes::Bytes;
    use http_body_util::BodyExt as _;

    #[tokio::test(start_paused = true)]
    async fn idle_timeout_starts_again_with_each_frame() {
        let idle = Duration::from_secs(10);
        let script = Script::of([Poll::Pending, data(b"a"), Poll::Pending, Poll::Pending]);
        let late = |idle: Duration| format!("nothing for {} s", idle.as_secs());
        let mut body = IdleTimeoutBody::new(script, idle, late);
        let start = Instant::now();
        // The script wakes its reader only by the timer: the frame is there in that moment, and wins.
        let next = body.frame().await.unwrap().unwrap();
        assert_eq!(next.into_data().unwrap(), Bytes::from_static(b"a"));
        assert_eq!(start.elapsed(), idle);
        assert_eq!(body.frame().await.unwrap().unwrap_err(), "nothing for 10 s");
        assert_eq!(start.elapsed(), 2 * idle);
    }
}
