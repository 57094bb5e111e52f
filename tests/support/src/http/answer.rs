//! A response, and whether it was whole.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::pattern::Sha256;
use crate::tasks::AbortOnDrop;

/// A head, and the body as far as it came.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers; names are in lower case.
    pub headers: HeaderMap,
    /// The body; an error where it ended before its end.
    pub body: Result<Bytes, Truncated>,
    /// The trailers, where there were any.
    pub trailers: HeaderMap,
}

/// A body that ended before its end.
#[derive(Debug, Clone)]
pub struct Truncated {
    /// What came before.
    pub got: Bytes,
    /// What the client made of it.
    pub why: String,
}

/// A body that was hashed instead of kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// Why it ended before its end, if it did.
    pub truncated: Option<String>,
}

/// A response whose head has come and whose body is on its way. Dropping it hangs up, unless the
/// connection is a [`Client`](super::Client)'s.
#[derive(Debug)]
pub struct Reading {
    /// The status.
    pub status: StatusCode,
    /// The headers; names are in lower case.
    pub headers: HeaderMap,
    body: Incoming,
    trailers: HeaderMap,
    _connection: Arc<AbortOnDrop>,
}

impl Answer {
    /// One header's value as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The whole body as text.
    ///
    /// # Panics
    ///
    /// Where the body broke off.
    pub fn text(&self) -> String {
        match &self.body {
            Ok(body) => String::from_utf8_lossy(body).into_owned(),
            Err(truncated) => panic!("{}: {truncated}", self.status),
        }
    }

    /// The whole body as JSON.
    ///
    /// # Panics
    ///
    /// Where the body broke off or is something else.
    pub fn json(&self) -> Value {
        let text = self.text();
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: not JSON ({error}): {text:?}", self.status))
    }

    /// The `code` of a problem document (RFC 9457).
    ///
    /// # Panics
    ///
    /// Where this is none.
    pub fn code(&self) -> String {
        self.problem("code")
    }

    /// The `execution` of a problem document.
    ///
    /// # Panics
    ///
    /// Where this is none.
    pub fn execution(&self) -> String {
        self.problem("execution")
    }

    fn problem(&self, member: &str) -> String {
        let kind = self.header("content-type").unwrap_or("no content type");
        assert!(
            kind.starts_with("application/problem+json"),
            "{}: no problem document but {kind}: {:?}",
            self.status,
            self.body
        );
        let document = self.json();
        let value = document[member].as_str();
        value
            .unwrap_or_else(|| panic!("a problem without {member}: {document}"))
            .to_owned()
    }

    /// Itself, if the status is this one.
    ///
    /// # Panics
    ///
    /// Otherwise, with what came instead.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(
            self.status.as_u16(),
            status,
            "{:?}\n{:?}",
            self.headers,
            self.body
        );
        self
    }
}

impl Reading {
    pub(super) fn new(response: Response<Incoming>, connection: Arc<AbortOnDrop>) -> Self {
        let (
            Parts {
                status, headers, ..
            },
            body,
        ) = response.into_parts();
        Self {
            status,
            headers,
            body,
            trailers: HeaderMap::new(),
            _connection: connection,
        }
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// What ended the body before its end.
    pub async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(frame) => self.trailers = frame.into_trailers().unwrap_or_default(),
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Reads the rest into memory.
    pub async fn read(mut self) -> Answer {
        let mut got = Vec::new();
        let mut why = None;
        while let Some(piece) = self.next().await {
            match piece {
                Ok(piece) => got.extend_from_slice(&piece),
                Err(error) => {
                    why = Some(chain(&error));
                    break;
                }
            }
        }
        let got = Bytes::from(got);
        let body = match why {
            None => Ok(got),
            Some(why) => Err(Truncated { got, why }),
        };
        Answer {
            status: self.status,
            headers: self.headers,
            body,
            trailers: self.trailers,
        }
    }

    /// Reads the rest and keeps its hash alone.
    pub async fn digest(mut self) -> Digest {
        let mut hash = Sha256::default();
        let mut bytes = 0;
        let mut truncated = None;
        while let Some(piece) = self.next().await {
            match piece {
                Ok(piece) => {
                    bytes += piece.len() as u64;
                    hash.update(&piece);
                }
                Err(error) => {
                    truncated = Some(chain(&error));
                    break;
                }
            }
        }
        Digest {
            bytes,
            sha256: hash.hex(),
            truncated,
        }
    }
}

impl std::fmt::Display for Truncated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the body broke off after {} bytes: {}",
            self.got.len(),
            self.why
        )
    }
}

impl Error for Truncated {}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
