//! `ANY /v1/endpoints/{endpoint}/{path}`: a named endpoint, as a reverse proxy.
//!
//! Path and query pass byte for byte, header fields as they are but for those of the connection
//! and the relay's own. A body of known length up to 16 KiB travels with the head; anything else
//! streams, both ways at once.

use crate::auth::{self, Principal};
use crate::body::Body;
use crate::exchange::{self, Asked, Outbound};
use crate::problem::{BRIDGE_ERROR, Problem};
use crate::router::Wanted;
use crate::state::State;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use opentelemetry::trace::SpanKind;
use protocol::frame::{BodyLength, RequestHead, RequestTarget, ResponseHead, TimeLeft};
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::time::Instant;
use transport::session::INLINE_MAX_BYTES;

/// What came in the path behind `/v1/endpoints/`: the name, and the rest from its `/` or `?` on.
pub fn split_target(path_and_query: &str) -> Option<(&str, &str)> {
    let rest = path_and_query.strip_prefix("/v1/endpoints/")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    (!name.is_empty()).then_some((name, rest))
}

/// Passes a request on to a named endpoint.
///
/// # Errors
/// A problem of the relay's own; the target's errors are answers.
pub async fn handle(
    state: &Arc<State>,
    principal: &Principal,
    request: Request<Incoming>,
    endpoint: &str,
    rest: &str,
) -> Result<Response<Body>, Problem> {
    principal.scope.check_endpoint(endpoint)?;
    let (parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(Problem::method("any method but CONNECT"));
    }
    if parts.version < Version::HTTP_11 {
        // An answer of unknown length would end with the connection: broken off, it would look whole.
        return Err(Problem::invalid(
            "endpoints take HTTP/1.1 and HTTP/2; this request is HTTP/1.0",
        ));
    }
    let place = state.exchanges.begin(principal)?;
    let mut span = state.span("endpoint", SpanKind::Server, &parts.headers);
    if let Some(span) = &mut span {
        span.set("http.request.method", parts.method.to_string());
        span.set("bridge.tenant", principal.tenant_name.to_string());
        span.set("bridge.endpoint", endpoint.to_owned());
    }
    let is_head = parts.method == Method::HEAD;
    let expects = parts.headers.contains_key(header::EXPECT);
    let length =
        transport::http::body_length(&parts.headers, &body.size_hint(), body.is_end_stream());
    let declared = match length {
        BodyLength::Known(bytes) => Some(bytes),
        BodyLength::None | BodyLength::Unknown => None,
    };
    let limits = state.limits();
    let head = RequestHead {
        class: principal.role.class(),
        target: RequestTarget::Endpoint {
            name: endpoint.to_owned(),
            path_and_query: rest.to_owned(),
        },
        method: parts.method.as_str().to_owned(),
        headers: request_headers(parts.headers, parts.version)?,
        body: length,
        expect_continue: expects,
        time_left: TimeLeft {
            head_ms: limits.endpoint_head_timeout.millis(),
            idle_ms: limits.endpoint_idle_timeout.millis(),
            total_ms: 0,
        },
        call: None,
        credential: None,
    };
    let asked = Asked {
        call: None,
        principal,
        bridge: None,
        wanted: Wanted::Endpoint(endpoint),
        head,
    };
    let small = body
        .size_hint()
        .exact()
        .is_some_and(|bytes| bytes <= INLINE_MAX_BYTES as u64);
    let body = if body.is_end_stream() {
        Outbound::Whole(Bytes::new())
    } else if small && !expects {
        let idle = limits.endpoint_idle_timeout.0;
        Outbound::Whole(super::whole_body(body, INLINE_MAX_BYTES as u64, idle).await?)
    } else {
        Outbound::Streaming(body)
    };
    let (began, up) = (Instant::now(), body.known_bytes());
    let mut answer = match exchange::run(state, asked, body, place).await {
        Ok(answer) => answer,
        Err(failure) => {
            let nobody = Arc::default();
            let sum = state
                .audit
                .endpoint(principal, endpoint, &nobody, failure.code.as_str());
            sum.answered(began.elapsed(), 0);
            if let Some(span) = &mut span {
                span.failed(&failure);
            }
            return Err(failure.into());
        }
    };
    let bridge = &answer.through.owner.name;
    if let Some(mut span) = span {
        span.set("bridge.name", bridge.to_string());
        span.answered(answer.head.status);
    }
    let sum = state.audit.endpoint(principal, endpoint, bridge, "ok");
    let took = began.elapsed();
    state.metrics.endpoint_took(took);
    sum.answered(took, up.or(declared).unwrap_or(0));
    answer.body.count_into(sum);
    let mut response = response_head(&answer.head, is_head)?;
    *response.body_mut() = answer.body.boxed_unsync();
    Ok(response)
}

/// The fields for the target: without the relay's own key, and without `Host`, which is the
/// bridge's to write.
fn request_headers(
    mut headers: HeaderMap,
    version: Version,
) -> Result<protocol::frame::Headers, Problem> {
    if version == Version::HTTP_2 {
        join_cookies(&mut headers);
    }
    let headers = &headers;
    let own = auth::consumed_header(headers);
    let skip = |name: &HeaderName| {
        *name == header::HOST || *name == header::EXPECT || own.as_ref() == Some(name)
    };
    transport::http::to_wire(headers, skip).map_err(|error| {
        let detail = format!("the header section cannot be passed on: {error}");
        Problem::not_sent(Code::HeadersTooLarge, detail)
    })
}

/// HTTP/2 cuts cookies into fields of their own; elsewhere they are one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// The answer's head, as the target wrote it.
fn response_head(head: &ResponseHead, to_head: bool) -> Result<Response<Body>, Failure> {
    let unusable = |what: &str| {
        let detail = format!("the target's answer cannot be passed on: {what}");
        Failure::new(Code::TargetProtocol, Execution::Executed, detail)
    };
    let status = StatusCode::from_u16(head.status).map_err(|_| unusable("its status"))?;
    if status.is_informational() {
        return Err(unusable("it switches protocols"));
    }
    let mut headers = transport::http::from_wire(&head.headers)
        .map_err(|_| unusable("a header field is not valid HTTP"))?;
    headers.remove(BRIDGE_ERROR);
    // Of a message that cannot have a body, a length is all that may be said.
    if !to_head && (status == StatusCode::NO_CONTENT) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let mut response = Response::new(crate::body::empty());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_name_stays_as_it_is() {
        for (path, name, rest) in [
            ("/v1/endpoints/alm", "alm", ""),
            ("/v1/endpoints/alm/", "alm", "/"),
            ("/v1/endpoints/alm?x", "alm", "?x"),
            ("/v1/endpoints/alm/a%2Fb//c?d=/e", "alm", "/a%2Fb//c?d=/e"),
        ] {
            assert_eq!(split_target(path), Some((name, rest)));
        }
        assert_eq!(split_target("/v1/endpoints/"), None);
        assert_eq!(split_target("/v1/endpoints//x"), None);
    }

    #[test]
    fn cookies_that_http2_cut_are_one_again() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers[header::COOKIE], "a=1; b=2");
        assert_eq!(headers.len(), 1);
    }
}
