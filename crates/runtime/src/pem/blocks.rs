//! PEM (RFC 7468) as it is found: finds the blocks in a text, and decodes them.

use super::Item;
use super::der::{self, Form};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Padding is optional: hand-made files often lack it, and it adds nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Returns the text of a file; `None` for bytes that are no text. Comments may be in any encoding.
pub(super) fn text_of(bytes: &[u8]) -> Option<String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|two| unit([two[0], two[1]]));
        let text = char::decode_utf16(units).map(|one| one.unwrap_or('\u{fffd}'));
        Some(text.collect())
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => return utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return utf16(rest, u16::from_be_bytes),
        [b'-', 0, b'-', 0, ..] => return utf16(bytes, u16::from_le_bytes),
        [0, b'-', 0, b'-', ..] => return utf16(bytes, u16::from_be_bytes),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    // DER may contain the marker only by accident, and begins with a byte that no text has in front of it.
    let is_der = match bytes {
        // A SEQUENCE that is longer than 127 bytes, or one that begins as the structures of keys do.
        [0x30, length, first, ..] => *length >= 0x80 || matches!(first, 0x30 | 0x02 | 0x06),
        _ => false,
    };
    if is_der || bytes.iter().all(u8::is_ascii_whitespace) || bytes.starts_with(b"\xfe\xed\xfe\xed")
    {
        return None;
    }
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// Returns the blocks of a text, or what the text is instead.
pub(super) fn items(text: &str) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut lines = Lines::new(text);
    let mut at = 0;
    while let Some(begin) = find(text, at, BEGIN) {
        let line = lines.at(begin);
        let after = begin + BEGIN.len();
        // A label is short and on one line.
        let label = text[after..]
            .find(DASHES)
            .map(|end| &text[after..after + end]);
        let Some(label) = label.filter(|label| label.len() <= 64 && !label.contains(['\n', '\r']))
        else {
            at = after;
            continue;
        };
        at = after + label.len() + DASHES.len();
        if is_comment(text, begin) {
            continue;
        }
        let rest = &text[at..];
        // Up to the next block: one without an end must not swallow it.
        let own = &rest[..rest.find(BEGIN).unwrap_or(rest.len())];
        let end = own.find(END);
        let (body, has_end) = (&own[..end.unwrap_or(own.len())], end.is_some());
        at += body.len();
        let one = |form| Item {
            line: Some(line),
            form,
        };
        items.extend(forms(label.trim(), body, has_end).into_iter().map(one));
    }
    if items.is_empty() {
        return without_blocks(text);
    }
    Ok(items)
}

fn find(text: &str, from: usize, what: &str) -> Option<usize> {
    text.get(from..)?.find(what).map(|at| from + at)
}

/// Returns whether the line in which a block begins is commented out.
fn is_comment(text: &str, begin: usize) -> bool {
    let start = text[..begin].rfind(['\n', '\r']).map_or(0, |at| at + 1);
    let before = text[start..begin].trim_start();
    before.starts_with(['#', ';']) || before.starts_with("//")
}

/// Decodes a block.
fn forms(label: &str, body: &str, has_end: bool) -> Vec<Form> {
    let is_certificate = label.ends_with("CERTIFICATE");
    let broken = |why: &str| match is_certificate {
        true => vec![Form::Broken(why.to_owned())],
        false => vec![Form::BrokenOther(why.to_owned())],
    };
    // RFC 1421: the body of an encrypted key of OpenSSL's old form begins with header fields.
    if body.contains("Proc-Type:") && body.contains("ENCRYPTED") {
        return vec![Form::Named(der::ENCRYPTED, "key")];
    }
    if let Some(form) = der::of_label(label) {
        return vec![form];
    }
    if !has_end {
        return broken("is cut short: its END line is missing");
    }
    // Lines in one string, as JSON and environment files have them.
    let body = body.replace("\\r", "").replace("\\n", "");
    let body: String = body
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '\u{feff}')
        .collect();
    if body.is_empty() {
        return broken("is empty: nothing is between its BEGIN and END lines");
    }
    let bytes = match BASE64.decode(body.as_bytes()) {
        Ok(bytes) => bytes,
        Err(base64::DecodeError::InvalidByte(at, _)) => {
            // The character itself is not shown: it may be a key's.
            return broken(&format!(
                "is damaged: character {} of it is not base64",
                at + 1
            ));
        }
        Err(_) => return broken("is damaged: its base64 is cut short"),
    };
    der::of_block(label, bytes)
}

/// Says what a text without blocks is; takes DER in bare base64.
fn without_blocks(text: &str) -> Result<Vec<Item>, String> {
    let trimmed = text.trim_start();
    for (start, what) in [
        (
            "<",
            "is HTML or XML: a web page was saved, perhaps an error page",
        ),
        (
            "PuTTY-User-Key-File",
            "is a key of PuTTY: export it with puttygen as an OpenSSL key",
        ),
        (
            "ssh-",
            "is an SSH key, and a file in PEM is needed (-----BEGIN ...-----)",
        ),
        (
            "ecdsa-sha2-",
            "is an SSH key, and a file in PEM is needed (-----BEGIN ...-----)",
        ),
        (
            "---- BEGIN SSH2",
            "is an SSH key, and a file in PEM is needed (-----BEGIN ...-----)",
        ),
    ] {
        if trimmed.starts_with(start) {
            return Err(what.to_owned());
        }
    }
    let upper = text.to_ascii_uppercase();
    if upper.contains("BEGIN ") && upper.contains("END ") {
        return Err(
            "has no line -----BEGIN ...----- with five plain hyphens on each side: an editor may have \
             replaced them, or every block is commented out"
                .to_owned(),
        );
    }
    let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if bare.starts_with('M')
        && bare.len() > 64
        && let Ok(bytes) = BASE64.decode(bare.as_bytes())
    {
        let forms = der::forms(&bytes)?;
        let items = forms.into_iter().map(|form| Item { line: None, form });
        return Ok(items.collect());
    }
    Err("is not PEM: it has no line that begins with -----BEGIN, and is no DER either".to_owned())
}

/// Counts lines up to a place, in one pass over a whole text.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text: text.as_bytes(),
            at: 0,
            line: 1,
        }
    }

    /// Returns the line of a place, from 1. Places must not go back.
    fn at(&mut self, place: usize) -> usize {
        while self.at < place {
            let next = self.text.get(self.at + 1);
            match self.text[self.at] {
                b'\n' => self.line += 1,
                // A line may end in CR alone.
                b'\r' if next != Some(&b'\n') => self.line += 1,
                _ => {}
            }
            self.at += 1;
        }
        self.line
    }
}
