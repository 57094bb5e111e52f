//! Short text forms that several modules need: error chains and hexadecimal.

pub(crate) use runtime::hex::{decode as unhex, encode as hex};
use runtime::shortage::in_words;
use std::error::Error;

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
