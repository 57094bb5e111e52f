//! A request's header section: names and values with any byte in them, in any order.
//!
//! Each field is a literal that no table remembers, with a name of its own and without Huffman's code
//! (RFC 7541, 6.2.2): `00 | length | name | length | value`.

use super::frames::{self, flag};

/// Fields in their order, the pseudo-header fields among them.
#[derive(Debug, Clone)]
pub(crate) struct Fields(Vec<(String, String)>);

/// Builds requests that carry the number of their case, by which the target records them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marked<'a> {
    /// As the value of `authorization`.
    pub(crate) key: &'a str,
    pub(crate) case: usize,
}

impl Marked<'_> {
    /// A path that belongs to the case alone.
    pub(crate) fn path(self) -> String {
        format!("/v1/endpoints/rec/case-{}", self.case)
    }

    /// A request without a body.
    pub(crate) fn get(self) -> Fields {
        self.of("GET", &self.path())
    }

    /// A request with one.
    pub(crate) fn post(self) -> Fields {
        self.of("POST", &self.path())
    }

    /// A request to this path.
    pub(crate) fn of(self, method: &str, path: &str) -> Fields {
        let fields = Fields(Vec::new())
            .with(":method", method)
            .with(":scheme", "https")
            .with(":authority", "localhost")
            .with(":path", path);
        fields
            .with("authorization", self.key)
            .with(support::recorder::CASE, &self.case.to_string())
    }
}

impl Fields {
    /// Adds a field after the others.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a field before the others.
    pub(crate) fn first(mut self, name: &str, value: &str) -> Self {
        self.0.insert(0, (name.to_owned(), value.to_owned()));
        self
    }

    /// Without those of this name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(own, _)| own != name);
        self
    }

    /// With this value in place of the one that is there.
    pub(crate) fn instead(mut self, name: &str, value: &str) -> Self {
        for (own, old) in &mut self.0 {
            if *own == name {
                value.clone_into(old);
            }
        }
        self
    }

    /// The header block.
    pub(crate) fn block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in &self.0 {
            literal(&mut block, name.as_bytes(), value.as_bytes());
        }
        block
    }

    /// All of a request without a body.
    pub(crate) fn whole(&self, stream: u32) -> Vec<u8> {
        frames::headers(flag::END_STREAM, stream, &self.block())
    }

    /// The head of a request whose body is to come.
    pub(crate) fn begun(&self, stream: u32) -> Vec<u8> {
        frames::headers(0, stream, &self.block())
    }
}

/// Writes a field.
pub(crate) fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        length(block, text.len());
        block.extend(text);
    }
}

/// Writes the length of a string that is not in Huffman's code: a number with a prefix of seven
/// bits (RFC 7541, 5.1).
pub(crate) fn length(block: &mut Vec<u8>, bytes: usize) {
    const PREFIX: usize = 127;
    let byte = |number: usize| u8::try_from(number).expect("eight bits");
    if bytes < PREFIX {
        block.push(byte(bytes));
        return;
    }
    block.push(byte(PREFIX));
    let mut left = bytes - PREFIX;
    while left >= 128 {
        block.push(byte(left % 128 + 128));
        left /= 128;
    }
    block.push(byte(left));
}
