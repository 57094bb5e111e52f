//! Short text forms that several modules need: error chains and hexadecimal.

use runtime::shortage::in_words;
use std::error::Error;
use std::fmt::Write as _;

/// Returns an error and its sources in one line, separated by `": "`.
pub(crate) fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // An error of the system, whose cause the text may have in plain words.
        let part = match error.downcast_ref::<std::io::Error>() {
            Some(error) if text.contains(&in_words(error)) => break,
            Some(_) | None => error.to_string(),
        };
        // Many libraries already include the source in their own text (hyper, rustls).
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}

/// Returns the bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads hexadecimal digits of either case. Returns `None` for any other text.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    // `from_str_radix` accepts a sign, which is no hexadecimal digit.
    if !text.len().is_multiple_of(2) || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    text.chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_rejects_other_text() {
        let bytes = [0, 1, 0xab, 0xff];
        assert_eq!(hex(&bytes), "0001abff");
        assert_eq!(unhex("0001ABff").unwrap(), bytes);
        for text in ["0", "0g", "+1", "é"] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }
}
