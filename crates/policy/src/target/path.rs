//! Paths that programs read differently.
//!
//! A rule or an endpoint that restricts paths must not let `/hooks/%2e%2e/admin` pass: a target, or a
//! proxy before it, that decodes once more would leave the prefix. So these refuse paths with dot
//! segments or backslashes, raw or encoded, and encodings that decoders disagree about. Without such a
//! restriction bytes pass unchanged, and this module is not used.

use std::borrow::Cow;
use std::fmt;

/// How often a path is decoded before its encoding counts as too deep: `%2525252e` needs four rounds.
const DECODE_ROUNDS_MAX: usize = 4;

/// Why programs could read a path differently.
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
    /// UTF-8 with more bytes than necessary, such as `%c0%ae` for a dot.
    Overlong,
    /// A dot segment, a slash or a backslash after Unicode normalization (NFKC), such as `%ef%bc%8f` (U+FF0F).
    Compatible,
    /// Too many layers of encoding.
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
            Self::Compatible => {
                "a character that Unicode normalization turns into a dot segment, a slash or a backslash"
            }
            Self::TooDeep => "percent-encoding in too many layers",
        })
    }
}

/// Returns why programs could read a raw path (without its query) differently: dot segments,
/// backslashes, or encodings that decoders disagree about. Returns `None` for a path with one meaning.
pub fn path_ambiguity(path: &str) -> Option<String> {
    ambiguity(path).map(|why| why.to_string())
}

/// Returns the first reason why programs could read `path` (raw, without query) differently.
pub(crate) fn ambiguity(path: &str) -> Option<Ambiguity> {
    // Only in the raw path: after one round of decoding a lone `%` is ordinary text.
    if is_malformed(path.as_bytes()) {
        return Some(Ambiguity::Malformed);
    }
    // Each round checks one more layer of encoding, until the text no longer changes.
    let mut layer = Cow::Borrowed(path.as_bytes());
    for _ in 0..=DECODE_ROUNDS_MAX {
        if layer.contains(&b'\\') {
            return Some(Ambiguity::Backslash);
        }
        // NUL ends a string in C programs, and CR LF ends a line: both can hide what follows.
        if layer.iter().any(u8::is_ascii_control) {
            return Some(Ambiguity::Control);
        }
        // Almost every path is ASCII: it needs no search for other characters.
        if !layer.is_ascii() {
            if is_overlong(&layer) {
                return Some(Ambiguity::Overlong);
            }
            if is_compatible(&layer) {
                return Some(Ambiguity::Compatible);
            }
        }
        if layer.split(|byte| *byte == b'/').any(is_dot_segment) {
            return Some(Ambiguity::DotSegment);
        }
        if !layer.contains(&b'%') {
            return None;
        }
        let decoded = decode(&layer);
        // Nothing was decoded: what is left are literal `%`.
        if decoded.len() == layer.len() {
            return None;
        }
        layer = Cow::Owned(decoded);
    }
    Some(Ambiguity::TooDeep)
}

/// Whether some server reads a segment as `.` or `..`: one that removes parameters (`..;x`), a decoded
/// query or a fragment, or one that trims spaces.
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

/// Whether a server that normalizes paths by NFKC, as some do before they compare or open them, reads another
/// path. A full-width full stop alone is ordinary text; one that makes a dot segment is not.
fn is_compatible(bytes: &[u8]) -> bool {
    let is_refused = |three: &[u8]| {
        matches!(
            three,
            // U+FF0F and U+FF3C, full-width slash and backslash; U+FE68, small backslash.
            [0xef, 0xbc, 0x8f | 0xbc] | [0xef, 0xb9, 0xa8]
            // U+2024 and U+2025, one and two dots.
            | [0xe2, 0x80, 0xa4 | 0xa5]
        )
    };
    bytes.windows(3).any(is_refused)
        || normalized(bytes)
            .split(|byte| *byte == b'/')
            .any(is_dot_segment)
}

/// Returns the bytes with the characters that NFKC turns into those that [`is_dot_segment`] knows. The others
/// stay as they are.
fn normalized(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    while let Some((&first, rest)) = bytes.split_first() {
        let (byte, rest) = match bytes {
            // U+FF01 to U+FF3F are the ASCII characters from 0x21 on, in full width.
            [0xef, 0xbc, last @ 0x81..=0xbf, rest @ ..] => (*last - 0x60, rest),
            // U+FE52, the small full stop.
            [0xef, 0xb9, 0x92, rest @ ..] => (b'.', rest),
            // U+3000 and U+00A0, blanks.
            [0xe3, 0x80, 0x80, rest @ ..] | [0xc2, 0xa0, rest @ ..] => (b' ', rest),
            _ => (first, rest),
        };
        out.push(byte);
        bytes = rest;
    }
    out
}

fn is_malformed(bytes: &[u8]) -> bool {
    let mut percents = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    percents.any(|(at, _)| escaped(&bytes[at..]).is_none())
}

/// Decodes one layer. A `%` without two digits stays, because `100%25` decodes to `100%`.
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

/// Returns the byte that `%xy` at the beginning of `bytes` encodes.
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
    fn plain_path_is_not_ambiguous() {
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
            "/%EF%BC%8E%EF%BC%8E%EF%BC%8E/a",
            "/%EF%BC%91%EF%BC%8E%EF%BC%95.pdf",
            "/%E2%80%A6/%E3%80%80a",
        ] {
            assert_eq!(ambiguity(path), None, "{path}");
        }
    }

    #[test]
    fn dot_segment_is_found_in_every_spelling() {
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
    fn ambiguous_encoding_is_found() {
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
            ("/ok/%ef%bc%8e%ef%bc%8e/admin", Ambiguity::Compatible),
            ("/ok/%EF%BC%8E./admin", Ambiguity::Compatible),
            ("/ok/.%ef%bc%8e", Ambiguity::Compatible),
            ("/ok/%EF%BC%8E", Ambiguity::Compatible),
            (
                "/ok/%25ef%25bc%258e%25ef%25bc%258e/a",
                Ambiguity::Compatible,
            ),
            ("/ok/%ef%b9%92%ef%b9%92/a", Ambiguity::Compatible),
            ("/ok/..%ef%bc%9bx/a", Ambiguity::Compatible),
            ("/ok/..%e3%80%80/a", Ambiguity::Compatible),
            ("/ok/a%ef%bc%8fb", Ambiguity::Compatible),
            ("/ok/a%ef%bc%bcb", Ambiguity::Compatible),
            ("/ok/a%ef%b9%a8b", Ambiguity::Compatible),
            ("/ok/%e2%80%a4%e2%80%a4/a", Ambiguity::Compatible),
            ("/ok/%e2%80%a5/a", Ambiguity::Compatible),
            ("/%2525252525252e", Ambiguity::TooDeep),
        ] {
            assert_eq!(ambiguity(path), Some(found), "{path}");
        }
    }
}
