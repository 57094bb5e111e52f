//! One attempt of a delivery: once, whatever becomes of the tunnel.
//!
//! ```text
//! body whole -> known? -> policy, connect -> dispatched -> intent on disk -> request -> outcome on disk -> answer
//!                 \-> answered from the journal                                              \-> RESULT
//! ```
//!
//! "Dispatched" is said first and the intent written second: a crash between the two leaves nothing
//! in the journal, and nothing has left, so the relay may send the attempt again. From the intent on
//! the stream is only where the answer goes; a lost tunnel or a cancel changes nothing.

use super::exchange::{Exchange, timed_out};
use super::signed::NonceStore;
use crate::credentials::Injection;
use crate::deliveries::{Deliveries, Mine, Turn};
use crate::journal::{Known, Outcome};
use crate::upstream::{
    AnswerBody, Connection, Key, Refused, RequestBody, Reuse, Upstream, refused, request_failure,
    untouched,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming as Body;
use policy::{Approved, Candidate};
use protocol::frame::{BodyLength, CallAttempt, Headers, ResponseHead};
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout_at;
use transport::RecvStream;
use transport::handle::INLINE_MAX_BYTES;

/// Connections that an attempt is tried on, when it verifiably did not leave on those before.
const TRIES_MAX: usize = 2;

/// How much of an answer is read beyond what is passed on, so that the connection can be kept.
const DISCARD_MAX_BYTES: usize = 256 * 1024;

/// How long the answer's body may take: what is passed on of it is for people.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Makes an attempt, or answers what is known of it.
pub(super) async fn serve(
    exchange: &mut Exchange,
    deliveries: &Arc<Deliveries>,
    nonces: &NonceStore,
    attempt: CallAttempt,
    recv: RecvStream,
) -> Result<(), Failure> {
    let max = (deliveries.limits.body_max, "deliveries.body_max");
    let body = exchange.whole(recv, max).await?;
    let mine = match deliveries.turn(attempt) {
        Turn::Mine(mine) => mine,
        Turn::Running(mut ended) => {
            // While the disk takes nothing this may be long, and the relay may ask again and again.
            let ending = ended.wait_for(Option::is_some);
            let outcome = tokio::select! {
                failure = exchange.send.closed() => return Err(failure),
                outcome = timeout_at(exchange.times.end_by, ending) => outcome,
            };
            let Ok(outcome) = outcome else {
                return Err(not_now("the attempt runs"));
            };
            let outcome = outcome.ok().and_then(|outcome| *outcome);
            return match outcome {
                Some(outcome) => answer_known(exchange, outcome),
                // It was not begun after all.
                None => Err(not_now("the attempt that ran was not begun")),
            };
        }
        Turn::Full => return Err(not_now("as many deliveries run as may at once")),
    };
    match deliveries.journal.probe_path(attempt).await {
        Ok(Known::Nothing) => {}
        Ok(Known::Ended(outcome)) => return answer_known(exchange, outcome),
        Ok(Known::Begun) => return Err(not_now("the attempt runs")),
        Err(error) => return Err(not_now(error)),
    }
    let candidate = exchange.decide()?;
    let _place = exchange.enter(&candidate)?;
    let injection = exchange.injection(&candidate)?;
    let own = injection.as_ref().and_then(Injection::client_cert);
    let key = Upstream::key(candidate.target(), None, own);
    let active = exchange.active.clone();
    let pooled = active
        .upstream
        .take_idle(&key, Reuse::Once, |address| candidate.approve(address).ok());
    let (approved, connection) = match pooled {
        Some(pooled) => pooled,
        None => {
            let connecting = exchange.connection(&candidate, &key);
            let (approved, mut connection) = exchange.before_dispatch(connecting).await?;
            connection.mark_for_once();
            (approved, connection)
        }
    };
    exchange.head_for(&approved, injection.as_ref())?;
    if exchange.must_be_signed() {
        exchange.sign(nonces, &body).await?;
    }
    exchange.send.dispatched()?;
    match deliveries.journal.begin(attempt).await {
        Ok(Known::Nothing) => {}
        Ok(Known::Ended(outcome)) => return answer_known(exchange, outcome),
        Ok(Known::Begun) => return Err(not_now("the attempt runs")),
        Err(error) => return Err(not_now(error)),
    }
    // After the journal: until here the same attempt may come again with its nonce, whatever fails.
    if let Err(failure) = exchange.spend().await {
        mine.ended(Outcome::failed(&failure)).await;
        return Err(failure);
    }
    let way = Way {
        candidate: &candidate,
        key: &key,
        injection: injection.as_ref(),
    };
    execute(exchange, mine, way, approved, connection, body).await
}

/// Where an attempt goes, and with what.
#[derive(Clone, Copy)]
struct Way<'a> {
    candidate: &'a Candidate,
    key: &'a Key,
    injection: Option<&'a Injection>,
}

fn not_now(why: impl std::fmt::Display) -> Failure {
    Failure::not_dispatched(Code::Overloaded, why.to_string())
}

/// What the journal says, as an answer.
fn answer_known(exchange: &mut Exchange, outcome: Outcome) -> Result<(), Failure> {
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
            "the attempt was made before, and ended so",
        )),
    }
}

/// The target's answer, as far as it is passed on.
struct Answered {
    head: ResponseHead,
    body: Bytes,
}

/// From the intent on: the outcome is written in any case, then the answer is passed on if anybody
/// is there.
async fn execute(
    exchange: &mut Exchange,
    mine: Mine,
    way: Way<'_>,
    approved: Approved,
    connection: Connection,
    body: Bytes,
) -> Result<(), Failure> {
    let result = request(exchange, way, approved, connection, body).await;
    exchange.status = result.as_ref().ok().map(|answered| answered.head.status);
    // Before the relay learns of it: the next attempt may come at once.
    let over = result.as_ref().map(|_| ()).map_err(Failure::clone);
    exchange.settle(&over).await;
    let outcome = match &result {
        Ok(answered) => Outcome::answered(answered.head.status),
        Err(failure) => Outcome::failed(failure),
    };
    mine.ended(outcome).await;
    let answered = result?;
    exchange.send.head(&answered.head, &answered.body, true)
}

async fn request(
    exchange: &Exchange,
    way: Way<'_>,
    approved: Approved,
    connection: Connection,
    body: Bytes,
) -> Result<Answered, Failure> {
    let mut approved = approved;
    let mut connection = connection;
    for tries_left in (0..TRIES_MAX).rev() {
        let head = exchange.head_for(&approved, way.injection)?;
        let length = exchange.head.body;
        let request = head.map(|()| RequestBody::of_whole(body.clone(), length));
        let error = match send(exchange, &mut connection, request).await? {
            Ok(mut response) => {
                if let Some(injection) = way.injection {
                    injection.clean(response.headers_mut());
                }
                return Ok(collect(exchange, response, connection).await);
            }
            Err(error) => error,
        };
        let (error, was_returned, refused) = error;
        if let Some(refused) = refused {
            exchange.active.upstream.note(way.key, refused);
        }
        if !was_returned || tries_left == 0 {
            return Err(match refused {
                Some(Refused::Untouched) => untouched(),
                Some(Refused::WantsHttp1) | None => error,
            });
        }
        // The connection was closed before anything left on it.
        drop(connection);
        let connecting = exchange.connection(way.candidate, way.key);
        let connecting = timeout_at(exchange.times.end_by, connecting).await;
        (approved, connection) = connecting.unwrap_or_else(|_| {
            let detail = "the time for the delivery ended before the target was connected";
            Err(timed_out(Execution::NotDispatched, detail))
        })?;
    }
    Err(not_now(
        "the target closes its connections before they are used",
    ))
}

type Sent = Result<Response<Body>, (Failure, bool, Option<Refused>)>;

/// Sends and waits for the answer's head. An error says whether the request verifiably did not
/// leave.
async fn send(
    exchange: &Exchange,
    connection: &mut Connection,
    request: Request<RequestBody>,
) -> Result<Sent, Failure> {
    let by = exchange.times.head_end();
    match timeout_at(by, connection.send(request)).await {
        Ok(Ok(response)) => Ok(Ok(response)),
        Ok(Err(mut error)) => {
            let refused = refused(error.error());
            let was_returned = error.take_message().is_some() || refused.is_some();
            let failure = request_failure(error.error());
            Ok(Err((failure, was_returned, refused)))
        }
        Err(_) => {
            let detail = "the target did not answer in time";
            Err(timed_out(Execution::PossiblyExecuted, detail))
        }
    }
}

/// The head, and a piece of the body. The target has answered: nothing can fail any more.
async fn collect(
    exchange: &Exchange,
    response: Response<Body>,
    mut connection: Connection,
) -> Answered {
    let (parts, incoming) = response.into_parts();
    let mut piece = BytesMut::new();
    let mut discarded = 0;
    let is_whole = {
        let mut body = AnswerBody::new(incoming, &mut connection);
        let reading = async {
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return false };
                let Some(data) = frame.data_ref() else {
                    continue;
                };
                let room = INLINE_MAX_BYTES - piece.len();
                piece.extend_from_slice(&data[..room.min(data.len())]);
                discarded += data.len().saturating_sub(room);
                if discarded > DISCARD_MAX_BYTES {
                    return false;
                }
            }
            true
        };
        let within = exchange
            .times
            .end_by
            .min(tokio::time::Instant::now() + BODY_WITHIN);
        timeout_at(within, reading).await.unwrap_or(false)
    };
    if is_whole && !super::answer::is_bound(&exchange.head.headers, &parts.headers) {
        exchange.active.upstream.give_back(connection).await;
    }
    let head = head(parts.status.as_u16(), &parts.headers, piece.len());
    Answered {
        head,
        body: piece.freeze(),
    }
}

/// The head for the relay. Fields that do not fit are left out: the status is what counts.
fn head(status: u16, headers: &HeaderMap, bytes: usize) -> ResponseHead {
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
