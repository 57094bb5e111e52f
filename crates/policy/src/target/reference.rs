//! What a redirect's `Location` points to (RFC 3986 section 5.2), parsed as strictly as a URL.
//!
//! A fragment is cut off, as nothing of it is ever sent. Dot segments are removed from references
//! that are relative to the path (`../x`), where they only say how far up to go; an absolute URL
//! or path keeps its bytes, and a rule that narrows refuses them there.

use super::{Target, TargetError, check_bytes};

impl Target {
    /// The target of `location` in an answer from this target.
    pub(crate) fn resolve(&self, location: &str) -> Result<Self, TargetError> {
        let reference = location.split('#').next().unwrap_or(location);
        check_bytes(reference)?;
        if has_scheme(reference) {
            return Self::parse(reference);
        }
        let (path, query) = match reference.find('?') {
            Some(at) => reference.split_at(at),
            None => (reference, ""),
        };
        if path.contains('\\') {
            return Err(TargetError::Backslash);
        }
        if path.starts_with("//") {
            return Self::parse(&format!("{}:{reference}", self.scheme));
        }
        if path.starts_with('/') {
            return self.with_path_and_query(reference.to_owned());
        }
        if path.is_empty() {
            let query = if reference.is_empty() {
                &self.path_and_query[self.path_len..]
            } else {
                query
            };
            return self.with_path_and_query(format!("{}{query}", self.path()));
        }
        let folder = self
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        let merged = without_dot_segments(&format!("{folder}/{path}"));
        self.with_path_and_query(format!("{merged}{query}"))
    }
}

/// Whether it begins with `scheme:` (RFC 3986 section 3.1).
fn has_scheme(reference: &str) -> bool {
    let Some((scheme, _)) = reference.split_once(':') else {
        return false;
    };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// RFC 3986 section 5.2.4, for a path that begins with `/`.
fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    // What ends in a dot segment is a folder.
    let folder = path.ends_with("/.") || path.ends_with("/..");
    let tail = if folder && !kept.is_empty() { "/" } else { "" };
    format!("/{}{tail}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve_as_rfc_3986_says() {
        let base = Target::parse("http://a/b/c/d;p?q").unwrap();
        for (reference, url) in [
            ("https://g/x", "https://g/x"),
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("//g:8080/x?y", "http://g:8080/x?y"),
            ("?y", "http://a/b/c/d;p?y"),
            ("?", "http://a/b/c/d;p?"),
            ("g?y", "http://a/b/c/g?y"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("#s", "http://a/b/c/d;p?q"),
            ("g#s", "http://a/b/c/g"),
            ("g?y#s", "http://a/b/c/g?y"),
            (";x", "http://a/b/c/;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../../../g", "http://a/g"),
            ("g..", "http://a/b/c/g.."),
            ("./g/.", "http://a/b/c/g/"),
            ("g/../h", "http://a/b/c/h"),
            ("/x/../y", "http://a/x/../y"),
            ("?a:b", "http://a/b/c/d;p?a:b"),
        ] {
            assert_eq!(
                base.resolve(reference).unwrap().to_string(),
                url,
                "{reference}"
            );
        }
    }

    #[test]
    fn a_location_is_held_to_the_same_rules_as_a_url() {
        let base = Target::parse("https://a/b").unwrap();
        for (reference, error) in [
            ("https://user@g/", TargetError::UserInfo),
            ("/\\evil", TargetError::Backslash),
            ("\\\\evil", TargetError::Backslash),
            ("javascript:alert(1)", TargetError::NotAbsolute),
            ("file:///etc/passwd", TargetError::Scheme),
            ("https:evil", TargetError::NotAbsolute),
            (
                "/a b",
                TargetError::Byte {
                    offset: 2,
                    byte: b' ',
                },
            ),
            (
                "/\r\nx",
                TargetError::Byte {
                    offset: 1,
                    byte: b'\r',
                },
            ),
        ] {
            assert_eq!(base.resolve(reference).unwrap_err(), error, "{reference}");
        }
    }
}
