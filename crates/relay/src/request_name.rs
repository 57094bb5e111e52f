//! What one request is called: an id that its caller, the relay, the bridge and their audit records share, and the
//! caller's own label.
//!
//! ```text
//! caller <-- Bridge-Request-Id -- relay -- OPEN (W-69) --> bridge
//!                                   \-- log, audit           \-- log, audit
//! ```

use crate::storage::{NoRandom, random};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use protocol::frame::{ContextText, RequestContext};
use protocol::limits::{CONTEXT_ID_MAX_BYTES, CONTEXT_LABEL_MAX_BYTES};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The field of a response that has the request's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("bridge-request-id");

/// The field of a request that has the caller's label. It is not passed to the target.
pub(crate) const LABEL: HeaderName = HeaderName::from_static("bridge-label");

/// What one request is called.
#[derive(Debug, Clone)]
pub(crate) struct RequestName(RequestContext);

/// A label has a character or a length that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a label must have 1 to {CONTEXT_LABEL_MAX_BYTES} printable ASCII characters, and no space at either end"
)]
pub(crate) struct InvalidLabel;

impl RequestName {
    /// Returns a name with a new id: `req_` and 32 hexadecimal digits.
    pub(crate) fn of_request() -> Self {
        // Two keyed hashes of a counter: as unpredictable as the keys, and no system call for each request.
        static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let [first, second] = KEYS.each_ref().map(|key| key.hash_one(count));
        let digits = [first.to_be_bytes(), second.to_be_bytes()];
        Self::new(runtime::hex::encode_after("req_", digits.as_flattened()))
    }

    /// Returns a name with the new id of a call: `call_` and 32 hexadecimal digits.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub(crate) fn of_call() -> Result<Self, NoRandom> {
        let bytes: [u8; 16] = random()?;
        Ok(Self::new(runtime::hex::encode_after("call_", &bytes)))
    }

    /// Returns the name of a request with this id.
    pub(crate) fn new(id: String) -> Self {
        Self(RequestContext {
            id: ContextText::new(id.into(), CONTEXT_ID_MAX_BYTES),
            label: None,
        })
    }

    /// Returns the same with the label that the caller sent in the field [`LABEL`], if it did.
    ///
    /// # Errors
    /// [`InvalidLabel`].
    pub(crate) fn with_label_of(self, headers: &HeaderMap) -> Result<Self, InvalidLabel> {
        match headers.get(LABEL) {
            None => Ok(self),
            Some(value) => self.labelled(value.to_str().map_err(|_| InvalidLabel)?),
        }
    }

    /// Returns the same with a label.
    ///
    /// # Errors
    /// [`InvalidLabel`].
    pub(crate) fn labelled(self, label: &str) -> Result<Self, InvalidLabel> {
        Ok(Self(RequestContext {
            label: Some(text_of_label(label)?),
            ..self.0
        }))
    }

    /// Returns the id.
    pub(crate) fn id(&self) -> &str {
        self.0.id.as_ref().map_or("", ContextText::as_str)
    }

    /// Returns the caller's label.
    pub(crate) fn label(&self) -> Option<&str> {
        self.0.label.as_ref().map(ContextText::as_str)
    }

    /// Returns what the bridge gets of it.
    pub(crate) fn context(&self) -> &RequestContext {
        &self.0
    }

    /// Returns the id as a field of a response.
    pub(crate) fn header(&self) -> HeaderValue {
        id_header(self.id())
    }
}

/// Returns an id as the value of [`REQUEST_ID`].
pub(crate) fn id_header(id: &str) -> HeaderValue {
    // Ids are ASCII; the fallback only avoids a panic.
    HeaderValue::from_str(id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// Checks a label.
///
/// # Errors
/// [`InvalidLabel`].
pub(crate) fn check_label(label: &str) -> Result<(), InvalidLabel> {
    text_of_label(label).map(drop)
}

fn text_of_label(label: &str) -> Result<ContextText, InvalidLabel> {
    ContextText::new(label.to_owned().into(), CONTEXT_LABEL_MAX_BYTES).ok_or(InvalidLabel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn request_ids_are_distinct() {
        let ids: HashSet<String> = (0..10_000)
            .map(|_| RequestName::of_request().id().to_owned())
            .collect();
        assert_eq!(ids.len(), 10_000);
        assert!(
            ids.iter()
                .all(|id| id.len() == 36 && id.starts_with("req_"))
        );
        let call = RequestName::of_call().unwrap();
        assert_eq!((call.id().len(), &call.id()[..5]), (37, "call_"));
    }

    #[test]
    fn label_is_bounded_and_printable() {
        let longest = "x".repeat(CONTEXT_LABEL_MAX_BYTES);
        for good in ["a", "nightly import 7", "order:4711/pay", &longest] {
            assert_eq!(check_label(good), Ok(()), "{good}");
        }
        let long = format!("{longest}x");
        for bad in ["", " a", "a ", "a\nb", "\u{1b}[31m", "ä", &long] {
            assert_eq!(check_label(bad), Err(InvalidLabel), "{bad:?}");
        }
    }
}
