//! The header `Idempotency-Key` of a request: `8e03978e`, or `"8e03978e"` as the IETF's draft writes it
//! (draft-ietf-httpapi-idempotency-key-header, 2.1: a string of RFC 9651).

use crate::problem::Problem;
use http::header::{HeaderMap, HeaderName};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Characters of a key.
const KEY_MAX_CHARS: usize = 128;

/// Returns the key that a request gives in its header, if it gives one.
///
/// # Errors
/// `invalid_request` for a key that is not usable, and for several.
pub(crate) fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(value) = given.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().and_then(unquoted);
    text.filter(|text| is_usable(text) && given.next().is_none())
        .map(Some)
        .ok_or_else(|| {
            Problem::invalid(format!(
                "Idempotency-Key must be given once, with 1 to {KEY_MAX_CHARS} visible ASCII characters"
            ))
        })
}

/// Returns whether a text can be a key.
fn is_usable(text: &str) -> bool {
    (1..=KEY_MAX_CHARS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns the content of a quoted string (RFC 9651, 4.2.5), or the text itself if it does not begin with a quote.
fn unquoted(text: &str) -> Option<String> {
    let Some(inner) = text.strip_prefix('"') else {
        return Some(text.to_owned());
    };
    let mut content = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    loop {
        match characters.next()? {
            // Parameters after the string have no meaning here.
            '"' => return characters.as_str().is_empty().then_some(content),
            '\\' => content.push(
                characters
                    .next()
                    .filter(|next| matches!(next, '"' | '\\'))?,
            ),
            character => content.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn key(values: &[&str]) -> Result<Option<String>, ()> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_str(value).unwrap());
        }
        key_of(&headers).map_err(|_| ())
    }

    #[test]
    fn key_is_bare_or_quoted() {
        assert_eq!(key(&[]), Ok(None));
        for (text, expected) in [
            ("8e03-97", "8e03-97"),
            ("\"8e03-97\"", "8e03-97"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            ("a\"b", "a\"b"),
        ] {
            assert_eq!(key(&[text]), Ok(Some(expected.to_owned())), "{text}");
        }
    }

    #[test]
    fn unusable_key_is_rejected() {
        let long = "x".repeat(KEY_MAX_CHARS + 1);
        for text in [
            "", "\"\"", "\"a", "\"a\"b", "\"a\\b\"", "a b", "\"a b\"", &long,
        ] {
            assert_eq!(key(&[text]), Err(()), "{text}");
        }
        assert_eq!(key(&["a", "a"]), Err(()));
    }
}
