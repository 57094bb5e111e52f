//! A target's response, on its way to the relay.
//!
//! ```text
//! small, and its body is there   one HEAD frame with the end
//! everything else                HEAD, then as much as the relay has given credit for
//! breaks off                     a reset, never an end
//! ```

mod head;
mod peek;

pub(super) use head::{is_auth_bound, too_large_for_wire};
pub(super) use peek::PeekedBody;

use super::deadlines::timed_out;
use super::exchange::Exchange;
use crate::credentials::Cleaner;
use bytes::{Bytes, BytesMut};
use head::wire_head;
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use http_client::{BodyError, Connection, Progress};
use protocol::frame::BodyLength;
use protocol::{Code, Execution, Failure};
use runtime::body::{CountedBody, IdleTimeoutBody};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use transport::handle::INLINE_MAX_BYTES;
use transport::{PumpEnd, PumpError};

/// How long the bridge waits after the head for a small body, all of it, to send both in one frame.
const INLINE_WAIT: Duration = Duration::from_millis(2);

/// Forwards a response, and returns its connection to the pool.
pub(super) async fn forward(
    exchange: &mut Exchange,
    response: Response<PeekedBody>,
    mut connection: Connection,
    progress: &Progress,
) -> Result<(), Failure> {
    if !progress.is_done() {
        // The response is early: the request must move on while this task waits for the relay.
        connection.run_alone();
    }
    let (parts, peeked) = response.into_parts();
    let mut body = peeked.on(&mut connection);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let detail = "the target switched to another protocol, which was not requested";
        return Err(executed(Code::TargetProtocol, detail));
    }
    let bytes_max = exchange.response_max;
    let head = wire_head(&exchange.head.method, parts.status, &parts.headers, &body)?;
    if let (BodyLength::Known(bytes), Some(max)) = (head.body, bytes_max)
        && bytes > max
    {
        return Err(too_large(max));
    }
    let is_auth_bound = is_auth_bound(&exchange.head.headers, &parts.headers);
    let buffered = buffer(&mut body, head.body).await?;
    let is_end = buffered.is_end && buffered.next.is_none();
    exchange.send.head(&head, &buffered.bytes, is_end)?;
    if !is_end {
        if let Some(frame) = buffered.next {
            body.put_back(frame);
        }
        let mut bytes_left = bytes_max.map(|max| max.saturating_sub(buffered.bytes.len() as u64));
        let count = move |bytes: u64| {
            if let (Some(left), Some(max)) = (&mut bytes_left, bytes_max) {
                *left = left.checked_sub(bytes).ok_or_else(|| too_large(max))?;
            }
            Ok(())
        };
        let stalled = |idle: Duration| {
            timed_out(
                Execution::Executed,
                format!("the target sent nothing for {idle:?}"),
            )
        };
        // Counted although the length was checked above: a chunked body has none.
        let cleaner = exchange.cleaner.take();
        let body = body.map_frame(move |frame| without_secrets(frame, cleaner.as_ref()));
        let body = CountedBody::new(body.map_err(Failure::from), count);
        let body = IdleTimeoutBody::new(body, exchange.deadlines.idle, stalled);
        // Boxed: most responses fit into one frame, and their future stays small.
        let pumping = Box::pin(exchange.send.pump(body));
        match timeout_at(exchange.deadlines.end_by, pumping).await {
            Ok(Ok(PumpEnd::Finished)) => {}
            // The relay wants no more of it. The connection is closed: the rest of the response is on it.
            Ok(Ok(PumpEnd::Stopped)) => return Ok(()),
            Ok(Err(PumpError::Body(failure) | PumpError::Stream(failure))) => return Err(failure),
            Err(_) => {
                let detail = "the exchange timed out before the response was complete";
                return Err(timed_out(Execution::Executed, detail));
            }
        }
    }
    // After an early response, the rest of the request is still on the connection: it is closed.
    if progress.is_done() && !is_auth_bound {
        exchange.active.client.return_to_pool(connection).await;
    }
    Ok(())
}

/// Returns a frame without the credential that the bridge added, which trailers may repeat as a head may.
fn without_secrets(frame: Frame<Bytes>, cleaner: Option<&Cleaner>) -> Frame<Bytes> {
    let Some(cleaner) = cleaner else { return frame };
    match frame.into_trailers() {
        Ok(mut trailers) => {
            cleaner.clean(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

fn executed(code: Code, detail: impl Into<String>) -> Failure {
    Failure::new(code, Execution::Executed, detail)
}

fn too_large(max: u64) -> Failure {
    let detail = format!("the response is larger than {max} bytes (response_max)");
    executed(Code::ResponseTooLarge, detail)
}

/// The beginning of a body, which is sent with its head.
struct BufferedResponse {
    bytes: Bytes,
    /// A frame that was read and does not fit.
    next: Option<Frame<Bytes>>,
    is_end: bool,
}

/// Reads what has arrived of a body, as far as it fits into one frame with its head.
async fn buffer<B>(body: &mut B, length: BodyLength) -> Result<BufferedResponse, Failure>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let is_small = matches!(length, BodyLength::Known(bytes) if bytes <= INLINE_MAX_BYTES as u64);
    let mut chunks = Chunks::default();
    let mut next = None;
    // One deadline for the whole body: a target that sends byte by byte must not extend it.
    let by = Instant::now() + INLINE_WAIT;
    while !body.is_end_stream() {
        let mut frame = poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await;
        if frame.is_pending()
            && is_small
            && Instant::now() < by
            && let Ok(waited) = timeout_at(by, body.frame()).await
        {
            frame = Poll::Ready(waited);
        }
        let frame = match frame {
            Poll::Pending => break,
            Poll::Ready(None) => {
                return Ok(BufferedResponse {
                    bytes: chunks.join(),
                    next: None,
                    is_end: true,
                });
            }
            Poll::Ready(Some(frame)) => frame?,
        };
        match frame.data_ref() {
            // A larger frame goes through the stream, which waits for the relay's credit.
            Some(data) if chunks.len() + data.len() <= INLINE_MAX_BYTES => {
                chunks.push(data.clone());
            }
            Some(_) | None => {
                next = Some(frame);
                break;
            }
        }
    }
    Ok(BufferedResponse {
        bytes: chunks.join(),
        next,
        is_end: body.is_end_stream(),
    })
}

/// Bytes in chunks. A single chunk is not copied.
#[derive(Default)]
struct Chunks {
    first: Bytes,
    more: BytesMut,
}

impl Chunks {
    fn len(&self) -> usize {
        self.first.len() + self.more.len()
    }

    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() {
            self.first = data;
        } else {
            self.more.extend_from_slice(&data);
        }
    }

    fn join(self) -> Bytes {
        if self.more.is_empty() {
            return self.first;
        }
        let mut all = BytesMut::with_capacity(self.len());
        all.extend_from_slice(&self.first);
        all.extend_from_slice(&self.more);
        all.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Context;

    #[tokio::test]
    async fn trickling_body_is_sent_after_its_head() {
        let mut body = Trickle { is_due: false };
        let buffered = buffer(&mut body, BodyLength::Known(10_000)).await.unwrap();
        assert!(!buffered.is_end && buffered.next.is_none());
        assert!(buffered.bytes.len() < 100, "{}", buffered.bytes.len());
    }

    /// Yields one byte at every other poll, without end, each within the wait.
    struct Trickle {
        is_due: bool,
    }

    impl Body for Trickle {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            std::thread::sleep(Duration::from_micros(100));
            self.is_due = !self.is_due;
            if self.is_due {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }
}
