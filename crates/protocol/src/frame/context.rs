//! The context of a request: the id and the label by which people find it in the logs at both ends (W-69).
//!
//! It travels as the first fields of OPEN's header block, under names that HTTP does not allow, so no field of a
//! caller can be taken for one of them. Nothing is decided by it. Only sessions of version 2 or later carry it.

use super::{FrameError, Headers, HeadersBuilder};
use crate::limits::{CONTEXT_ID_MAX_BYTES, CONTEXT_LABEL_MAX_BYTES};
use bytes::Bytes;
use std::fmt;

/// The first version of the wire whose requests may have a context.
pub const CONTEXT_SINCE_VERSION: u16 = 2;

/// Names of context fields begin with it.
const MARK: u8 = b':';

const ID: &[u8] = b":id";
const LABEL: &[u8] = b":label";

/// A text that is safe to write into a log: printable ASCII. A slice of the frame that it came in.
#[derive(Clone, PartialEq, Eq)]
pub struct ContextText(Bytes);

impl ContextText {
    /// Returns the text, if it has 1 to `max_bytes` printable ASCII characters and no space at either end.
    pub fn new(text: Bytes, max_bytes: usize) -> Option<Self> {
        let is_printable = text
            .iter()
            .all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        let is_trimmed = text.first() != Some(&b' ') && text.last() != Some(&b' ');
        let fits = (1..=max_bytes).contains(&text.len());
        (fits && is_printable && is_trimmed).then_some(Self(text))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        // ASCII, see `new`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for ContextText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a request is called in logs and audit records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestContext {
    /// The relay's id of the request, which the caller has as well.
    pub id: Option<ContextText>,
    /// The caller's own name for it.
    pub label: Option<ContextText>,
}

impl RequestContext {
    /// Returns the context of a request with this id and label. A text that is not valid is left out.
    pub fn new(id: &str, label: Option<&str>) -> Self {
        let text = |text: &str, max| ContextText::new(Bytes::copy_from_slice(text.as_bytes()), max);
        Self {
            id: text(id, CONTEXT_ID_MAX_BYTES),
            label: label.and_then(|label| text(label, CONTEXT_LABEL_MAX_BYTES)),
        }
    }

    /// Returns the number of its fields.
    pub fn fields(&self) -> usize {
        usize::from(self.id.is_some()) + usize::from(self.label.is_some())
    }

    /// Adds its fields. A block begins with them.
    ///
    /// # Errors
    /// Those of [`HeadersBuilder::push`].
    pub fn push_to(&self, builder: &mut HeadersBuilder) -> Result<(), FrameError> {
        for (name, text) in [(ID, &self.id), (LABEL, &self.label)] {
            if let Some(text) = text {
                builder.push(name, &text.0)?;
            }
        }
        Ok(())
    }
}

impl Headers {
    /// Returns the block with a context before its fields; unchanged if there is no room for it.
    #[must_use]
    pub fn with_context(&self, context: &RequestContext) -> Self {
        if context.fields() == 0 {
            return self.clone();
        }
        let mut builder = HeadersBuilder::with_capacity(self.len() + context.fields());
        let mut push_all = || {
            context.push_to(&mut builder)?;
            builder.append(self)
        };
        match push_all() {
            Ok(()) => builder.build(),
            Err(_) => self.clone(),
        }
    }

    /// Whether the block begins with a context.
    pub fn has_context(&self) -> bool {
        self.iter()
            .next()
            .is_some_and(|(name, _)| name.first() == Some(&MARK))
    }

    /// Takes the context off the block, without a copy. Context fields that are not known, or whose value is not
    /// valid, are dropped.
    pub fn split_context(&mut self) -> RequestContext {
        let mut context = RequestContext::default();
        let (mut bytes, mut fields) = (0, 0);
        for (name, value) in self.iter() {
            if name.first() != Some(&MARK) {
                break;
            }
            bytes += 4 + name.len() + value.len();
            fields += 1;
            let value = self.block().slice_ref(value);
            match name {
                ID => context.id = ContextText::new(value, CONTEXT_ID_MAX_BYTES),
                LABEL => context.label = ContextText::new(value, CONTEXT_LABEL_MAX_BYTES),
                _ => {}
            }
        }
        if fields > 0 {
            self.skip(bytes, fields);
        }
        context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(all: &[(&str, &str)]) -> Headers {
        let mut builder = HeadersBuilder::default();
        for (name, value) in all {
            builder.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        builder.build()
    }

    #[test]
    fn context_is_split_from_the_fields() {
        let plain = fields(&[("a", "1"), ("b", "2")]);
        let context = RequestContext::new("call_1", Some("nightly import"));
        let mut headers = plain.with_context(&context);
        assert!(headers.has_context() && !plain.has_context());
        assert_eq!(headers.len(), 4);
        assert_eq!(headers.split_context(), context);
        assert_eq!(headers, plain);
        assert_eq!(headers.split_context(), RequestContext::default());
    }

    #[test]
    fn invalid_context_fields_are_dropped() {
        let long = "x".repeat(CONTEXT_LABEL_MAX_BYTES + 1);
        for label in ["", " a", "a ", "a\nb", "\u{1b}[31m", "ä", &long] {
            let mut headers =
                fields(&[(":id", "r1"), (":new", "x"), (":label", label), ("a", "1")]);
            let context = headers.split_context();
            assert_eq!(context, RequestContext::new("r1", None), "{label:?}");
            assert_eq!(headers, fields(&[("a", "1")]));
        }
        // Only at the beginning: elsewhere it is a field that HTTP does not allow.
        let mut late = fields(&[("a", "1"), (":id", "r1")]);
        assert_eq!(late.split_context(), RequestContext::default());
        assert_eq!(late.len(), 2);
    }

    #[test]
    fn context_without_room_is_left_out() {
        let all = vec![("a", ""); crate::limits::HEADERS_MAX];
        let full = fields(&all);
        let context = RequestContext::new("r1", None);
        assert_eq!(full.with_context(&context), full);
    }
}
