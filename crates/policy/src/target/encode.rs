//! Percent-encoding of characters that a request line cannot carry, where a client sends them all the same: `"`, `<`
//! and `>` in a query, `<`, `>` and a backquote in a path. Everything else stays as it is.

/// Whether a byte must be encoded in a path.
fn is_bad_in_path(byte: u8) -> bool {
    matches!(byte, b'<' | b'>' | b'`')
}

/// Whether a byte must be encoded in a query.
fn is_bad_in_query(byte: u8) -> bool {
    matches!(byte, b'<' | b'>' | b'"')
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
    for character in text.chars() {
        match u8::try_from(character) {
            Ok(byte) if is_bad(byte) => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(character),
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
        ] {
            assert_eq!(path_and_query(text).as_deref(), Some(expected));
            assert_eq!(path_and_query(expected), None);
        }
        assert_eq!(path_and_query("/a{b}|^\"?c=d%3C{|}^`\\"), None);
    }
}
