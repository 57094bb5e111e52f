//! A case: a request, what the target does with it, and how the ways are compared.

use std::time::Duration;
use support::h2_target::{Head, Step, whole};
use support::recorder::{CASE, Field, RawRequest, Sending};

/// Carries the relay's own key.
pub(crate) const KEY: &str = "bridge-authorization";

/// Between the pieces of what comes slowly.
pub(crate) const SLOWLY: Duration = Duration::from_millis(50);

/// The bytes of a request's body, in pieces.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    /// There is none.
    None,
    /// With their length.
    Known(Vec<Vec<u8>>),
    /// Without it.
    Unknown(Vec<Vec<u8>>),
}

/// What has to be so on the ways through the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Both ends see the same.
    Same,
    /// So they do; or the caller is told 4xx, and the target sees nothing. For targets that are not
    /// clear: they are never made clear by changing them.
    SameOrRefused,
    /// The caller sees that the answer is not whole, and nothing that the target did not send; or 502.
    BrokenOff,
}

/// A request, what the target does with it, and what has to be so.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) path: String,
    fields: Vec<Field>,
    pub(crate) payload: Payload,
    pub(crate) trailers: Vec<Field>,
    pub(crate) sending: Sending,
    pub(crate) steps: Vec<Step>,
    pub(crate) check: Check,
    /// Whether the target answers before it has the body, so that nobody can say how much of that
    /// it will see.
    pub(crate) is_early: bool,
}

impl Case {
    /// A request without a body, answered with 200 and `ok`.
    pub(crate) fn new(name: impl Into<String>, method: &str, path: &str) -> Self {
        Self {
            name: name.into(),
            method: method.to_owned(),
            path: path.to_owned(),
            fields: Vec::new(),
            payload: Payload::None,
            trailers: Vec::new(),
            sending: Sending::AtOnce,
            steps: whole(Head::new(200), "ok"),
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

    /// With one more field, whose name is in lower case.
    pub(crate) fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// With a body of known length, in one piece.
    pub(crate) fn body(self, body: impl AsRef<[u8]>) -> Self {
        self.known([body])
    }

    /// With a body of known length.
    pub(crate) fn known<P: AsRef<[u8]>>(self, pieces: impl IntoIterator<Item = P>) -> Self {
        Self {
            payload: Payload::Known(owned(pieces)),
            ..self
        }
    }

    /// With a body of unknown length.
    pub(crate) fn unknown<P: AsRef<[u8]>>(self, pieces: impl IntoIterator<Item = P>) -> Self {
        Self {
            payload: Payload::Unknown(owned(pieces)),
            ..self
        }
    }

    /// With one more field behind a body of unknown length.
    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers
            .push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    pub(crate) fn sending(self, sending: Sending) -> Self {
        Self { sending, ..self }
    }

    /// Answered so.
    pub(crate) fn steps(self, steps: impl Into<Vec<Step>>) -> Self {
        let steps = steps.into();
        Self { steps, ..self }
    }

    /// Answered with a body, and its length.
    pub(crate) fn answer(self, head: Head, body: impl AsRef<[u8]>) -> Self {
        self.steps(whole(head, body))
    }

    /// Answered before the body was read.
    pub(crate) fn early(self, head: Head, body: &str) -> Self {
        let steps = whole(head, body);
        let steps: Vec<_> = steps.into_iter().skip(1).collect();
        let case = self.steps(steps);
        Self {
            is_early: true,
            ..case
        }
    }

    pub(crate) fn check(self, check: Check) -> Self {
        Self { check, ..self }
    }

    /// The fields of the head, as they are sent.
    pub(crate) fn fields_sent(&self, number: usize) -> Vec<Field> {
        let mut fields = vec![(CASE.to_owned(), number.to_string().into_bytes())];
        fields.extend(self.fields.iter().cloned());
        if let Payload::Known(pieces) = &self.payload {
            let length: usize = pieces.iter().map(Vec::len).sum();
            let length = length.to_string().into_bytes();
            fields.push(("content-length".to_owned(), length));
        }
        fields
    }

    /// The pieces of the body.
    pub(crate) fn pieces(&self) -> &[Vec<u8>] {
        match &self.payload {
            Payload::None => &[],
            Payload::Known(pieces) | Payload::Unknown(pieces) => pieces,
        }
    }

    /// Whether there is nothing behind the head.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.pieces().is_empty() && self.trailers.is_empty()
    }

    /// The request in bytes of HTTP/1.1, to this path and with this key.
    pub(crate) fn raw(&self, number: usize, base: &str, key: &str) -> RawRequest {
        let welcomes_trailers = self.fields.iter().any(|(name, _)| name == "te");
        let connection = if welcomes_trailers {
            "close, TE"
        } else {
            "close"
        };
        let (method, path) = (&self.method, &self.path);
        let head = format!(
            "{method} {base}{path} HTTP/1.1\r\nHost: relay.test\r\nConnection: {connection}\r\n{KEY}: {key}\r\n"
        );
        let mut head = head.into_bytes();
        for field in self.fields_sent(number) {
            head.extend(line(&field));
        }
        let body = match &self.payload {
            Payload::None => Vec::new(),
            Payload::Known(pieces) => pieces.clone(),
            Payload::Unknown(pieces) => {
                head.extend_from_slice(b"transfer-encoding: chunked\r\n");
                let filled = pieces.iter().filter(|piece| !piece.is_empty());
                let mut chunks: Vec<_> = filled.map(|piece| chunk(piece)).collect();
                let trailers: Vec<u8> = self.trailers.iter().flat_map(line).collect();
                chunks.push([&b"0\r\n"[..], &trailers, b"\r\n"].concat());
                chunks
            }
        };
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

fn line((name, value): &Field) -> Vec<u8> {
    [name.as_bytes(), b": ", value, b"\r\n"].concat()
}

fn chunk(piece: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", piece.len());
    [size.as_bytes(), piece, b"\r\n"].concat()
}
