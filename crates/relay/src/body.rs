//! The one type of body that the relay's answers have.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use protocol::Failure;

/// The body of an answer. An error breaks the connection off, so that a truncated answer never
/// looks whole.
pub type Body = UnsyncBoxBody<Bytes, Failure>;

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}
