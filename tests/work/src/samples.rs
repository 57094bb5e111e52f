//! Heads and bodies as they are on an ordinary day.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use protocol::frame::{
    BodyLength, CallAttempt, Class, Headers, RequestHead, RequestTarget, ResponseHead, TimeLeft,
};

/// A small body, either way.
pub(crate) const SMALL: [u8; 200] = [b'x'; 200];

/// What callers and the proxies before them send.
const REQUEST: [(&str, &str); 12] = [
    ("host", "relay.example"),
    ("user-agent", "alm-synchronizer/4.2 (linux; x86_64)"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, br"),
    ("accept-language", "en-GB,en;q=0.8"),
    ("content-type", "application/json; charset=utf-8"),
    ("content-length", "200"),
    ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
    ("cookie", "session=0123456789abcdef; theme=dark"),
    ("x-request-id", "6f1c2a9e-8d3b-4f57-9a10-2b7c5d8e4f61"),
    (
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    ("x-forwarded-proto", "https"),
];

/// What targets answer.
const RESPONSE: [(&str, &str); 12] = [
    ("date", "Mon, 01 Jan 2024 12:00:00 GMT"),
    ("server", "nginx/1.24.0"),
    ("content-type", "application/json; charset=utf-8"),
    ("content-length", "200"),
    ("cache-control", "no-cache, no-store, must-revalidate"),
    ("etag", "\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
    ("last-modified", "Mon, 01 Jan 2024 11:00:00 GMT"),
    ("set-cookie", "session=0123456789abcdef; Path=/; HttpOnly"),
    ("set-cookie", "theme=dark; Path=/"),
    ("strict-transport-security", "max-age=31536000"),
    ("vary", "accept-encoding"),
    ("x-request-id", "6f1c2a9e-8d3b-4f57-9a10-2b7c5d8e4f61"),
];

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    map
}

/// The request's fields as the relay's HTTP server has them.
pub(crate) fn request_map() -> HeaderMap {
    map(&REQUEST)
}

/// The same for the wire.
pub(crate) fn wire(map: &HeaderMap) -> Headers {
    transport::http::to_wire(map, |_| false).expect("they fit a head")
}

/// A request to a named endpoint.
pub(crate) fn request(class: Class) -> RequestHead {
    RequestHead {
        class,
        share: protocol::frame::CallerWeight::default(),
        target: RequestTarget::Endpoint {
            name: "alm".into(),
            path_and_query: "/api/v2/projects/7/defects?limit=50&fields=id,name".into(),
        },
        method: "POST".into(),
        headers: wire(&request_map()),
        body: BodyLength::Known(SMALL.len() as u64),
        expect_continue: false,
        time_left: TimeLeft {
            head_ms: 30_000,
            idle_ms: 0,
            total_ms: 300_000,
        },
        call: Some(CallAttempt {
            call: [7; 16],
            attempt: 1,
        }),
        credential: None,
    }
}

/// A response to it.
pub(crate) fn response(body: BodyLength) -> ResponseHead {
    ResponseHead {
        status: 200,
        headers: wire(&map(&RESPONSE)),
        body,
    }
}

/// As many bytes as a DATA frame takes.
pub(crate) fn piece() -> Bytes {
    Bytes::from(vec![b'x'; protocol::limits::DATA_MAX_BYTES])
}
