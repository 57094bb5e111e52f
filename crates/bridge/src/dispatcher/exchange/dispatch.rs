//! Sends a request with its credential, and follows the session that the credential has with its target.
//!
//! ```text
//! open a connection --> execute --> response --> session over? --no--> forward
//!                          ^                          |
//!                          +-- sign in again <--------+  once, and only if the request had no effect
//! ```

use super::super::response::{self, PeekedBody};
use super::Exchange;
use crate::credentials::Injection;
use crate::credentials::alm::SessionEnd;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_client::{
    Attempts, Client, Connection, Executed, NoResponse, Outgoing, Progress, Replay, RequestBody,
    RequestPlan,
};
use hyper::body::Incoming;
use policy::{Approved, Candidate, Overrides};
use protocol::frame::{RequestHead, RequestTarget};
use protocol::{Execution, Failure};
use std::sync::Arc;

/// Connections that one request is tried on, if it verifiably was not sent on those before.
const ATTEMPTS_MAX: u32 = 3;

/// What ALM writes into a response of 500 for a session that was signed out. The request had no effect then.
const TOKEN_INVALID: &[u8] = b"TokenId is invalid";

/// One exchange's request, as the client sends it.
pub(in super::super) struct ExchangeRequest<'a> {
    pub(in super::super) exchange: &'a mut Exchange,
    pub(in super::super) candidate: &'a Candidate,
    pub(in super::super) injection: Option<&'a Injection>,
}

impl Outgoing for ExchangeRequest<'_> {
    async fn approved(&self) -> Result<Vec<Approved>, Failure> {
        self.exchange.approved(self.candidate).await
    }

    fn head(&self, approved: &Approved) -> Result<Request<()>, Failure> {
        self.exchange.build_request_head(approved, self.injection)
    }

    fn before_dispatch<T: Send>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> impl Future<Output = Result<T, Failure>> + Send {
        self.exchange.before_dispatch(work)
    }

    async fn dispatch(&mut self) -> Result<(), Failure> {
        // The nonce is used up on disk first: from the next line on the request may have been sent.
        if self.exchange.nonce.is_some() {
            Box::pin(self.exchange.spend_nonce()).await?;
        }
        self.exchange.send.dispatched()
    }

    fn response(
        &mut self,
        connection: &mut Connection,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> impl Future<Output = Result<Response<Incoming>, NoResponse>> + Send {
        self.exchange
            .await_response_head(connection, request, progress)
    }
}

/// Returns whether a request changes nothing (RFC 9110, 9.2.1), so that a second one does no harm. With a field
/// that replaces its method at some targets, that is unknown.
fn is_repeatable(head: &RequestHead) -> bool {
    let is_override = |name: &[u8]| std::str::from_utf8(name).is_ok_and(Overrides::is_method);
    matches!(&*head.method, "GET" | "HEAD" | "OPTIONS")
        && !head.headers.iter().any(|(name, _)| is_override(name))
}

impl Exchange {
    /// Sends the request and forwards its response.
    pub(super) async fn dispatch(
        &mut self,
        candidate: &Candidate,
        body: RequestBody,
    ) -> Result<(), Failure> {
        let active = self.active.clone();
        let ca_file = match &self.head.target {
            RequestTarget::Endpoint { name, .. } => active.config.rules.settings(name),
            RequestTarget::Url(_) | RequestTarget::Connect { .. } => None,
        }
        .and_then(|settings| settings.ca_file.as_deref());
        let mut injection = self.injection(candidate)?;
        let client_cert = injection.as_ref().and_then(Injection::client_cert);
        // With the certificates: a connection that was made with one must not serve a request with another.
        let pool_key = Client::pool_key(candidate.target(), ca_file, client_cert);
        let mut plan = RequestPlan {
            connect_timeout: self.connect_timeout(candidate),
            ..RequestPlan::new(candidate, pool_key)
        };
        // Over HTTP/2, hyper does not report whether the target wants the body (hyper reports no 1xx there).
        if self.head.expect_continue {
            let http1_key = plan.pool_key.clone().http1_only();
            plan.any_protocol_key = Some(std::mem::replace(&mut plan.pool_key, http1_key));
        }
        if let Some(injection) = &mut injection
            && injection.sign_in().is_some()
        {
            Box::pin(self.before_dispatch(self.sign_in(injection))).await?;
        }
        self.cleaner = injection.as_ref().map(Injection::cleaner);
        let has_session = injection.as_ref().is_some_and(|own| own.jar().is_some());
        let buffered_body = body.buffered();
        let reauth_body = buffered_body.clone().filter(|_| has_session);
        let replay = match buffered_body {
            Some(bytes) if is_repeatable(&self.head) => Replay::IfIdempotent(bytes),
            buffered_body => Replay::IfUnsent(buffered_body),
        };
        let mut attempts = Attempts::new(replay, ATTEMPTS_MAX);
        let mut request = ExchangeRequest {
            exchange: self,
            candidate,
            injection: injection.as_ref(),
        };
        let opened = active
            .client
            .open(&plan, &request, attempts.reuse())
            .await?;
        let executed = active
            .client
            .execute(&plan, opened, &mut request, body, &mut attempts)
            .await?;
        let Some(injection) = &mut injection else {
            let Executed {
                response,
                connection,
                progress,
            } = executed;
            return self
                .forward(response.map(PeekedBody::from), connection, &progress)
                .await;
        };
        // Boxed, as all that most exchanges do without: their future stays small.
        let (mut response, connection, progress) = match has_session {
            false => (
                executed.response.map(PeekedBody::from),
                executed.connection,
                executed.progress,
            ),
            true => {
                let renewing =
                    self.renew_session(&plan, injection, executed, (reauth_body, &mut attempts));
                Box::pin(renewing).await?
            }
        };
        // Made again: the response may have changed the session's cookies.
        let cleaner = self.cleaner.insert(injection.cleaner());
        cleaner.clean(response.headers_mut());
        self.forward(response, connection, &progress).await
    }

    async fn forward(
        &mut self,
        mut response: Response<PeekedBody>,
        connection: Connection,
        progress: &Progress,
    ) -> Result<(), Failure> {
        self.rewrite(response.headers_mut());
        self.status = Some(response.status().as_u16());
        response::forward(self, response, connection, progress).await
    }

    /// Inspects a response for the session that its request used. If the session is over, the request had no
    /// effect: it is sent once more with a new session. Where that is not possible, the response is returned
    /// and the caller may repeat the request.
    async fn renew_session(
        &mut self,
        plan: &RequestPlan<'_>,
        injection: &mut Injection,
        executed: Executed,
        (reauth_body, attempts): (Option<Bytes>, &mut Attempts),
    ) -> Result<(Response<PeekedBody>, Connection, Arc<Progress>), Failure> {
        let Executed {
            response,
            mut connection,
            progress,
        } = executed;
        let (response, is_over) = self
            .inspect_session(injection, response, &mut connection, false)
            .await?;
        let Some(bytes) = reauth_body.filter(|_| is_over && attempts.has_more()) else {
            return Ok((response, connection, progress));
        };
        drop((response, connection));
        // An earlier attempt may have been executed, although this one had no effect.
        let execution = attempts.execution(Execution::NotDispatched);
        let no_effect = |failure: Failure| Failure {
            execution,
            ..failure
        };
        let signing_in = self.before_dispatch(self.sign_in(injection)).await;
        signing_in.map_err(no_effect)?;
        self.cleaner = Some(injection.cleaner());
        let active = self.active.clone();
        let body = RequestBody::from_bytes(bytes, self.head.body);
        let mut request = ExchangeRequest {
            exchange: self,
            candidate: plan.candidate,
            injection: Some(injection),
        };
        // A new connection: the response on the old one was not read to its end.
        let opening = active.client.open_new(plan, &request, attempts.reuse());
        let opened = opening.await.map_err(no_effect)?;
        let executed = active
            .client
            .execute(plan, opened, &mut request, body, attempts)
            .await?;
        let Executed {
            response,
            mut connection,
            progress,
        } = executed;
        let (response, _) = self
            .inspect_session(injection, response, &mut connection, true)
            .await?;
        Ok((response, connection, progress))
    }

    /// Inspects a response for the session that its request used, and returns whether the session is over, so
    /// that the request had no effect. Where only the body shows it, the body's beginning is read. A session
    /// that was opened for this request (`is_renewed`) is not ended by the response: the target rejects the
    /// request itself.
    async fn inspect_session(
        &self,
        injection: &Injection,
        response: Response<Incoming>,
        connection: &mut Connection,
        is_renewed: bool,
    ) -> Result<(Response<PeekedBody>, bool), Failure> {
        let inspecting = async {
            let (parts, incoming) = response.into_parts();
            let is_encoded = parts.headers.contains_key(http::header::CONTENT_ENCODING);
            match parts.status {
                StatusCode::UNAUTHORIZED if !is_renewed => {
                    let reason = Some(SessionEnd::Unauthorized);
                    (parts, PeekedBody::from(incoming), reason)
                }
                // The text cannot be read: ask ALM instead.
                StatusCode::INTERNAL_SERVER_ERROR if is_encoded || self.head.method == "HEAD" => {
                    if !self.is_alive(injection).await {
                        // It is unknown whether this response means that, so nothing is repeated.
                        let none = HeaderMap::new();
                        self.follow_session(injection, &none, Some(SessionEnd::SignedOut));
                    }
                    (parts, PeekedBody::from(incoming), None)
                }
                StatusCode::INTERNAL_SERVER_ERROR if !is_renewed => {
                    let peeking = PeekedBody::search(TOKEN_INVALID, incoming, connection);
                    let (peeked, is_found) = peeking.await;
                    (parts, peeked, is_found.then_some(SessionEnd::SignedOut))
                }
                _ => (parts, PeekedBody::from(incoming), None),
            }
        };
        let (parts, peeked, reason) = tokio::select! {
            // Inspecting may read from the target for seconds; the relay may reset the stream meanwhile.
            failure = self.send.closed() => return Err(failure),
            inspected = inspecting => inspected,
        };
        let is_over = self.follow_session(injection, &parts.headers, reason);
        Ok((Response::from_parts(parts, peeked), is_over))
    }

    /// Rewrites a response's header fields for a client that browses, where the endpoint's entry asks for it.
    pub(in super::super) fn rewrite(&self, headers: &mut HeaderMap) {
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
            rewrite.apply(headers, endpoint, path_and_query);
        }
    }
}
