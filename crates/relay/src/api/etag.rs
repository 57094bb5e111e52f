//! Strong entity tags from a revision (RFC 9110, 8.8.3 and 13.1.1).

use crate::problem::Problem;
use http::header::{self, HeaderMap, HeaderValue};
use protocol::Code;

/// Returns the tag of a revision.
pub(crate) fn of(revision: i64) -> String {
    format!("\"r{revision}\"")
}

/// Adds the tag to a response.
pub(crate) fn put(headers: &mut HeaderMap, revision: i64) {
    if let Ok(value) = HeaderValue::from_str(&of(revision)) {
        headers.insert(header::ETAG, value);
    }
}

/// Returns the revision that `If-Match` names; `None` without the field, or for `*`.
///
/// # Errors
/// `precondition_failed` for a tag that the relay never made: it cannot match the current revision.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    // Any current version matches (RFC 9110, 13.1.1).
    if text == "*" {
        return Ok(None);
    }
    let revision = text.strip_prefix("\"r").and_then(|t| t.strip_suffix('"'));
    let revision = revision.and_then(|revision| revision.parse().ok());
    revision.map(Some).ok_or_else(|| {
        let detail = "If-Match does not match the current version";
        Problem::not_sent(Code::PreconditionFailed, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_is_read_as_its_revision() {
        let mut headers = HeaderMap::new();
        assert_eq!(wanted(&headers).unwrap(), None);
        headers.insert(header::IF_MATCH, of(7).parse().unwrap());
        assert_eq!(wanted(&headers).unwrap(), Some(7));
        headers.insert(header::IF_MATCH, HeaderValue::from_static("*"));
        assert_eq!(wanted(&headers).unwrap(), None);
        headers.insert(header::IF_MATCH, HeaderValue::from_static("W/\"r7\""));
        let failed = wanted(&headers).unwrap_err();
        assert_eq!(failed.failure.code, Code::PreconditionFailed);
    }
}
