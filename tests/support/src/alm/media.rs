//! What a client sends and wants to have: XML or JSON, one entity or a collection, or bytes.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

/// A written form of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Xml,
    Json,
}

impl Format {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Xml => "application/xml;charset=UTF-8",
            Self::Json => "application/json;charset=UTF-8",
        }
    }

    fn of(media_type: &str) -> Option<Self> {
        if media_type.contains("json") {
            Some(Self::Json)
        } else if media_type.contains("xml") {
            Some(Self::Xml)
        } else {
            None
        }
    }
}

/// What the `Accept` header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accept {
    /// The first of the two that is named; where none is, an error is a page for people.
    pub(super) named: Option<Format>,
    pub(super) bytes: bool,
}

impl Accept {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let all: Vec<&str> = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        Self {
            // A browser's `text/html,application/xhtml+xml,...` asks for a page.
            named: all
                .iter()
                .filter(|one| one.trim_start().starts_with("application/"))
                .filter(|one| !one.contains("xhtml"))
                .find_map(|one| Format::of(one)),
            bytes: all.iter().any(|one| one.contains("octet-stream")),
        }
    }

    /// The form of data: XML, unless JSON is asked for.
    pub(super) fn data(self) -> Format {
        self.named.unwrap_or(Format::Xml)
    }
}

/// The format in the `Content-Type` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Entity(Format),
    /// `...;type=collection`: a bulk operation.
    Collection(Format),
    Bytes,
    Multipart {
        boundary: String,
    },
    Other,
}

impl Content {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
        let parameters: Vec<&str> = parts.collect();
        if essence == "application/octet-stream" {
            return Self::Bytes;
        }
        if essence == "multipart/form-data" {
            let boundary = parameters
                .iter()
                .find_map(|one| one.strip_prefix("boundary="));
            return boundary.map_or(Self::Other, |boundary| Self::Multipart {
                boundary: boundary.trim_matches('"').to_owned(),
            });
        }
        let is_collection = parameters
            .iter()
            .any(|one| one.replace([' ', '"'], "") == "type=collection");
        match Format::of(&essence) {
            Some(format) if is_collection => Self::Collection(format),
            Some(format) => Self::Entity(format),
            None => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn first_named_format_is_used() {
        let accept = |value| Accept::of(&with(ACCEPT, value));
        assert_eq!(accept("application/json").named, Some(Format::Json));
        assert_eq!(accept("*/*").named, None);
        assert_eq!(accept("text/html,application/xhtml+xml").named, None);
        let both = accept("application/octet-stream, application/xml");
        assert_eq!((both.named, both.bytes), (Some(Format::Xml), true));
    }

    #[test]
    fn collection_and_entity_types_differ() {
        let content = |value| Content::of(&with(CONTENT_TYPE, value));
        assert_eq!(
            content("application/json;type=collection"),
            Content::Collection(Format::Json)
        );
        assert_eq!(
            content("application/xml; charset=utf-8"),
            Content::Entity(Format::Xml)
        );
        let boundary = "x y".to_owned();
        assert_eq!(
            content("multipart/form-data; boundary=\"x y\""),
            Content::Multipart { boundary }
        );
        assert_eq!(content("text/plain"), Content::Other);
    }
}
