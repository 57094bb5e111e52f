//! Bytes in hexadecimal, in lower case.

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Returns two digits a byte.
pub fn encode(bytes: &[u8]) -> String {
    encode_after("", bytes)
}

/// Returns a text, and two digits a byte after it.
pub fn encode_after(start: &str, bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(DIGITS[usize::from(half & 15)]);
    let mut text = String::with_capacity(start.len() + bytes.len() * 2);
    text.push_str(start);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(*byte));
    }
    text
}

/// Returns the bytes, or `None` if the text is not pairs of digits. Upper case is accepted.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8; 2]| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok();
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_rejection() {
        assert_eq!(encode(&[0, 0x7f, 0xff]), "007fff");
        assert_eq!(encode_after("id_", &[0x1a]), "id_1a");
        assert_eq!(decode("007fFF"), Some(vec![0, 0x7f, 0xff]));
        for text in ["0", "0g", "+1", "ä"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
