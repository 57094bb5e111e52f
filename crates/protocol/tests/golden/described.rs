//! Descriptions of frames, as in `proto/vectors`.

use crate::golden::{bytes, number};
use bytes::Bytes;
use protocol::frame::{
    AuditHead, BodyLength, Bounded, CallAttempt, Challenge, Class, Credit, DeliveryResult,
    EndpointHealth, Frame, GoAway, GoAwayReason, Headers, HeadersBuilder, Hello, JournalMark,
    PreviousSession, Reach, Refused, RefusedCode, Report, RequestHead, RequestTarget, ResponseHead,
    Serves, TimeLeft, Welcome, Windows,
};
use protocol::version::AcceptedVersions;
use protocol::{Code, Execution, Failure};
use serde_json::Value;

pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value)[..].try_into().unwrap()
}

fn option<T>(value: &Value, some: impl FnOnce(&Value) -> T) -> Option<T> {
    (!value.is_null()).then(|| some(value))
}

fn list<T, const MAX: usize>(value: &Value, item: impl Fn(&Value) -> T) -> Bounded<T, MAX> {
    Bounded::truncated(value.as_array().unwrap().iter().map(item))
}

fn headers(value: &Value) -> Headers {
    let mut builder = HeadersBuilder::default();
    for field in value.as_array().unwrap() {
        let value = match &field[1] {
            Value::String(text) => Bytes::from(text.clone()),
            other => bytes(other),
        };
        builder.push(text(&field[0]).as_bytes(), &value).unwrap();
    }
    builder.build()
}

fn windows(value: &Value) -> Windows {
    Windows {
        streams_max: number(&value["streams_max"]),
        stream_bytes: number(&value["stream_bytes"]),
        session_bytes: number(&value["session_bytes"]),
    }
}

fn serves(value: &Value) -> Serves {
    Serves {
        endpoints: list(&value["endpoints"], text),
        hosts: option(&value["hosts"], |hosts| list(hosts, text)),
        repeatable: list(&value["repeatable"], text),
    }
}

fn report(value: &Value) -> Report {
    Report {
        endpoints: list(&value["endpoints"], |endpoint| EndpointHealth {
            reach: match &*text(&endpoint["reach"]) {
                "unknown" => Reach::Unknown,
                "up" => Reach::Up,
                "down" => Reach::Down,
                other => panic!("no reach is called {other}"),
            },
            status: option(&endpoint["status"], number),
            code: option(&endpoint["code"], number),
            age_s: number(&endpoint["age_s"]),
        }),
        config_refused: option(&value["config_refused"], text),
        audit: option(&value["audit"], |audit| AuditHead {
            id: array(&audit["id"]),
            sequence: number(&audit["sequence"]),
            hash: array(&audit["hash"]),
            signature: Bounded::truncated(array::<64>(&audit["signature"])),
        }),
    }
}

fn attempt(value: &Value) -> CallAttempt {
    CallAttempt {
        call: array(&value["call"]),
        attempt: number(&value["attempt"]),
    }
}

fn body_length(value: &Value) -> BodyLength {
    match value.as_str() {
        Some("none") => BodyLength::None,
        Some("unknown") => BodyLength::Unknown,
        Some(other) => panic!("{other}"),
        None => BodyLength::Known(number(&value["known"])),
    }
}

fn target(value: &Value) -> RequestTarget {
    if value["url"].is_string() {
        return RequestTarget::Url(text(&value["url"]));
    }
    if value["endpoint"].is_string() {
        return RequestTarget::Endpoint {
            name: text(&value["endpoint"]),
            path_and_query: text(&value["path_and_query"]),
        };
    }
    RequestTarget::Connect {
        host: text(&value["host"]),
        port: number(&value["port"]),
    }
}

fn request(value: &Value) -> RequestHead {
    let time_left = &value["time_left"];
    RequestHead {
        class: match text(&value["class"]).as_str() {
            "interactive" => Class::Interactive,
            "bulk" => Class::Bulk,
            other => panic!("{other}"),
        },
        share: protocol::frame::CallerWeight::new(
            number(&value["caller"]),
            number(&value["weight"]),
        ),
        target: target(&value["target"]),
        method: text(&value["method"]),
        headers: headers(&value["headers"]),
        body: body_length(&value["body_length"]),
        expect_continue: value["expect_continue"].as_bool().unwrap(),
        time_left: TimeLeft {
            head_ms: number(&time_left["head_ms"]),
            idle_ms: number(&time_left["idle_ms"]),
            total_ms: number(&time_left["total_ms"]),
        },
        call: option(&value["call"], attempt),
        credential: option(&value["credential"], text),
    }
}

fn response(value: &Value) -> ResponseHead {
    ResponseHead {
        status: number(&value["status"]),
        headers: headers(&value["headers"]),
        body: body_length(&value["body_length"]),
    }
}

fn refused(value: &Value) -> RefusedCode {
    match text(&value["code"]).as_str() {
        "unauthorized" => RefusedCode::Unauthorized,
        "revoked" => RefusedCode::Revoked,
        "tenant_suspended" => RefusedCode::TenantSuspended,
        "stale_epoch" => RefusedCode::StaleEpoch {
            current: number(&value["current"]),
        },
        "version" => RefusedCode::Version,
        "overloaded" => RefusedCode::Overloaded,
        "channel_binding" => RefusedCode::ChannelBinding,
        "authority" => RefusedCode::Authority,
        other => panic!("{other}"),
    }
}

fn reason(value: &Value) -> GoAwayReason {
    match text(value).as_str() {
        "draining" => GoAwayReason::Draining,
        "renew" => GoAwayReason::Renew,
        "revoked" => GoAwayReason::Revoked,
        "replaced" => GoAwayReason::Replaced,
        "protocol" => GoAwayReason::Protocol,
        "overloaded" => GoAwayReason::Overloaded,
        other => panic!("{other}"),
    }
}

fn hello(value: &Value) -> Frame {
    let hello = Hello {
        version: number(&value["version"]),
        nonce: array(&value["nonce"]),
        tenant: text(&value["tenant"]),
        bridge: text(&value["bridge"]),
        instance: array(&value["instance"]),
        slot: number(&value["slot"]),
        epoch: number(&value["epoch"]),
        authority: text(&value["authority"]),
        channel: option(&value["channel"], array),
        software: text(&value["software"]),
        host: text(&value["host"]),
        windows: windows(&value["windows"]),
        serves: serves(&value["serves"]),
        journal: option(&value["journal"], |journal| JournalMark {
            id: array(&journal["id"]),
            sequence: number(&journal["sequence"]),
        }),
        previous: option(&value["previous"], |previous| PreviousSession {
            session: array(&previous["session"]),
            last_stream: number(&previous["last_stream"]),
            undispatched: list(&previous["undispatched"], number),
        }),
    };
    Frame::Hello {
        body: protocol::frame::encode_hello_body(&hello).unwrap(),
        hello: Box::new(hello),
        proof: array(&value["proof"]),
    }
}

/// Returns the frame of a description.
pub(crate) fn frame(value: &Value) -> Frame {
    let id = || number(&value["stream"]);
    let end = || value["end"].as_bool().unwrap();
    match text(&value["type"]).as_str() {
        "CHALLENGE" => Frame::Challenge(Challenge {
            nonce: array(&value["nonce"]),
            node: text(&value["node"]),
            version_min: number(&value["version_min"]),
            version_max: number(&value["version_max"]),
            windows: windows(&value["windows"]),
        }),
        "HELLO" => hello(value),
        "WELCOME" => Frame::Welcome(Welcome {
            session: array(&value["session"]),
            heartbeat_ms: number(&value["heartbeat_ms"]),
            dead_after_ms: number(&value["dead_after_ms"]),
            nodes: number(&value["nodes"]),
        }),
        "REFUSED" => Frame::Refused(Refused {
            code: refused(value),
            retry_after_ms: number(&value["retry_after_ms"]),
        }),
        "OPEN" => Frame::Open {
            id: id(),
            head: Box::new(request(&value["head"])),
            body: bytes(&value["body"]),
            end: end(),
        },
        "DISPATCHED" => Frame::Dispatched { id: id() },
        "HEAD" => Frame::Head {
            id: id(),
            head: response(&value["head"]),
            body: bytes(&value["body"]),
            end: end(),
        },
        "DATA" => Frame::Data {
            id: id(),
            data: bytes(&value["body"]),
            end: end(),
        },
        "TRAILERS" => Frame::Trailers {
            id: id(),
            headers: headers(&value["headers"]),
        },
        "CREDIT" => Frame::Credit {
            id: id(),
            credit: Credit {
                returned: number(&value["returned"]),
                grown: number(&value["grown"]),
            },
        },
        "STOP" => Frame::Stop { id: id() },
        "RESET" => Frame::Reset {
            id: id(),
            failure: Failure::new(
                Code::from_wire(number(&value["code"])),
                Execution::from_wire(number(&value["execution"])),
                text(&value["detail"]),
            ),
        },
        "RESULT" => Frame::Result(DeliveryResult {
            attempt: attempt(value),
            status: option(&value["status"], number),
            code: option(&value["code"], number),
            execution: number(&value["execution"]),
        }),
        "RESULT_ACK" => Frame::ResultAck(attempt(value)),
        "PING" => Frame::Ping(number(&value["token"])),
        "PONG" => Frame::Pong(number(&value["token"])),
        "STATUS" => Frame::Status(serves(value)),
        "GOAWAY" => Frame::GoAway(GoAway {
            last_stream: option(&value["last_stream"], number),
            reason: reason(&value["reason"]),
            retry_after_ms: number(&value["retry_after_ms"]),
        }),
        "REPORT" => Frame::Report(Box::new(report(value))),
        "VERSIONS" => Frame::Versions(Box::new(AcceptedVersions {
            newest: option(&value["newest"], |version| text(version).parse().unwrap()),
            oldest: option(&value["oldest"], |version| text(version).parse().unwrap()),
            is_enforced: value["enforced"].as_bool().unwrap(),
        })),
        other => panic!("no frame is called {other}"),
    }
}
