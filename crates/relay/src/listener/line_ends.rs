//! Lines that end in LF alone, which some readers take for lines and others do not: a way to hide a
//! request in another (RFC 9112, 2.2 and 11.2).
//!
//! The HTTP library takes them. So what comes in is followed from head to head, and an LF that no CR
//! precedes is made a NUL, which no head may hold: the library refuses it with 400 and closes the
//! connection. Bodies are not touched, and neither is what follows when a connection turns raw.

use super::connection::Connection;
use super::watched::{Watch, Watched};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Of a line, what is kept to look at: a name, and a value of which only a number or a word matters.
const LINE_KEPT_BYTES: usize = 128;

/// A connection that is read by lines, where it has lines.
pub(crate) type ByLines<IO> = Watched<IO, LineEnds>;

/// Follows the lines of a connection until it turns raw.
#[derive(Debug)]
pub(crate) struct LineEnds {
    connection: Arc<Connection>,
    lines: Lines,
}

impl LineEnds {
    /// From its first byte on.
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            lines: Lines::default(),
        }
    }
}

impl Watch for LineEnds {
    fn see(
        &mut self,
        _: &mut Context<'_>,
        result: Poll<io::Result<()>>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<()>> {
        if !self.connection.is_raw() {
            self.lines.see(bytes);
        }
        result
    }

    /// A raw stream may stand still for as long as its own limit says.
    fn may_stand_still(&self) -> bool {
        self.connection.is_raw()
    }
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A line of a head; whether it is the first.
    Line { is_first: bool },
    /// So many bytes of a body.
    Body(u64),
    /// A line with a chunk's size.
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    /// A line behind the last chunk.
    Trailer,
    /// Nothing that has lines, or nothing that will be understood.
    Anything,
}

/// What a head said of what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    Nothing,
    Length(u64),
    Chunks,
    Raw,
}

/// Follows the bytes of a connection.
#[derive(Debug)]
struct Lines {
    next: Next,
    follows: Follows,
    /// The beginning of the line.
    line: [u8; LINE_KEPT_BYTES],
    /// All of its length so far.
    length: usize,
    /// Whether its last byte was a CR.
    has_cr: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            next: Next::Line { is_first: true },
            follows: Follows::Nothing,
            line: [0; LINE_KEPT_BYTES],
            length: 0,
            has_cr: false,
        }
    }
}

impl Lines {
    /// Looks at what came, and spoils it where a line ends in LF alone.
    fn see(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = match &mut self.next {
                Next::Anything => return,
                Next::Body(left) | Next::Chunk(left) => {
                    let taken = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.next = match self.next {
                            Next::Chunk(_) => Next::ChunkEnd,
                            _ => Next::Line { is_first: true },
                        };
                    }
                    taken
                }
                _ => self.part_of_line(bytes),
            };
            bytes = &mut bytes[taken..];
        }
    }

    /// Takes bytes up to the line's end, if it is there.
    fn part_of_line(&mut self, bytes: &mut [u8]) -> usize {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let room = &mut self.line[self.length.min(LINE_KEPT_BYTES)..];
        let kept = part.len().min(room.len());
        room[..kept].copy_from_slice(&part[..kept]);
        self.length += part.len();
        if let Some(last) = part.last() {
            self.has_cr = *last == b'\r';
        }
        let Some(end) = end else { return bytes.len() };
        let is_fine = self.has_cr && self.whole_line();
        if !is_fine {
            bytes[end] = 0;
            self.next = Next::Anything;
        }
        (self.length, self.has_cr) = (0, false);
        end + 1
    }

    /// A line that ended in CR LF; whether what it says can be followed.
    fn whole_line(&mut self) -> bool {
        let length = self.length - 1;
        let line = &self.line[..length.min(LINE_KEPT_BYTES)];
        match self.next {
            // Empty lines before a request are none of it.
            Next::Line { is_first: true } if length == 0 => {}
            Next::Line { is_first: true } => {
                self.follows = match line.starts_with(b"CONNECT ") {
                    true => Follows::Raw,
                    false => Follows::Nothing,
                };
                self.next = Next::Line { is_first: false };
            }
            Next::Line { is_first: false } if length == 0 => {
                self.next = match self.follows {
                    Follows::Nothing | Follows::Length(0) => Next::Line { is_first: true },
                    Follows::Length(bytes) => Next::Body(bytes),
                    Follows::Chunks => Next::ChunkSize,
                    Follows::Raw => Next::Anything,
                };
            }
            Next::Line { is_first: false } => match framing(line) {
                Some(Follows::Length(_)) if length > LINE_KEPT_BYTES => return false,
                Some(framing) if self.follows != Follows::Raw => self.follows = framing,
                _ if is_length(line) => return false,
                _ => {}
            },
            Next::ChunkSize => match chunk_size(line) {
                Some(0) => self.next = Next::Trailer,
                Some(bytes) => self.next = Next::Chunk(bytes),
                None => return false,
            },
            Next::ChunkEnd => self.next = Next::ChunkSize,
            Next::Trailer if length == 0 => self.next = Next::Line { is_first: true },
            Next::Trailer | Next::Body(_) | Next::Chunk(_) | Next::Anything => {}
        }
        true
    }
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

/// What a field says of the body. A coding that is not chunks is refused by the library.
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
mod tests {
    use super::*;

    /// What the library gets, however the bytes are cut.
    fn seen(text: &[u8]) -> Vec<u8> {
        let mut whole = text.to_vec();
        Lines::default().see(&mut whole);
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut bytes = text.to_vec();
            let (first, second) = bytes.split_at_mut(cut);
            lines.see(first);
            lines.see(second);
            assert_eq!(bytes, whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn what_is_well_formed_is_not_touched() {
        for text in [
            "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nCONTENT-length:  6 \r\n\r\na\nb\n\n\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;x=\"y\"\r\n\n\n\n\n\r\n\
             0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n\x16\x03\n\n\n",
        ] {
            assert_eq!(seen(text.as_bytes()), text.as_bytes(), "{text}");
        }
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(9000));
        assert_eq!(seen(&long.as_bytes()[..600]), &long.as_bytes()[..600]);
        let mut whole = long.clone().into_bytes();
        Lines::default().see(&mut whole);
        assert_eq!(whole, long.as_bytes());
    }

    #[test]
    fn a_line_that_ends_in_lf_alone_is_spoiled() {
        for text in [
            "GET / HTTP/1.1\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n\n",
            "\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na\nbGET / HTTP/1.1\nX: y\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: y\n\r\n",
        ] {
            let seen = seen(text.as_bytes());
            let spoiled = seen.iter().filter(|byte| **byte == 0).count();
            assert_eq!(spoiled, 1, "{text}");
            assert_eq!(seen.len(), text.len());
        }
    }

    #[test]
    fn a_length_that_cannot_be_followed_is_spoiled_before_its_head_ends() {
        let padded = format!("Content-Length: {}5", " ".repeat(200));
        for field in ["Content-Length: +1", "Content-Length: 1, 1", &*padded] {
            let text = format!("POST / HTTP/1.1\r\n{field}\r\n\r\nx\n");
            assert!(seen(text.as_bytes()).contains(&0), "{field}");
        }
    }
}
