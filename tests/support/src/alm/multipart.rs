//! `multipart/form-data` with a file (RFC 7578), as attachments come in. The file must be last.

use bytes::Bytes;

use super::fault::Fault;

/// Pieces in which a file is kept, so that it goes out in pieces.
const PIECE_BYTES: usize = 64 * 1024;

/// A form that came in.
#[derive(Debug, Default)]
pub(super) struct Form {
    fields: Vec<(String, String)>,
    pub(super) file: Vec<Bytes>,
}

impl Form {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Takes a body apart; the file is slices of it.
    pub(super) fn parse(boundary: &str, body: &Bytes) -> Result<Self, Fault> {
        let broken = || Fault::business("The multipart body cannot be read");
        let delimiter = format!("\r\n--{boundary}");
        let first = delimiter.trim_start();
        if !body.starts_with(first.as_bytes()) {
            return Err(broken());
        }
        let mut form = Self::default();
        let mut at = first.len();
        while !body[at..].starts_with(b"--") {
            let (head, content) = ends(body, at, b"\r\n\r\n").ok_or_else(broken)?;
            let (end, next) = ends(body, content, delimiter.as_bytes()).ok_or_else(broken)?;
            let head = String::from_utf8_lossy(&body[at..head]).into_owned();
            form.add(&head, body.slice(content..end))?;
            at = next;
        }
        if form.file.is_empty() {
            return Err(Fault::malformed("The part 'file' is missing"));
        }
        Ok(form)
    }

    fn add(&mut self, head: &str, content: Bytes) -> Result<(), Fault> {
        if !self.file.is_empty() {
            return Err(Fault::business("The part 'file' is not the last one"));
        }
        let name = parameter(head, "name").unwrap_or_default();
        if name == "file" {
            self.file = pieces(content);
        } else {
            let text = String::from_utf8_lossy(&content).into_owned();
            self.fields.push((name.to_owned(), text));
        }
        Ok(())
    }
}

/// An empty file is one empty piece.
fn pieces(mut content: Bytes) -> Vec<Bytes> {
    let mut all = Vec::new();
    while content.len() > PIECE_BYTES {
        all.push(content.split_to(PIECE_BYTES));
    }
    all.push(content);
    all
}

/// A parameter of a part's `Content-Disposition`.
fn parameter<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut parts = head.split([';', '\r', '\n']).map(str::trim);
    parts.find_map(|part| {
        let value = part.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.trim_matches('"'))
    })
}

/// Where the next `wanted` begins and ends. A search for its first byte alone is quick, even in an
/// unoptimized build.
fn ends(body: &[u8], from: usize, wanted: &[u8]) -> Option<(usize, usize)> {
    let mut at = from;
    loop {
        at += body[at..].iter().position(|byte| *byte == wanted[0])?;
        if body[at..].starts_with(wanted) {
            return Some((at, at + wanted.len()));
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, content: &str) -> String {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
    }

    #[test]
    fn multipart_reads_fields_and_file() {
        let body = part("filename", "a.txt") + &part("file", "x\r\n--no\r\ny") + "--b--\r\n";
        let form = Form::parse("b", &body.into()).expect("it can be read");
        assert_eq!(form.get("filename"), Some("a.txt"));
        assert_eq!(form.file.concat(), b"x\r\n--no\r\ny");
    }

    #[test]
    fn multipart_file_must_be_last() {
        let body = part("file", "x") + &part("filename", "a.txt") + "--b--\r\n";
        assert!(Form::parse("b", &body.into()).is_err());
        for broken in ["", "--b", "--b\r\n\r\n", "--c--\r\n", "--b--"] {
            assert!(Form::parse("b", &broken.into()).is_err(), "{broken}");
        }
    }
}
