//! One exchange: from what the relay asks for to the head of the target's answer.
//!
//! Whatever ends it early ends in one [`Failure`], which resets the stream. A reset by the relay
//! drops what is under way here, and with it the connection to the target.

use super::answer::Peeked;
use super::refusal::refused as refused_by;
use super::resolve::resolve_for;
use super::signed::{NonceStore, Ticket};
use super::{Active, LONGEST, Records, answer, delivery, raw, websocket};
use crate::credentials::Injection;
use crate::credentials::alm::Over;
use crate::deliveries::Deliveries;
use crate::quota::{Place, Quota};
use crate::upstream::{
    Connection, Key, Progress, Refused, RequestBody, Reuse, Upstream, closed_before_answer,
    refused, request_failure, untouched,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming as Body;
use hyper::client::conn::TrySendError;
use policy::{Approved, Candidate};
use protocol::frame::{BodyLength, RequestHead, RequestTarget, ResponseHead, TimeLeft};
use protocol::limits::INFORMATIONAL_MAX;
use protocol::{Code, Execution, Failure};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};
use transport::http::wire_asks_for_websocket;
use transport::{Incoming, RecvStream, SendStream};

/// Connections that one request is tried on, when it verifiably did not leave on those before.
const TRIES_MAX: u32 = 3;

/// How long a target may be silent that was asked whether it wants a body: many have never heard of the
/// question (RFC 9110, 10.1.1).
const GO_AHEAD_WITHIN: Duration = Duration::from_secs(1);

/// What ALM says in a response of 500 to a session that was signed out. It has done nothing then.
const TOKEN_INVALID: &[u8] = b"TokenId is invalid";

/// Runs an exchange to its end.
pub(super) async fn run(active: Arc<Active>, records: &Records, incoming: Incoming) {
    let Incoming { head, send, recv } = incoming;
    let times = Times::new(&active, &head);
    let started = Instant::now();
    let mut exchange = Exchange {
        active,
        head,
        send,
        times,
        status: None,
        response_max: None,
        ticket: None,
        has_credential: false,
    };
    let result = exchange.serve(&records.nonces, recv).await;
    exchange.note(records, started.elapsed(), &result);
    if let Err(failure) = result {
        tracing::debug!(
            code = %failure.code, execution = %failure.execution, detail = failure.detail,
            method = exchange.head.method, took = ?started.elapsed(), "exchange failed"
        );
        exchange.send.reset(failure);
    }
}

/// Makes an attempt of a delivery, or answers what is known of it.
pub(super) async fn deliver(
    active: Arc<Active>,
    deliveries: Arc<Deliveries>,
    records: &Records,
    incoming: Incoming,
) {
    let Incoming { head, send, recv } = incoming;
    let times = Times::new(&active, &head);
    let started = Instant::now();
    let Some(attempt) = head.call else { return };
    let mut exchange = Exchange {
        active,
        head,
        send,
        times,
        status: None,
        response_max: None,
        ticket: None,
        has_credential: false,
    };
    let result = delivery::serve(&mut exchange, &deliveries, &records.nonces, attempt, recv).await;
    // Before the relay learns of it: the same attempt may come again at once.
    exchange.ticket = None;
    exchange.note(records, started.elapsed(), &result);
    if let Err(failure) = result {
        exchange.send.reset(failure);
    }
}

/// When an exchange has taken too long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The relay's limit for the head, where a caller gave a time for it all.
    head_by: Instant,
    /// The end of it all.
    pub(super) end_by: Instant,
    /// From the last piece of the request to the head.
    head: Duration,
    /// Between two pieces of the answer.
    pub(super) idle: Duration,
}

impl Times {
    /// When the answer's head must be there, for a request that leaves now and as a whole.
    pub(super) fn head_end(&self) -> Instant {
        (Instant::now() + self.head)
            .min(self.head_by)
            .min(self.end_by)
    }

    fn new(active: &Active, head: &RequestHead) -> Self {
        let (left, targets) = (head.time_left, &active.config.targets);
        let now = Instant::now();
        let (fixed, head) = head_limits(left, targets.head_timeout.get());
        Self {
            head_by: now + fixed,
            end_by: now + left.total().unwrap_or(LONGEST),
            head,
            idle: idle_limit(left, targets.idle_timeout.get()),
        }
    }

    /// What the entry that allows the request says in place of `[targets]`.
    fn keep_to(&mut self, left: TimeLeft, quota: &Quota) {
        if let Some(head) = quota.head() {
            self.head = head_limits(left, head).1;
        }
        if let Some(idle) = quota.idle() {
            self.idle = idle_limit(left, idle);
        }
        if let Some(total) = quota.total() {
            self.end_by = self.end_by.min(Instant::now() + total);
        }
    }
}

/// How long an answer may stand still.
fn idle_limit(left: TimeLeft, own: Duration) -> Duration {
    left.idle().map_or(own, |left| left.min(own))
}

/// How long the head may take from OPEN, and from the last piece of the request. Only a caller's
/// time for it all runs while the request is on its way: without one, an upload takes what it takes.
fn head_limits(left: TimeLeft, own: Duration) -> (Duration, Duration) {
    match (left.total(), left.head()) {
        (Some(_), head) => (head.unwrap_or(LONGEST), own),
        (None, head) => (LONGEST, head.map_or(own, |head| head.min(own))),
    }
}

pub(super) fn timed_out(execution: Execution, detail: impl Into<String>) -> Failure {
    Failure::new(Code::TargetTimeout, execution, detail)
}

pub(super) struct Exchange {
    pub(super) active: Arc<Active>,
    pub(super) head: RequestHead,
    pub(super) send: SendStream,
    pub(super) times: Times,
    /// What the target answered with.
    pub(super) status: Option<u16>,
    /// Bytes of an answer's body that are passed on.
    pub(super) response_max: Option<u64>,
    /// The nonce of a signed request.
    pub(super) ticket: Option<Ticket>,
    /// Whether this bridge adds a credential, which heads with a status of 1xx could repeat.
    pub(super) has_credential: bool,
}

/// Why no answer's head came.
pub(super) enum NoHead {
    /// The connection to the target failed; it may give the request back.
    Target(Box<TrySendError<Request<RequestBody>>>),
    /// The exchange is over.
    Over(Failure),
}

impl Exchange {
    /// Writes down how it ended. Endpoints are busy: on the board are only those that failed, and in the
    /// audit file their sums.
    fn note(&self, records: &Records, took: Duration, result: &Result<(), Failure>) {
        match result {
            Ok(()) => records.board.answered(),
            Err(failure) => records.board.failed(failure),
        }
        let method = &*self.head.method;
        let outcome = || match (result, self.status) {
            (Ok(()), Some(status)) => status.to_string(),
            (Ok(()), None) => "done".to_owned(),
            (Err(failure), _) => failure.code.to_string(),
        };
        let to = match &self.head.target {
            RequestTarget::Endpoint { name, .. } => {
                if let Some(audit) = &records.audit {
                    audit.endpoint(name, method, outcome(), took);
                }
                if result.is_ok() {
                    return;
                }
                format!("endpoint {name}")
            }
            RequestTarget::Connect { host, port } => format!("{host}:{port}"),
            RequestTarget::Url(url) => policy::Target::parse(url).map_or_else(
                |_| "(no URL)".to_owned(),
                |target| target.authority().to_owned(),
            ),
        };
        records.board.call(method, &to, outcome(), took);
        if let Some(audit) = &records.audit {
            audit.add(self.line(&outcome(), took, result));
        }
    }

    /// A line for the audit file.
    fn line(&self, outcome: &str, took: Duration, result: &Result<(), Failure>) -> Value {
        let (to, path) = match &self.head.target {
            RequestTarget::Endpoint { name, .. } => (format!("endpoint {name}"), None),
            RequestTarget::Connect { host, port } => (format!("{host}:{port}"), None),
            RequestTarget::Url(url) => match policy::Target::parse(url) {
                Ok(target) => (
                    format!("{}://{}", target.scheme(), target.authority()),
                    Some(target.path().to_owned()),
                ),
                Err(_) => ("(no URL)".to_owned(), None),
            },
        };
        let failure = result.as_ref().err();
        let call = self.head.call.map(|call| crate::text::hex(&call.call));
        json!({
            "event": if failure.is_some_and(|f| f.code == Code::RefusedByPolicy) { "refused" } else { "call" },
            "method": self.head.method,
            "to": to,
            "path": path,
            "credential": self.head.credential,
            "call": call,
            "attempt": self.head.call.map(|call| call.attempt),
            "outcome": outcome,
            "execution": failure.map_or(Execution::Executed, |f| f.execution).as_str(),
            "detail": failure.map(|failure| &failure.detail),
            "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        })
    }

    async fn serve(&mut self, nonces: &NonceStore, recv: RecvStream) -> Result<(), Failure> {
        let candidate = self.decide()?;
        let _place = self.enter(&candidate)?;
        let is_connect = matches!(self.head.target, RequestTarget::Connect { .. });
        let is_raw = is_connect || wire_asks_for_websocket(&self.head.headers);
        if self.must_be_signed() {
            if is_raw {
                let detail =
                    "a raw stream cannot be signed, and this bridge takes signed requests only";
                return Err(Failure::not_dispatched(Code::RefusedByPolicy, detail));
            }
            return Box::pin(self.serve_signed(nonces, &candidate, recv)).await;
        }
        if is_connect {
            return Box::pin(raw::serve(self, &candidate, recv)).await;
        }
        if is_raw {
            return Box::pin(websocket::serve(self, &candidate, recv)).await;
        }
        let limits = &self.active.config.limits;
        let bytes_max = limits.request_max.map(|size| size.bytes());
        let quota = self.active.quotas.of(candidate.rule());
        let bytes_max = quota.map_or(bytes_max, |quota| quota.request_max(bytes_max));
        let body = RequestBody::new(recv, self.head.body, bytes_max)?;
        self.dispatch(&candidate, body).await
    }

    /// An exchange that has to be signed: its body is held until its digest was checked.
    async fn serve_signed(
        &mut self,
        nonces: &NonceStore,
        candidate: &Candidate,
        recv: RecvStream,
    ) -> Result<(), Failure> {
        let max = self.active.config.signed_calls.body_max.bytes();
        let body = self.whole(recv, (max, "signed_calls.body_max")).await?;
        self.sign(nonces, &body).await?;
        let body = RequestBody::of_whole(body, self.head.body);
        let result = self.dispatch(candidate, body).await;
        self.settle(&result).await;
        result
    }

    /// The whole body of the request, of at most so many bytes: a limit, and the key that sets it.
    pub(super) async fn whole(
        &self,
        recv: RecvStream,
        (max, key): (u64, &str),
    ) -> Result<Bytes, Failure> {
        let max_bytes = usize::try_from(max).unwrap_or(usize::MAX);
        let reading = async {
            match Limited::new(recv, max_bytes).collect().await {
                Ok(body) => Ok(body.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => {
                    let detail =
                        format!("the body is larger than {max} bytes, the limit here ({key})");
                    Err(Failure::not_dispatched(Code::RequestTooLarge, detail))
                }
                Err(error) => Err(match error.downcast::<Failure>() {
                    Ok(failure) => Failure {
                        execution: Execution::NotDispatched,
                        ..*failure
                    },
                    Err(error) => Failure::not_dispatched(Code::Internal, error.to_string()),
                }),
            }
        };
        timeout_at(self.times.end_by, reading)
            .await
            .unwrap_or_else(|_| {
                let detail = "the time for the exchange ended before its body was whole";
                Err(timed_out(Execution::NotDispatched, detail))
            })
    }

    /// Takes a place in the quota of what allows the request, and keeps to its times and sizes.
    pub(super) fn enter(&mut self, candidate: &Candidate) -> Result<Place, Failure> {
        let Some(quota) = self.active.quotas.of(candidate.rule()) else {
            return Ok(Place::default());
        };
        let place = quota.enter(candidate.rule())?;
        self.times.keep_to(self.head.time_left, quota);
        let limit = self.active.config.limits.response_max;
        self.response_max = quota.response_max(limit.map(|size| size.bytes()));
        Ok(place)
    }

    /// What the policy says of the request as it stands.
    pub(super) fn decide(&self) -> Result<Candidate, Failure> {
        let (policy, method) = (&self.active.policy, &self.head.method);
        if self.active.config.bridge.paused {
            let detail = "this bridge is paused by its administrator";
            return Err(Failure::not_dispatched(Code::Overloaded, detail));
        }
        match &self.head.target {
            RequestTarget::Url(url) => policy.decide_url(method, url),
            RequestTarget::Endpoint {
                name,
                path_and_query,
            } => policy.decide_endpoint(name, method, path_and_query),
            RequestTarget::Connect { host, port } => policy.decide_connect(host, *port),
        }
        .map_err(|refusal| refused_by(&refusal, &self.head))
    }

    /// Every address of the candidate's host that may be connected to.
    pub(super) async fn approved(&self, candidate: &Candidate) -> Result<Vec<Approved>, Failure> {
        let addresses = resolve_for(candidate.target().host(), self.head.share).await?;
        candidate
            .approve_any(addresses)
            .map_err(|refusal| refused_by(&refusal, &self.head))
    }

    /// Runs something that nothing was dispatched for yet; a reset or the deadline drops it.
    pub(super) async fn before_dispatch<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            failure = self.send.closed() => Err(failure),
            result = timeout_at(self.times.end_by, work) => result.unwrap_or_else(|_| {
                let detail = "the time for the exchange ended before the target was connected";
                Err(timed_out(Execution::NotDispatched, detail))
            }),
        }
    }

    /// How long a connection may take, where what allows the request says so.
    pub(super) fn connect_timeout(&self, candidate: &Candidate) -> Option<Duration> {
        let quota = self.active.quotas.of(candidate.rule());
        quota.and_then(Quota::connect)
    }

    pub(super) async fn connection(
        &self,
        candidate: &Candidate,
        key: &Key,
    ) -> Result<(Approved, Connection), Failure> {
        let approved = self.approved(candidate).await?;
        let within = self.connect_timeout(candidate);
        self.active.upstream.connect(approved, key, within).await
    }

    async fn dispatch(&mut self, candidate: &Candidate, body: RequestBody) -> Result<(), Failure> {
        let active = self.active.clone();
        let ca_file = match &self.head.target {
            RequestTarget::Endpoint { name, .. } => active.config.rules.settings(name),
            RequestTarget::Url(_) | RequestTarget::Connect { .. } => None,
        }
        .and_then(|settings| settings.ca_file.as_deref());
        let mut injection = self.injection(candidate)?;
        self.has_credential = injection.is_some();
        let own = injection.as_ref().and_then(Injection::client_cert);
        let both = Upstream::key(candidate.target(), ca_file, own);
        // By HTTP/2 the library does not tell whether the target wants a body.
        let key = match self.head.expect_continue {
            true => both.clone().of_http1(),
            false => both.clone(),
        };
        if let Some(injection) = &mut injection
            && injection.sign_in().is_some()
        {
            Box::pin(self.before_dispatch(self.sign_in(injection))).await?;
        }
        // Until the session was found to be over.
        let mut is_renewed = false;
        let mut unsigned = injection
            .as_ref()
            .and_then(Injection::jar)
            .and(body.whole());
        // A body that is whole can be sent once more.
        let whole = body.whole();
        let mut again = whole.clone().filter(|_| is_repeatable(&self.head.method));
        let reuse = match again {
            Some(_) => Reuse::Repeatable,
            None => Reuse::Once,
        };
        let pooled = active
            .upstream
            .take_idle(&key, reuse, |address| candidate.approve(address).ok());
        let (approved, mut connection) = match pooled {
            Some(pooled) => pooled,
            // Boxed, as all is here that most exchanges do without: they stay small.
            None => {
                let connecting = async {
                    match self.connection(candidate, &key).await {
                        // It speaks HTTP/2 alone.
                        Err(failure) if key != both && failure.code == Code::TargetTls => {
                            self.connection(candidate, &both).await
                        }
                        connected => connected,
                    }
                };
                let (approved, mut connection) = Box::pin(self.before_dispatch(connecting)).await?;
                if reuse == Reuse::Once {
                    connection.mark_for_once();
                }
                (approved, connection)
            }
        };
        let mut head = Some(self.head_for(&approved, injection.as_ref())?);
        let mut body = body;
        let mut may_have_left = false;
        for tries_left in (0..TRIES_MAX).rev() {
            let head = match head.take() {
                Some(head) => head,
                None => self.head_for(&approved, injection.as_ref())?,
            };
            if self.ticket.is_some() {
                Box::pin(self.spend()).await?;
            }
            self.send.dispatched()?;
            let progress = body.progress();
            let request = head.map(|()| body);
            let mut error = match self.head_of(&mut connection, request, &progress).await {
                Ok(response) => {
                    let used = injection.as_ref().filter(|own| own.jar().is_some());
                    let (mut response, is_over) = match used {
                        None => (response.map(Peeked::from), false),
                        Some(own) => {
                            let looking =
                                self.session_of(own, response, &mut connection, is_renewed);
                            Box::pin(looking).await?
                        }
                    };
                    if is_over
                        && tries_left > 0
                        && let Some(own) = &mut injection
                        && let Some(bytes) = unsigned.take()
                    {
                        // The request had no effect: once more, with a new session. Where there is none,
                        // the caller may repeat it.
                        let no_effect = |failure: Failure| Failure {
                            execution: match may_have_left {
                                true => Execution::PossiblyExecuted,
                                false => Execution::NotDispatched,
                            },
                            ..failure
                        };
                        is_renewed = true;
                        drop((response, connection));
                        let signing = Box::pin(self.before_dispatch(self.sign_in(own)));
                        signing.await.map_err(no_effect)?;
                        body = RequestBody::of_whole(bytes, self.head.body);
                        let connecting = self.connection(candidate, &key);
                        let connecting = Box::pin(self.before_dispatch(connecting));
                        (_, connection) = connecting.await.map_err(no_effect)?;
                        continue;
                    }
                    if let Some(injection) = &injection {
                        injection.clean(response.headers_mut());
                    }
                    self.rewrite(response.headers_mut());
                    self.status = Some(response.status().as_u16());
                    return answer::pass_on(self, response, connection, &progress).await;
                }
                Err(NoHead::Over(failure)) => return Err(failure),
                Err(NoHead::Target(error)) => error,
            };
            let was_reused = connection.is_reused();
            drop(connection);
            let refused = refused(error.error());
            if let Some(refused) = refused {
                active.upstream.note(&key, refused);
            }
            body = match (error.take_message(), again.take()) {
                (Some(request), kept) if tries_left > 0 => {
                    again = kept;
                    request.into_body()
                }
                // The target says that it did nothing with it.
                (None, kept) if refused.is_some() && whole.is_some() && tries_left > 0 => {
                    again = kept;
                    RequestBody::of_whole(whole.clone().unwrap_or_default(), self.head.body)
                }
                _ if refused == Some(Refused::Untouched) && !may_have_left => {
                    return Err(untouched());
                }
                // The target had closed an idle connection: a repeat does nothing twice.
                (None, Some(bytes)) if was_reused && closed_before_answer(error.error()) => {
                    may_have_left = true;
                    RequestBody::of_whole(bytes, self.head.body)
                }
                _ => return Err(request_failure(error.error())),
            };
            let connecting = Box::pin(self.before_dispatch(self.connection(candidate, &key)));
            (_, connection) = connecting.await.map_err(|failure| Failure {
                execution: if may_have_left {
                    Execution::PossiblyExecuted
                } else {
                    failure.execution
                },
                ..failure
            })?;
        }
        let detail = "the target closes its connections before they are used";
        Err(Failure::possibly_executed(Code::TargetClosed, detail))
    }

    /// Looks at a response for the session that its request used, and says whether it is over, so that the
    /// request had no effect. Where only the body of a response tells, its beginning is read. A session
    /// that was opened for this request (`is_renewed`) is not ended by the response: the target refuses
    /// the request itself.
    async fn session_of(
        &self,
        injection: &Injection,
        response: Response<Body>,
        connection: &mut Connection,
        is_renewed: bool,
    ) -> Result<(Response<Peeked>, bool), Failure> {
        let looking = async {
            let (parts, incoming) = response.into_parts();
            let is_encoded = parts.headers.contains_key(http::header::CONTENT_ENCODING);
            match parts.status {
                StatusCode::UNAUTHORIZED if !is_renewed => {
                    (parts, Peeked::from(incoming), Some(Over::Unauthorized))
                }
                StatusCode::INTERNAL_SERVER_ERROR if is_encoded || self.head.method == "HEAD" => {
                    if !self.is_alive(injection).await {
                        // Whether this response means that is open, so nothing is repeated.
                        let none = HeaderMap::new();
                        self.follow_session(injection, &none, Some(Over::SignedOut));
                    }
                    (parts, Peeked::from(incoming), None)
                }
                StatusCode::INTERNAL_SERVER_ERROR if !is_renewed => {
                    let looking = Peeked::look_for(TOKEN_INVALID, incoming, connection);
                    let (peeked, is_found) = looking.await;
                    (parts, peeked, is_found.then_some(Over::SignedOut))
                }
                _ => (parts, Peeked::from(incoming), None),
            }
        };
        let (parts, peeked, reason) = tokio::select! {
            failure = self.send.closed() => return Err(failure),
            looked = looking => looked,
        };
        let is_over = self.follow_session(injection, &parts.headers, reason);
        Ok((Response::from_parts(parts, peeked), is_over))
    }

    /// Rewrites an answer's fields for a client that browses, where the endpoint's entry says so.
    pub(super) fn rewrite(&self, headers: &mut HeaderMap) {
        let RequestTarget::Endpoint {
            name,
            path_and_query,
        } = &self.head.target
        else {
            return;
        };
        let rules = &self.active.config.rules;
        let rewrite = rules.settings(name).map(|settings| settings.rewrite);
        let Some(rewrite) = rewrite.filter(|rewrite| !rewrite.is_none()) else {
            return;
        };
        let mut endpoints = rules.endpoints.iter();
        if let Some(endpoint) = endpoints.find(|endpoint| endpoint.name == *name) {
            rewrite.answer(headers, endpoint, path_and_query);
        }
    }

    /// Sends a request, waits for the head of its answer, and passes those with a status of 1xx on.
    pub(super) async fn head_of(
        &mut self,
        connection: &mut Connection,
        mut request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Body>, NoHead> {
        let hints = Hints::of(&mut request);
        let mut answer = pin!(connection.send(request));
        let mut answered = None;
        let fixed = self.times.head_by.min(self.times.end_by);
        let stalls = || (Instant::from_std(progress.last()) + self.times.head).min(fixed);
        // The caller holds its body back until the target wants it, or has said nothing for long enough.
        let mut go_ahead_by = self
            .head
            .expect_continue
            .then(|| Instant::now() + GO_AHEAD_WITHIN);
        let mut alarm = pin!(sleep_until(go_ahead_by.unwrap_or(fixed).min(stalls())));
        loop {
            let step = poll_fn(|cx| {
                if answered.is_none()
                    && let Poll::Ready(result) = answer.as_mut().poll(cx)
                {
                    answered = Some(result);
                }
                if let Some(hint) = hints.next() {
                    return Poll::Ready(Step::Hint(hint));
                }
                if answered.is_some() {
                    return Poll::Ready(Step::Answer);
                }
                if let Poll::Ready(failure) = self.send.poll_closed(cx) {
                    return Poll::Ready(Step::Over(failure));
                }
                alarm.as_mut().poll(cx).map(|()| Step::Late)
            });
            match step.await {
                Step::Hint(hint) if hint.status == 100 && !self.head.expect_continue => {}
                Step::Hint(hint) if hint.status != 100 && self.has_credential => {}
                Step::Hint(hint) => {
                    if hint.status == 100 {
                        go_ahead_by = None;
                    }
                    self.send.head(&hint, &[], false).map_err(NoHead::Over)?;
                }
                Step::Answer => {
                    if let Some(result) = answered.take() {
                        return result.map_err(|error| match progress.failure() {
                            Some(failure) => NoHead::Over(Failure {
                                execution: Execution::PossiblyExecuted,
                                ..failure
                            }),
                            None => NoHead::Target(Box::new(error)),
                        });
                    }
                }
                Step::Over(failure) => return Err(NoHead::Over(failure)),
                Step::Late if go_ahead_by.is_some_and(|by| Instant::now() >= by) => {
                    go_ahead_by = None;
                    self.send
                        .head(&go_ahead(), &[], false)
                        .map_err(NoHead::Over)?;
                    alarm.as_mut().reset(stalls());
                }
                Step::Late if Instant::now() < stalls() => alarm.as_mut().reset(stalls()),
                Step::Late => {
                    let detail = "the target did not answer in time";
                    let failure = timed_out(Execution::PossiblyExecuted, detail);
                    return Err(NoHead::Over(failure));
                }
            }
        }
    }
}

/// The word that the body is wanted.
fn go_ahead() -> ResponseHead {
    ResponseHead {
        status: StatusCode::CONTINUE.as_u16(),
        headers: protocol::frame::Headers::default(),
        body: BodyLength::None,
    }
}

/// What comes while an answer is waited for.
enum Step {
    /// A head with a status of 1xx.
    Hint(ResponseHead),
    /// The answer's head, or that there is none.
    Answer,
    /// The exchange is over.
    Over(Failure),
    /// The time is over, unless the request has moved meanwhile.
    Late,
}

/// Whether it may be sent twice without doing anything twice, and usually is (RFC 9110, 9.2.1).
fn is_repeatable(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS")
}

/// Heads with a status of 1xx. They are put here while the answer is polled for.
struct Hints(Arc<Mutex<VecDeque<ResponseHead>>>);

impl Hints {
    fn of(request: &mut Request<RequestBody>) -> Self {
        let hints = Arc::new(Mutex::new(VecDeque::new()));
        let sink = hints.clone();
        hyper::ext::on_informational(request, move |response| {
            let mut hints = sink.lock().unwrap_or_else(PoisonError::into_inner);
            // More than the wire takes of them are dropped: they are hints.
            if hints.len() < INFORMATIONAL_MAX as usize
                && let Some(head) = informational(response.status(), response.headers())
            {
                hints.push_back(head);
            }
        });
        Self(hints)
    }

    fn next(&self) -> Option<ResponseHead> {
        let mut hints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hints.pop_front()
    }
}

fn informational(status: StatusCode, headers: &HeaderMap) -> Option<ResponseHead> {
    Some(ResponseHead {
        status: status.as_u16(),
        headers: transport::http::to_wire(headers, |_| false).ok()?,
        body: BodyLength::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_for_the_head_runs_from_open_only_where_a_caller_gave_a_time() {
        let (own, second) = (Duration::from_secs(60), Duration::from_secs(1));
        let endpoint = TimeLeft {
            head_ms: 1000,
            ..TimeLeft::default()
        };
        assert_eq!(head_limits(endpoint, own), (LONGEST, second));
        assert_eq!(head_limits(TimeLeft::default(), own), (LONGEST, own));
        let call = TimeLeft {
            total_ms: 2000,
            ..endpoint
        };
        assert_eq!(head_limits(call, own), (second, own));
    }
}
