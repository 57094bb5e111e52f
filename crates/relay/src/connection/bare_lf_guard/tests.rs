//! What hyper gets of an input, however it is split.

use super::*;

/// Fields of a head that are passed on.
const FIELDS: usize = 100_000;

/// Returns what hyper gets. It must not depend on how the input is split.
fn seen(text: &[u8]) -> Vec<u8> {
    let whole = seen_in_pieces(text, text.len().max(1));
    for cut in 0..text.len() {
        let mut lines = Lines::new(FIELDS);
        let mut all = Vec::new();
        for piece in [&text[..cut], &text[cut..]] {
            let mut piece = piece.to_vec();
            let kept = lines.inspect(&mut piece);
            all.extend_from_slice(&piece[..kept]);
        }
        assert_eq!(all, whole, "cut at {cut}");
    }
    whole
}

fn seen_in_pieces(text: &[u8], size: usize) -> Vec<u8> {
    let mut lines = Lines::new(FIELDS);
    let mut all = Vec::new();
    for piece in text.chunks(size) {
        let mut piece = piece.to_vec();
        let kept = lines.inspect(&mut piece);
        all.extend_from_slice(&piece[..kept]);
    }
    all
}

#[test]
fn oversized_head_is_cut_and_ended() {
    let first = "GET / HTTP/1.1\r\nHost: x\r\n";
    let field = format!("X-A: {}\r\n", "a".repeat(1000));
    let heads = [
        format!("{first}{}\r\n", field.repeat(500)),
        format!("{first}X-B: {}\r\n\r\n", "b".repeat(1 << 20)),
        format!("{first}{}\r\n", "a:b\r\n".repeat(100_000)),
    ];
    for head in heads {
        let text = format!("{head}GET /hidden HTTP/1.1\r\n\r\n");
        for size in [1, 2, 3, 7, 1000, 8192, 64 * 1024, text.len()] {
            let seen = seen_in_pieces(text.as_bytes(), size);
            assert!(seen.len() <= HEAD_KEPT_BYTES + 5, "{size}: {}", seen.len());
            assert!(seen.starts_with(first.as_bytes()));
            assert!(seen.ends_with(b"\r\n\r\n"), "{size}");
            let ends = seen.windows(4).filter(|end| end == b"\r\n\r\n").count();
            assert_eq!(ends, 1, "{size}");
        }
    }
}

#[test]
fn head_with_too_many_fields_is_cut_and_ended() {
    let first = "GET / HTTP/1.1\r\n";
    for (fields, is_cut) in [(9, false), (10, true), (11, true), (500, true)] {
        let head = format!("{first}{}\r\n", "a:b\r\n".repeat(fields));
        let text = format!("{head}GET /hidden HTTP/1.1\r\n\r\n");
        for size in [1, 2, 3, 7, text.len()] {
            let mut lines = Lines::new(10);
            let mut seen = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                let mut piece = piece.to_vec();
                let kept = lines.inspect(&mut piece);
                seen.extend_from_slice(&piece[..kept]);
            }
            let passed_on = format!("{first}{}\r\n", "a:b\r\n".repeat(fields.min(10)));
            let expected = if is_cut { &passed_on } else { &text };
            assert_eq!(seen, expected.as_bytes(), "{fields} fields, {size}");
            assert_eq!(lines.cut(), is_cut.then_some(Cut::Fields), "{fields}");
        }
    }
}

#[test]
fn well_formed_input_is_unchanged() {
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
    let whole = seen_in_pieces(long.as_bytes(), long.len());
    assert_eq!(whole, long.as_bytes());
}

#[test]
fn bare_lf_is_rejected() {
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
        let rejected = seen.iter().filter(|byte| **byte == 0).count();
        assert_eq!(rejected, 1, "{text}");
        assert_eq!(seen.len(), text.len());
    }
}

/// Returns what hyper gets of a text that arrives in two pieces, with the edits.
fn edited(text: &str, cut: usize) -> String {
    let mut lines = Lines::new(FIELDS);
    let mut all = Vec::new();
    for piece in [&text[..cut], &text[cut..]] {
        let mut piece = piece.as_bytes().to_vec();
        let kept = lines.inspect(&mut piece);
        let edits = std::mem::take(&mut lines.edits);
        all.extend(Edit::apply(&edits, &piece[..kept]));
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn request_target_is_encoded_where_hyper_needs_it() {
    for (line, expected) in [
        (
            "GET /a?q={id[>10]} HTTP/1.1",
            "GET /a?q={id[%3E10]} HTTP/1.1",
        ),
        (
            "GET /<a>`?<\"`> HTTP/1.1",
            "GET /%3Ca%3E%60?%3C%22`%3E HTTP/1.1",
        ),
        (
            "GET http://h/\"?\" HTTP/1.0",
            "GET http://h/\"?%22 HTTP/1.0",
        ),
        ("OPTIONS http://h HTTP/1.1", "OPTIONS http://h/\\* HTTP/1.1"),
        (
            "OPTIONS http://h:80 HTTP/1.1",
            "OPTIONS http://h:80/\\* HTTP/1.1",
        ),
        ("OPTIONS http://h/ HTTP/1.1", "OPTIONS http://h/ HTTP/1.1"),
        ("OPTIONS http://h?a HTTP/1.1", "OPTIONS http://h?a HTTP/1.1"),
        ("OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1"),
        ("OPTIONS /a/ HTTP/1.1", "OPTIONS /a/ HTTP/1.1"),
        ("CONNECT h<:1 HTTP/1.1", "CONNECT h<:1 HTTP/1.1"),
        ("GET /a#b<#c HTTP/1.1", "GET /a\u{fdd0}#b<#c HTTP/1.1"),
        ("GET /a?b#c?<#d HTTP/1.1", "GET /a?b\u{fdd0}#c?<#d HTTP/1.1"),
        (
            "GET http://h#a/b HTTP/1.1",
            "GET http://h/\u{fdd0}#a/b HTTP/1.1",
        ),
        ("GET //h#a HTTP/1.1", "GET //h\u{fdd0}#a HTTP/1.1"),
        (
            "OPTIONS http://h/# HTTP/1.1",
            "OPTIONS http://h/\u{fdd0}# HTTP/1.1",
        ),
    ] {
        // Twice, with a field and a body that must stay as they are.
        let rest = "X: <`\">\r\nContent-Length: 8\r\n\r\n/ ?<>` \r";
        if let Some((before, _)) = expected.split_once('#') {
            let uri = before.split(' ').nth(1).unwrap();
            let uri: http::Uri = format!("{uri}#x").parse().unwrap();
            let target = uri.path_and_query().unwrap().as_str();
            assert!(target.ends_with(FRAGMENT_MARK), "{line}: {target}");
        }
        let rest = if line.starts_with("CONNECT") {
            "\r\n"
        } else {
            rest
        };
        let text = format!("{line}\r\n{rest}{line}\r\n{rest}");
        let expected = format!("{expected}\r\n{rest}{expected}\r\n{rest}");
        for cut in 0..text.len() {
            assert_eq!(edited(&text, cut), expected, "cut at {cut}");
        }
    }
}

#[test]
fn edits_count_as_bytes_of_the_head() {
    let text = format!("GET /{}", "<".repeat(10_000));
    for size in [1, 7, 1000, text.len()] {
        let mut lines = Lines::new(FIELDS);
        for piece in text.as_bytes().chunks(size) {
            lines.inspect(&mut piece.to_vec());
        }
        assert_eq!(lines.head_bytes, 5 + 3 * 10_000, "{size}");
    }
    let mut lines = Lines::new(FIELDS);
    lines.inspect(&mut b"OPTIONS http://h HTTP/1.1".to_vec());
    assert_eq!(lines.head_bytes, 25 + ASTERISK_PATH.len());
}

#[test]
fn chunks_override_a_length_in_either_order() {
    let (chunks, length) = ("Transfer-Encoding: chunked\r\n", "Content-Length: 0\r\n");
    for fields in [[chunks, length], [length, chunks]] {
        let head = format!("POST / HTTP/1.1\r\n{}\r\n", fields.concat());
        let valid = format!("{head}4\r\n\n\n\n\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(seen(valid.as_bytes()), valid.as_bytes(), "{fields:?}");
        let bare = format!("{head}4\n");
        assert!(seen(bare.as_bytes()).contains(&0), "{fields:?}");
    }
}

#[test]
fn ambiguous_length_is_rejected_within_head() {
    let padded = format!("Content-Length: {}5", " ".repeat(200));
    for field in ["Content-Length: +1", "Content-Length: 1, 1", &*padded] {
        let text = format!("POST / HTTP/1.1\r\n{field}\r\n\r\nx\n");
        assert!(seen(text.as_bytes()).contains(&0), "{field}");
    }
}
