//! A case of the table: a request, the target's script, and how the routes are compared.
//!
//! Most cases run against an HTTP/1.1 and an HTTP/2 target. What only bytes can express (odd chunks,
//! folded fields, a broken status line) exists for HTTP/1.1 alone.

use super::script;
use http::Uri;
use std::time::Duration;
use support::h2_target::{self, Head};
use support::recorder::{self, CASE, Field, RawRequest, Sending};

/// Carries the caller's key for the relay.
pub(crate) const KEY: &str = "bridge-authorization";
/// The relay's path of the target.
pub(crate) const ENDPOINT: &str = "/v1/endpoints/t";
/// The pause between the pieces of a slow body.
pub(crate) const SLOWLY: Duration = Duration::from_millis(50);

/// The protocol of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Http1,
    Http2,
}

/// How a request reaches the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Without a tunnel: the yardstick.
    Direct,
    /// By HTTP/1.1 to the named endpoint.
    Endpoint,
    /// By HTTP/2 to the named endpoint.
    EndpointHttp2,
    /// By the forward proxy.
    Proxy,
    /// By CONNECT through the forward proxy.
    Connect,
}

/// A request's body.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    None,
    /// Pieces of a body whose length the head announces.
    Known(Vec<Vec<u8>>),
    /// Pieces of a body without a length.
    Unknown(Vec<Vec<u8>>),
    /// Bytes as they are written. Their framing is among the fields. HTTP/1.1 only.
    Raw(Vec<Vec<u8>>),
}

/// What must hold on the routes through the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Both ends see the same.
    Same,
    /// Both ends see the same, or the caller gets 4xx and the target sees nothing. For ambiguous
    /// requests: the product never repairs them.
    SameOrRefused,
    /// Both ends see the same except for responses with a status of 1xx. Some may be missing, and a 100
    /// may be the relay's own.
    Informational,
    /// The caller sees that the response is incomplete, and no byte that the target did not send; or 502.
    BrokenOff,
    /// The response is invalid: the caller gets 502.
    Unusable,
    /// The response states its length twice: the caller sees it once, or gets 502.
    OneLength,
}

/// The target's script.
#[derive(Debug, Clone)]
enum Script {
    /// Steps that both protocols have.
    Steps(Vec<h2_target::Step>),
    /// Bytes of HTTP/1.1.
    Bytes(Vec<recorder::Step>),
}

/// A row of the table.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) path: Vec<u8>,
    /// Lines of the head, without their ends.
    lines: Vec<Vec<u8>>,
    /// The value of `Connection` in HTTP/1.1.
    connection: Option<&'static str>,
    payload: Payload,
    trailers: Vec<Field>,
    pub(crate) sending: Sending,
    script: Script,
    pub(crate) check: Check,
    /// Whether the target responds before it has the body. How much of it the target sees is then open.
    pub(crate) is_early: bool,
}

impl Route {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "directly",
            Self::Endpoint => "by the endpoint",
            Self::EndpointHttp2 => "by the endpoint over HTTP/2",
            Self::Proxy => "by the proxy",
            Self::Connect => "by CONNECT",
        }
    }
}

impl Case {
    /// A request without a body, whose response is 200 and `ok`.
    pub(crate) fn new(name: impl Into<String>, method: &str, path: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.into(),
            method: method.to_owned(),
            path: path.as_ref().to_vec(),
            lines: Vec::new(),
            connection: None,
            payload: Payload::None,
            trailers: Vec::new(),
            sending: Sending::AtOnce,
            script: Script::Steps(h2_target::whole(Head::new(200), "ok")),
            check: Check::Same,
            is_early: false,
        }
    }

    pub(crate) fn get(name: impl Into<String>) -> Self {
        Self::new(name, "GET", "/a")
    }

    pub(crate) fn post(name: impl Into<String>) -> Self {
        Self::new(name, "POST", "/a")
    }

    /// Adds a field.
    pub(crate) fn field(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let line = [name.as_bytes(), b": ", value.as_ref()].concat();
        self.line(line)
    }

    /// Adds a line to the head. HTTP/1.1 only, unless it is `name: value`.
    pub(crate) fn line(mut self, line: impl AsRef<[u8]>) -> Self {
        self.lines.push(line.as_ref().to_vec());
        self
    }

    /// Sets another `Connection` than `close`. It contains `close`, too: the client reads to the end.
    pub(crate) fn connection(self, connection: &'static str) -> Self {
        Self {
            connection: Some(connection),
            ..self
        }
    }

    /// Sends a body of known length in one piece.
    pub(crate) fn body(self, body: impl AsRef<[u8]>) -> Self {
        self.known([body])
    }

    /// Sends a body of known length in pieces.
    pub(crate) fn known<P: AsRef<[u8]>>(self, pieces: impl IntoIterator<Item = P>) -> Self {
        Self {
            payload: Payload::Known(owned(pieces)),
            ..self
        }
    }

    /// Sends a body of unknown length in pieces.
    pub(crate) fn unknown<P: AsRef<[u8]>>(self, pieces: impl IntoIterator<Item = P>) -> Self {
        Self {
            payload: Payload::Unknown(owned(pieces)),
            ..self
        }
    }

    /// Adds a trailer to a body of unknown length.
    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers
            .push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// Sends these chunks, sizes included: see [`script::chunks`].
    pub(crate) fn chunked(self, chunks: Vec<Vec<u8>>) -> Self {
        let case = self.field("Transfer-Encoding", "chunked");
        Self {
            payload: Payload::Raw(chunks),
            ..case
        }
    }

    pub(crate) fn sending(self, sending: Sending) -> Self {
        Self { sending, ..self }
    }

    /// Responds with a head and a body of known length.
    pub(crate) fn respond(self, head: Head, body: impl AsRef<[u8]>) -> Self {
        self.steps(h2_target::whole(head, body))
    }

    /// Responds with a head and a body of known length before the request's body was read.
    pub(crate) fn respond_early(self, head: Head, body: &str) -> Self {
        let steps = h2_target::whole(head, body).into_iter();
        let unread = steps.filter(|step| *step != h2_target::Step::ReadBody);
        let case = self.steps(unread.collect::<Vec<_>>());
        Self {
            is_early: true,
            ..case
        }
    }

    /// Responds with these steps.
    pub(crate) fn steps(self, steps: impl Into<Vec<h2_target::Step>>) -> Self {
        Self {
            script: Script::Steps(steps.into()),
            ..self
        }
    }

    /// Responds with these bytes once the request is complete.
    pub(crate) fn bytes(self, bytes: impl Into<Vec<u8>>) -> Self {
        let send = recorder::Step::Send(bytes.into());
        self.raw_steps([recorder::Step::ReadBody, send])
    }

    /// Does the same, and closes the connection.
    pub(crate) fn bytes_and_close(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.bytes(bytes).then(recorder::Step::Close)
    }

    /// Responds with bytes in pieces, with a pause after each.
    pub(crate) fn slow_bytes<P: AsRef<[u8]>>(self, pieces: impl IntoIterator<Item = P>) -> Self {
        let send = |piece: P| {
            let piece = piece.as_ref().to_vec();
            [recorder::Step::Send(piece), recorder::Step::Pause(SLOWLY)]
        };
        let pieces = pieces.into_iter().flat_map(send);
        let steps: Vec<_> = [recorder::Step::ReadBody]
            .into_iter()
            .chain(pieces)
            .collect();
        self.raw_steps(steps)
    }

    pub(crate) fn raw_steps(self, steps: impl Into<Vec<recorder::Step>>) -> Self {
        Self {
            script: Script::Bytes(steps.into()),
            ..self
        }
    }

    /// Adds a step to a script of bytes.
    pub(crate) fn then(mut self, step: recorder::Step) -> Self {
        match &mut self.script {
            Script::Bytes(steps) => steps.push(step),
            Script::Steps(_) => panic!("{}: a step of HTTP/1.1 after others", self.name),
        }
        self
    }

    pub(crate) fn check(self, check: Check) -> Self {
        Self { check, ..self }
    }

    /// Whether the caller's HTTP library can send it by HTTP/2, and the target can answer by it.
    pub(crate) fn is_for_http2(&self) -> bool {
        let path = std::str::from_utf8(&self.path).ok();
        let has_uri = path.is_some_and(|path| {
            let uri = Uri::builder().scheme("https").authority("x");
            uri.path_and_query(path).build().is_ok()
        });
        has_uri && matches!(self.script, Script::Steps(_))
    }

    /// The target's script by HTTP/1.1.
    pub(crate) fn http1_steps(&self) -> Vec<recorder::Step> {
        match &self.script {
            Script::Bytes(steps) => steps.clone(),
            Script::Steps(steps) => script::http1(steps),
        }
    }

    /// The target's script by HTTP/2.
    pub(crate) fn http2_steps(&self) -> Vec<h2_target::Step> {
        match &self.script {
            Script::Bytes(_) => panic!("{} is for HTTP/1.1", self.name),
            Script::Steps(steps) => steps.clone(),
        }
    }

    /// The fields of the head by HTTP/2.
    pub(crate) fn fields(&self, number: usize) -> Vec<Field> {
        let mut fields = vec![(CASE.to_owned(), number.to_string().into_bytes())];
        for line in &self.lines {
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, value) = line.split_at(colon.expect("a field"));
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            fields.push((name, value[1..].trim_ascii_start().to_vec()));
        }
        if let Some(length) = self.length() {
            fields.push(("content-length".to_owned(), length.into_bytes()));
        }
        fields
    }

    fn length(&self) -> Option<String> {
        match &self.payload {
            Payload::Known(pieces) => {
                let bytes: usize = pieces.iter().map(Vec::len).sum();
                Some(bytes.to_string())
            }
            Payload::None | Payload::Unknown(_) | Payload::Raw(_) => None,
        }
    }

    /// The pieces of the body by HTTP/2.
    pub(crate) fn pieces(&self) -> &[Vec<u8>] {
        match &self.payload {
            Payload::None => &[],
            Payload::Known(pieces) | Payload::Unknown(pieces) => pieces,
            Payload::Raw(_) => panic!("{} is for HTTP/1.1", self.name),
        }
    }

    /// The trailers by HTTP/2.
    pub(crate) fn trailers(&self) -> &[Field] {
        &self.trailers
    }

    /// Whether nothing follows the head.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.pieces().is_empty() && self.trailers.is_empty()
    }

    /// The request in bytes of HTTP/1.1. `base` precedes the path, and `own` are lines of this route.
    pub(crate) fn http1_request(&self, number: usize, base: &str, own: &[String]) -> RawRequest {
        let start = format!("{} {base}", self.method);
        let mut head = [start.as_bytes(), &self.path, b" HTTP/1.1\r\n"].concat();
        let mut lines: Vec<Vec<u8>> = own.iter().map(|line| line.clone().into_bytes()).collect();
        lines.push(format!("{CASE}: {number}").into_bytes());
        lines.extend(self.lines.iter().cloned());
        if let Some(length) = self.length() {
            lines.push(format!("Content-Length: {length}").into_bytes());
        }
        // `TE` is of one hop: its sender lists it in `Connection` (RFC 9110, 10.1.4).
        let welcomes_trailers = self.lines.iter().any(|line| line.starts_with(b"te:"));
        let usual = match welcomes_trailers {
            true => "close, TE",
            false => "close",
        };
        let connection = self.connection.unwrap_or(usual);
        lines.push(format!("Connection: {connection}").into_bytes());
        let body = match &self.payload {
            Payload::None => Vec::new(),
            Payload::Known(pieces) | Payload::Raw(pieces) => pieces.clone(),
            Payload::Unknown(pieces) => {
                lines.push(b"Transfer-Encoding: chunked".to_vec());
                let filled = pieces.iter().filter(|piece| !piece.is_empty());
                let mut chunks = script::open_chunks(filled);
                chunks.push(script::last_chunk(&self.trailers));
                chunks
            }
        };
        for line in lines {
            head.extend_from_slice(&line);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        RawRequest {
            head,
            body,
            sending: self.sending,
        }
    }
}

fn owned<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> Vec<Vec<u8>> {
    let pieces = pieces.into_iter();
    pieces.map(|piece| piece.as_ref().to_vec()).collect()
}
