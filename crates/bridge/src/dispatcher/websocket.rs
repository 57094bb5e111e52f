//! A request to speak WebSocket (W-65): the target answers, and where it agrees bytes are raw from then on.

use super::exchange::{Exchange, NoHead};
use super::{answer, raw};
use crate::credentials::Injection;
use crate::credentials::alm::Over;
use crate::upstream::{RequestBody, Upstream, request_failure};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use policy::Candidate;
use protocol::frame::{BodyLength, RequestTarget, ResponseHead};
use protocol::{Code, Execution, Failure};
use transport::RecvStream;
use transport::http::{WEBSOCKET, to_wire};

/// Asks the target on a connection of its own, which nothing else will use.
pub(super) async fn serve(
    exchange: &mut Exchange,
    candidate: &Candidate,
    recv: RecvStream,
) -> Result<(), Failure> {
    let active = exchange.active.clone();
    let settings = match &exchange.head.target {
        RequestTarget::Endpoint { name, .. } => active.config.rules.settings(name),
        RequestTarget::Url(_) | RequestTarget::Connect { .. } => None,
    };
    let ca_file = settings.and_then(|settings| settings.ca_file.as_deref());
    let mut injection = exchange.injection(candidate)?;
    exchange.has_credential = injection.is_some();
    let own = injection.as_ref().and_then(Injection::client_cert);
    // Only HTTP/1.1 connections are switched to it here.
    let key = Upstream::key(candidate.target(), ca_file, own).of_http1();
    if let Some(injection) = &mut injection
        && injection.sign_in().is_some()
    {
        exchange
            .before_dispatch(exchange.sign_in(injection))
            .await?;
    }
    let connecting = exchange.connection(candidate, &key);
    let (approved, mut connection) = exchange.before_dispatch(connecting).await?;
    connection.run_for_upgrade();
    // The target gets a request without a body: what follows is not HTTP.
    exchange.head.body = BodyLength::None;
    let mut head = exchange.head_for(&approved, injection.as_ref())?;
    let fields = head.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
    let body = RequestBody::of_whole(Bytes::new(), BodyLength::None);
    exchange.send.dispatched()?;
    let progress = body.progress();
    let request = head.map(|()| body);
    let answered = exchange.head_of(&mut connection, request, &progress).await;
    let mut response = answered.map_err(|no_head| match no_head {
        NoHead::Over(failure) => failure,
        NoHead::Target(error) => request_failure(error.error()),
    })?;
    if let Some(injection) = &injection {
        let reason = (response.status() == StatusCode::UNAUTHORIZED).then_some(Over::Unauthorized);
        exchange.follow_session(injection, response.headers(), reason);
        injection.clean(response.headers_mut());
    }
    exchange.rewrite(response.headers_mut());
    exchange.status = Some(response.status().as_u16());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let response = response.map(answer::Peeked::from);
        return answer::pass_on(exchange, response, connection, &progress).await;
    }
    switch(exchange, candidate, response, recv).await
}

async fn switch(
    exchange: &mut Exchange,
    candidate: &Candidate,
    mut response: Response<Incoming>,
    recv: RecvStream,
) -> Result<(), Failure> {
    let failed = |detail: String| Failure::new(Code::TargetProtocol, Execution::Executed, detail);
    let is_websocket = response
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    if !is_websocket {
        let detail = "the target switched to another protocol, which was not asked for";
        return Err(failed(detail.into()));
    }
    let headers = to_wire(response.headers(), |_| false).map_err(|error| {
        failed(format!(
            "the head of the target's answer cannot be passed on: {error}"
        ))
    })?;
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(|error| {
        failed(format!(
            "the target's connection was lost when it switched: {error}"
        ))
    })?;
    let (stream, early) = crate::upstream::switched(upgraded)
        .ok_or_else(|| failed("its connection is of another kind".into()))?;
    let head = ResponseHead {
        status: StatusCode::SWITCHING_PROTOCOLS.as_u16(),
        headers,
        body: BodyLength::Unknown,
    };
    exchange.send.head(&head, &[], false)?;
    if !early.is_empty() {
        exchange.send.data(early).await?;
    }
    let idle = raw::idle(exchange, candidate);
    let (mut read, mut write) = tokio::io::split(stream);
    let result = raw::carry(exchange, recv, (&mut read, &mut write), idle).await;
    if result.is_err() {
        // What was broken off shall not look like an end.
        read.unsplit(write).will_reset();
    }
    result
}
