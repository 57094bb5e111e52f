//! Responses of every kind, valid and broken. Their requests are plain.

use super::case::{Case, Check, SLOWLY, Target};
use super::compare::NEVER_SEEN;
use super::requests::sizes;
use super::script::{chunks, head, in_chunks, open_chunks, whole};
use h2::Reason;
use support::h2_target::{self, Head, Step};
use support::{pattern, recorder};

/// The rows for a target of this protocol.
pub(crate) fn all(target: Target) -> Vec<Case> {
    let mut cases = [
        statuses(),
        bodiless(),
        fields(target),
        bodies(target),
        in_pieces(),
        trailers(),
        checked(informational(), Check::Informational),
    ]
    .concat();
    match target {
        Target::Http1 => cases.extend(
            [
                raw_heads(),
                raw_bodies(),
                raw_pieces(),
                checked(broken_off(), Check::BrokenOff),
                checked(unusable(), Check::Unusable),
                checked(lengths_stated_twice(), Check::OneLength),
            ]
            .concat(),
        ),
        Target::Http2 => {
            cases.push(get("200 and no body").steps(only(Head::new(200))));
            cases.extend(checked(reset(), Check::BrokenOff));
        }
    }
    cases
}

fn checked(cases: Vec<Case>, check: Check) -> Vec<Case> {
    let cases = cases.into_iter();
    cases.map(|case| case.check(check)).collect()
}

fn get(what: &str) -> Case {
    Case::get(format!("response: {what}"))
}

/// The head is all of the response.
fn only(head: Head) -> Vec<Step> {
    vec![Step::ReadBody, Step::Bodiless(head)]
}

/// Statuses as such, and those whose fields an intermediary could interpret.
fn statuses() -> Vec<Case> {
    let plain = [
        200, 201, 202, 203, 207, 226, 300, 400, 402, 403, 404, 406, 408, 409, 410, 411, 412, 413,
        414, 415, 418, 421, 422, 423, 425, 428, 431, 451, 500, 501, 502, 504, 505, 507, 511, 599,
        600, 999,
    ];
    let plain = plain.map(|status| {
        let body = format!("{{\"status\": {status}}}");
        get(&status.to_string()).respond(Head::new(status), body)
    });
    let with = |status: u16, fields: &[(&str, &str)]| {
        let mut head = Head::new(status);
        for (name, value) in fields {
            head = head.field(name, value);
        }
        let (name, value) = fields[0];
        get(&format!("{status} with {name}: {value}")).respond(head, "{\"a\": 1}")
    };
    let authenticate = "www-authenticate";
    let others = [
        with(201, &[("location", "/a%2Fb?c#d")]),
        with(206, &[("content-range", "bytes 2-7/100")]),
        with(207, &[("dav", "1, 2")]),
        with(301, &[("location", "http://other.example/a?b#c")]),
        with(302, &[("location", "../b/./c")]),
        with(303, &[("location", "//other.example/")]),
        with(307, &[("location", "http://127.0.0.1/a")]),
        with(308, &[("location", "?a=b c")]),
        with(
            401,
            &[
                (authenticate, "Basic realm=\"a\""),
                (authenticate, "Digest realm=\"b\", nonce=\"c\""),
            ],
        ),
        with(401, &[(authenticate, "Negotiate"), (authenticate, "NTLM")]),
        with(405, &[("allow", "GET, X-OWN")]),
        with(415, &[("accept-encoding", "gzip")]),
        with(416, &[("content-range", "bytes */10")]),
        with(429, &[("retry-after", "120")]),
        with(502, &[("content-type", "application/problem+json")]),
        with(503, &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]),
    ];
    [&plain[..], &others].concat()
}

/// Status lines and fields that only bytes can express.
fn raw_heads() -> Vec<Case> {
    let old = |lines: &[u8]| [b"HTTP/1.0 ".as_slice(), lines].concat();
    vec![
        get("no reason phrase, and no space").bytes(whole("200", "abc")),
        get("no reason phrase").bytes(whole("404 ", "abc")),
        get("a reason phrase of its own").bytes(whole("200 It's \tfine: \"so\"", "abc")),
        get("a reason phrase in Latin-1").bytes(whole(b"200 Gr\xfc\xdfe", "abc")),
        get("HTTP/1.0 with a length")
            .bytes_and_close(old(b"200 OK\r\nContent-Length: 3\r\n\r\nabc")),
        get("426 and an upgrade").bytes(whole(
            "426 Upgrade Required\nConnection: Upgrade\nUpgrade: h2c",
            "{}",
        )),
        get("empty and blank values").bytes(whole(
            "200 OK\nX-Empty:\nX-Blank: \t \nX-Tight:a",
            "abc",
        )),
        get("spaces and tabs").bytes(whole("200 OK\nX-Wide: \t a  b\tc \t", "abc")),
        get("fields that Connection names").bytes(whole(
            "200 OK\nConnection: X-Hop, keep-alive\nX-Hop: 1\nx-hop: 2\nX-Stays: 3\nKeep-Alive: timeout=5",
            "abc",
        )),
        get("fields of one hop").bytes(whole(
            "200 OK\nKeep-Alive: timeout=5\nProxy-Connection: a\nUpgrade: h2c",
            "abc",
        )),
        get("HTTP/1.0 until the close").bytes_and_close(old(b"200 OK\r\nX-A: b\r\n\r\nabc")),
    ]
}

/// Responses that never have a body, whatever their fields state.
fn bodiless() -> Vec<Case> {
    let to_head = |what: &str, head: Head| {
        let case = Case::new(format!("response to HEAD: {what}"), "HEAD", "/a");
        case.steps(only(head))
    };
    let etag = |status: u16| Head::new(status).field("etag", "\"a\"");
    vec![
        get("204").steps(only(Head::new(204))),
        get("204 with fields").steps(only(etag(204).field("dav", "1"))),
        Case::new("response to DELETE: 204", "DELETE", "/a").steps(only(Head::new(204))),
        get("205 with nothing").respond(Head::new(205), ""),
        get("304").steps(only(etag(304).field("vary", "Accept"))),
        get("304 with a length").steps(only(
            etag(304)
                .field("content-length", "1000")
                .field("content-type", "text/plain"),
        )),
        to_head("a length", etag(200).field("content-length", "1000")),
        to_head(
            "a large length",
            Head::new(200).field("content-length", "10000000000"),
        ),
        to_head("the length 0", Head::new(200).field("content-length", "0")),
        to_head(
            "no length",
            Head::new(200).field("content-type", "text/plain"),
        ),
        to_head("404", Head::new(404).field("content-length", "9")),
        to_head(
            "304 with a length",
            Head::new(304).field("content-length", "1000"),
        ),
        to_head(
            "302",
            Head::new(302)
                .field("location", "/b")
                .field("content-length", "0"),
        ),
    ]
}

fn fields(target: Target) -> Vec<Case> {
    // What fits next to the fields that a route adds.
    let count = match target {
        Target::Http1 => 90,
        Target::Http2 => 60,
    };
    let ok = || Head::new(200);
    let high: Vec<u8> = (0x80..=0xff_u8).collect();
    let (mut many, mut cookies) = (ok(), ok());
    for n in 0..count {
        many = many.field(&format!("x-{n}"), n.to_string());
    }
    for n in 0..30 {
        let cookie = format!("c{n}=a, b; Expires=Wed, 21 Oct 2015 07:28:00 GMT; Path=/{n}");
        cookies = cookies.field("set-cookie", cookie);
    }
    let long = |byte: &str| byte.repeat(8 * 1024);
    let head = |what: &str, head: Head| get(what).respond(head, "abc");
    let with = |what: &str, fields: &[(&str, &str)]| {
        let mut head = ok();
        for (name, value) in fields {
            head = head.field(name, value);
        }
        get(what).respond(head, "abc")
    };
    vec![
        head(&format!("{count} fields"), many),
        head("30 cookies", cookies),
        head("a value of 8 KiB", ok().field("x-long", long("v"))),
        head(
            "values of 24 KiB in all",
            ok().field("x-long", long("v"))
                .field("x-long", long("w"))
                .field("x-longer", long("x")),
        ),
        with(
            "repeated fields, with others between",
            &[("a", "1"), ("b", "1"), ("a", "2"), ("b", ""), ("a", "2")],
        ),
        with("empty values", &[("x-empty", ""), ("x-empty", "")]),
        with(
            "names of every kind of byte",
            &[("x!#$%&'*+-.^_`|~9", "1"), ("1", "2"), ("x_y", "3")],
        ),
        head("bytes from 0x80 to 0xff", ok().field("x-high", high)),
        with(
            "its own date and server",
            &[
                ("date", "Tue, 15 Nov 1994 08:12:31 GMT"),
                ("server", "a/1 (b)"),
            ],
        ),
        with("an invalid date", &[("date", "yesterday")]),
        with(
            "caching",
            &[
                ("etag", "W/\"a,b\""),
                ("age", "10"),
                ("cache-control", "private, no-store"),
                ("expires", "0"),
                ("vary", "*"),
                ("last-modified", "Tue, 15 Nov 1994 08:12:31 GMT"),
                ("warning", "110 - \"stale\""),
            ],
        ),
        with(
            "languages and tokens",
            &[
                ("content-language", "de, en"),
                ("x-xsrf-token", "0123456789abcdef"),
            ],
        ),
        with(
            "links",
            &[
                ("link", "</a>; rel=preload, </b>"),
                ("link", "</c>; rel=\"next prev\""),
            ],
        ),
        with(
            "what a browser obeys",
            &[
                ("content-security-policy", "default-src 'none'"),
                ("access-control-allow-origin", "*"),
            ],
        ),
        with(
            "what other intermediaries wrote",
            &[("via", "1.1 a"), ("x-cache", "HIT"), ("proxy-status", "a")],
        ),
        with(
            "what looks like the product's",
            &[("bridge-own", "1"), ("webhook-id", "2"), ("execution", "3")],
        ),
        with(
            "ranges",
            &[("accept-ranges", "bytes"), ("content-range", "bytes 0-2/*")],
        ),
        get("a body that is gzip")
            .field("Accept-Encoding", "gzip")
            .respond(
                ok().field("content-encoding", "gzip")
                    .field("content-type", "text/plain"),
                b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03KLJ\x06\x00\xc2A$5\x03\x00\x00\x00",
            ),
        get("many ranges").field("Range", "bytes=0-0").respond(
            Head::new(206).field("content-type", "multipart/byteranges; boundary=a"),
            "--a\r\nContent-Range: bytes 0-0/2\r\n\r\nx\r\n--a--\r\n",
        ),
        get("206").field("Range", "bytes=2-4").respond(
            Head::new(206).field("content-range", "bytes 2-4/100"),
            "cde",
        ),
    ]
}

fn unknown_length(status: u16, pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<Step> {
    let mut steps = vec![Step::ReadBody, Step::Head(Head::new(status))];
    steps.extend(pieces.into_iter().map(Step::Send));
    steps.push(Step::End);
    steps
}

fn bodies(target: Target) -> Vec<Case> {
    let mut cases = Vec::new();
    for size in sizes(target) {
        let body = pattern::bytes(size);
        let known = get(&format!("{size} bytes of known length"));
        cases.push(known.respond(Head::new(200), &body));
        let unknown = get(&format!("{size} bytes of unknown length"));
        cases.push(unknown.steps(unknown_length(200, [body.to_vec()])));
        let cut = body.chunks((size / 7).clamp(1, 20_011));
        let cut = cut.map(<[u8]>::to_vec);
        let in_pieces = get(&format!("{size} bytes of unknown length, in pieces"));
        cases.push(in_pieces.steps(unknown_length(200, cut)));
    }
    let not_found = unknown_length(404, [b"abc".to_vec()]);
    cases.push(get("404 of unknown length").steps(not_found));
    cases
}

/// Bodies whose end only HTTP/1.1 can express.
fn raw_bodies() -> Vec<Case> {
    let body = pattern::bytes(100 * 1024);
    let odd = chunks(super::script::odd_pieces(&body));
    let until_close = |what: &str, body: &[u8]| {
        let response = [head("200 OK\nContent-Type: text/plain"), body.to_vec()].concat();
        get(what).bytes_and_close(response)
    };
    let trailers = "200 OK\nTrailer: X-Sum";
    vec![
        get("chunks of odd sizes").bytes(in_chunks("200 OK", &odd)),
        get("no chunk but the last").bytes(in_chunks("200 OK", &chunks([b""; 0]))),
        get("chunks with extensions").bytes(in_chunks(
            "200 OK",
            &[b"003;a=\"b;c\"\r\nabc\r\n0;d\r\n\r\n".to_vec()],
        )),
        get("chunks next to a length").bytes(in_chunks(
            "200 OK\nContent-Length: 4",
            &chunks(["abc", "de"]),
        )),
        get("trailers that are announced and missing")
            .field("te", "trailers")
            .bytes(in_chunks(trailers, &chunks(["abc", "de"]))),
        until_close("3 bytes until the close", b"abc"),
        until_close("100 KiB until the close", &body),
        until_close("nothing until the close", b""),
        get("Connection: close and a length")
            .bytes_and_close(whole("200 OK\nConnection: close", "abc")),
    ]
}

fn events() -> Vec<Vec<u8>> {
    let event = |n: u32| format!("id: {n}\nevent: tick\ndata: {{\"n\": {n}}}\n\n").into_bytes();
    (0..5).map(event).collect()
}

/// Responses that take their time.
fn in_pieces() -> Vec<Case> {
    let slowly = |head: Head, pieces: Vec<Vec<u8>>| {
        let mut steps = vec![Step::ReadBody, Step::Head(head)];
        for piece in pieces {
            steps.extend([Step::Pause(SLOWLY), Step::Send(piece)]);
        }
        steps.extend([Step::Pause(SLOWLY), Step::End]);
        steps
    };
    let stream = Head::new(200)
        .field("content-type", "text/event-stream")
        .field("cache-control", "no-cache");
    let body = pattern::bytes(40_000);
    let pieces = body.chunks(9_000).map(<[u8]>::to_vec).collect();
    let known = Head::new(200).field("content-length", "40000");
    vec![
        get("events").steps(slowly(stream, events())),
        get("a body of known length, slowly").steps(slowly(known, pieces)),
        get("nothing, slowly").steps(slowly(Head::new(200), Vec::new())),
    ]
}

/// Pieces that split a head or a chunk.
fn raw_pieces() -> Vec<Case> {
    let lines = "200 OK\nContent-Type: text/event-stream\nCache-Control: no-cache";
    let until_close = [head(lines)].into_iter().chain(events());
    let response = whole("200 OK\nX-A: b", pattern::bytes(40_000));
    vec![
        get("events until the close")
            .slow_bytes(until_close)
            .then(recorder::Step::Close),
        get("a head in pieces").slow_bytes([&response[..5], &response[5..25], &response[25..]]),
        get("a body in pieces").slow_bytes(response.chunks(9_000)),
        get("a chunk in pieces").slow_bytes([
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6",
            "\r\nab",
            "cdef\r",
            "\n0\r\n",
            "\r\n",
        ]),
    ]
}

fn trailers() -> Vec<Case> {
    let with = |what: &str, body: &[u8], trailers: &[(&str, &str)]| {
        let head = Head::new(200).field("trailer", "x-sum, x-state");
        let trailers = trailers.iter();
        let trailers = trailers
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect();
        get(what).field("te", "trailers").steps([
            Step::ReadBody,
            Step::Head(head),
            Step::Send(body.to_vec()),
            Step::Trailers(trailers),
        ])
    };
    vec![
        with("trailers", b"abc", &[("x-sum", "3"), ("x-state", "done")]),
        with("empty trailers", b"abc", &[("x-sum", "5"), ("x-state", "")]),
        with(
            "repeated trailers",
            b"abc",
            &[("x-sum", "2"), ("x-sum", "1")],
        ),
        with(
            "trailers after 100,000 bytes",
            &pattern::bytes(100_000),
            &[("x-sum", "100000")],
        ),
        with("trailers without a body", b"", &[("x-sum", "0")]),
    ]
}

/// Unrequested responses with a status of 1xx before the final one.
fn informational() -> Vec<Case> {
    let before = |what: &str, heads: Vec<Head>| {
        let mut steps = vec![Step::ReadBody];
        for head in heads {
            steps.extend([Step::Inform(head), Step::Pause(SLOWLY)]);
        }
        let response = h2_target::whole(Head::new(200).field("link", "</a.css>"), "abc");
        // The request's body is read already.
        steps.extend(response.into_iter().skip(1));
        get(what).steps(steps)
    };
    let hints = || {
        Head::new(103)
            .field("link", "</a.css>; rel=preload")
            .field("link", "</b.js>; rel=preload")
    };
    let own = |status: u16| Head::new(status).field("x-a", "b");
    vec![
        before("100 that was not requested", vec![Head::new(100)]),
        before("102 twice", vec![Head::new(102), own(102)]),
        before("103", vec![hints()]),
        before("102, 103 and 103", vec![Head::new(102), hints(), own(103)]),
        before("103 with nothing", vec![Head::new(103)]),
        before("199", vec![own(199)]),
    ]
}

/// Responses whose end never arrives.
fn broken_off() -> Vec<Case> {
    let known = |promised: usize, sent: usize| {
        let lines = format!("200 OK\nContent-Length: {promised}");
        [head(lines), pattern::bytes(sent).to_vec()].concat()
    };
    let cut = |what: &str, rest: &str| {
        let sent = in_chunks("200 OK", &open_chunks(["abc", "de"]));
        let sent = [&*sent, rest.as_bytes()].concat();
        get(what).bytes_and_close(sent)
    };
    // A reset discards what the socket has not sent yet.
    let reset = |what: &str, sent: Vec<u8>| {
        let steps = [
            recorder::Step::ReadBody,
            recorder::Step::Send(sent),
            recorder::Step::Pause(SLOWLY),
            recorder::Step::Reset,
        ];
        get(what).raw_steps(steps)
    };
    let until_close = [head("200 OK"), b"abc".to_vec()].concat();
    vec![
        get("50 of 100 bytes").bytes_and_close(known(100, 50)),
        get("0 of 100 bytes").bytes_and_close(known(100, 0)),
        get("100 of 300 KiB").bytes_and_close(known(300 * 1024, 100 * 1024)),
        get("50 of 100 bytes, slowly")
            .slow_bytes([known(100, 50)])
            .then(recorder::Step::Close),
        reset("50 of 100 bytes, reset", known(100, 50)),
        reset("100 of 300 KiB, reset", known(300 * 1024, 100 * 1024)),
        reset("until the close, reset", until_close),
        reset("chunks, reset", in_chunks("200 OK", &open_chunks(["abc"]))),
        cut("no last chunk", ""),
        cut("half a chunk", "9\r\nabc"),
        cut("half a size", "1"),
        cut("a chunk without its end", "1\r\na"),
        cut("no empty line after the last chunk", "0\r\n"),
        cut("half a trailer", "0\r\nX-Sum: 5"),
        cut("a size that is no number", "x\r\nabc\r\n0\r\n\r\n"),
        cut(
            "a size that is too large",
            "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        ),
        cut("a chunk longer than its size", "2\r\nabc\r\n0\r\n\r\n"),
    ]
}

/// Bytes that are no HTTP/1.1 response, or that two receivers could read differently.
fn unusable() -> Vec<Case> {
    let body = NEVER_SEEN;
    let length = body.len();
    let bad = |what: &str, head: &str| {
        let answer = format!("{head}\r\n\r\n{body}");
        get(what).bytes_and_close(answer)
    };
    let ok = |what: &str, fields: &str| bad(what, &format!("HTTP/1.1 200 OK\r\n{fields}"));
    let fine = format!("Content-Length: {length}");
    vec![
        ok(
            "two lengths",
            &format!("{fine}\r\nContent-Length: {}", length - 1),
        ),
        ok("a list of two lengths", &format!("{fine}, {}", length + 1)),
        ok(
            "a length with a sign",
            &format!("Content-Length: +{length}"),
        ),
        ok("a negative length", "Content-Length: -1"),
        ok("a length that is no number", &format!("{fine}x")),
        ok("an empty length", "Content-Length:"),
        ok(
            "a length beyond 64 bits",
            "Content-Length: 18446744073709551617",
        ),
        ok("a fold before any field", &format!(" X-A: b\r\n{fine}")),
        ok("no colon", &format!("X-A\r\n{fine}")),
        ok("no name", &format!(": a\r\n{fine}")),
        ok("a name with a space", &format!("X A: b\r\n{fine}")),
        ok("NUL in a value", &format!("X-A: b\0c\r\n{fine}")),
        ok("CR in a value", &format!("X-A: b\rc\r\n{fine}")),
        bad("HTTP/2.0", &format!("HTTP/2.0 200 OK\r\n{fine}")),
        bad("no HTTP", "SSH-2.0-OpenSSH_9.2"),
        bad(
            "a status of two digits",
            &format!("HTTP/1.1 20 OK\r\n{fine}"),
        ),
        bad(
            "a status that is no number",
            &format!("HTTP/1.1 abc OK\r\n{fine}"),
        ),
        bad(
            "a status of four digits",
            &format!("HTTP/1.1 2000 OK\r\n{fine}"),
        ),
        bad("a status below 100", &format!("HTTP/1.1 099 OK\r\n{fine}")),
        bad(
            "chunks in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        ),
        bad(
            "a switch that was not requested",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: a",
        ),
        get("nothing").raw_steps([recorder::Step::ReadBody, recorder::Step::Close]),
        get("half a status line").bytes_and_close("HTTP/1.1 2"),
        get("half a head").bytes_and_close("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: b"),
        get("only 100").bytes_and_close(head("100 Continue")),
    ]
}

/// A repeated length is unambiguous, and must not be passed on (RFC 9110, 8.6).
fn lengths_stated_twice() -> Vec<Case> {
    vec![
        get("the same length in two fields").bytes(whole("200 OK\nContent-Length: 3", "abc")),
        get("the same length twice in a list")
            .bytes("HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc".as_bytes()),
    ]
}

/// Streams that are reset, or end in another way than their head announces.
fn reset() -> Vec<Case> {
    let known = || Head::new(200).field("content-length", "300000");
    let unknown = || Head::new(200);
    // A reset discards what the connection has not sent yet.
    let cut = |what: &str, head: Head, bytes: usize, end: Step| {
        get(what).steps([
            Step::ReadBody,
            Step::Head(head),
            Step::Send(pattern::bytes(bytes).to_vec()),
            Step::Pause(SLOWLY),
            end,
        ])
    };
    let mut cases = Vec::new();
    for reason in [
        Reason::NO_ERROR,
        Reason::PROTOCOL_ERROR,
        Reason::INTERNAL_ERROR,
        Reason::REFUSED_STREAM,
        Reason::CANCEL,
        Reason::HTTP_1_1_REQUIRED,
    ] {
        for bytes in [0, 50, 100_000] {
            let what = |length: &str| format!("{bytes} bytes of {length}, {reason:?}");
            let end = || Step::Reset(reason);
            cases.extend([
                cut(&what("known length"), known(), bytes, end()),
                cut(&what("unknown length"), unknown(), bytes, end()),
            ]);
        }
    }
    let short = Head::new(200).field("content-length", "3");
    cases.extend([
        cut("50 bytes, and a close", known(), 50, Step::Close),
        cut(
            "50 bytes of unknown length, and a close",
            unknown(),
            50,
            Step::Close,
        ),
        cut("an end before its length", known(), 50, Step::End),
        cut("more than its length", short, 50, Step::End),
    ]);
    cases
}
