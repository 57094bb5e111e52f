//! The response to a call: a JSON document with the target's body in it, written piece by piece.
//!
//! ```text
//! {"bridge": ..., "response": {"headers": ..., "status": 200, "body": "  target's body, escaped  "}, ...}
//! ```
//!
//! Escaped, a body may be six times as long, and base64 adds a third. Only the body itself is in memory until
//! the response is written; a piece is escaped when the connection has room for it.

use crate::body::PIECE_MAX_BYTES;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

/// The longest escape of a byte: `\u001f`.
const ESCAPE_MAX_BYTES: usize = 6;

/// How the target's body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `body`: text, escaped.
    Text,
    /// `body_base64`.
    Base64,
}

/// The body of the response to a call.
#[derive(Debug)]
pub(crate) struct CallBody {
    before: Bytes,
    body: Bytes,
    form: Form,
    after: Bytes,
    left_bytes: u64,
}

impl CallBody {
    /// Returns the document of a call with the target's body, if there is one to show.
    pub(crate) fn new(document: &Value, body: Option<Bytes>) -> Self {
        let form = match &body {
            Some(body) if std::str::from_utf8(body).is_err() => Form::Base64,
            _ => Form::Text,
        };
        let (before, after) = match body {
            Some(_) => split(document, form),
            None => (format!("{document}\n"), String::new()),
        };
        let body = body.unwrap_or_default();
        let written = match form {
            Form::Text => body.iter().map(|byte| escaped_bytes(*byte) as u64).sum(),
            Form::Base64 => (body.len() as u64).div_ceil(3) * 4,
        };
        Self {
            left_bytes: written + (before.len() + after.len()) as u64,
            before: before.into(),
            body,
            form,
            after: after.into(),
        }
    }

    /// Returns how many bytes were not returned yet.
    pub(crate) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Returns how many bytes of memory it takes in addition to the target's body.
    pub(crate) fn document_bytes(&self) -> u64 {
        (self.before.len() + self.after.len()) as u64
    }

    /// Returns whether all of it was returned.
    pub(crate) fn is_empty(&self) -> bool {
        self.left_bytes == 0
    }

    /// Takes the next piece.
    pub(crate) fn piece(&mut self) -> Option<Bytes> {
        if self.is_empty() {
            return None;
        }
        let left = usize::try_from(self.left_bytes).unwrap_or(usize::MAX);
        let mut piece = Vec::with_capacity(left.min(PIECE_MAX_BYTES));
        take(&mut self.before, &mut piece);
        if self.before.is_empty() {
            match self.form {
                Form::Text => self.escape(&mut piece),
                Form::Base64 => self.encode(&mut piece),
            }
        }
        if self.body.is_empty() {
            take(&mut self.after, &mut piece);
        }
        self.left_bytes -= piece.len() as u64;
        Some(piece.into())
    }

    fn escape(&mut self, piece: &mut Vec<u8>) {
        let mut taken = 0;
        while taken < self.body.len() && piece.len() + ESCAPE_MAX_BYTES <= PIECE_MAX_BYTES {
            // First a run of bytes that need no escape, copied at once; then one that does.
            let room = PIECE_MAX_BYTES - piece.len();
            let rest = &self.body[taken..];
            let plain = rest
                .iter()
                .take(room)
                .take_while(|byte| escaped_bytes(**byte) == 1)
                .count();
            piece.extend_from_slice(&rest[..plain]);
            taken += plain;
            if let Some(byte) = self.body.get(taken)
                && piece.len() + ESCAPE_MAX_BYTES <= PIECE_MAX_BYTES
            {
                escape(*byte, piece);
                taken += 1;
            }
        }
        let _ = self.body.split_to(taken);
    }

    fn encode(&mut self, piece: &mut Vec<u8>) {
        let room = PIECE_MAX_BYTES - piece.len();
        let taken = self.body.split_to(self.body.len().min(room / 4 * 3));
        piece.extend_from_slice(STANDARD.encode(taken).as_bytes());
    }
}

/// Moves as much as a piece has room for.
fn take(from: &mut Bytes, piece: &mut Vec<u8>) {
    let room = PIECE_MAX_BYTES.saturating_sub(piece.len());
    piece.extend_from_slice(&from.split_to(from.len().min(room)));
}

/// The document before and after the body.
fn split(document: &Value, form: Form) -> (String, String) {
    let mut before = String::from("{");
    for (name, value) in document.as_object().into_iter().flatten() {
        if name != "response" {
            before.push_str(&format!("{}:{value},", Value::from(name.as_str())));
        }
    }
    // `response` comes last, and the body last in it, so that everything before is known.
    before.push_str("\"response\":{");
    for (name, value) in document["response"].as_object().into_iter().flatten() {
        before.push_str(&format!("{}:{value},", Value::from(name.as_str())));
    }
    before.push_str(match form {
        Form::Text => "\"body\":\"",
        Form::Base64 => "\"body_base64\":\"",
    });
    (before, "\"}}\n".to_owned())
}

/// How many bytes a byte takes in a JSON string (RFC 8259, 7).
fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => ESCAPE_MAX_BYTES,
        _ => 1,
    }
}

fn escape(byte: u8, piece: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        0..0x20 => {
            piece.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
            return;
        }
        _ => {
            piece.push(byte);
            return;
        }
    };
    piece.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "id": "call_1",
            "bridge": "berlin \"1\"",
            "response": {"status": 200, "headers": {"x": ["1", "2"]}},
            "timing": {"head_ms": 1.5},
        })
    }

    fn written(mut body: CallBody) -> Value {
        let announced = body.left_bytes();
        let mut all = Vec::new();
        while let Some(piece) = body.piece() {
            assert!((1..=PIECE_MAX_BYTES).contains(&piece.len()));
            all.extend_from_slice(&piece);
        }
        assert_eq!(all.len() as u64, announced);
        assert_eq!(all.last(), Some(&b'\n'));
        serde_json::from_slice(&all).unwrap()
    }

    #[test]
    fn text_body_round_trips() {
        let all: String = (0..0x250).filter_map(char::from_u32).collect();
        let zeros = "\0".repeat(100_000);
        let wide = "äöü€𝄞\"\\".repeat(10_000);
        let exact = "x".repeat(PIECE_MAX_BYTES);
        for text in ["", "x", &all, &zeros, &wide, &exact] {
            let body = CallBody::new(&document(), Some(Bytes::from(text.to_owned())));
            let mut expected = document();
            expected["response"]["body"] = json!(text);
            assert_eq!(written(body), expected);
        }
    }

    #[test]
    fn binary_body_is_base64() {
        for length in [1, 2, 3, 4, 12_288, 12_289, 100_000] {
            let bytes = vec![0xff; length];
            let body = CallBody::new(&document(), Some(Bytes::from(bytes.clone())));
            let mut expected = document();
            expected["response"]["body_base64"] = json!(STANDARD.encode(&bytes));
            assert_eq!(written(body), expected);
        }
    }

    #[test]
    fn document_without_body_is_unchanged() {
        assert_eq!(written(CallBody::new(&document(), None)), document());
    }
}
