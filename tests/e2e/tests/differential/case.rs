//! A case: a request, what the target does with it, and how the ways are compared.

use std::net::SocketAddr;
use std::time::Duration;
use support::recorder::{CASE, RawRequest, Sending, Step};

/// How a request gets to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Endpoint,
    Proxy,
    Connect,
}

/// Who listens where, and the key for it.
pub(crate) struct Doors {
    pub(crate) target: SocketAddr,
    pub(crate) relay: SocketAddr,
    pub(crate) proxy: SocketAddr,
    /// As the value of a field.
    pub(crate) key: String,
}

/// What has to be so on the ways through the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Both ends see the same.
    Same,
    /// So they do; or the client is told 4xx, and the target sees nothing. For requests that are not
    /// clear: they are never made clear by changing them.
    SameOrRefused,
    /// Both ends see the same but for `expect`, which the relay takes upon itself, and for answers
    /// with a status of 1xx: some may be missing, and where a 100 is waited for, it may be the relay's.
    Informational,
    /// The client sees that the answer is not whole, and nothing that the target did not send; or
    /// 502.
    BrokenOff,
    /// The answer is none: the client is told 502.
    Unusable,
    /// The answer says its length twice: the client sees it once, or is told 502.
    OneLength,
}

/// A request, what the target does with it, and what has to be so.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    method: String,
    path: Vec<u8>,
    /// Lines of the head, without their ends.
    lines: Vec<Vec<u8>>,
    /// The value of `Connection`.
    connection: &'static str,
    body: Vec<Vec<u8>>,
    sending: Sending,
    pub(crate) steps: Vec<Step>,
    pub(crate) check: Check,
    /// Whether the target answers before it has the body, so that nobody can say how much of that
    /// it will see.
    pub(crate) is_early: bool,
}

impl Way {
    /// Those through the tunnel.
    pub(crate) const THROUGH: [Self; 3] = [Self::Endpoint, Self::Proxy, Self::Connect];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "directly",
            Self::Endpoint => "by the endpoint",
            Self::Proxy => "by the proxy",
            Self::Connect => "by CONNECT",
        }
    }
}

impl Doors {
    /// Where a way begins, and what is sent first.
    pub(crate) fn of(&self, way: Way) -> (SocketAddr, Option<Vec<u8>>) {
        match way {
            Way::Direct => (self.target, None),
            Way::Endpoint => (self.relay, None),
            Way::Proxy => (self.proxy, None),
            Way::Connect => {
                let Self { target, key, .. } = self;
                let connect = format!(
                    "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: {key}\r\n\r\n"
                );
                (self.proxy, Some(connect.into_bytes()))
            }
        }
    }
}

impl Case {
    /// A request without a body, answered with 200 and `ok`.
    pub(crate) fn new(name: impl Into<String>, method: &str, path: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.into(),
            method: method.to_owned(),
            path: path.as_ref().to_vec(),
            lines: Vec::new(),
            connection: "close",
            body: Vec::new(),
            sending: Sending::AtOnce,
            steps: vec![Step::ReadBody, Step::Send(whole("200 OK", "ok"))],
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

    /// With one more field.
    pub(crate) fn field(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let line = [name.as_bytes(), b": ", value.as_ref()].concat();
        self.line(line)
    }

    /// With one more line in the head.
    pub(crate) fn line(mut self, line: impl AsRef<[u8]>) -> Self {
        self.lines.push(line.as_ref().to_vec());
        self
    }

    /// With another `Connection` than `close`. It says that, too: the client reads to the end.
    pub(crate) fn connection(self, connection: &'static str) -> Self {
        Self { connection, ..self }
    }

    /// With a body, and its length.
    pub(crate) fn body(self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        self.field("Content-Length", body.len().to_string())
            .pieces([body])
    }

    /// With a body in chunks, which are made already: see [`chunks`].
    pub(crate) fn chunked(self, chunks: Vec<Vec<u8>>) -> Self {
        self.field("Transfer-Encoding", "chunked").pieces(chunks)
    }

    /// With a body as it is, in pieces as they are written.
    pub(crate) fn pieces<P: AsRef<[u8]>>(self, pieces: impl IntoIterator<Item = P>) -> Self {
        let pieces = pieces.into_iter();
        Self {
            body: pieces.map(|piece| piece.as_ref().to_vec()).collect(),
            ..self
        }
    }

    pub(crate) fn sending(self, sending: Sending) -> Self {
        Self { sending, ..self }
    }

    /// Answered with these bytes, once the request is whole.
    pub(crate) fn answer(self, answer: impl Into<Vec<u8>>) -> Self {
        self.steps([Step::ReadBody, Step::Send(answer.into())])
    }

    /// The same, and then the target closes.
    pub(crate) fn answer_and_close(self, answer: impl Into<Vec<u8>>) -> Self {
        self.steps([Step::ReadBody, Step::Send(answer.into()), Step::Close])
    }

    /// Answered in pieces with a pause behind each, once the request is whole.
    pub(crate) fn slow_answer<P: AsRef<[u8]>>(self, pieces: impl IntoIterator<Item = P>) -> Self {
        let send = |piece: P| [Step::Send(piece.as_ref().to_vec()), Step::Pause(SLOWLY)];
        let pieces = pieces.into_iter().flat_map(send);
        let steps: Vec<_> = [Step::ReadBody].into_iter().chain(pieces).collect();
        self.steps(steps)
    }

    pub(crate) fn steps(self, steps: impl Into<Vec<Step>>) -> Self {
        let steps = steps.into();
        Self { steps, ..self }
    }

    /// With one more step of the target.
    pub(crate) fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub(crate) fn check(self, check: Check) -> Self {
        Self { check, ..self }
    }

    /// Answered before the body was read.
    pub(crate) fn early_answer(self, answer: impl Into<Vec<u8>>) -> Self {
        let case = self.steps([Step::Send(answer.into())]);
        Self {
            is_early: true,
            ..case
        }
    }

    /// The request as it is sent on this way.
    pub(crate) fn request(&self, number: usize, way: Way, doors: &Doors) -> RawRequest {
        let (target, key) = (doors.target, &doors.key);
        let (base, host, own) = match way {
            Way::Direct | Way::Connect => (String::new(), target, None),
            Way::Endpoint => {
                let own = format!("Bridge-Authorization: {key}");
                ("/v1/endpoints/t".to_owned(), doors.relay, Some(own))
            }
            Way::Proxy => {
                let own = format!("Proxy-Authorization: {key}");
                (format!("http://{target}"), target, Some(own))
            }
        };
        let start = format!("{} {base}", self.method);
        let mut head = [start.as_bytes(), &self.path, b" HTTP/1.1\r\n"].concat();
        let own = own.into_iter().map(String::into_bytes);
        let ours = [
            format!("Host: {host}").into_bytes(),
            format!("{CASE}: {number}").into_bytes(),
        ];
        let connection = format!("Connection: {}", self.connection).into_bytes();
        let lines = ours.into_iter().chain(own).chain(self.lines.clone());
        for line in lines.chain([connection]) {
            head.extend_from_slice(&line);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        RawRequest {
            head,
            body: self.body.clone(),
            sending: self.sending,
        }
    }
}

/// Between the pieces of what comes slowly.
pub(crate) const SLOWLY: Duration = Duration::from_millis(30);

/// The head of an answer: its status line behind the version, then a field a line.
pub(crate) fn head(lines: impl AsRef<[u8]>) -> Vec<u8> {
    let mut head = b"HTTP/1.1 ".to_vec();
    for byte in lines.as_ref() {
        match byte {
            b'\n' => head.extend_from_slice(b"\r\n"),
            byte => head.push(*byte),
        }
    }
    head.extend_from_slice(b"\r\n\r\n");
    head
}

/// An answer with its length.
pub(crate) fn whole(lines: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    let (lines, body) = (lines.as_ref(), body.as_ref());
    let length = format!("\nContent-Length: {}", body.len());
    let mut answer = head([lines, length.as_bytes()].concat());
    answer.extend_from_slice(body);
    answer
}

/// An answer in chunks: its head, and what [`chunks`] makes.
pub(crate) fn in_chunks(lines: &str, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut answer = head(format!("{lines}\nTransfer-Encoding: chunked"));
    answer.extend(chunks.concat());
    answer
}

/// A chunk of each, and the last chunk with its empty line.
pub(crate) fn chunks<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> Vec<Vec<u8>> {
    let mut chunks = open_chunks(pieces);
    chunks.push(b"0\r\n\r\n".to_vec());
    chunks
}

/// A chunk of each, and no last one.
pub(crate) fn open_chunks<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> Vec<Vec<u8>> {
    let chunk = |piece: P| {
        let piece = piece.as_ref();
        let size = format!("{:x}\r\n", piece.len());
        [size.as_bytes(), piece, b"\r\n"].concat()
    };
    pieces.into_iter().map(chunk).collect()
}

/// The same bytes, cut into pieces of 1, 2, 3, 5, 8 and so on.
pub(crate) fn odd_pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let (mut size, mut next) = (1, 2);
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(bytes.len().min(size));
        pieces.push(piece);
        bytes = rest;
        (size, next) = (next, size + next);
    }
    pieces
}
