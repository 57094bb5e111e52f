//! What each route of the target answers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use serde_json::json;

use super::{Exchange, Hook};
use crate::pattern::{BoxError, PatternBody, Sha256};

type Answer = Response<BoxBody<Bytes, BoxError>>;

/// What the truncated routes announce; they send half of it.
const TRUNCATED_BYTES: u64 = 100_000;
/// What one header of `/big-headers` holds.
const HEADER_VALUE_BYTES: usize = 4096;

/// Answers one request. An error closes the connection without an answer.
pub(super) async fn answer(
    request: Request<Incoming>,
    mut exchange: Exchange,
) -> Result<Answer, BoxError> {
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    let route = parts.next().unwrap_or_default();
    let first = parts.next();
    let answer = match (request.method(), route) {
        (_, "echo") => return Ok(echo(request, exchange)),
        (_, "sink") => sink(request).await?,
        (_, "hook") => hook(request, &exchange).await?,
        (_, "headers") => text(StatusCode::OK, headers(&request)),
        (_, "small") => small(),
        (_, "bytes") => return Ok(stream(PatternBody::new(number(first)?), exchange)),
        (_, "chunked") => return Ok(stream(PatternBody::new(number(first)?).chunked(), exchange)),
        (_, "drip") => {
            let pause = Duration::from_millis(number(parts.next())?);
            let body = PatternBody::new(number(first)?)
                .chunked()
                .dripping(1, pause);
            return Ok(stream(body, exchange));
        }
        (_, "delay") => {
            let delay_ms = number(first)?;
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            json_answer(&json!({ "delayed_ms": delay_ms }))
        }
        (_, "hang") => std::future::pending().await,
        (_, "truncated" | "truncated-chunked") => {
            // It is the target itself that leaves here.
            exchange.complete();
            return Ok(truncated(route == "truncated", exchange));
        }
        (_, "close") => {
            exchange.complete();
            return Err("the route that closes".into());
        }
        (_, "redirect") => redirect(first, request.uri().query())?,
        (_, "big-headers") => big_headers(number(first)?)?,
        (_, "status") => status(number(first)?)?,
        (&Method::GET, "") => text(StatusCode::OK, "the target\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, format!("the target has no {path}\n")),
    };
    exchange.complete();
    Ok(answer)
}

/// The number in a path. Its absence is the test's mistake, and shows as a closed connection.
fn number(part: Option<&str>) -> Result<u64, BoxError> {
    part.unwrap_or_default()
        .parse()
        .map_err(|_| format!("a number was expected, not {part:?}").into())
}

fn text(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(whole(text));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

fn json_answer(value: &serde_json::Value) -> Answer {
    let mut answer = text(StatusCode::OK, value.to_string());
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn whole(body: impl Into<Bytes>) -> BoxBody<Bytes, BoxError> {
    Full::new(body.into())
        .map_err(|never| match never {})
        .boxed()
}

/// 200 bytes of JSON.
fn small() -> Answer {
    json_answer(&json!({ "id": 4711, "state": "closed", "text": "x".repeat(162) }))
}

fn echo(request: Request<Incoming>, exchange: Exchange) -> Answer {
    let (head, body) = request.into_parts();
    let mut answer = Response::new(Watched { body, exchange }.boxed());
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        answer.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    answer
}

fn stream(body: PatternBody, exchange: Exchange) -> Answer {
    let mut answer = Response::new(Watched { body, exchange }.boxed());
    answer.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    answer
}

fn truncated(length_announced: bool, exchange: Exchange) -> Answer {
    let mut answer = stream(PatternBody::new(TRUNCATED_BYTES / 2).breaking(), exchange);
    if length_announced {
        answer
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(TRUNCATED_BYTES));
    }
    answer
}

async fn sink(request: Request<Incoming>) -> Result<Answer, BoxError> {
    let mut body = request.into_body();
    let mut received = 0;
    let mut hash = Sha256::default();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            received += data.len() as u64;
            hash.update(data);
        }
    }
    Ok(json_answer(
        &json!({ "received": received, "sha256": hash.hex() }),
    ))
}

async fn hook(request: Request<Incoming>, exchange: &Exchange) -> Result<Answer, BoxError> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head
        .uri
        .path_and_query()
        .map_or_else(String::new, ToString::to_string);
    let hook = Hook {
        method: head.method,
        path,
        headers: head.headers,
        body,
    };
    let count = {
        let mut hooks = exchange.seen.hooks();
        hooks.push(hook);
        hooks.len()
    };
    Ok(json_answer(&json!({ "recorded": count })))
}

fn headers(request: &Request<Incoming>) -> String {
    let mut text = format!(
        "{} {} {:?}\n",
        request.method(),
        request.uri(),
        request.version()
    );
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    text
}

/// The location is what follows `to=`, to the query's end, and as it came.
fn redirect(code: Option<&str>, query: Option<&str>) -> Result<Answer, BoxError> {
    let to = query
        .and_then(|query| query.strip_prefix("to="))
        .ok_or("?to= is missing")?;
    let code = code.map_or(Ok(302), str::parse)?;
    let mut answer = text(StatusCode::from_u16(code)?, format!("look at {to}\n"));
    answer
        .headers_mut()
        .insert(LOCATION, HeaderValue::from_str(to)?);
    Ok(answer)
}

fn big_headers(bytes: u64) -> Result<Answer, BoxError> {
    let mut answer = text(StatusCode::OK, "look at the headers\n".to_owned());
    let mut left = usize::try_from(bytes)?;
    while left > 0 {
        let len = left.min(HEADER_VALUE_BYTES);
        answer
            .headers_mut()
            .append("x-big", HeaderValue::from_str(&"x".repeat(len))?);
        left -= len;
    }
    Ok(answer)
}

fn status(code: u64) -> Result<Answer, BoxError> {
    let status = StatusCode::from_u16(u16::try_from(code)?)?;
    let empty = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    Ok(text(
        status,
        if empty {
            String::new()
        } else {
            format!("{status}\n")
        },
    ))
}

/// A body that records whether it was sent completely.
struct Watched<B> {
    body: B,
    exchange: Exchange,
}

impl<B> Body for Watched<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        // With a known length, hyper does not poll again after the last piece.
        if frame.is_none() || self.body.is_end_stream() {
            self.exchange.complete();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
