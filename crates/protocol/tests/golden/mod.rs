//! Reads `proto/vectors`: lists of vectors, and bytes in hexadecimal.

use bytes::Bytes;
use serde_json::Value;
use std::path::Path;

/// Reads the vectors of a file.
pub(crate) fn file(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../proto/vectors")
        .join(name);
    let content = std::fs::read_to_string(&path).unwrap();
    let Value::Array(vectors) = serde_json::from_str::<Value>(&content).unwrap()["vectors"].take()
    else {
        panic!("{name} has no list of vectors");
    };
    vectors
}

/// Reads hexadecimal: a string, a repeated byte, or a list of both.
pub(crate) fn bytes(value: &Value) -> Bytes {
    let mut out = Vec::new();
    append(&mut out, value);
    out.into()
}

fn append(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(hex) => {
            assert!(hex.len().is_multiple_of(2), "{hex}");
            let digits = (0..hex.len()).step_by(2);
            out.extend(digits.map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()));
        }
        Value::Array(parts) => parts.iter().for_each(|part| append(out, part)),
        Value::Object(_) => {
            for _ in 0..number::<usize>(&value["times"]) {
                append(out, &value["repeat"]);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => panic!("{value} is no bytes"),
    }
}

pub(crate) fn number<T: TryFrom<u64>>(value: &Value) -> T {
    let number = value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"));
    T::try_from(number).ok().expect("the number fits its field")
}
