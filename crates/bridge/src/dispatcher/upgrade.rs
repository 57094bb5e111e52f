//! A request to switch to another protocol, such as WebSocket (W-65). The target responds; if it agrees, bytes
//! are raw from then on.

use super::exchange::{Exchange, ExchangeRequest};
use super::{raw, response};
use crate::credentials::Injection;
use crate::credentials::alm::SessionEnd;
use bytes::BytesMut;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use http_client::{
    Attempts, Client, Connection, Executed, NoResponse, Outgoing, Progress, Replay, RequestBody,
    RequestPlan,
};
use hyper::body::Incoming;
use policy::{Approved, Candidate};
use protocol::frame::{BodyLength, ResponseHead};
use protocol::{Code, Execution, Failure};
use transport::RecvStream;
use transport::handle::INLINE_MAX_BYTES;
use transport::http::{is_requested, to_wire_with_upgrade};

/// The request, with the protocols that it asks for.
struct Handshake<'a>(ExchangeRequest<'a>, HeaderValue);

impl Outgoing for Handshake<'_> {
    fn approved(&self) -> impl Future<Output = Result<Vec<Approved>, Failure>> + Send {
        self.0.approved()
    }

    fn head(&self, approved: &Approved) -> Result<Request<()>, Failure> {
        let mut head = self.0.head(approved)?;
        let fields = head.headers_mut();
        fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(header::UPGRADE, self.1.clone());
        Ok(head)
    }

    fn before_dispatch<T: Send>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> impl Future<Output = Result<T, Failure>> + Send {
        self.0.before_dispatch(work)
    }

    fn dispatch(&mut self) -> impl Future<Output = Result<(), Failure>> + Send {
        self.0.dispatch()
    }

    fn response(
        &mut self,
        connection: &mut Connection,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> impl Future<Output = Result<Response<Incoming>, NoResponse>> + Send {
        self.0.response(connection, request, progress)
    }
}

/// Sends the handshake on a connection of its own, which is never pooled.
pub(super) async fn serve(
    exchange: &mut Exchange,
    candidate: &Candidate,
    protocols: &HeaderValue,
    mut recv: RecvStream,
) -> Result<(), Failure> {
    let body = body(exchange, candidate, &mut recv).await?;
    let active = exchange.active.clone();
    let ca_file = active.ca_file(candidate.rule());
    let mut injection = exchange.injection(candidate)?;
    let client_cert = injection.as_ref().and_then(Injection::client_cert);
    let pool_key = Client::pool_key(candidate.target(), ca_file, client_cert);
    // HTTP/2 has no upgrade, and WebSocket over it (RFC 8441) is not supported here: it is not offered.
    let plan = RequestPlan {
        connect_timeout: exchange.connect_timeout(candidate),
        is_upgrade: true,
        ..RequestPlan::new(candidate, pool_key.http1_only())
    };
    if let Some(injection) = &mut injection
        && injection.sign_in().is_some()
    {
        exchange
            .before_dispatch(exchange.sign_in(injection))
            .await?;
    }
    exchange.cleaner = injection.as_ref().map(Injection::cleaner);
    let mut attempts = Attempts::new(Replay::Never, 1);
    let mut handshake = Handshake(
        ExchangeRequest {
            exchange,
            candidate,
            injection: injection.as_ref(),
        },
        protocols.clone(),
    );
    let opening = active
        .client
        .open_new(&plan, &handshake, attempts.reuse())
        .await;
    let (approved, mut connection) = opening?;
    // In a task: hyper hands the stream over when its connection has ended with a 101.
    connection.run_for_upgrade();
    let executed = active
        .client
        .execute(
            &plan,
            (approved, connection),
            &mut handshake,
            body,
            &mut attempts,
        )
        .await?;
    let Executed {
        mut response,
        connection,
        progress,
    } = executed;
    if let Some(injection) = &injection {
        let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
        let reason = is_unauthorized.then_some(SessionEnd::Unauthorized);
        exchange.follow_session(injection, response.headers(), reason);
        let cleaner = exchange.cleaner.insert(injection.cleaner());
        cleaner.clean(response.headers_mut());
    }
    exchange.rewrite(response.headers_mut());
    exchange.status = Some(response.status().as_u16());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let response = response.map(response::PeekedBody::from);
        return response::forward(exchange, response, connection, &progress).await;
    }
    switch(exchange, candidate, (protocols, response), recv).await
}

/// Returns the body of the request: what its length announces. The bytes that follow are not HTTP.
async fn body(
    exchange: &mut Exchange,
    candidate: &Candidate,
    recv: &mut RecvStream,
) -> Result<RequestBody, Failure> {
    let invalid = |detail: &str| Failure::not_dispatched(Code::InvalidRequest, detail);
    let fields = exchange.head.headers.iter();
    let mut lengths = fields.filter(|(name, _)| *name == b"content-length");
    let Some((_, length)) = lengths.next() else {
        exchange.head.body = BodyLength::None;
        return Ok(RequestBody::empty());
    };
    let length = std::str::from_utf8(length).ok();
    let length = length.and_then(|text| text.parse::<usize>().ok());
    let length = length.filter(|bytes| *bytes <= INLINE_MAX_BYTES);
    let length = length.ok_or_else(|| {
        invalid(&format!(
            "the body of a request to switch protocols must have a known length of at most \
             {INLINE_MAX_BYTES} bytes"
        ))
    })?;
    if exchange
        .request_max(candidate)
        .is_some_and(|max| length as u64 > max)
    {
        let detail = "the request's body is larger than this bridge passes on (limits.request_max)";
        return Err(Failure::not_dispatched(Code::RequestTooLarge, detail));
    }
    let reading = async {
        let mut bytes = BytesMut::with_capacity(length);
        while bytes.len() < length {
            let frame = recv.frame().await.transpose()?;
            let data = frame.and_then(|frame| frame.into_data().ok());
            let data = data.ok_or_else(|| invalid("the request's body is incomplete"))?;
            bytes.extend_from_slice(&data);
        }
        // The relay waits for the switch before it sends more.
        if bytes.len() > length {
            return Err(invalid(
                "bytes follow the request before the target has switched protocols",
            ));
        }
        Ok(bytes.freeze())
    };
    let bytes = exchange.before_dispatch(reading).await?;
    exchange.head.body = BodyLength::Known(length as u64);
    Ok(RequestBody::from_bytes(bytes, exchange.head.body))
}

async fn switch(
    exchange: &mut Exchange,
    candidate: &Candidate,
    (requested, mut response): (&HeaderValue, Response<Incoming>),
    recv: RecvStream,
) -> Result<(), Failure> {
    let failed = |detail: String| Failure::new(Code::TargetProtocol, Execution::Executed, detail);
    let chosen = response.headers().get(header::UPGRADE);
    let Some(chosen) = chosen.filter(|chosen| is_requested(requested, chosen)) else {
        let detail = "the target switched to another protocol, which was not requested";
        return Err(failed(detail.into()));
    };
    let headers = to_wire_with_upgrade(response.headers(), chosen, |_| false)
        .map_err(|error| response::too_large_for_wire(response.headers(), error))?;
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(|error| {
        failed(format!(
            "the target's connection was lost when it switched: {error}"
        ))
    })?;
    let (stream, early) = http_client::switched(upgraded)
        .ok_or_else(|| failed("the connection cannot be taken over".into()))?;
    let head = ResponseHead {
        status: StatusCode::SWITCHING_PROTOCOLS.as_u16(),
        headers,
        body: BodyLength::Unknown,
    };
    exchange.send.head(&head, &[], false)?;
    // The target may send frames in the same packet as its 101.
    if !early.is_empty() {
        exchange.send.data(early).await?;
    }
    let idle = raw::idle_timeout(exchange, candidate);
    let (mut read, mut write) = tokio::io::split(stream);
    let result = raw::relay_bytes(exchange, recv, (&mut read, &mut write), idle).await;
    if result.is_err() {
        // A reset: the target must not take an aborted stream for a complete one.
        read.unsplit(write).will_reset();
    }
    result
}
