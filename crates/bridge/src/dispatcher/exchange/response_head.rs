//! Waits for the head of a response, and forwards informational responses (1xx) meanwhile.

use super::super::deadlines::timed_out;
use super::Exchange;
use http::{HeaderMap, Request, Response, StatusCode};
use http_client::{Connection, NoResponse, Progress, RequestBody, SendError};
use hyper::body::Incoming;
use protocol::frame::{BodyLength, ResponseHead};
use protocol::limits::INFORMATIONAL_MAX;
use protocol::{Execution, Failure};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long the bridge waits for the target's `100 Continue`: many targets do not know the expectation, and
/// a client must not wait for them without limit (RFC 9110, 10.1.1).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// What happens while the bridge waits for a response.
enum Step {
    /// An informational response arrived.
    Informational(StatusCode, HeaderMap),
    /// The response's head arrived, or the connection failed.
    Head,
    /// The relay ended the exchange.
    Ended(Failure),
    /// The deadline passed, unless the request has moved meanwhile.
    Late,
}

impl Exchange {
    /// Sends a request, waits for the head of its response, and forwards informational responses.
    pub(in super::super) async fn await_response_head(
        &mut self,
        connection: &mut Connection,
        mut request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, NoResponse> {
        let ended = |failure| NoResponse::Ended(SendError::Ended(failure));
        // Set before the request is sent: the first informational response may arrive immediately.
        let informational = InformationalQueue::of(&mut request);
        let mut sending = pin!(connection.send(request));
        let mut received = None;
        let fixed = self.deadlines.head_by.min(self.deadlines.end_by);
        // The time for the head runs from the last frame of the request, which moves while it is sent.
        let stalls = || (Instant::from_std(progress.last()) + self.deadlines.head).min(fixed);
        // The caller holds its body back until it gets 100: from the target, or from here after a while.
        let mut continue_by = self
            .head
            .expect_continue
            .then(|| Instant::now() + CONTINUE_TIMEOUT);
        let mut alarm = pin!(sleep_until(continue_by.unwrap_or(fixed).min(stalls())));
        loop {
            let step = poll_fn(|cx| {
                if received.is_none()
                    && let Poll::Ready(result) = sending.as_mut().poll(cx)
                {
                    received = Some(result);
                }
                // Informational responses go first: one poll may bring them and the final head.
                if let Some((status, headers)) = informational.pop() {
                    return Poll::Ready(Step::Informational(status, headers));
                }
                if received.is_some() {
                    return Poll::Ready(Step::Head);
                }
                if let Poll::Ready(failure) = self.send.poll_closed(cx) {
                    return Poll::Ready(Step::Ended(failure));
                }
                alarm.as_mut().poll(cx).map(|()| Step::Late)
            });
            match step.await {
                // A 100 that the caller does not wait for.
                Step::Informational(StatusCode::CONTINUE, _) if !self.head.expect_continue => {}
                Step::Informational(status, mut headers) => {
                    if status == StatusCode::CONTINUE {
                        continue_by = None;
                    }
                    // They may repeat the credential that the bridge added, as a final head may.
                    if let Some(cleaner) = &self.cleaner {
                        cleaner.clean(&mut headers);
                    }
                    if let Some(head) = wire_head(status, &headers) {
                        self.send.head(&head, &[], false).map_err(ended)?;
                    }
                }
                Step::Head => {
                    if let Some(result) = received.take() {
                        return result.map_err(|error| match progress.failure() {
                            // The request's own body failed; hyper may report a closed connection instead.
                            Some(failure) => ended(Failure {
                                execution: Execution::PossiblyExecuted,
                                ..failure
                            }),
                            None => NoResponse::Connection(Box::new(error)),
                        });
                    }
                }
                Step::Ended(failure) => return Err(ended(failure)),
                Step::Late if continue_by.is_some_and(|by| Instant::now() >= by) => {
                    continue_by = None;
                    self.send
                        .head(&continue_head(), &[], false)
                        .map_err(ended)?;
                    alarm.as_mut().reset(stalls());
                }
                Step::Late if Instant::now() < stalls() => alarm.as_mut().reset(stalls()),
                Step::Late => {
                    let failure = timed_out(
                        Execution::PossiblyExecuted,
                        "the target did not respond in time",
                    );
                    return Err(NoResponse::Ended(SendError::TimedOut(failure)));
                }
            }
        }
    }
}

/// Returns the head of `100 Continue`.
fn continue_head() -> ResponseHead {
    ResponseHead {
        status: StatusCode::CONTINUE.as_u16(),
        headers: protocol::frame::Headers::default(),
        body: BodyLength::None,
    }
}

/// Informational responses that hyper reports while the response is polled for.
struct InformationalQueue(Arc<Mutex<VecDeque<(StatusCode, HeaderMap)>>>);

impl InformationalQueue {
    fn of(request: &mut Request<RequestBody>) -> Self {
        let queue = Arc::new(Mutex::new(VecDeque::new()));
        let sink = queue.clone();
        // hyper hands them to a callback only; over HTTP/2 it reports none.
        hyper::ext::on_informational(request, move |response| {
            let mut queue = sink.lock().unwrap_or_else(PoisonError::into_inner);
            // Those over the wire's limit are dropped: a caller must not depend on them.
            if queue.len() < INFORMATIONAL_MAX as usize {
                queue.push_back((response.status(), response.headers().clone()));
            }
        });
        Self(queue)
    }

    fn pop(&self) -> Option<(StatusCode, HeaderMap)> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    }
}

fn wire_head(status: StatusCode, headers: &HeaderMap) -> Option<ResponseHead> {
    Some(ResponseHead {
        status: status.as_u16(),
        headers: transport::http::to_wire(headers, |_| false).ok()?,
        body: BodyLength::None,
    })
}
