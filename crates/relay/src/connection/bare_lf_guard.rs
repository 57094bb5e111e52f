//! Rejects lines that end in LF without CR, and cuts heads that are too long, on HTTP/1.1 connections.
//!
//! Some parsers accept a bare LF as a line end and others do not, which allows request smuggling (RFC 9112, 2.2 and
//! 11.2). hyper accepts it and has no option to reject it. So the input is followed from head to head, and a bare LF
//! is replaced by a NUL, which no head may have: hyper responds with 400 and closes the connection. Bodies and the
//! bytes of raw connections are not changed.
//!
//! hyper also rejects characters in a request's target that many clients do not encode, such as `>`, and does not tell
//! `OPTIONS http://host` from `OPTIONS http://host/`. So the first are percent-encoded here, as the policy and the target
//! see them ([`policy::Target`]), and the second gets [`ASTERISK_PATH`]. A fragment, which hyper removes from a target,
//! gets a [`FRAGMENT_MARK`], so that its request can be rejected.
//!
//! A head that is longer than any that can pass is cut: the rest is removed, so that it takes no memory and its
//! request can still be rejected with a problem document. Nothing is read after it.

use super::Connection;
use super::inspected_io::{Edit, InspectedIo, StreamInspector};
use super::{SOCKET_BYTES, TLS_BYTES};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Bytes of a line that are kept for inspection: a field name, and a value of which only a number or a token
/// matters.
const LINE_KEPT_BYTES: usize = 128;

/// Bytes of a head that are not charged: hyper's buffer has this size from the start.
const HEAD_FREE_BYTES: usize = 8 * 1024;

/// Bytes of a head that are passed on: more than any head that can pass (a head on the wire has 128 KiB).
const HEAD_KEPT_BYTES: usize = 136 * 1024;

/// The path that an OPTIONS request for a URL without a path gets. No request can have it: a policy allows no
/// backslash in a path.
pub(crate) const ASTERISK_PATH: &str = "/\\*";

/// What precedes the `#` of a fragment in a request's target. `http` removes the fragment, so a request whose path and
/// query end with this had one. A noncharacter of Unicode, so that no client sends it.
pub(crate) const FRAGMENT_MARK: &str = "\u{fdd0}";

/// The same for a URL without a path, whose host could not have the mark.
const PATH_AND_FRAGMENT_MARK: &str = "/\u{fdd0}";

/// A connection whose lines are inspected.
pub(crate) type BareLfIo<IO> = InspectedIo<IO, BareLfGuard>;

/// Inspects the lines of a connection until it becomes raw.
#[derive(Debug)]
pub(crate) struct BareLfGuard {
    connection: Arc<Connection>,
    lines: Lines,
}

impl BareLfGuard {
    /// Returns a guard for a connection without input so far. A head with `fields_max` fields or more is cut.
    pub(crate) fn new(connection: Arc<Connection>, fields_max: usize) -> Self {
        Self {
            connection,
            lines: Lines::new(fields_max),
        }
    }

    /// Charges the connection for an incomplete head, which hyper keeps in a buffer that doubles.
    fn charge(&self) {
        let bytes = self.lines.head_bytes;
        if bytes > HEAD_FREE_BYTES && self.connection.is_pending() {
            let tls = match self.connection.exporter {
                Some(_) => TLS_BYTES,
                None => SOCKET_BYTES,
            };
            self.connection.charge(tls + bytes.next_power_of_two());
        }
    }
}

impl StreamInspector for BareLfGuard {
    fn keep(&mut self, bytes: &mut [u8]) -> usize {
        if self.connection.is_raw() {
            return bytes.len();
        }
        let kept = self.lines.inspect(bytes);
        if let Some(cut) = self.lines.cut() {
            self.connection.head_is_cut(cut);
        }
        self.charge();
        kept
    }

    fn take_edits(&mut self) -> Vec<Edit> {
        std::mem::take(&mut self.lines.edits)
    }

    fn inspect(
        &mut self,
        _: &mut Context<'_>,
        result: Poll<io::Result<()>>,
        _: &mut [u8],
    ) -> Poll<io::Result<()>> {
        result
    }

    fn is_end_of_response(&self) -> bool {
        self.connection.is_end_of_response()
    }

    /// A raw stream has its own idle limit (`limits.raw_idle_timeout`).
    fn is_write_unlimited(&self) -> bool {
        self.connection.is_raw()
    }
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A line of a head; whether it is the first.
    Line { is_first: bool },
    /// This many bytes of a body.
    Body(u64),
    /// A line with a chunk's size.
    ChunkSize,
    /// This many bytes of a chunk.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// A line after the last chunk.
    Trailer,
    /// The rest of a head that is cut, and whether its current line is empty so far.
    Rest { is_empty_line: bool },
    /// Bytes after a head that was cut, which are removed.
    Nothing,
    /// Bytes without lines, or bytes that hyper will reject.
    Anything,
}

/// Why a head was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It has too many bytes.
    Bytes,
    /// It has too many fields.
    Fields,
}

/// What follows a head, as the head states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    Nothing,
    Length(u64),
    Chunks,
    Raw,
}

/// The position in a request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestLine {
    Method,
    /// The target before its `?`, with its slashes so far.
    Path {
        slashes: u8,
    },
    Query,
    /// After the target, or a target that is no URL.
    Rest,
}

/// The position in the input of a connection.
#[derive(Debug)]
struct Lines {
    next: Next,
    follows: Follows,
    /// The beginning of the current line.
    line: [u8; LINE_KEPT_BYTES],
    /// Its length so far.
    length: usize,
    /// Whether its last byte was a CR.
    has_cr: bool,
    /// Bytes of an incomplete head so far, as hyper gets it: with its edits.
    head_bytes: usize,
    /// Fields of an incomplete head so far.
    fields: usize,
    /// Fields that are passed on.
    fields_max: usize,
    /// Bytes that must still be written in place of removed ones.
    owed: Vec<u8>,
    /// The position in the request line, if the current line is one.
    request_line: RequestLine,
    /// Edits of the request line, in the current part of the line.
    found: Vec<Edit>,
    /// The same, in the current input.
    edits: Vec<Edit>,
}

impl Lines {
    fn new(fields_max: usize) -> Self {
        Self {
            next: Next::Line { is_first: true },
            follows: Follows::Nothing,
            line: [0; LINE_KEPT_BYTES],
            length: 0,
            has_cr: false,
            head_bytes: 0,
            fields: 0,
            fields_max,
            owed: Vec::new(),
            request_line: RequestLine::Method,
            found: Vec::new(),
            edits: Vec::new(),
        }
    }

    /// Returns why the head was cut, once its end was reached.
    fn cut(&self) -> Option<Cut> {
        let why = match self.fields >= self.fields_max {
            true => Cut::Fields,
            false => Cut::Bytes,
        };
        (self.next == Next::Nothing).then_some(why)
    }

    /// Returns whether the next line of the head is not passed on.
    fn must_cut(&self) -> bool {
        let is_full = self.head_bytes >= HEAD_KEPT_BYTES || self.fields >= self.fields_max;
        is_full && !self.has_cr
    }

    /// Inspects input in place, and replaces a bare LF. Returns how many bytes are left, at the beginning.
    fn inspect(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() {
            let must_cut = self.must_cut();
            let rest = &mut bytes[at..];
            let taken = match &mut self.next {
                Next::Anything => rest.len(),
                Next::Body(left) | Next::Chunk(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.next = match self.next {
                            Next::Chunk(_) => Next::ChunkEnd,
                            _ => Next::Line { is_first: true },
                        };
                    }
                    taken
                }
                Next::Rest { .. } | Next::Nothing => {
                    let taken = self.part_of_rest(rest);
                    let put = self.owed.len().min(taken);
                    for (place, byte) in bytes[kept..].iter_mut().zip(self.owed.drain(..put)) {
                        *place = byte;
                    }
                    kept += put;
                    at += taken;
                    continue;
                }
                Next::Line { .. } if must_cut => {
                    // The current line is completed, so that the cut head ends in order.
                    let is_empty_line = self.length == 0;
                    if !is_empty_line {
                        self.owed.extend_from_slice(b"\r\n");
                    }
                    self.next = Next::Rest { is_empty_line };
                    continue;
                }
                Next::Line { .. } => {
                    let most = HEAD_KEPT_BYTES.saturating_sub(self.head_bytes).max(1);
                    let most = most.min(rest.len());
                    self.part_of_line(&mut rest[..most])
                }
                Next::ChunkSize | Next::ChunkEnd | Next::Trailer => self.part_of_line(rest),
            };
            for edit in self.found.drain(..) {
                self.edits.push(match edit {
                    Edit::Encode(index) => Edit::Encode(kept + index),
                    Edit::Insert(index, text) => Edit::Insert(kept + index, text),
                });
            }
            if at != kept {
                bytes.copy_within(at..at + taken, kept);
            }
            kept += taken;
            at += taken;
        }
        kept
    }

    /// Searches the end of a head that is cut.
    fn part_of_rest(&mut self, bytes: &[u8]) -> usize {
        let Next::Rest { is_empty_line } = &mut self.next else {
            return bytes.len();
        };
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                // The empty line is passed on byte by byte: only as many bytes fit as were removed.
                b'\n' if *is_empty_line => {
                    self.owed.push(b'\n');
                    self.next = Next::Nothing;
                    return index + 1;
                }
                b'\n' => (*is_empty_line, self.has_cr) = (true, false),
                b'\r' if *is_empty_line && !self.has_cr => {
                    self.owed.push(b'\r');
                    self.has_cr = true;
                }
                _ => *is_empty_line = false,
            }
        }
        bytes.len()
    }

    /// Takes bytes up to the end of the line, if it has arrived.
    fn part_of_line(&mut self, bytes: &mut [u8]) -> usize {
        let end = memchr::memchr(b'\n', bytes);
        let taken = end.map_or(bytes.len(), |end| end + 1);
        self.head_bytes = match self.next {
            Next::Line { .. } => self.head_bytes.saturating_add(taken),
            _ => 0,
        };
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let room = &mut self.line[self.length.min(LINE_KEPT_BYTES)..];
        let kept = part.len().min(room.len());
        room[..kept].copy_from_slice(&part[..kept]);
        if self.next == (Next::Line { is_first: true }) {
            self.scan_request_line(bytes, end.unwrap_or(bytes.len()));
        }
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let growth = self.found.iter().map(Edit::growth);
        self.head_bytes = self.head_bytes.saturating_add(growth.sum());
        self.length += part.len();
        if let Some(last) = part.last() {
            self.has_cr = *last == b'\r';
        }
        let Some(end) = end else { return bytes.len() };
        let is_valid = self.has_cr && self.complete_line();
        if !is_valid {
            reject(&mut bytes[end]);
            self.next = Next::Anything;
        }
        (self.length, self.has_cr) = (0, false);
        end + 1
    }

    /// Notes what must be edited in a part of a request line.
    fn scan_request_line(&mut self, bytes: &[u8], end: usize) {
        use RequestLine::{Method, Path, Query, Rest};
        for (index, byte) in bytes[..end].iter().enumerate() {
            self.request_line = match (self.request_line, byte) {
                (Rest, _) => return,
                (Method, b' ') if self.line.starts_with(b"CONNECT ") => Rest,
                (Method, b' ') => Path { slashes: 0 },
                (Path { slashes }, b'/') => Path {
                    slashes: slashes.saturating_add(1),
                },
                (Path { .. }, b'?') => Query,
                (Path { slashes }, b'#') => {
                    let mark = match slashes == 2 && self.is_url() {
                        true => PATH_AND_FRAGMENT_MARK,
                        false => FRAGMENT_MARK,
                    };
                    self.found.push(Edit::Insert(index, mark.as_bytes()));
                    Rest
                }
                (Query, b'#') => {
                    let mark = FRAGMENT_MARK.as_bytes();
                    self.found.push(Edit::Insert(index, mark));
                    Rest
                }
                (Path { slashes }, b' ') => {
                    // `OPTIONS http://host `: two slashes, and the target does not begin with one.
                    if slashes == 2 && self.line.starts_with(b"OPTIONS ") && self.is_url() {
                        self.found
                            .push(Edit::Insert(index, ASTERISK_PATH.as_bytes()));
                    }
                    Rest
                }
                (Query, b' ') => Rest,
                (Path { .. }, b'<' | b'>' | b'`') | (Query, b'<' | b'>' | b'"') => {
                    self.found.push(Edit::Encode(index));
                    continue;
                }
                (same @ (Method | Path { .. } | Query), _) => same,
            };
        }
    }

    /// Returns whether the target of a request line is a URL: it begins with a scheme, not with a slash.
    fn is_url(&self) -> bool {
        let target = self.line.split(|byte| *byte == b' ').nth(1);
        target.is_some_and(|target| target.first().is_some_and(u8::is_ascii_alphabetic))
    }

    /// Follows a line that ended in CR LF. Returns false for one after which the position in the input is unknown.
    fn complete_line(&mut self) -> bool {
        let length = self.length - 1;
        let line = &self.line[..length.min(LINE_KEPT_BYTES)];
        match self.next {
            // Empty lines before a request line are allowed (RFC 9112, 2.2).
            Next::Line { is_first: true } if length == 0 => {}
            Next::Line { is_first: true } => {
                // After CONNECT the bytes may be raw, whatever its other fields state.
                self.follows = match line.starts_with(b"CONNECT ") {
                    true => Follows::Raw,
                    false => Follows::Nothing,
                };
                self.next = Next::Line { is_first: false };
                self.request_line = RequestLine::Method;
            }
            Next::Line { is_first: false } if length == 0 => {
                (self.head_bytes, self.fields) = (0, 0);
                self.next = match self.follows {
                    Follows::Nothing | Follows::Length(0) => Next::Line { is_first: true },
                    Follows::Length(bytes) => Next::Body(bytes),
                    Follows::Chunks => Next::ChunkSize,
                    Follows::Raw => Next::Anything,
                };
            }
            Next::Line { is_first: false } => {
                self.fields += 1;
                return self.complete_field(length);
            }
            Next::ChunkSize => match chunk_size(line) {
                Some(0) => self.next = Next::Trailer,
                Some(bytes) => self.next = Next::Chunk(bytes),
                None => return false,
            },
            Next::ChunkEnd => self.next = Next::ChunkSize,
            Next::Trailer if length == 0 => self.next = Next::Line { is_first: true },
            Next::Trailer
            | Next::Body(_)
            | Next::Chunk(_)
            | Next::Rest { .. }
            | Next::Nothing
            | Next::Anything => {}
        }
        true
    }

    /// Follows a field of a head. Returns false for one after which the position in the input is unknown.
    fn complete_field(&mut self, length: usize) -> bool {
        match framing(&self.line[..length.min(LINE_KEPT_BYTES)]) {
            // Longer than what is kept: the number may continue.
            Some(Follows::Length(_)) if length > LINE_KEPT_BYTES => return false,
            // Chunks override a length, in either order (RFC 9112, 6.3). hyper reads it the same way, and closes
            // the connection after the response.
            Some(Follows::Length(_)) if self.follows == Follows::Chunks => {}
            Some(framing) if self.follows != Follows::Raw => self.follows = framing,
            // A length that is no plain number. Parsers differ in how they read `+1` or `1, 1`.
            _ if is_length(&self.line[..length.min(LINE_KEPT_BYTES)]) => return false,
            _ => {}
        }
        true
    }
}

/// Makes hyper reject the request: no head may have a NUL.
fn reject(byte: &mut u8) {
    *byte = 0;
}

fn named<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (own, value) = line.split_at_checked(name.len())?;
    let value = value.strip_prefix(b":")?;
    own.eq_ignore_ascii_case(name.as_bytes())
        .then(|| value.trim_ascii())
}

fn is_length(line: &[u8]) -> bool {
    named(line, "content-length").is_some()
}

/// Returns what a field states about the body. hyper rejects a transfer coding after chunked, and `service` one before
/// it.
fn framing(line: &[u8]) -> Option<Follows> {
    if named(line, "transfer-encoding").is_some() {
        return Some(Follows::Chunks);
    }
    let digits = named(line, "content-length")?;
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok()?.parse().ok();
    number.filter(|_| is_number).map(Follows::Length)
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| *byte == b';');
    let digits = line[..end.unwrap_or(line.len())].trim_ascii_end();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let number = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    number.filter(|_| is_number)
}

#[cfg(test)]
mod tests;
