//! One attempt of a delivery: executed once, whatever happens to the tunnel.
//!
//! ```text
//! body --> known? --> policy, connect --> dispatched --> intent on disk --> request --> outcome on disk --> response
//!            \--> response from the journal                                                \--> RESULT
//! ```
//!
//! The bridge reports "dispatched" first and writes the intent second. A crash between the two leaves nothing
//! in the journal, and nothing was sent, so the relay may send the attempt again. From the intent on, the
//! stream only carries the response: a lost tunnel or a cancel changes nothing.

use super::deadlines::timed_out;
use super::exchange::{Exchange, ExchangeRequest};
use super::signed::NonceStore;
use crate::credentials::Injection;
use crate::deliveries::{Admission, Claim, Deliveries};
use crate::journal::{JournalEntryState, Outcome};
use crate::target_access::with_trust_keys;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use http_client::{
    Attempts, Client, Connection, Executed, NoResponse, Outgoing, Progress, Replay, RequestBody,
    RequestPlan, ResponseBody, SendError,
};
use hyper::body::Incoming;
use policy::{Approved, Candidate};
use protocol::frame::{BodyLength, CallAttempt, Headers, ResponseHead};
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout_at;
use transport::RecvStream;
use transport::handle::INLINE_MAX_BYTES;

/// Connections that an attempt is tried on, if it verifiably was not sent on those before.
const ATTEMPTS_MAX: u32 = 2;

/// Bytes of a response that are read beyond what is passed on, so that the connection can be reused.
const DISCARD_MAX_BYTES: usize = 256 * 1024;

/// How long the response's body may take: what is passed on of it is for people.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes an attempt, or responds with its known outcome.
pub(super) async fn serve(
    exchange: &mut Exchange,
    deliveries: &Arc<Deliveries>,
    nonces: &NonceStore,
    attempt: CallAttempt,
    recv: RecvStream,
) -> Result<(), Failure> {
    let max = (deliveries.limits.body_max, "deliveries.body_max");
    let body = exchange.collect_body(recv, max).await?;
    let claim = match deliveries.admit(attempt) {
        Admission::Accepted(claim) => claim,
        Admission::Running(mut ended) => {
            // The deadline holds: while the disk rejects writes, this may be long, and the relay may ask for
            // the same attempt again and again.
            let ending = ended.wait_for(Option::is_some);
            let outcome = tokio::select! {
                failure = exchange.send.closed() => return Err(failure),
                outcome = timeout_at(exchange.deadlines.end_by, ending) => outcome,
            };
            let Ok(outcome) = outcome else {
                return Err(overloaded("the attempt is still running"));
            };
            let outcome = outcome.ok().and_then(|outcome| *outcome);
            return match outcome {
                Some(outcome) => respond_known(exchange, outcome),
                // Its task gave up before the intent was written.
                None => Err(overloaded("the attempt that was running did not begin")),
            };
        }
        Admission::Full => {
            let max = deliveries.limits.concurrent_max;
            return Err(overloaded(format!(
                "too many concurrent deliveries ({max}, deliveries.concurrent_max)"
            )));
        }
    };
    match deliveries.journal.lookup(attempt).await {
        Ok(state) => {
            if let Some(result) = respond_recorded(exchange, state) {
                return result;
            }
        }
        Err(error) => return Err(overloaded(error)),
    }
    let candidate = exchange.decide()?;
    let _permit = exchange.acquire_quota(&candidate)?;
    let injection = exchange.injection(&candidate)?;
    let client_cert = injection.as_ref().and_then(Injection::client_cert);
    let active = exchange.active.clone();
    let ca_file = active.ca_file(candidate.rule());
    let plan = RequestPlan {
        connect_timeout: exchange.connect_timeout(&candidate),
        ..RequestPlan::new(
            &candidate,
            Client::pool_key(candidate.target(), ca_file, client_cert),
        )
    };
    // The journal makes an attempt once, so nothing but an unsent request is sent again.
    let attempts = Attempts::new(Replay::IfUnsent(Some(body.clone())), ATTEMPTS_MAX);
    let request = ExchangeRequest {
        exchange,
        candidate: &candidate,
        injection: injection.as_ref(),
    };
    let opened = active
        .client
        .open(&plan, &request, attempts.reuse())
        .await
        .map_err(|failure| with_trust_keys(failure, candidate.rule(), &active.config))?;
    // A request that is not valid HTTP is rejected here: after the intent it would count as executed.
    exchange.build_request_head(&opened.0, injection.as_ref())?;
    if exchange.must_be_signed() {
        exchange.verify_signature(nonces, &body).await?;
    }
    exchange.send.dispatched()?;
    match deliveries.journal.begin(attempt).await {
        Ok(state) => {
            if let Some(result) = respond_recorded(exchange, state) {
                return result;
            }
        }
        Err(error) => return Err(overloaded(error)),
    }
    // The nonce is used up after the intent: until here, the same attempt may come again with its nonce,
    // whatever fails.
    if let Err(failure) = exchange.spend_nonce().await {
        claim.complete(Outcome::failed(&failure)).await;
        return Err(failure);
    }
    execute(
        exchange,
        claim,
        (&plan, injection.as_ref()),
        (opened, attempts),
        body,
    )
    .await
}

/// An attempt after its intent was written. Nothing ends it but its deadline: a reset of the stream does not.
struct Attempt<'a> {
    exchange: &'a Exchange,
    candidate: &'a Candidate,
    injection: Option<&'a Injection>,
}

impl Outgoing for Attempt<'_> {
    async fn approved(&self) -> Result<Vec<Approved>, Failure> {
        self.exchange.approved(self.candidate).await
    }

    fn head(&self, approved: &Approved) -> Result<Request<()>, Failure> {
        self.exchange.build_request_head(approved, self.injection)
    }

    async fn before_dispatch<T: Send>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        let connected = timeout_at(self.exchange.deadlines.end_by, work).await;
        connected.unwrap_or_else(|_| {
            let detail = "the delivery timed out before the target was connected";
            Err(timed_out(Execution::NotDispatched, detail))
        })
    }

    async fn response(
        &mut self,
        connection: &mut Connection,
        request: Request<RequestBody>,
        _: &Progress,
    ) -> Result<Response<Incoming>, NoResponse> {
        let by = self.exchange.deadlines.head_end();
        match timeout_at(by, connection.send(request)).await {
            Ok(response) => response.map_err(|error| NoResponse::Connection(Box::new(error))),
            Err(_) => {
                let detail = "the target did not respond in time";
                let failure = timed_out(Execution::PossiblyExecuted, detail);
                Err(NoResponse::Ended(SendError::TimedOut(failure)))
            }
        }
    }
}

fn overloaded(why: impl std::fmt::Display) -> Failure {
    Failure::not_dispatched(Code::Overloaded, why.to_string())
}

/// Responds with what the journal has of the attempt. `None` where it has nothing: the attempt may be made.
fn respond_recorded(
    exchange: &mut Exchange,
    state: JournalEntryState,
) -> Option<Result<(), Failure>> {
    match state {
        JournalEntryState::Unknown => None,
        JournalEntryState::Ended(outcome) => Some(respond_known(exchange, outcome)),
        JournalEntryState::Begun => Some(Err(overloaded("the attempt is still running"))),
    }
}

/// Responds with the outcome of an attempt that was made before.
fn respond_known(exchange: &mut Exchange, outcome: Outcome) -> Result<(), Failure> {
    match (outcome.status, outcome.code) {
        (Some(status), None) => {
            let head = ResponseHead {
                status,
                headers: Headers::default(),
                body: BodyLength::None,
            };
            exchange.send.head(&head, &[], true)
        }
        (_, code) => Err(Failure::new(
            code.unwrap_or(Code::Internal),
            outcome.execution,
            "the attempt was made before, with this outcome",
        )),
    }
}

/// The target's response, as far as it is passed on.
struct DeliveryResponse {
    head: ResponseHead,
    body: Bytes,
}

/// Sends the request after its intent was written. The outcome is written in any case; then the response is
/// passed on, if the stream is still there.
async fn execute(
    exchange: &mut Exchange,
    claim: Claim,
    (plan, injection): (&RequestPlan<'_>, Option<&Injection>),
    (opened, mut attempts): ((Approved, Connection), Attempts),
    body: Bytes,
) -> Result<(), Failure> {
    let active = exchange.active.clone();
    let body = RequestBody::from_bytes(body, exchange.head.body);
    let mut attempt = Attempt {
        exchange,
        candidate: plan.candidate,
        injection,
    };
    let executed = active
        .client
        .execute(plan, opened, &mut attempt, body, &mut attempts)
        .await;
    let result = match executed {
        Ok(mut executed) => {
            if let Some(injection) = injection {
                injection.cleaner().clean(executed.response.headers_mut());
            }
            Ok(collect(exchange, executed).await)
        }
        Err(error) => Err(Failure::from(error)),
    };
    exchange.status = result.as_ref().ok().map(|response| response.head.status);
    // The nonce is settled before the relay gets the result: it may send the next attempt at once.
    let ended = result.as_ref().map(|_| ()).map_err(Failure::clone);
    exchange.settle_nonce(&ended).await;
    let outcome = match &result {
        Ok(response) => Outcome::answered(response.head.status),
        Err(failure) => Outcome::failed(failure),
    };
    // On disk before the relay gets the response: it may forget the attempt once it has that.
    claim.complete(outcome).await;
    let response = result?;
    exchange.send.head(&response.head, &response.body, true)
}

/// Reads the beginning of the body. The target has responded: nothing can fail any more.
async fn collect(exchange: &Exchange, executed: Executed) -> DeliveryResponse {
    let Executed {
        response,
        mut connection,
        ..
    } = executed;
    let (parts, incoming) = response.into_parts();
    let mut front = BytesMut::new();
    let mut discarded = 0;
    // The connection can be reused only if nothing of this response is left on it.
    let is_complete = {
        let mut body = ResponseBody::new(incoming, &mut connection);
        let reading = async {
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return false };
                let Some(data) = frame.data_ref() else {
                    continue;
                };
                let room = INLINE_MAX_BYTES - front.len();
                front.extend_from_slice(&data[..room.min(data.len())]);
                discarded += data.len().saturating_sub(room);
                if discarded > DISCARD_MAX_BYTES {
                    return false;
                }
            }
            true
        };
        let until = exchange
            .deadlines
            .end_by
            .min(tokio::time::Instant::now() + BODY_TIMEOUT);
        timeout_at(until, reading).await.unwrap_or(false)
    };
    let is_auth_bound = super::response::is_auth_bound(&exchange.head.headers, &parts.headers);
    if is_complete && !is_auth_bound {
        exchange.active.client.return_to_pool(connection).await;
    }
    let head = wire_head(parts.status.as_u16(), &parts.headers, front.len());
    DeliveryResponse {
        head,
        body: front.freeze(),
    }
}

/// Builds the head for the relay. Fields that do not fit are left out: the status is what counts.
fn wire_head(status: u16, headers: &HeaderMap, bytes: usize) -> ResponseHead {
    let is_framing = |name: &http::HeaderName| *name == http::header::CONTENT_LENGTH;
    ResponseHead {
        status,
        headers: transport::http::to_wire(headers, is_framing).unwrap_or_default(),
        body: match bytes {
            0 => BodyLength::None,
            bytes => BodyLength::Known(bytes as u64),
        },
    }
}
