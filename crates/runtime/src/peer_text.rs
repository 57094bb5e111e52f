//! Text that a peer chose, in a form that a terminal, a log and a table show as one harmless line.
//!
//! A peer can put line breaks (which forge log lines), terminal escapes, and invisible or direction-changing characters
//! into every text that it sends. [`PeerText`] has none of them, and has a bound. [`escape`] and [`escape_document`] do the same
//! for whole lines and documents where they leave the program: logs ([`crate::logging`]) and output ([`crate::output`]).
//!
//! Characters are escaped as JSON does it (`\n`, `\u001b`). An escaped JSON document is therefore the same document.

use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::fmt::{self, Write};

/// Longest text of a peer that is kept, in characters before they are escaped.
pub const PEER_TEXT_MAX_CHARS: usize = 512;

/// Returns whether a character is shown as itself, takes part in no terminal escape, and changes neither the line nor
/// the direction of the text.
pub fn is_plain(c: char) -> bool {
    // `is_control` is C0, DEL and C1.
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
            // Zero width, and marks of direction.
            | '\u{200b}'..='\u{200f}'
            // Line and paragraph separators; embeddings and overrides of direction.
            | '\u{2028}'..='\u{202e}'
            // Invisible operators; isolates of direction.
            | '\u{2060}'..='\u{206f}'
            | '\u{fff9}'..='\u{fffb}'
            // Tags: invisible copies of ASCII.
            | '\u{e0000}'..='\u{e007f}')
}

/// Writes text to another writer, and escapes what is not plain.
pub(crate) struct Escaping<'a, W: ?Sized> {
    inner: &'a mut W,
    keeps_layout: bool,
}

impl<'a, W: Write + ?Sized> Escaping<'a, W> {
    /// Escapes line breaks and tabs, too.
    pub(crate) fn line(inner: &'a mut W) -> Self {
        Self {
            inner,
            keeps_layout: false,
        }
    }

    /// Keeps line breaks and tabs.
    pub(crate) fn document(inner: &'a mut W) -> Self {
        Self {
            inner,
            keeps_layout: true,
        }
    }
}

impl<W: Write + ?Sized> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let keeps_layout = self.keeps_layout;
        let is_kept = move |c: char| is_plain(c) || (keeps_layout && matches!(c, '\n' | '\t'));
        let mut rest = text;
        while let Some(at) = rest.find(|c| !is_kept(c)) {
            self.inner.write_str(&rest[..at])?;
            let c = rest[at..].chars().next().unwrap_or_default();
            match c {
                '\n' => self.inner.write_str("\\n")?,
                '\r' => self.inner.write_str("\\r")?,
                '\t' => self.inner.write_str("\\t")?,
                c => {
                    // Beyond 16 bits JSON has two escapes for one character.
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.inner, "\\u{unit:04x}")?;
                    }
                }
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.inner.write_str(rest)
    }
}

/// Returns a text as one line without control characters.
pub fn escape(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    // Writing to a string cannot fail.
    let _ = Escaping::line(&mut out).write_str(text);
    Cow::Owned(out)
}

/// Returns a document of several lines without control characters other than line breaks and tabs.
pub fn escape_document(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| is_plain(c) || c == '\n' || c == '\t') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    // Writing to a string cannot fail.
    let _ = Escaping::document(&mut out).write_str(text);
    Cow::Owned(out)
}

/// A text that a peer chose: escaped, and at most [`PEER_TEXT_MAX_CHARS`] characters of the original.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct PeerText(Box<str>);

impl PeerText {
    /// Takes a text from a peer.
    pub fn new(text: &str) -> Self {
        Self::bounded(text, PEER_TEXT_MAX_CHARS)
    }

    /// Takes at most `max` characters of a text from a peer. A shortened text ends with `...`.
    pub fn bounded(text: &str, max: usize) -> Self {
        match text.char_indices().nth(max) {
            None => Self(escape(text).into()),
            Some((end, _)) => Self(format!("{}...", escape(&text[..end])).into()),
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl From<&str> for PeerText {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for PeerText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        Ok(Self::new(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind that a terminal or a log would obey.
    const HOSTILE: &str =
        "a\nb\r\u{1b}[31m\u{9b}2J\u{7f}\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\u{e0041}z";

    #[test]
    fn hostile_text_is_one_plain_line() {
        let text = PeerText::new(HOSTILE).to_string();
        assert!(text.chars().all(is_plain), "{text:?}");
        assert!(
            text.starts_with("a\\nb\\r\\u001b[31m\\u009b2J") && text.ends_with('z'),
            "{text}"
        );
        for plain in ["", "host-1.corp.example", "Zürich 東京", "C:\\data"] {
            assert_eq!(PeerText::new(plain).as_str(), plain);
        }
    }

    #[test]
    fn long_text_is_shortened_visibly() {
        let text = PeerText::new(&"é".repeat(PEER_TEXT_MAX_CHARS + 1));
        assert_eq!(text.as_str().chars().count(), PEER_TEXT_MAX_CHARS + 3);
        assert!(text.as_str().ends_with("é..."));
        let whole = "é".repeat(PEER_TEXT_MAX_CHARS);
        assert_eq!(PeerText::new(&whole).as_str(), whole);
    }

    #[test]
    fn escaped_document_keeps_its_lines() {
        let text = "{\n\t\"a\": \"\u{1b}\u{202e}\"\n}\n";
        assert_eq!(escape_document(text), "{\n\t\"a\": \"\\u001b\\u202e\"\n}\n");
        assert!(matches!(escape_document("a\n"), Cow::Borrowed(_)));
    }
}
