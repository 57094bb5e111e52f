//! A request, taken apart as far as every route needs it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::draft::{self, Draft};
use super::fault::Fault;
use super::media::{Accept, Content};
use super::params::{Params, segments};
use crate::pattern::Sha256;

#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// As it came.
    pub(super) path: String,
    pub(super) segments: Vec<String>,
    pub(super) params: Params,
    pub(super) headers: HeaderMap,
    pub(super) accept: Accept,
    pub(super) content: Content,
    /// Where this server is, as the client wrote it: `http://host:port`.
    pub(super) origin: String,
    pub(super) body: Received,
}

/// A body in the pieces in which it came.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) pieces: Arc<[Bytes]>,
    pub(super) bytes: u64,
    /// In hex.
    pub(super) sha256: String,
}

impl Call {
    pub(super) fn new(parts: Parts, body: Received, scheme: &str) -> Self {
        let host = parts.headers.get(http::header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        Self {
            path: parts.uri.path().to_owned(),
            segments: segments(parts.uri.path()),
            params: Params::of(parts.uri.query().unwrap_or_default()),
            accept: Accept::of(&parts.headers),
            content: Content::of(&parts.headers),
            origin: format!("{scheme}://{}", host.unwrap_or("localhost")),
            method: parts.method,
            headers: parts.headers,
            body,
        }
    }

    /// One entity from the body.
    pub(super) fn draft(&self) -> Result<Draft, Fault> {
        match self.content {
            Content::Entity(format) => draft::one(format, &self.body.whole()),
            Content::Collection(_)
            | Content::Bytes
            | Content::Multipart { .. }
            | Content::Other => Err(Fault::unsupported_media_type()),
        }
    }
}

impl Received {
    /// Takes a body in. Its pieces are kept and not copied.
    pub(super) async fn all_of(mut body: Incoming) -> Result<Self, hyper::Error> {
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                pieces.push(data);
            }
        }
        Ok(Self::of(pieces))
    }

    pub(super) fn of(pieces: Vec<Bytes>) -> Self {
        let mut hash = Sha256::default();
        let mut bytes = 0;
        for piece in &pieces {
            hash.update(piece);
            bytes += piece.len() as u64;
        }
        Self {
            pieces: pieces.into(),
            bytes,
            sha256: hash.hex(),
        }
    }

    /// All of it at once: copied, where it came in several pieces.
    pub(super) fn whole(&self) -> Cow<'_, [u8]> {
        match &self.pieces[..] {
            [] => Cow::Borrowed(&[]),
            [one] => Cow::Borrowed(one),
            several => Cow::Owned(several.concat()),
        }
    }
}
