//! Ids of stored calls: `call_` and 32 hexadecimal digits.

/// Returns the 16 bytes of a call's id; `None` for any other text.
pub(super) fn call_bytes(id: &str) -> Option<[u8; 16]> {
    let digits = id.strip_prefix("call_")?.as_bytes();
    let mut bytes = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// Returns the id of a call with these bytes.
pub(super) fn call_id(bytes: [u8; 16]) -> String {
    let mut id = String::with_capacity(37);
    id.push_str("call_");
    for byte in bytes {
        id.push_str(&format!("{byte:02x}"));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_id_has_the_bytes_of_the_call() {
        let bytes = [0xab; 16];
        let id = call_id(bytes);
        assert_eq!(id, format!("call_{}", "ab".repeat(16)));
        assert_eq!(call_bytes(&id), Some(bytes));
        for wrong in ["call_", "call_zz", &"ab".repeat(16), &format!("{id}0")] {
            assert_eq!(call_bytes(wrong), None, "{wrong}");
        }
    }
}
