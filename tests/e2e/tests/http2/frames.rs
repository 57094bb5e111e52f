//! HTTP/2 frames as bytes, right or wrong (RFC 9113, 4 and 6), and the status in a response's header
//! block (RFC 7541).
//!
//! ```text
//! length (3) | type (1) | flags (1) | stream (4) | payload
//! ```
//!
//! Nothing is checked here: a test may write what no library would. Header blocks of requests are
//! made in `request`, connections are in `caller`.

use bytes::BytesMut;

/// What a client begins with (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest payload that everybody takes.
pub(crate) const FRAME_BYTES: usize = 16 * 1024;
/// What stands before the payload.
const FRAME_HEAD_BYTES: usize = 9;

/// Types of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames. Their meaning depends on the frame type.
pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Names of settings.
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
}

/// Codes of errors.
pub(crate) mod code {
    pub(crate) const REFUSED_STREAM: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
}

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: BytesMut,
}

/// Takes the next frame away, if all of it is there.
pub(crate) fn take(got: &mut BytesMut) -> Option<Frame> {
    let [high, middle, low, kind, flags, ..] = **got else {
        return None;
    };
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    let stream = number(got, 5)?;
    if got.len() < FRAME_HEAD_BYTES + length {
        return None;
    }
    let mut whole = got.split_to(FRAME_HEAD_BYTES + length);
    Some(Frame {
        kind,
        flags,
        stream,
        payload: whole.split_off(FRAME_HEAD_BYTES),
    })
}

/// The 32 bits at this place.
pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// Any frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a test's payload is small");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block in as many frames as it takes. `flags` are those of the first.
pub(crate) fn headers(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    let (first, mut rest) = block.split_at(block.len().min(FRAME_BYTES));
    let end = |rest: &[u8]| match rest.is_empty() {
        true => flag::END_HEADERS,
        false => 0,
    };
    let mut bytes = frame(kind::HEADERS, flags | end(rest), stream, first);
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.len().min(FRAME_BYTES));
        bytes.extend(frame(kind::CONTINUATION, end(more), stream, piece));
        rest = more;
    }
    bytes
}

/// A piece of a body in as many frames as it takes, and whether it is the last.
pub(crate) fn data(stream: u32, piece: &[u8], is_last: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = piece;
    loop {
        let (piece, more) = left.split_at(left.len().min(FRAME_BYTES));
        let flags = match is_last && more.is_empty() {
            true => flag::END_STREAM,
            false => 0,
        };
        bytes.extend(frame(kind::DATA, flags, stream, piece));
        left = more;
        if left.is_empty() {
            return bytes;
        }
    }
}

/// SETTINGS with these.
pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// The value of one setting in SETTINGS.
pub(crate) fn setting_in(payload: &[u8], name: u16) -> Option<u32> {
    let mut settings = payload.chunks_exact(6);
    let named = settings.rfind(|setting| setting.starts_with(&name.to_be_bytes()));
    number(named?, 2)
}

/// RST_STREAM.
pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// WINDOW_UPDATE.
pub(crate) fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// PING.
pub(crate) fn ping() -> Vec<u8> {
    frame(kind::PING, 0, 0, b"12345678")
}

/// PRIORITY of a stream, as depending on another.
pub(crate) fn priority(stream: u32, on: u32) -> Vec<u8> {
    frame(kind::PRIORITY, 0, stream, &dependency(on))
}

/// What stands in PRIORITY, and in HEADERS with that flag.
pub(crate) fn dependency(on: u32) -> Vec<u8> {
    let mut payload = on.to_be_bytes().to_vec();
    payload.push(15);
    payload
}

/// The statuses of HPACK's static table, from its index 8 on.
const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
const STATUS_FIRST: u8 = 8;
const STATUS_LAST: u8 = 14;

/// The status of a response: the first field of its block, which refers to the static table alone,
/// for we allow no dynamic one. `None` for trailers.
pub(crate) fn status(block: &[u8]) -> Option<u16> {
    let block = without_size_updates(block);
    let (&first, rest) = block.split_first()?;
    let index = match first {
        0x80.. => {
            let index = (first & 0x7f).checked_sub(STATUS_FIRST)?;
            return STATUSES.get(usize::from(index)).copied();
        }
        0x40.. => first & 0x3f,
        _ => first & 0x0f,
    };
    if !(STATUS_FIRST..=STATUS_LAST).contains(&index) {
        return None;
    }
    let (length, text) = rest.split_first()?;
    let text = text.get(..usize::from(length & 0x7f))?;
    let digits = match length & 0x80 {
        0 => String::from_utf8(text.to_vec()).ok()?,
        _ => digits(text)?,
    };
    digits.parse().ok()
}

/// A block without what it begins with about the dynamic table.
fn without_size_updates(mut block: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = block
        && first & 0xe0 == 0x20
    {
        let more = match first & 0x1f {
            0x1f => rest.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1,
            _ => 0,
        };
        block = rest.get(more..).unwrap_or_default();
    }
    block
}

/// Digits in Huffman's code (RFC 7541, appendix B): those up to 2 have five bits, the others six.
fn digits(text: &[u8]) -> Option<String> {
    const SHORT_BITS: u32 = 5;
    const LONG_BITS: u32 = 6;
    /// The code of 3.
    const LONG_FIRST: u32 = 0b01_1001;
    let mut digits = String::new();
    let (mut code, mut bits) = (0, 0);
    for byte in text {
        for place in (0..8).rev() {
            code = (code << 1) | u32::from((byte >> place) & 1);
            bits += 1;
            let digit = match (bits, code) {
                (SHORT_BITS, 0..=2) => code,
                (LONG_BITS, LONG_FIRST..=31) => code - LONG_FIRST + 3,
                // Ones to the end of the last byte.
                (LONG_BITS, 63) => return Some(digits),
                (LONG_BITS.., _) => return None,
                _ => continue,
            };
            digits.push(char::from_digit(digit, 10)?);
            (code, bits) = (0, 0);
        }
    }
    Some(digits)
}

#[test]
fn status_is_decoded_in_every_hpack_form() {
    let written: [(&[u8], Option<u16>); 7] = [
        (&[0x88], Some(200)),
        (&[0x20, 0x8c], Some(400)),
        (&[0x3f, 0xe1, 0x1f, 0x8e, 0x00], Some(500)),
        (&[0x48, 0x03, b'4', b'3', b'1'], Some(431)),
        // 431: 011010 011001 00001, and ones to the end.
        (&[0x08, 0x83, 0x69, 0x90, 0xff], Some(431)),
        (&[0x00, 0x01, b'x', 0x00], None),
        (&[], None),
    ];
    for (block, expected) in written {
        assert_eq!(status(block), expected, "{block:02x?}");
    }
}
