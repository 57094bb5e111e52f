//! The forms of known secrets, compiled for a search in one pass.

use super::escapes::{Layer, any_layer};
use super::known;
use runtime::secret::Zeroizing;
use std::fmt;
use std::ops::Range;

/// Bytes at the beginning of a form that the search looks up. No form is shorter.
const START_BYTES: usize = 3;

/// Hashes of these bytes.
const START_HASHES: usize = 4096;

/// Secrets in all their forms.
pub(crate) struct Forms {
    /// Sorted: forms that begin alike are neighbours.
    all: Vec<Zeroizing<String>>,
    /// One bit for each hash of the first bytes of a form. It rejects almost every position of a text.
    starts: [u64; START_HASHES / 64],
}

impl Default for Forms {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            starts: [0; START_HASHES / 64],
        }
    }
}

impl fmt::Debug for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forms")
    }
}

impl Forms {
    /// Adds a secret in all its encodings, without forms of less than `bytes_min` bytes.
    pub(crate) fn add(&mut self, secret: &[u8], bytes_min: usize) {
        for form in known::encodings(secret).into_iter().map(Zeroizing::new) {
            if form.len() < bytes_min.max(START_BYTES) {
                continue;
            }
            let hash = hash(&form.as_bytes()[..START_BYTES]);
            self.starts[hash / 64] |= 1 << (hash % 64);
            self.all.push(form);
        }
        self.all.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        self.all.dedup_by(|a, b| a.as_bytes() == b.as_bytes());
    }

    /// Returns whether a form, or one of `others`, is in a text, also where the text escapes it. None of `others` is
    /// empty.
    pub(crate) fn are_in(&self, text: &[u8], others: &[String]) -> bool {
        let has = |text: &[u8], part: &[u8]| text.windows(part.len()).any(|window| window == part);
        any_layer(text, |text| {
            let mut forms = self.matches(text);
            forms.next().is_some() || others.iter().any(|other| has(text, other.as_bytes()))
        })
    }

    /// Returns where forms are in a text, also where the text escapes them: in order, and without overlaps.
    pub(super) fn spans(&self, text: &str) -> Vec<Range<usize>> {
        let mut found: Vec<_> = self.matches(text.as_bytes()).collect();
        for layer in Layer::all(text.as_bytes()) {
            found.extend(self.matches(&layer.text).map(|part| layer.origin(&part)));
        }
        found.sort_by_key(|span| span.start);
        let mut spans: Vec<Range<usize>> = Vec::new();
        for span in found {
            let span = text.floor_char_boundary(span.start)..text.ceil_char_boundary(span.end);
            match spans.last_mut() {
                Some(last) if span.start < last.end => last.end = last.end.max(span.end),
                Some(_) | None => spans.push(span),
            }
        }
        spans
    }

    /// Returns the longest form at each position of a text that has one.
    fn matches(&self, text: &[u8]) -> impl Iterator<Item = Range<usize>> {
        let starts = text.windows(START_BYTES).enumerate();
        let starts = starts.filter(move |(_, start)| self.may_begin(start));
        starts.filter_map(move |(at, start)| {
            let length = self.longest(start, &text[at..])?;
            Some(at..at + length)
        })
    }

    fn may_begin(&self, start: &[u8]) -> bool {
        let hash = hash(start);
        self.starts[hash / 64] & (1 << (hash % 64)) != 0
    }

    /// Returns the length of the longest form that a text begins with. `start` is the text's beginning.
    fn longest(&self, start: &[u8], text: &[u8]) -> Option<usize> {
        let first = self.all.partition_point(|form| form.as_bytes() < start);
        let alike = self.all[first..].iter();
        let alike = alike.take_while(|form| form.as_bytes().starts_with(start));
        let forms = alike.filter(|form| text.starts_with(form.as_bytes()));
        forms.map(|form| form.len()).max()
    }
}

/// Returns the hash of the first bytes of a form.
fn hash(start: &[u8]) -> usize {
    let hash = |hash: usize, byte: &u8| hash * 31 + usize::from(*byte);
    start.iter().fold(0, hash) % START_HASHES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(secrets: &[&str]) -> Forms {
        let mut forms = Forms::default();
        for secret in secrets {
            forms.add(secret.as_bytes(), 0);
        }
        forms
    }

    #[test]
    fn longest_form_is_found_at_each_position() {
        let forms = forms(&["abc", "abcdef", "efgh"]);
        assert_eq!(
            forms.spans("-abcdef-abcd-efgh"),
            [1..7_usize, 8..11, 13..17]
        );
        // Overlaps are one span.
        assert_eq!(forms.spans("abcdefgh"), std::slice::from_ref(&(0..8_usize)));
        assert!(forms.spans("ab").is_empty());
        assert!(Forms::default().spans("abcdef").is_empty());
    }

    #[test]
    fn form_under_escapes_is_found_with_its_escapes() {
        let forms = forms(&["p@ss w"]);
        for text in [
            "p%2540ss%2520w",
            r"p@ss w",
            "p&#64;ss w",
            "p%u0040ss+w",
            "%70@ss%20w",
        ] {
            let spans = forms.spans(&format!("é{text}é"));
            assert_eq!(spans, std::slice::from_ref(&(2..2 + text.len())), "{text}");
            assert!(forms.are_in(text.as_bytes(), &[]), "{text}");
        }
        assert!(!forms.are_in(b"p%40ss%2fw", &[]));
        assert!(forms.are_in(b"c=a%3D%3D", &["a==".to_owned()]));
    }

    #[test]
    fn short_form_is_left_out() {
        let mut forms = Forms::default();
        forms.add(b"abc", 6);
        assert!(!forms.are_in(b"abc", &[]));
        assert!(forms.are_in(b"616263", &[]));
        assert_eq!(format!("{forms:?}"), "Forms");
    }
}
