//! Percent-encoding of characters that a request line cannot carry, where a client sends them all the same: `"`, `<`
//! and `>` in a query, `<`, `>` and a backquote in a path, and the bytes of characters that are not ASCII in both.
//! Everything else stays as it is.

/// Whether a byte must be encoded in a path.
fn is_bad_in_path(byte: u8) -> bool {
    matches!(byte, b'<' | b'>' | b'`' | 0x80..)
}

/// Whether a byte must be encoded in a query.
fn is_bad_in_query(byte: u8) -> bool {
    matches!(byte, b'<' | b'>' | b'"' | 0x80..)
}

/// Returns the length of a URL before these characters were encoded. The limit is about the bytes that the caller sent,
/// and an encoded URL does not show which program encoded it.
pub(crate) fn unencoded_len(text: &str) -> usize {
    let encoded = text.as_bytes().windows(3).filter(|three| {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (b'%', Some(high), Some(low)) = (three[0], digit(three[1]), digit(three[2])) else {
            return false;
        };
        let byte = u8::try_from(high * 16 + low);
        byte.is_ok_and(|byte| is_bad_in_path(byte) || is_bad_in_query(byte))
    });
    text.len() - 2 * encoded.count()
}

/// Returns a path and query with these characters encoded; `None` if it has none of them.
pub(crate) fn path_and_query(text: &str) -> Option<String> {
    let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
    let is_clean = !path.bytes().any(is_bad_in_path) && !query.bytes().any(is_bad_in_query);
    if is_clean {
        return None;
    }
    let mut out = String::with_capacity(text.len() + 16);
    encode(path, is_bad_in_path, &mut out);
    encode(query, is_bad_in_query, &mut out);
    Some(out)
}

fn encode(text: &str, is_bad: fn(u8) -> bool, out: &mut String) {
    for byte in text.bytes() {
        match is_bad(byte) {
            true => out.push_str(&format!("%{byte:02X}")),
            // ASCII: every other byte must be encoded.
            false => out.push(char::from(byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_encoded_where_they_cannot_stay() {
        for (text, expected) in [
            ("/a?q={id[>10]}", "/a?q={id[%3E10]}"),
            ("/a?<\"b\">", "/a?%3C%22b%22%3E"),
            ("/a<b>`c\"d?`", "/a%3Cb%3E%60c\"d?`"),
            ("/?a?<", "/?a?%3C"),
            ("/\u{fc}?q=\u{fc}\u{20ac}", "/%C3%BC?q=%C3%BC%E2%82%AC"),
        ] {
            assert_eq!(path_and_query(text).as_deref(), Some(expected));
            assert_eq!(path_and_query(expected), None);
        }
        assert_eq!(path_and_query("/a{b}|^\"?c=d%3C{|}^`\\"), None);
    }

    #[test]
    fn encoding_does_not_change_the_counted_length() {
        for text in ["/a<b>`?<\"\u{fc}\u{20ac}>", "/%41%2", "/%", "/%3c%zz%"] {
            let encoded = path_and_query(text).unwrap_or_else(|| text.to_owned());
            let expected = match text {
                "/%3c%zz%" => text.len() - 2,
                _ => text.len(),
            };
            assert_eq!(unencoded_len(&encoded), expected, "{text}");
        }
    }
}
