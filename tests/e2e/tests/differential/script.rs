//! Responses as a target sends them: steps as bytes of HTTP/1.1, and the helpers that write such bytes.

use http::StatusCode;
use support::h2_target::{self, Head};
use support::recorder::{Field, Step};

/// The same steps by HTTP/1.1. A body without a length is chunked.
///
/// A reset has no reason here, and an end after a known length is nothing to send.
pub(crate) fn http1(steps: &[h2_target::Step]) -> Vec<Step> {
    let mut is_chunked = false;
    let mut raw = Vec::new();
    for step in steps {
        match step {
            h2_target::Step::ReadBody => raw.push(Step::ReadBody),
            h2_target::Step::Inform(head) | h2_target::Step::Bodiless(head) => {
                raw.push(Step::Send(head_of(head, None)));
            }
            h2_target::Step::Head(head) => {
                is_chunked = !head.fields.iter().any(|(name, _)| name == "content-length");
                let framing = is_chunked.then_some("transfer-encoding: chunked");
                raw.push(Step::Send(head_of(head, framing)));
            }
            h2_target::Step::Send(bytes) if is_chunked && bytes.is_empty() => {}
            h2_target::Step::Send(bytes) if is_chunked => {
                raw.push(Step::Send(open_chunks([bytes]).concat()));
            }
            h2_target::Step::Send(bytes) => raw.push(Step::Send(bytes.clone())),
            h2_target::Step::End if is_chunked => raw.push(Step::Send(last_chunk(&[]))),
            h2_target::Step::End | h2_target::Step::GoAway => {}
            h2_target::Step::Trailers(fields) => raw.push(Step::Send(last_chunk(fields))),
            h2_target::Step::Pause(time) => raw.push(Step::Pause(*time)),
            h2_target::Step::Reset(_) => raw.push(Step::Reset),
            h2_target::Step::Close => raw.push(Step::Close),
        }
    }
    raw
}

fn head_of(head: &Head, framing: Option<&str>) -> Vec<u8> {
    let status = StatusCode::from_u16(head.status).ok();
    let reason = status.and_then(|status| status.canonical_reason());
    let line = format!("HTTP/1.1 {} {}\r\n", head.status, reason.unwrap_or("Own"));
    let mut bytes = line.into_bytes();
    bytes.extend(head.fields.iter().flat_map(line_of));
    if let Some(framing) = framing {
        bytes.extend_from_slice(framing.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn line_of((name, value): &Field) -> Vec<u8> {
    [name.as_bytes(), b": ", value, b"\r\n"].concat()
}

/// The head of a response: the status line after the version, then a field a line.
pub(crate) fn head(lines: impl AsRef<[u8]>) -> Vec<u8> {
    let mut head = b"HTTP/1.1 ".to_vec();
    for byte in lines.as_ref() {
        match byte {
            b'\n' => head.extend_from_slice(b"\r\n"),
            byte => head.push(*byte),
        }
    }
    head.extend_from_slice(b"\r\n\r\n");
    head
}

/// A response with its length.
pub(crate) fn whole(lines: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    let (lines, body) = (lines.as_ref(), body.as_ref());
    let length = format!("\nContent-Length: {}", body.len());
    let mut response = head([lines, length.as_bytes()].concat());
    response.extend_from_slice(body);
    response
}

/// A response in chunks.
pub(crate) fn in_chunks(lines: &str, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut response = head(format!("{lines}\nTransfer-Encoding: chunked"));
    response.extend(chunks.concat());
    response
}

/// A chunk of each piece, and the last chunk with its empty line.
pub(crate) fn chunks<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> Vec<Vec<u8>> {
    let mut chunks = open_chunks(pieces);
    chunks.push(last_chunk(&[]));
    chunks
}

/// A chunk of each piece, and no last one.
pub(crate) fn open_chunks<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> Vec<Vec<u8>> {
    let chunk = |piece: P| {
        let piece = piece.as_ref();
        let size = format!("{:x}\r\n", piece.len());
        [size.as_bytes(), piece, b"\r\n"].concat()
    };
    pieces.into_iter().map(chunk).collect()
}

/// The last chunk, with these trailers.
pub(crate) fn last_chunk(trailers: &[Field]) -> Vec<u8> {
    let trailers: Vec<u8> = trailers.iter().flat_map(line_of).collect();
    [&b"0\r\n"[..], &trailers, b"\r\n"].concat()
}

/// The same bytes, cut into pieces of 1, 2, 3, 5, 8 and so on.
pub(crate) fn odd_pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let (mut size, mut next) = (1, 2);
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(bytes.len().min(size));
        pieces.push(piece);
        bytes = rest;
        (size, next) = (next, size + next);
    }
    pieces
}
