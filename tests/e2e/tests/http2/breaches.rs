//! Frames that HTTP/2 forbids, by their form or their place (RFC 9113, 4 to 6), and header blocks that
//! HPACK forbids (RFC 7541).
//!
//! Where a frame is wrong by itself, a request that is right follows it: it comes too late.

use super::case::{Expected, Table};
use super::frames::{self, FRAME_BYTES, code, flag, frame, kind, setting};
use super::request::{Fields, Marked};

/// What a window may have at most.
const WINDOW_MAX: u32 = (1 << 31) - 1;

pub(crate) fn add(table: &mut Table<'_>) {
    before_a_request(table);
    of_streams(table);
    of_bodies(table);
    of_blocks(table);
    hpack(table);
}

fn before_a_request(table: &mut Table<'_>) {
    let no_window = frames::window_update(0, 0);
    for (what, breach) in [
        ("a body before its head", frames::data(1, b"aaaaa", false)),
        ("a body on stream 0", frames::data(0, b"aaaaa", false)),
        ("a reset of nothing", frames::reset(1, code::CANCEL)),
        ("a reset of stream 0", frames::reset(0, code::CANCEL)),
        ("a short reset", frame(kind::RST_STREAM, 0, 1, &[0; 3])),
        ("a dependency on itself", frames::priority(1, 1)),
        ("a short priority", frame(kind::PRIORITY, 0, 1, &[0; 4])),
        ("a priority of stream 0", frames::priority(0, 1)),
        ("a window of nothing more", no_window),
        ("a window beyond all", frames::window_update(0, WINDOW_MAX)),
        ("a window of no stream", frames::window_update(1, 1)),
        ("a short window", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("short settings", frame(kind::SETTINGS, 0, 0, &[0; 5])),
        ("settings of a stream", frame(kind::SETTINGS, 0, 1, &[])),
        (
            "settings in an acknowledgement",
            frame(kind::SETTINGS, flag::ACK, 0, &[0, 4, 0, 0, 1, 0]),
        ),
        (
            "more than push or no push",
            frames::settings(&[(setting::ENABLE_PUSH, 2)]),
        ),
        (
            "a first window beyond all",
            frames::settings(&[(setting::INITIAL_WINDOW_SIZE, WINDOW_MAX + 1)]),
        ),
        (
            "frames that are too small",
            frames::settings(&[(setting::MAX_FRAME_SIZE, 100)]),
        ),
        ("a short ping", frame(kind::PING, 0, 0, &[0; 7])),
        ("a ping of a stream", frame(kind::PING, 0, 1, &[0; 8])),
        (
            "a continuation of nothing",
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]),
        ),
        (
            "a frame that is too large",
            frame(kind::PING, 0, 0, &[0; FRAME_BYTES + 1]),
        ),
    ] {
        table.add(what, Expected::Refused, |own| {
            [breach, own.get().whole(1)].concat()
        });
    }
    table.add("a promise of a caller", Expected::Refused, |own| {
        let block = own.get().block();
        let promise = [&[0u8, 0, 0, 2][..], &block[..]].concat();
        let promise = frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &promise);
        [promise, own.get().whole(3)].concat()
    });
}

fn of_streams(table: &mut Table<'_>) {
    table.add_on(0, "a request on stream 0", Expected::Refused, |own| {
        own.get().whole(0)
    });
    table.add_on(2, "a request on an even stream", Expected::Refused, |own| {
        own.get().whole(2)
    });
    table.add("a stream that was skipped", Expected::Refused, |own| {
        let other = own.of("GET", "/healthz").whole(3);
        [other, own.get().whole(1)].concat()
    });
}

fn of_bodies(table: &mut Table<'_>) {
    table.add("a body behind the end", Expected::Told, |own| {
        [own.get().whole(1), frames::data(1, b"aaaaa", true)].concat()
    });
    for (what, breach) in [
        (
            "a stream's window of nothing more",
            frames::window_update(1, 0),
        ),
        (
            "a stream's window beyond all",
            frames::window_update(1, WINDOW_MAX),
        ),
        (
            "a piece that is too large",
            frame(kind::DATA, 0, 1, &[b'a'; FRAME_BYTES + 1]),
        ),
        (
            "padding that is longer than its piece",
            frame(kind::DATA, flag::PADDED, 1, &[9, b'a']),
        ),
        (
            "padding without its length",
            frame(kind::DATA, flag::PADDED, 1, &[]),
        ),
    ] {
        table.add(what, Expected::BrokenOff, |own| {
            [own.post().begun(1), breach].concat()
        });
    }
}

fn of_blocks(table: &mut Table<'_>) {
    let all = flag::END_HEADERS | flag::END_STREAM;
    table.add(
        "a head that is too large for a frame",
        Expected::Refused,
        |own| {
            let long = "a".repeat(FRAME_BYTES);
            let block = own.get().with("x-long", &long).block();
            frame(kind::HEADERS, all, 1, &block)
        },
    );
    table.add(
        "padding that is longer than its head",
        Expected::Refused,
        |own| {
            let block = own.get().block();
            let padded = [&[255u8][..], &block[..block.len().min(100)]].concat();
            frame(kind::HEADERS, all | flag::PADDED, 1, &padded)
        },
    );
    table.add("a head that depends on itself", Expected::Refused, |own| {
        let payload = [frames::dependency(1), own.get().block()].concat();
        frame(kind::HEADERS, all | flag::PRIORITY, 1, &payload)
    });
    table.add(
        "a continuation without its beginning",
        Expected::Refused,
        |own| frame(kind::CONTINUATION, all, 1, &own.get().block()),
    );
    for (what, between) in [
        ("a ping between the parts of a head", frames::ping()),
        (
            "a body between the parts of a head",
            frames::data(1, b"aaaaa", false),
        ),
        (
            "an unknown frame between the parts of a head",
            frame(0xee, 0, 0, &[]),
        ),
        ("another head between the parts of a head", Vec::new()),
    ] {
        table.add(what, Expected::Refused, |own| {
            let between = match between.is_empty() {
                true => own.of("GET", "/healthz").whole(3),
                false => between,
            };
            let (first, rest) = halves(own, 1);
            [first, between, rest].concat()
        });
    }
    table.add(
        "a continuation of another stream",
        Expected::Refused,
        |own| {
            let (first, _) = halves(own, 1);
            let (_, rest) = halves(own, 3);
            [first, rest].concat()
        },
    );
}

/// A head in two frames.
fn halves(own: Marked<'_>, stream: u32) -> (Vec<u8>, Vec<u8>) {
    let block = own.get().block();
    let (first, rest) = block.split_at(block.len() / 2);
    let first = frame(kind::HEADERS, flag::END_STREAM, stream, first);
    let rest = frame(kind::CONTINUATION, flag::END_HEADERS, stream, rest);
    (first, rest)
}

fn hpack(table: &mut Table<'_>) {
    let before: [(&str, &[u8]); 6] = [
        ("the index 0", &[0x80]),
        ("an index that is in no table", &[0xff, 0x00]),
        (
            "a name's index that is in no table",
            &[0x7f, 0x00, 0x01, b'a'],
        ),
        (
            "a number beyond all",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ),
        // 65 536, where 4096 were allowed.
        ("a table that is too large", &[0x3f, 0xe1, 0xff, 0x03]),
        (
            "the end of Huffman's code in a value",
            &[0x00, 0x01, b'a', 0x84, 0xff, 0xff, 0xff, 0xff],
        ),
    ];
    for (what, garbage) in before {
        let block = |own: Fields| [garbage, &own.block()[..]].concat();
        refuse_block(table, what, block);
    }
    let behind: [(&str, &[u8]); 5] = [
        ("a number that breaks off", &[0xff]),
        ("a name that breaks off", &[0x00, 0x05, b'a']),
        ("a value that breaks off", &[0x00, 0x01, b'a', 0x05, b'a']),
        ("a field without its value", &[0x00, 0x01, b'a']),
        ("a table's size behind a field", &[0x20]),
    ];
    for (what, garbage) in behind {
        let block = |own: Fields| [&own.block()[..], garbage].concat();
        refuse_block(table, what, block);
    }
}

fn refuse_block(table: &mut Table<'_>, what: &str, block: impl FnOnce(Fields) -> Vec<u8>) {
    table.add(what, Expected::Refused, |own| {
        frames::headers(flag::END_STREAM, 1, &block(own.get()))
    });
}
