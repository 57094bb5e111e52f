//! A target's answer, on its way back.
//!
//! A small one whose body is already there is one HEAD frame with its end; everything else is a
//! HEAD and then as much as the relay takes. An answer that breaks off is a reset, never an end.

use super::exchange::{Exchange, timed_out};
use crate::upstream::{AnswerBody, BodyError, Connection, Progress, response_failure};
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use protocol::frame::{BodyLength, Headers, ResponseHead};
use protocol::{Code, Execution, Failure};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, timeout_at};
use transport::handle::INLINE_MAX_BYTES;
use transport::{PumpEnd, PumpError};

/// How long a small body may take to come behind its head, all of it, to travel with it.
const GRACE: Duration = Duration::from_millis(2);

/// Passes an answer on, and gives its connection back.
pub(super) async fn pass_on(
    exchange: &mut Exchange,
    response: Response<Peeked>,
    mut connection: Connection,
    progress: &Progress,
) -> Result<(), Failure> {
    if !progress.is_done() {
        // An early answer: the request goes on while the relay is waited for.
        connection.run_alone();
    }
    let (parts, peeked) = response.into_parts();
    let mut body = peeked.whole(&mut connection);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let detail = "the target switched to another protocol, which was not asked for";
        return Err(executed(Code::TargetProtocol, detail));
    }
    let bytes_max = exchange.response_max;
    let head = head(&exchange.head.method, parts.status, &parts.headers, &body)?;
    if let (BodyLength::Known(bytes), Some(max)) = (head.body, bytes_max)
        && bytes > max
    {
        return Err(too_large());
    }
    let is_bound = is_bound(&exchange.head.headers, &parts.headers);
    let gathered = gather(&mut body, head.body).await?;
    let is_end = gathered.is_end && gathered.rest.is_none();
    exchange.send.head(&head, &gathered.bytes, is_end)?;
    if !is_end {
        let rest = Rest {
            first: gathered.rest,
            body,
            is_end: gathered.is_end,
            bytes_left_max: bytes_max.map(|max| max.saturating_sub(gathered.bytes.len() as u64)),
            idle: exchange.times.idle,
            sleep: None,
        };
        let pumping = Box::pin(exchange.send.pump(rest));
        match timeout_at(exchange.times.end_by, pumping).await {
            Ok(Ok(PumpEnd::Finished)) => {}
            // Nobody wants the rest: the connection goes with it.
            Ok(Ok(PumpEnd::Stopped)) => return Ok(()),
            Ok(Err(PumpError::Body(failure) | PumpError::Stream(failure))) => return Err(failure),
            Err(_) => {
                let detail = "the time for the exchange ended before the answer was whole";
                return Err(timed_out(Execution::Executed, detail));
            }
        }
    }
    // An answer that came before the whole request was sent: nobody waits for the rest of that.
    if progress.is_done() && !is_bound {
        exchange.active.upstream.give_back(connection).await;
    }
    Ok(())
}

/// Bytes of a body that are inspected, and how long the bridge waits for them.
const PEEK_MAX_BYTES: usize = 16 * 1024;
const PEEK_WITHIN: Duration = Duration::from_secs(5);

/// A response's body, of which the beginning may have been read.
#[derive(Debug)]
pub(super) struct Peeked {
    front: VecDeque<Frame<Bytes>>,
    /// How the reading ended, where it did not end at the limit.
    failed: Option<BodyError>,
    incoming: Incoming,
}

impl From<Incoming> for Peeked {
    fn from(incoming: Incoming) -> Self {
        Self {
            front: VecDeque::new(),
            failed: None,
            incoming,
        }
    }
}

impl Peeked {
    /// Reads the beginning of a body, and returns whether it holds `text` along with the body, of which
    /// nothing is lost.
    pub(super) async fn look_for(
        text: &[u8],
        incoming: Incoming,
        connection: &mut Connection,
    ) -> (Self, bool) {
        let mut read = Vec::new();
        let mut front = VecDeque::new();
        let mut failed = None;
        let mut body = AnswerBody::new(incoming, connection);
        let reading = async {
            while read.len() < PEEK_MAX_BYTES {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            read.extend_from_slice(data);
                        }
                        front.push_back(frame);
                        if read.windows(text.len()).any(|part| part == text) {
                            return true;
                        }
                    }
                    Some(Err(error)) => {
                        failed = Some(error);
                        return false;
                    }
                    None => return false,
                }
            }
            false
        };
        let reading = tokio::time::timeout(PEEK_WITHIN, reading);
        let is_found = reading.await.unwrap_or(false);
        let incoming = body.into_rest();
        let peeked = Self {
            front,
            failed,
            incoming,
        };
        (peeked, is_found)
    }

    /// The whole body, as it comes on its connection.
    fn whole(self, connection: &mut Connection) -> Whole<'_> {
        Whole {
            front: self.front,
            failed: self.failed,
            rest: AnswerBody::new(self.incoming, connection),
        }
    }
}

/// What was read of a body, and the rest of it.
struct Whole<'a> {
    front: VecDeque<Frame<Bytes>>,
    failed: Option<BodyError>,
    rest: AnswerBody<'a>,
}

impl Body for Whole<'_> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.front.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.failed.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.front.is_empty() && self.failed.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.size_hint();
        let front = self.front.iter().filter_map(|frame| frame.data_ref());
        let front: u64 = front.map(|data| data.len() as u64).sum();
        match rest.exact() {
            Some(rest) => SizeHint::with_exact(rest + front),
            None => SizeHint::new(),
        }
    }
}

/// Whether the connection may now be, or be about to be, logged in as this request's caller: these
/// schemes speak of a connection, not of a request (RFC 4559), and the next request is another's.
pub(super) fn is_bound(request: &Headers, answer: &HeaderMap) -> bool {
    request.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case(AUTHORIZATION.as_str().as_bytes()) && names_bound_scheme(value)
    }) || answer
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .any(|value| names_bound_scheme(value.as_bytes()))
}

/// A word too many costs a connection; a scheme that is missed costs more.
fn names_bound_scheme(value: &[u8]) -> bool {
    value
        .split(|byte| !byte.is_ascii_alphanumeric())
        .any(|word| word.eq_ignore_ascii_case(b"ntlm") || word.eq_ignore_ascii_case(b"negotiate"))
}

fn executed(code: Code, detail: impl Into<String>) -> Failure {
    Failure::new(code, Execution::Executed, detail)
}

fn too_large() -> Failure {
    let detail = "the answer is larger than this bridge passes on (response_max)";
    executed(Code::ResponseTooLarge, detail)
}

/// The wire's head of an answer.
fn head<B: Body>(
    method: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &B,
) -> Result<ResponseHead, Failure> {
    let has_no_body =
        method == "HEAD" || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let hint = body.size_hint();
    // With chunks a length says nothing (RFC 9112, 6.3), and must not go on.
    let is_chunked = !has_no_body && hint.exact().is_none();
    let length = match hint.exact() {
        _ if has_no_body => BodyLength::None,
        Some(bytes) => BodyLength::Known(bytes),
        None => BodyLength::Unknown,
    };
    let headers = one_length(headers)?;
    let headers = transport::http::to_wire(&headers, |name| is_chunked && name == CONTENT_LENGTH)
        .map_err(|error| {
        let detail = format!("the head of the target's answer cannot be passed on: {error}");
        executed(Code::TargetProtocol, detail)
    })?;
    Ok(ResponseHead {
        status: status.as_u16(),
        headers,
        body: length,
    })
}

/// The fields with the length once, where the target said the same several times: the next reader might
/// not take that (RFC 9110, 8.6).
fn one_length(headers: &HeaderMap) -> Result<Cow<'_, HeaderMap>, Failure> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else {
        return Ok(Cow::Borrowed(headers));
    };
    if values.next().is_none() && first.as_bytes().iter().all(u8::is_ascii_digit) {
        return Ok(Cow::Borrowed(headers));
    }
    let values = headers.get_all(CONTENT_LENGTH).iter();
    let mut numbers = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let first = numbers.next().unwrap_or_default().trim_ascii();
    let is_number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    let value = HeaderValue::from_bytes(first).ok().filter(|_| is_number);
    match value {
        Some(value) if numbers.all(|other| other.trim_ascii() == first) => {
            let mut headers = headers.clone();
            headers.insert(CONTENT_LENGTH, value);
            Ok(Cow::Owned(headers))
        }
        _ => Err(executed(
            Code::TargetProtocol,
            "the target's answer names several lengths",
        )),
    }
}

/// The beginning of a body.
struct Gathered {
    bytes: Bytes,
    rest: Option<Frame<Bytes>>,
    is_end: bool,
}

/// Takes what is there of a body, as far as it travels with its head.
async fn gather<B>(body: &mut B, length: BodyLength) -> Result<Gathered, Failure>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let is_small = matches!(length, BodyLength::Known(bytes) if bytes <= INLINE_MAX_BYTES as u64);
    let mut pieces = Pieces::default();
    let mut rest = None;
    let by = Instant::now() + GRACE;
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
                return Ok(Gathered {
                    bytes: pieces.join(),
                    rest: None,
                    is_end: true,
                });
            }
            Poll::Ready(Some(frame)) => frame.map_err(|error| response_failure(&error))?,
        };
        match frame.data_ref() {
            Some(data) if pieces.len() + data.len() <= INLINE_MAX_BYTES => {
                pieces.push(data.clone());
            }
            Some(_) | None => {
                rest = Some(frame);
                break;
            }
        }
    }
    Ok(Gathered {
        bytes: pieces.join(),
        rest,
        is_end: body.is_end_stream(),
    })
}

/// Bytes in pieces; one piece is not copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    more: BytesMut,
}

impl Pieces {
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

/// The rest of a body, with its limits. The time between two pieces runs while the target is
/// waited for, not while the relay is.
struct Rest<'a> {
    first: Option<Frame<Bytes>>,
    body: Whole<'a>,
    is_end: bool,
    bytes_left_max: Option<u64>,
    idle: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Rest<'_> {
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self.idle;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        sleep.as_mut().poll(cx)
    }

    fn count(&mut self, frame: &Frame<Bytes>) -> Result<(), Failure> {
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        if let Some(left) = &mut self.bytes_left_max {
            *left = left.checked_sub(bytes).ok_or_else(too_large)?;
        }
        Ok(())
    }
}

impl Body for Rest<'_> {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let frame = if let Some(first) = self.first.take() {
            first
        } else if self.is_end {
            return Poll::Ready(None);
        } else {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(response_failure(&error))));
                }
                Poll::Pending => {
                    std::task::ready!(self.poll_idle(cx));
                    let detail = format!("the target sent nothing for {:?}", self.idle);
                    return Poll::Ready(Some(Err(timed_out(Execution::Executed, detail))));
                }
            }
        };
        let next = Instant::now() + self.idle;
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(next);
        }
        let counted = self.count(&frame);
        Poll::Ready(Some(counted.map(|()| frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Empty, Full};
    use protocol::frame::HeadersBuilder;

    #[test]
    fn a_length_that_is_said_several_times_is_said_once_or_not_taken() {
        let said = |values: &[&'static str]| {
            let mut map = HeaderMap::new();
            for value in values {
                map.append(CONTENT_LENGTH, HeaderValue::from_static(value));
            }
            one_length(&map).map(|map| {
                map.get_all(CONTENT_LENGTH)
                    .iter()
                    .cloned()
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(said(&[]).unwrap(), Vec::<HeaderValue>::new());
        for values in [&["3"][..], &["3", "3"], &["3, 3"], &["3,3", " 3"]] {
            assert_eq!(said(values).unwrap(), ["3"], "{values:?}");
        }
        for values in [&["3", "4"][..], &["3, 4"], &["x"], &["3,"], &[""; 2]] {
            assert!(said(values).is_err(), "{values:?}");
        }
    }

    fn headers(length: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
        }
        headers
    }

    fn has_length(head: &ResponseHead) -> bool {
        head.headers
            .iter()
            .any(|(name, _)| name == b"content-length")
    }

    #[test]
    fn a_body_has_the_length_that_it_has() {
        let full = Full::new(Bytes::from_static(b"1234567"));
        let seven = head("GET", StatusCode::OK, &headers(Some("7")), &full).unwrap();
        assert_eq!(seven.body, BodyLength::Known(7));
        assert!(has_length(&seven));
        let empty = Empty::<Bytes>::new();
        let none = head("GET", StatusCode::OK, &headers(Some("0")), &empty).unwrap();
        assert_eq!(none.body, BodyLength::Known(0));
    }

    #[test]
    fn the_answer_to_head_keeps_its_length_and_has_no_body() {
        let empty = Empty::<Bytes>::new();
        for (method, status) in [("HEAD", 200), ("GET", 304), ("GET", 204)] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = head(method, status, &headers(Some("99")), &empty).unwrap();
            assert_eq!(answer.body, BodyLength::None, "{method} {status}");
            assert!(has_length(&answer));
        }
    }

    #[test]
    fn a_length_beside_chunks_is_not_passed_on() {
        let answer = head("GET", StatusCode::OK, &headers(Some("5")), &NoFrames).unwrap();
        assert_eq!(answer.body, BodyLength::Unknown);
        assert!(!has_length(&answer));
    }

    #[test]
    fn a_connection_that_may_be_logged_in_is_known() {
        let bound = |request: &str, answer: &'static str| {
            let mut headers = HeadersBuilder::default();
            headers.push(b"x-other", b"NTLM").unwrap();
            headers.push(b"authorization", request.as_bytes()).unwrap();
            let mut answered = HeaderMap::new();
            answered.append(WWW_AUTHENTICATE, HeaderValue::from_static("Digest a=b"));
            answered.append(WWW_AUTHENTICATE, HeaderValue::from_static(answer));
            is_bound(&headers.build(), &answered)
        };
        assert!(!bound("Basic YTpi", "Basic realm=\"x\""));
        assert!(bound("NTLM TlRMTVNTUAAB", "Basic"));
        assert!(bound("negotiate YII", "Basic"));
        assert!(bound("Basic YTpi", "nTlM"));
        assert!(bound("Basic YTpi", "Basic realm=\"x\", Negotiate"));
    }

    #[tokio::test]
    async fn a_body_that_trickles_is_not_waited_for() {
        let mut body = Trickle { is_due: false };
        let gathered = gather(&mut body, BodyLength::Known(10_000)).await.unwrap();
        assert!(!gathered.is_end && gathered.rest.is_none());
        assert!(gathered.bytes.len() < 100, "{}", gathered.bytes.len());
    }

    /// A byte at every other look, without end, each in less than the grace.
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

    struct NoFrames;

    impl Body for NoFrames {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Pending
        }
    }
}
