//! Escapes in a text: percent-encoding, JSON and HTML.
//!
//! ```text
//! p%2540ss  -->  p%40ss  -->  p@ss        each step removes one layer
//! ```
//!
//! One step removes all kinds, because programs mix them: a URL in a JSON string, JSON in a URL.

use std::ops::Range;

/// Layers of escapes that are removed: a URL in a URL in a JSON document has three.
const LAYERS_MAX: usize = 4;

/// Digits of a numeric entity of HTML, with leading zeros. Eight hexadecimal digits fit a `u32`.
const ENTITY_DIGITS_MAX: usize = 8;

/// The named entities that programs write for characters of ASCII, after `&`.
const ENTITIES: [(&str, u8); 5] = [
    ("amp;", b'&'),
    ("lt;", b'<'),
    ("gt;", b'>'),
    ("quot;", b'"'),
    ("apos;", b'\''),
];

/// Returns whether a text, or what is left of it when layers of its escapes are removed, passes a test. Allocates
/// only for a text with escapes.
pub(super) fn any_layer(text: &[u8], has: impl Fn(&[u8]) -> bool) -> bool {
    if has(text) {
        return true;
    }
    let mut layer = unescaped(text);
    for _ in 0..LAYERS_MAX {
        let Some(text) = layer else { return false };
        if has(&text) {
            return true;
        }
        layer = unescaped(&text);
    }
    false
}

/// Returns a text without its outer layer of escapes; `None` if it has no escape.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    next_escape(text, 0)?;
    let mut out = Vec::with_capacity(text.len());
    each_piece(text, |_, piece, _| out.extend_from_slice(piece));
    Some(out)
}

/// A text without some layers of its escapes, with the origin of each byte.
pub(super) struct Layer {
    pub(super) text: Vec<u8>,
    /// Where each byte begins in the original text, and the end of that text.
    origins: Vec<usize>,
}

impl Layer {
    /// Returns the layers of a text, from the outer one on, without the text itself.
    pub(super) fn all(text: &[u8]) -> impl Iterator<Item = Self> {
        let first = Self::below(text, |at| at);
        let next = |layer: &Self| Self::below(&layer.text, |at| layer.origins[at]);
        std::iter::successors(first, next).take(LAYERS_MAX)
    }

    fn below(text: &[u8], origin: impl Fn(usize) -> usize) -> Option<Self> {
        next_escape(text, 0)?;
        let mut plain = Vec::with_capacity(text.len());
        let mut origins = Vec::with_capacity(text.len() + 1);
        each_piece(text, |at, piece, is_escape| {
            plain.extend_from_slice(piece);
            let offset = |index| if is_escape { 0 } else { index };
            origins.extend((0..piece.len()).map(|index| origin(at + offset(index))));
        });
        origins.push(origin(text.len()));
        Some(Self {
            text: plain,
            origins,
        })
    }

    /// Returns where a part of this layer is in the original text.
    pub(super) fn origin(&self, part: &Range<usize>) -> Range<usize> {
        let start = self.origins[part.start];
        // The bytes of one escaped character have one origin: they belong together.
        let end = self.origins[part.end..]
            .iter()
            .find(|end| **end > self.origins[part.end - 1]);
        start..end.copied().unwrap_or(start)
    }
}

/// Calls `take` with each escape, as it is without the escaping, and with each piece between escapes. The arguments
/// are the position in the text, the bytes, and whether it was an escape.
fn each_piece(text: &[u8], mut take: impl FnMut(usize, &[u8], bool)) {
    let mut from = 0;
    while let Some((at, escape)) = next_escape(text, from) {
        take(from, &text[from..at], false);
        take(at, &escape.plain[..escape.plain_len], true);
        from = at + escape.taken;
    }
    take(from, &text[from..], false);
}

/// Returns the first escape from a position on, and where it is.
fn next_escape(text: &[u8], from: usize) -> Option<(usize, Escape)> {
    let bytes = text.iter().enumerate().skip(from);
    let mut starts = bytes.filter(|(_, byte)| matches!(byte, b'%' | b'\\' | b'&'));
    starts.find_map(|(at, _)| Some((at, Escape::read(&text[at..])?)))
}

/// An escaped character or byte.
struct Escape {
    /// Its length in the text, in bytes.
    taken: usize,
    plain: [u8; 4],
    plain_len: usize,
}

impl Escape {
    /// Reads the escape at the beginning of a text.
    fn read(text: &[u8]) -> Option<Self> {
        match text {
            // As Rust writes it.
            [b'\\', b'u', b'{', digits @ ..] => {
                let (code, count) = number(digits, 16, 6)?;
                let is_closed = digits.get(count) == Some(&b'}');
                let c = char::from_u32(code).filter(|_| is_closed)?;
                Some(Self::char(c, 3 + count + 1))
            }
            [b'%' | b'\\', b'u', ..] => Self::utf16(text),
            [b'%', digits @ ..] => Some(Self::byte(two_digits(digits)?, 3)),
            [b'\\', b'x', digits @ ..] => Some(Self::byte(two_digits(digits)?, 4)),
            [b'\\', letter, ..] => Some(Self::byte(json_escape(*letter)?, 2)),
            [b'&', b'#', entity @ ..] => {
                let (radix, prefix) = match entity {
                    [b'x' | b'X', ..] => (16, 1),
                    _ => (10, 0),
                };
                let (code, count) = number(&entity[prefix..], radix, ENTITY_DIGITS_MAX)?;
                let end = prefix + count;
                // Browsers do not insist on the semicolon.
                let has_end = entity.get(end) == Some(&b';');
                Some(Self::char(
                    char::from_u32(code)?,
                    2 + end + usize::from(has_end),
                ))
            }
            [b'&', name @ ..] => ENTITIES.iter().find_map(|(entity, byte)| {
                let is_named = name.starts_with(entity.as_bytes());
                is_named.then(|| Self::byte(*byte, 1 + entity.len()))
            }),
            _ => None,
        }
    }

    /// Reads `%u` or `\u` with four digits. A character beyond 16 bits has two of them.
    fn utf16(text: &[u8]) -> Option<Self> {
        let unit = |text: &[u8]| match text {
            [b'%' | b'\\', b'u', digits @ ..] => {
                let (code, count) = number(digits, 16, 4)?;
                u16::try_from(code).ok().filter(|_| count == 4)
            }
            _ => None,
        };
        let first = unit(text)?;
        if let Some(c) = char::from_u32(first.into()) {
            return Some(Self::char(c, 6));
        }
        let second = unit(text.get(6..)?)?;
        let c = char::decode_utf16([first, second]).next()?.ok()?;
        Some(Self::char(c, 12))
    }

    fn byte(byte: u8, taken: usize) -> Self {
        Self {
            taken,
            plain: [byte, 0, 0, 0],
            plain_len: 1,
        }
    }

    fn char(c: char, taken: usize) -> Self {
        let mut plain = [0; 4];
        let plain_len = c.encode_utf8(&mut plain).len();
        Self {
            taken,
            plain,
            plain_len,
        }
    }
}

/// Returns the character of a JSON escape of one letter, and of those that other programs add.
fn json_escape(letter: u8) -> Option<u8> {
    match letter {
        b'"' | b'\'' | b'\\' | b'/' => Some(letter),
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'b' => Some(8),
        b'f' => Some(12),
        b'0' => Some(0),
        _ => None,
    }
}

/// Reads two hexadecimal digits.
fn two_digits(text: &[u8]) -> Option<u8> {
    let (byte, count) = number(text, 16, 2)?;
    u8::try_from(byte).ok().filter(|_| count == 2)
}

/// Reads the digits at the beginning of a text, at most `max` of them. Returns the number, and how many they are.
fn number(text: &[u8], radix: u32, max: usize) -> Option<(u32, usize)> {
    let digits = text.iter().take(max);
    let digits = digits.map_while(|byte| char::from(*byte).to_digit(radix));
    let (number, count) = digits.fold((0, 0), |(number, count), digit| {
        (number * radix + digit, count + 1)
    });
    (count > 0).then_some((number, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        let plain = unescaped(text.as_bytes());
        String::from_utf8(plain.unwrap_or_else(|| text.into())).unwrap()
    }

    #[test]
    fn escape_of_each_kind_is_removed() {
        for (text, expected) in [
            ("a%20b%2Fc%2f", "a b/c/"),
            ("%c3%b6", "ö"),
            ("%u0040%u00F6%uD83D%uDE00", "@ö😀"),
            (r#"a\"b\\c\/d\n"#, "a\"b\\c/d\n"),
            (r"\u0040\u00f6\ud83d\ude00", "@ö😀"),
            (r"\u{40}\u{1f600}\x40", "@😀@"),
            ("&amp;&lt;&gt;&quot;&apos;", "&<>\"'"),
            ("&#64;&#x40;&#X40;&#0064;&#64", "@@@@@"),
        ] {
            assert_eq!(plain(text), expected, "{text}");
        }
        for text in [
            "",
            "100%",
            "50% of",
            "%zz",
            "%u12",
            "%ud83d",
            r"C:\path",
            r"\u12",
            r"\u{40",
            r"\u{}",
            r"\",
            "a=1&b=2",
            "&#;",
            "&#x;",
            "&#99999999;",
            "&amp",
        ] {
            assert_eq!(unescaped(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn layers_of_escapes_are_bounded() {
        let has_at = |text: &str| any_layer(text.as_bytes(), |layer| layer == b"@");
        let mut text = "@".to_owned();
        for _ in 0..=LAYERS_MAX {
            assert!(has_at(&text), "{text}");
            text = text.replace('%', "%25").replace('@', "%40");
        }
        assert!(!has_at(&text), "{text}");
    }

    #[test]
    fn part_of_a_layer_leads_to_its_origin() {
        let text = r"a%255Cu00e9z";
        let layers: Vec<_> = Layer::all(text.as_bytes()).collect();
        assert_eq!(layers.len(), 3);
        let inner = &layers[2];
        assert_eq!(inner.text, "aéz".as_bytes());
        assert_eq!(inner.origin(&(0..1)), 0..1);
        assert_eq!(inner.origin(&(1..3)), 1..11);
        // A part of a character is removed with all of it.
        assert_eq!(inner.origin(&(1..2)), 1..11);
        assert_eq!(inner.origin(&(3..4)), 11..12);
    }
}
