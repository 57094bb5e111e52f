//! A case: the bytes that a caller writes on a new connection, and the expected outcome.

use super::request::{Fields, Marked};

/// The expected outcome of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The caller gets an error, and the target sees nothing.
    Refused,
    /// The caller gets an error. A target that saw the beginning sees that the request is incomplete.
    BrokenOff,
    /// The caller gets an error. A request that was complete before may have reached the target.
    Told,
    /// Nothing invalid reaches the target: it is rejected or dropped.
    Harmless,
}

/// The bytes that are written, and where their outcome shows.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The target's record is searched for it.
    pub(crate) number: usize,
    /// The stream whose answer counts.
    pub(crate) stream: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) expected: Expected,
}

/// Cases, numbered as they are added.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    key: &'a str,
    pub(crate) cases: Vec<Case>,
}

impl<'a> Table<'a> {
    /// None yet. `key` is the value of `authorization`.
    pub(crate) fn new(key: &'a str) -> Self {
        let cases = Vec::new();
        Self { key, cases }
    }

    /// A case whose request is on stream 1.
    pub(crate) fn add(
        &mut self,
        name: &str,
        expected: Expected,
        bytes: impl FnOnce(Marked<'_>) -> Vec<u8>,
    ) {
        self.add_on(1, name, expected, bytes);
    }

    /// A case whose request is on this stream.
    pub(crate) fn add_on(
        &mut self,
        stream: u32,
        name: &str,
        expected: Expected,
        bytes: impl FnOnce(Marked<'_>) -> Vec<u8>,
    ) {
        let number = self.cases.len() + 1;
        let own = Marked {
            key: self.key,
            case: number,
        };
        self.cases.push(Case {
            name: name.to_owned(),
            number,
            stream,
            bytes: bytes(own),
            expected,
        });
    }

    /// A request without a body whose header section is refused.
    pub(crate) fn refuse(&mut self, name: &str, fields: impl FnOnce(Fields, &str) -> Fields) {
        self.add(name, Expected::Refused, |own| {
            fields(own.get(), &own.path()).whole(1)
        });
    }
}
