//! Two sessions on a virtual clock, a scripted peer, and builders of heads.

mod bodies;
mod pair;
mod scripted;

pub(crate) use bodies::{Body, Reader, Users, Writer, piece};
pub(crate) use pair::{Link, Pair};
pub(crate) use scripted::Scripted;

use bytes::Bytes;
use protocol::frame::{
    BodyLength, Class, Headers, HeadersBuilder, RequestHead, RequestTarget, ResponseHead, TimeLeft,
    Windows,
};
use protocol::session::{Config, Event, Side};
use protocol::{Code, Execution, Failure};
use std::time::{Duration, Instant};

pub(crate) const KIB: u64 = 1024;
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MILLI: Duration = Duration::from_millis(1);

/// The origin of the virtual clock; the real clock is not read again.
#[expect(clippy::disallowed_methods, reason = "an origin for a virtual clock")]
pub(crate) fn origin() -> Instant {
    Instant::now()
}

pub(crate) fn request(class: Class) -> RequestHead {
    RequestHead {
        class,
        share: protocol::frame::CallerWeight::default(),
        target: RequestTarget::Url("https://ci.corp.example/hooks/1".into()),
        method: "POST".into(),
        headers: headers(&[("content-type", "application/json")]),
        body: BodyLength::Unknown,
        expect_continue: false,
        time_left: TimeLeft::default(),
        call: None,
        credential: None,
    }
}

pub(crate) fn call() -> RequestHead {
    request(Class::Interactive)
}

pub(crate) fn response(status: u16) -> ResponseHead {
    ResponseHead {
        status,
        headers: headers(&[("server", "target")]),
        body: BodyLength::Unknown,
    }
}

pub(crate) fn headers(fields: &[(&str, &str)]) -> Headers {
    let mut builder = HeadersBuilder::default();
    for (name, value) in fields {
        builder.push(name.as_bytes(), value.as_bytes()).unwrap();
    }
    builder.build()
}

pub(crate) fn cancelled() -> Failure {
    Failure::possibly_executed(Code::Cancelled, "the caller closed its connection")
}

pub(crate) fn refused() -> Failure {
    Failure::new(
        Code::RefusedByPolicy,
        Execution::NotDispatched,
        "not allowed",
    )
}

pub(crate) fn windows(streams_max: u32, stream_kib: u64, session_bytes: u64) -> Windows {
    Windows {
        streams_max,
        stream_bytes: stream_kib * KIB,
        session_bytes,
    }
}

/// Returns configs of both sides with the same windows.
pub(crate) fn config(side: Side, both: Windows) -> Config {
    Config {
        local: both,
        peer: both,
        ..Config::new(side)
    }
}

pub(crate) fn zeros(bytes: u64) -> Bytes {
    Bytes::from(vec![0; usize::try_from(bytes).unwrap()])
}

/// Counts `event` in `events`.
pub(crate) fn count(events: &[Event], event: &Event) -> usize {
    events.iter().filter(|one| *one == event).count()
}
