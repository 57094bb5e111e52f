//! Answers of every kind, whole and broken off; what is asked is plain.

use crate::case::{Case, Check, SLOWLY};
use h2::Reason;
use support::h2_target::{Head, Step, whole};
use support::pattern;

pub(crate) fn all() -> Vec<Case> {
    [
        statuses(),
        bodiless(),
        fields(),
        bodies(),
        in_pieces(),
        trailers(),
        informational(),
        broken_off(),
    ]
    .concat()
}

fn get(what: &str) -> Case {
    Case::get(format!("answer: {what}"))
}

/// Statuses as such, and those whose fields say something to intermediaries.
fn statuses() -> Vec<Case> {
    let plain = [
        200, 201, 202, 203, 207, 226, 300, 400, 402, 403, 404, 406, 408, 409, 410, 411, 412, 413,
        414, 415, 418, 421, 422, 423, 425, 428, 431, 451, 500, 501, 502, 504, 505, 507, 511, 599,
    ];
    let plain = plain.map(|status| {
        let body = format!("{{\"status\": {status}}}");
        get(&status.to_string()).answer(Head::new(status), body)
    });
    let with = |status: u16, name: &str, value: &str| {
        let head = Head::new(status).field(name, value);
        get(&format!("{status} with {name}")).answer(head, "{\"a\": 1}")
    };
    let others = [
        with(301, "location", "http://other.example/a?b#c"),
        with(302, "location", "../b/./c"),
        with(
            401,
            "www-authenticate",
            "Basic realm=\"a\", Digest realm=\"b\"",
        ),
        with(405, "allow", "GET, X-OWN"),
        with(416, "content-range", "bytes */10"),
        with(429, "retry-after", "120"),
        with(503, "retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"),
    ];
    [&plain[..], &others].concat()
}

/// Answers that never have a body, whatever they say.
fn bodiless() -> Vec<Case> {
    let only = |head: Head| vec![Step::ReadBody, Step::Bodiless(head)];
    let to_head = |what: &str, head: Head| {
        let case = Case::new(format!("answer to HEAD: {what}"), "HEAD", "/a");
        case.steps(only(head))
    };
    vec![
        get("200 and no body").steps(only(Head::new(200))),
        get("204").steps(only(Head::new(204).field("etag", "\"a\""))),
        Case::new("answer to DELETE: 204", "DELETE", "/a").steps(only(Head::new(204))),
        get("304").steps(only(Head::new(304).field("etag", "W/\"a\""))),
        get("304 with a length").steps(only(
            Head::new(304)
                .field("etag", "\"a\"")
                .field("content-length", "1000"),
        )),
        to_head("a length", Head::new(200).field("content-length", "1000")),
        to_head(
            "a large length",
            Head::new(200).field("content-length", "10000000000"),
        ),
        to_head(
            "no length",
            Head::new(200).field("content-type", "text/plain"),
        ),
        to_head("404", Head::new(404).field("content-length", "9")),
    ]
}

fn fields() -> Vec<Case> {
    let ok = || Head::new(200);
    let high: Vec<u8> = (0x80..=0xff_u8).collect();
    let (mut many, mut cookies) = (ok(), ok());
    for n in 0..60 {
        many = many.field(&format!("x-{n}"), n.to_string());
    }
    for n in 0..30 {
        let cookie = format!("c{n}=a, b; Expires=Wed, 21 Oct 2015 07:28:00 GMT; Path=/{n}");
        cookies = cookies.field("set-cookie", cookie);
    }
    let long = |byte: &str| byte.repeat(8 * 1024);
    let head = |what: &str, head: Head| get(what).answer(head, "abc");
    vec![
        head("60 fields", many),
        head("30 cookies", cookies),
        head(
            "repeated fields, with others between",
            ok().field("a", "1")
                .field("b", "1")
                .field("a", "2")
                .field("b", "")
                .field("a", "2"),
        ),
        head("bytes from 0x80 to 0xff", ok().field("x-high", high)),
        head("a value of 8 KiB", ok().field("x-long", long("v"))),
        head(
            "values of 24 KiB in all",
            ok().field("x-long", long("v"))
                .field("x-long", long("w"))
                .field("x-longer", long("x")),
        ),
        head(
            "its own date and server",
            ok().field("date", "Tue, 15 Nov 1994 08:12:31 GMT")
                .field("server", "a/1 (b)"),
        ),
        head(
            "caching and links",
            ok().field("etag", "W/\"a,b\"")
                .field("cache-control", "private, no-store")
                .field("vary", "*")
                .field("link", "</a>; rel=preload, </b>")
                .field("link", "</c>; rel=\"next prev\""),
        ),
        head(
            "what a browser would obey",
            ok().field("alt-svc", "h3=\":443\"")
                .field("strict-transport-security", "max-age=1")
                .field("access-control-allow-origin", "*"),
        ),
        get("a body that is gzip")
            .field("accept-encoding", "gzip")
            .answer(
                ok().field("content-encoding", "gzip"),
                b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03KLJ\x06\x00\xc2A$5\x03\x00\x00\x00",
            ),
        get("206").field("range", "bytes=2-4").answer(
            Head::new(206).field("content-range", "bytes 2-4/100"),
            "cde",
        ),
    ]
}

/// Around what travels with a head and what a frame takes (16 KiB), and more than any window.
const SIZES: [usize; 7] = [0, 1, 16_383, 16_384, 16_385, 100_000, 3_000_000];

fn bodies() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in SIZES {
        let body = pattern::bytes(size);
        let known = get(&format!("{size} bytes of known length"));
        cases.push(known.answer(Head::new(200), &body));
        let unknown = get(&format!("{size} bytes of unknown length"));
        cases.push(unknown.steps(unknown_length([body.to_vec()])));
        let cut = body.chunks((size / 7).clamp(1, 20_011));
        let cut = cut.map(<[u8]>::to_vec);
        let in_pieces = get(&format!("{size} bytes of unknown length, in pieces"));
        cases.push(in_pieces.steps(unknown_length(cut)));
    }
    cases
}

fn unknown_length(pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<Step> {
    let mut steps = vec![Step::ReadBody, Step::Head(Head::new(200))];
    steps.extend(pieces.into_iter().map(Step::Send));
    steps.push(Step::End);
    steps
}

/// Answers that take their time.
fn in_pieces() -> Vec<Case> {
    let slowly = |head: Head, pieces: Vec<Vec<u8>>| {
        let mut steps = vec![Step::ReadBody, Step::Head(head)];
        for piece in pieces {
            steps.extend([Step::Pause(SLOWLY), Step::Send(piece)]);
        }
        steps.extend([Step::Pause(SLOWLY), Step::End]);
        steps
    };
    let events = (0..5).map(|n| format!("id: {n}\nevent: tick\ndata: {{\"n\": {n}}}\n\n"));
    let events = events.map(String::into_bytes).collect();
    let stream = Head::new(200).field("content-type", "text/event-stream");
    let body = pattern::bytes(40_000);
    let pieces = body.chunks(9_000).map(<[u8]>::to_vec).collect();
    let known = Head::new(200).field("content-length", "40000");
    vec![
        get("events").steps(slowly(stream, events)),
        get("a body of known length, slowly").steps(slowly(known, pieces)),
        get("nothing, slowly").steps(slowly(Head::new(200), Vec::new())),
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
        with(
            "repeated trailers",
            b"abc",
            &[("x-sum", "2"), ("x-sum", "1")],
        ),
        with(
            "trailers behind 100,000 bytes",
            &pattern::bytes(100_000),
            &[("x-sum", "100000")],
        ),
        with("trailers without a body", b"", &[("x-sum", "0")]),
    ]
}

/// Answers with a status of 1xx before the answer may be left out.
fn informational() -> Vec<Case> {
    let before = |what: &str, heads: Vec<Head>| {
        let mut steps = vec![Step::ReadBody];
        for head in heads {
            steps.extend([Step::Inform(head), Step::Pause(SLOWLY)]);
        }
        let answer = whole(Head::new(200).field("link", "</a.css>"), "abc");
        steps.extend(answer);
        get(what).steps(steps)
    };
    let hints = || Head::new(103).field("link", "</a.css>; rel=preload");
    vec![
        before("103", vec![hints()]),
        before("102, 103 and 103", vec![Head::new(102), hints(), hints()]),
        before("100 unasked", vec![Head::new(100)]),
    ]
}

/// Answers whose end never comes.
fn broken_off() -> Vec<Case> {
    let known = || Head::new(200).field("content-length", "300000");
    let unknown = || Head::new(200);
    // What was sent shall be on its way before the end.
    let cut = |what: &str, head: Head, bytes: usize, end: Step| {
        get(what).check(Check::BrokenOff).steps([
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
    let short = || Head::new(200).field("content-length", "3");
    cases.extend([
        cut(
            "50 bytes, and the connection closed",
            known(),
            50,
            Step::Close,
        ),
        cut(
            "50 bytes of unknown length, and the connection closed",
            unknown(),
            50,
            Step::Close,
        ),
        cut("an end before its length", known(), 50, Step::End),
        cut("more than its length", short(), 50, Step::End),
    ]);
    cases
}
