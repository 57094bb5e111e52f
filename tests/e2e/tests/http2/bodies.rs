//! Bodies that differ from what their heads announce, and invalid trailers (RFC 9113, 8.1).
//!
//! A body of at most 16 KiB goes on when all of it is there; a larger one goes on as it comes, so
//! that its target may see a part.

use super::case::{Expected, Table};
use super::frames::{self, flag};
use super::request::literal;

pub(crate) fn add(table: &mut Table<'_>) {
    lengths(table);
    trailers(table);
}

fn lengths(table: &mut Table<'_>) {
    for (what, length, bytes) in [
        ("less than its length", "10", 5),
        ("more than its length", "5", 10),
        ("something where its length is nothing", "0", 1),
        ("nothing where its length is something", "1", 0),
        ("a length in words", "abc", 5),
        ("a length with a plus", "+5", 5),
        ("a length with a minus", "-5", 5),
        ("a length in hex", "0x5", 5),
        ("a length beyond all", "99999999999999999999999", 5),
        ("lengths in a list", "5, 5", 5),
    ] {
        table.add(what, Expected::Refused, |own| {
            let head = own.post().with("content-length", length).begun(1);
            [head, frames::data(1, &vec![b'a'; bytes], true)].concat()
        });
    }
    table.add("two lengths", Expected::Refused, |own| {
        let head = own.post().with("content-length", "5");
        let head = head.with("content-length", "6").begun(1);
        [head, frames::data(1, b"aaaaa", true)].concat()
    });
    table.add("the same length twice", Expected::Harmless, |own| {
        let head = own.post().with("content-length", "5");
        let head = head.with("content-length", "5").begun(1);
        [head, frames::data(1, b"aaaaa", true)].concat()
    });
    table.add("a length without a body", Expected::Refused, |own| {
        own.post().with("content-length", "5").whole(1)
    });
    table.add("an empty length and no body", Expected::Harmless, |own| {
        own.post().with("content-length", "").whole(1)
    });
    for (what, length, bytes) in [
        ("an empty length", "", 5),
        ("much less than its length", "40000", 30_000),
        ("much more than its length", "20000", 30_000),
    ] {
        table.add(what, Expected::BrokenOff, |own| {
            let head = own.post().with("content-length", length).begun(1);
            [head, frames::data(1, &vec![b'a'; bytes], true)].concat()
        });
    }
}

fn trailers(table: &mut Table<'_>) {
    // The HTTP library leaves them out.
    for (name, value) in [(":path", "/elsewhere"), (":method", "DELETE")] {
        let what = format!("{name} in trailers");
        table.add(&what, Expected::Harmless, |own| {
            let head = own.post().begun(1);
            with_trailers(head, name, value, flag::END_STREAM)
        });
    }
    for (what, name, value) in [
        ("an unknown pseudo-header field in trailers", ":x", "1"),
        ("connection in trailers", "connection", "close"),
        ("an LF in a trailer", "x-trailer", "a\nb"),
        ("an upper-case trailer", "X-Trailer", "1"),
    ] {
        table.add(what, Expected::BrokenOff, |own| {
            let head = own.post().begun(1);
            with_trailers(head, name, value, flag::END_STREAM)
        });
    }
    table.add(
        "trailers that are not the end",
        Expected::BrokenOff,
        |own| with_trailers(own.post().begun(1), "x-trailer", "1", 0),
    );
}

/// A head, a body, and a trailer section of one field.
fn with_trailers(head: Vec<u8>, name: &str, value: &str, flags: u8) -> Vec<u8> {
    let mut block = Vec::new();
    literal(&mut block, name.as_bytes(), value.as_bytes());
    let trailers = frames::headers(flags, 1, &block);
    [head, frames::data(1, b"body", false), trailers].concat()
}
