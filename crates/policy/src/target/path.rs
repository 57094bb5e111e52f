//! Does a path mean the same to everyone who reads it?
//!
//! Where a rule or an endpoint narrows by path, `/hooks/%2e%2e/admin` must not slip through: a
//! target, or a proxy before it, that decodes once more than we do would leave the prefix. So
//! there, a path with dot segments or backslashes, raw or encoded, is refused, and so is encoding
//! that decoders disagree about. Elsewhere bytes pass as they are, and this module is not asked.

use std::borrow::Cow;
use std::fmt;

/// How often a path is decoded before it is called too deep: `%2525252e` needs four.
const DECODE_ROUNDS_MAX: usize = 4;

/// Why a path could be read as another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ambiguity {
    /// `.` or `..`, raw or encoded, also before `;parameters`.
    DotSegment,
    /// `\`, raw or encoded.
    Backslash,
    /// A `%` without two hexadecimal digits.
    Malformed,
    /// An encoded control character.
    Control,
    /// UTF-8 in more bytes than it needs, such as `%c0%ae` for a dot.
    Overlong,
    /// Encoded again and again.
    TooDeep,
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DotSegment => "a dot segment (. or .., raw or encoded)",
            Self::Backslash => "a backslash (raw or encoded)",
            Self::Malformed => "a % without two hexadecimal digits",
            Self::Control => "an encoded control character",
            Self::Overlong => "overlong UTF-8",
            Self::TooDeep => "percent-encoding in too many layers",
        })
    }
}

/// Returns in words why a raw path, without its query, could be read as another path: dot segments,
/// backslashes, and encoding that decoders disagree about, raw or encoded. `None` where it could not.
pub fn path_ambiguity(path: &str) -> Option<String> {
    ambiguity(path).map(|why| why.to_string())
}

/// The first reason why `path` (raw, without query) could be read as another path.
pub(crate) fn ambiguity(path: &str) -> Option<Ambiguity> {
    if is_malformed(path.as_bytes()) {
        return Some(Ambiguity::Malformed);
    }
    let mut layer = Cow::Borrowed(path.as_bytes());
    for _ in 0..=DECODE_ROUNDS_MAX {
        if layer.contains(&b'\\') {
            return Some(Ambiguity::Backslash);
        }
        if layer.iter().any(u8::is_ascii_control) {
            return Some(Ambiguity::Control);
        }
        if is_overlong(&layer) {
            return Some(Ambiguity::Overlong);
        }
        if layer.split(|byte| *byte == b'/').any(is_dot_segment) {
            return Some(Ambiguity::DotSegment);
        }
        if !layer.contains(&b'%') {
            return None;
        }
        let decoded = decode(&layer);
        if decoded.len() == layer.len() {
            return None;
        }
        layer = Cow::Owned(decoded);
    }
    Some(Ambiguity::TooDeep)
}

/// `.` or `..` to a server that cuts parameters (`..;x`), or a decoded query or fragment, off, and
/// to one that trims spaces.
fn is_dot_segment(segment: &[u8]) -> bool {
    let end = segment
        .iter()
        .position(|byte| matches!(byte, b';' | b'?' | b'#'));
    let segment = segment[..end.unwrap_or(segment.len())].trim_ascii();
    segment == b"." || segment == b".."
}

fn is_overlong(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| {
        matches!(
            pair,
            [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f]
        )
    })
}

fn is_malformed(bytes: &[u8]) -> bool {
    let mut percents = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    percents.any(|(at, _)| escaped(&bytes[at..]).is_none())
}

/// Decodes one layer; a `%` without two digits stays, as `100%25` may decode to `100%`.
fn decode(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    while let Some((&first, rest)) = bytes.split_first() {
        match escaped(bytes) {
            Some(byte) => {
                out.push(byte);
                bytes = &bytes[3..];
            }
            None => {
                out.push(first);
                bytes = rest;
            }
        }
    }
    out
}

/// The byte that `%xy` at the beginning of `bytes` stands for.
fn escaped(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    match bytes {
        [b'%', high, low, ..] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_mean_one_thing() {
        for path in [
            "/",
            "//",
            "/a/b",
            "/a.b/c..d/...",
            "/.hidden/x",
            "/a%20b/%C3%A9",
            "/x%2Fy",
            "/x%2fy%2Fz",
            "/a;b=..",
            "/a;v=1/b",
            "/100%25",
            "/%25%32%35",
            "/..a/a..",
            "/a%3fb",
            "/%E2%82%AC",
            "/..%C3%A9",
        ] {
            assert_eq!(ambiguity(path), None, "{path}");
        }
    }

    #[test]
    fn dot_segments_are_found_in_every_spelling() {
        for path in [
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/a/%2e%2e/b",
            "/a/%2E%2e/b",
            "/a/.%2e/b",
            "/a/%2e./b",
            "/a/%2e/b",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/a/.;x/b",
            "/a/%2e%2e;x/b",
            "/a/..%3bx/b",
            "/a/..%2fb",
            "/a%2f..%2fb",
            "/a%2F%2e%2E%2Fb",
            "/a%2f../b",
            "/a/..%2f",
            "/a/%252e%252e/b",
            "/a/%25252e./b",
            "/a%252f..%252fb",
            "/a/..%20/b",
            "/a/%20../b",
            "/a/..%23/b",
            "/a/..%3f/b",
        ] {
            assert_eq!(ambiguity(path), Some(Ambiguity::DotSegment), "{path}");
        }
    }

    #[test]
    fn encoding_that_decoders_disagree_about_is_found() {
        for (path, found) in [
            ("/a\\b", Ambiguity::Backslash),
            ("/a%5cb", Ambiguity::Backslash),
            ("/a%5Cb", Ambiguity::Backslash),
            ("/a%255cb", Ambiguity::Backslash),
            ("/..%5c..", Ambiguity::Backslash),
            ("/a%", Ambiguity::Malformed),
            ("/a%2", Ambiguity::Malformed),
            ("/a%zz", Ambiguity::Malformed),
            ("/%u002e%u002e/", Ambiguity::Malformed),
            ("/%+1/", Ambiguity::Malformed),
            ("/..%00/", Ambiguity::Control),
            ("/a%0d%0ab", Ambiguity::Control),
            ("/a%7f", Ambiguity::Control),
            ("/%c0%ae%c0%ae/", Ambiguity::Overlong),
            ("/..%c0%af", Ambiguity::Overlong),
            ("/%e0%80%ae/", Ambiguity::Overlong),
            ("/%f0%80%80%ae/", Ambiguity::Overlong),
            ("/%2525252525252e", Ambiguity::TooDeep),
        ] {
            assert_eq!(ambiguity(path), Some(found), "{path}");
        }
    }
}
