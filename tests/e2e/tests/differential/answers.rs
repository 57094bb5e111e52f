//! Answers of every kind, right and wrong; what is asked is plain.

use crate::case::{Case, Check, SLOWLY, chunks, head, in_chunks, odd_pieces, open_chunks, whole};
use crate::compare::NEVER_SEEN;
use support::pattern;
use support::recorder::{Sending, Step};

pub(crate) fn all() -> Vec<Case> {
    let mut informational = informational();
    informational.extend(expectations());
    [
        statuses(),
        status_lines(),
        bodiless(),
        fields(),
        whole_bodies(),
        chunked_bodies(),
        bodies_until_close(),
        in_pieces(),
        checked(informational, Check::Informational),
        checked(broken_off(), Check::BrokenOff),
        checked(unusable(), Check::Unusable),
        checked(lengths_said_twice(), Check::OneLength),
    ]
    .concat()
}

fn checked(cases: Vec<Case>, check: Check) -> Vec<Case> {
    let cases = cases.into_iter();
    cases.map(|case| case.check(check)).collect()
}

fn get(what: &str) -> Case {
    Case::get(format!("answer: {what}"))
}

/// Statuses as such, and those whose fields say something to intermediaries.
fn statuses() -> Vec<Case> {
    let lines = [
        "200 OK",
        "201 Created\nLocation: /a%2Fb?c#d",
        "202 Accepted",
        "203 Non-Authoritative Information",
        "206 Partial Content\nContent-Range: bytes 2-7/100",
        "207 Multi-Status\nDAV: 1, 2",
        "226 IM Used",
        "300 Multiple Choices",
        "301 Moved Permanently\nLocation: http://other.example/a?b#c",
        "302 Found\nLocation: ../b/./c",
        "303 See Other\nLocation: //other.example/",
        "307 Temporary Redirect\nLocation: http://127.0.0.1/a",
        "308 Permanent Redirect\nLocation: ?a=b c",
        "400 Bad Request",
        "401 Unauthorized\nWWW-Authenticate: Basic realm=\"a\"\n\
         WWW-Authenticate: Digest realm=\"b\", nonce=\"c\"",
        "401 Unauthorized\nWWW-Authenticate: Negotiate\nWWW-Authenticate: NTLM",
        "402 Payment Required",
        "403 Forbidden",
        "404 Not Found",
        "405 Method Not Allowed\nAllow: GET, X-OWN",
        "406 Not Acceptable",
        "408 Request Timeout",
        "409 Conflict",
        "410 Gone",
        "411 Length Required",
        "412 Precondition Failed",
        "413 Content Too Large",
        "414 URI Too Long",
        "415 Unsupported Media Type\nAccept-Encoding: gzip",
        "416 Range Not Satisfiable\nContent-Range: bytes */10",
        "418 I'm a teapot",
        "421 Misdirected Request",
        "422 Unprocessable Content",
        "423 Locked",
        "425 Too Early",
        "426 Upgrade Required\nConnection: Upgrade\nUpgrade: h2c",
        "428 Precondition Required",
        "429 Too Many Requests\nRetry-After: 120",
        "431 Request Header Fields Too Large",
        "451 Unavailable For Legal Reasons",
        "500 Internal Server Error",
        "501 Not Implemented",
        "502 Bad Gateway\nContent-Type: application/problem+json",
        "503 Service Unavailable\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT",
        "504 Gateway Timeout",
        "505 HTTP Version Not Supported",
        "507 Insufficient Storage",
        "511 Network Authentication Required",
        "599 Own",
        "600 Own",
        "999 Own",
    ];
    let case = |lines: &str| {
        let (status, _) = lines.split_once('\n').unwrap_or((lines, ""));
        get(status).answer(whole(lines, "{\"a\": 1}"))
    };
    lines.map(case).to_vec()
}

fn status_lines() -> Vec<Case> {
    let old = |lines: &[u8]| [b"HTTP/1.0 ".as_slice(), lines].concat();
    vec![
        get("no reason phrase, and no space").answer(whole("200", "abc")),
        get("no reason phrase").answer(whole("404 ", "abc")),
        get("a reason phrase of its own").answer(whole("200 It's \tfine: \"so\"", "abc")),
        get("a reason phrase in Latin-1").answer(whole(b"200 Gr\xfc\xdfe", "abc")),
        get("HTTP/1.0 with a length")
            .answer_and_close(old(b"200 OK\r\nContent-Length: 3\r\n\r\nabc")),
        get("HTTP/1.0 until the close").answer_and_close(old(b"200 OK\r\nX-A: b\r\n\r\nabc")),
    ]
}

/// Answers that never have a body, whatever they say.
fn bodiless() -> Vec<Case> {
    let to_head = |what: &str, lines: &str| {
        let case = Case::new(format!("answer to HEAD: {what}"), "HEAD", "/a");
        case.answer(head(lines))
    };
    vec![
        get("204").answer(head("204 No Content")),
        get("204 with fields").answer(head("204 No Content\nETag: \"a\"\nDAV: 1")),
        Case::new("answer to DELETE: 204", "DELETE", "/a").answer(head("204 No Content")),
        get("205 with nothing").answer(whole("205 Reset Content", "")),
        get("304").answer(head("304 Not Modified\nETag: W/\"a\"\nVary: Accept")),
        get("304 with a length").answer(head(
            "304 Not Modified\nETag: \"a\"\nContent-Length: 1000\nContent-Type: text/plain",
        )),
        to_head("a length", "200 OK\nContent-Length: 1000\nETag: \"a\""),
        to_head("a large length", "200 OK\nContent-Length: 10000000000"),
        to_head("the length 0", "200 OK\nContent-Length: 0"),
        to_head("no length", "200 OK\nContent-Type: text/plain"),
        to_head("404", "404 Not Found\nContent-Length: 9"),
        to_head(
            "304 with a length",
            "304 Not Modified\nContent-Length: 1000",
        ),
        to_head("302", "302 Found\nLocation: /b\nContent-Length: 0"),
    ]
}

fn fields() -> Vec<Case> {
    let with = |what: &str, lines: &str| get(what).answer(whole(format!("200 OK\n{lines}"), "abc"));
    let cookie =
        |n: u32| format!("Set-Cookie: c{n}=a, b; Expires=Wed, 21 Oct 2015 07:28:00 GMT; Path=/{n}");
    let cookies = (0..30).map(cookie).collect::<Vec<_>>().join("\n");
    let many = (0..90).map(|n| format!("X-{n}: {n}")).collect::<Vec<_>>();
    let many = many.join("\n");
    let long = "v".repeat(8 * 1024);
    let mut high = b"200 OK\nX-High: ".to_vec();
    high.extend(0x80..=0xff_u8);
    vec![
        with("30 cookies", &cookies),
        with("90 fields", &many),
        with("a value of 8 KiB", &format!("X-Long: {long}")),
        with(
            "repeated fields, with others between",
            "A: 1\nB: 1\nA: 2\nb: \na: 2",
        ),
        with("empty values", "X-Empty:\nX-Blank: \t \nX-Tight:a"),
        with("spaces and tabs", "X-Wide: \t a  b\tc \t"),
        with(
            "names of every kind of byte",
            "X!#$%&'*+-.^_`|~9: 1\n1: 2\nx_y: 3",
        ),
        get("bytes from 0x80 to 0xff").answer(whole(high, "abc")),
        with(
            "its own date and server",
            "Date: Tue, 15 Nov 1994 08:12:31 GMT\nServer: a/1 (b)",
        ),
        with("a date that is none", "Date: yesterday"),
        with(
            "caching",
            "ETag: W/\"a,b\"\nAge: 10\nCache-Control: private, no-store\nExpires: 0\nVary: *\n\
             Last-Modified: Tue, 15 Nov 1994 08:12:31 GMT\nWarning: 110 - \"stale\"",
        ),
        with(
            "languages and tokens",
            "Content-Language: de, en\nX-XSRF-TOKEN: 0123456789abcdef",
        ),
        with(
            "links",
            "Link: </a>; rel=preload, </b>\nLink: </c>; rel=\"next prev\"",
        ),
        with(
            "what a browser would obey",
            "Alt-Svc: h3=\":443\"\nStrict-Transport-Security: max-age=1\nClear-Site-Data: \"*\"\n\
             Content-Security-Policy: default-src 'none'\nAccess-Control-Allow-Origin: *",
        ),
        with(
            "what other intermediaries wrote",
            "Via: 1.1 a\nX-Cache: HIT\nProxy-Status: a",
        ),
        with(
            "what looks like the product's",
            "Bridge-Own: 1\nWebhook-Id: 2\nExecution: 3",
        ),
        with(
            "fields that Connection names",
            "Connection: X-Hop, keep-alive\nX-Hop: 1\nx-hop: 2\nX-Stays: 3\nKeep-Alive: timeout=5",
        ),
        with(
            "fields of one hop",
            "Keep-Alive: timeout=5\nProxy-Connection: a\nUpgrade: h2c",
        ),
        with("ranges", "Accept-Ranges: bytes\nContent-Range: bytes 0-2/*"),
        get("a body that is gzip")
            .answer(whole(
                "200 OK\nContent-Encoding: gzip\nContent-Type: text/plain",
                b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03KLJ\x06\x00\xc2A$5\x03\x00\x00\x00",
            ))
            .field("Accept-Encoding", "gzip"),
        get("many ranges")
            .answer(whole(
                "206 Partial Content\nContent-Type: multipart/byteranges; boundary=a",
                "--a\r\nContent-Range: bytes 0-0/2\r\n\r\nx\r\n--a--\r\n",
            ))
            .field("Range", "bytes=0-0"),
    ]
}

/// Around what travels with a head (16 KiB), and more.
const SIZES: [usize; 7] = [0, 1, 16_383, 16_384, 16_385, 100 * 1024, 1024 * 1024];

fn whole_bodies() -> Vec<Case> {
    let sized =
        |size: usize| get(&format!("{size} bytes")).answer(whole("200 OK", pattern::bytes(size)));
    SIZES.map(sized).to_vec()
}

fn chunked_bodies() -> Vec<Case> {
    let body = pattern::bytes(100 * 1024);
    let mut cases: Vec<_> = [1, 16_384, 1024 * 1024]
        .into_iter()
        .map(|size| {
            let chunks = chunks([pattern::bytes(size)]);
            get(&format!("a chunk of {size} bytes")).answer(in_chunks("200 OK", &chunks))
        })
        .collect();
    let ended_by = |last: &str| {
        let mut chunks = open_chunks(["abc", "de"]);
        chunks.push(last.as_bytes().to_vec());
        chunks
    };
    let with_trailers = |what: &str, names: &str, last: &str| {
        get(what)
            .connection("close, TE")
            .field("TE", "trailers")
            .answer(in_chunks(
                &format!("200 OK\nTrailer: {names}"),
                &ended_by(last),
            ))
    };
    let all_odd = chunks(odd_pieces(&body));
    cases.extend([
        get("chunks of odd sizes").answer(in_chunks("200 OK", &all_odd)),
        get("no chunk but the last").answer(in_chunks("200 OK", &chunks([b""; 0]))),
        get("chunks with extensions").answer(in_chunks(
            "200 OK",
            &[b"003;a=\"b;c\"\r\nabc\r\n0;d\r\n\r\n".to_vec()],
        )),
        get("chunks and a status of 404").answer(in_chunks("404 Not Found", &chunks(["abc"]))),
        get("chunks beside a length").answer(in_chunks(
            "200 OK\nContent-Length: 4",
            &chunks(["abc", "de"]),
        )),
        with_trailers(
            "trailers",
            "X-Sum, X-State",
            "0\r\nX-Sum: 5\r\nX-State: \r\n\r\n",
        ),
        with_trailers(
            "repeated trailers",
            "x-sum",
            "0\r\nX-Sum: 2\r\nx-sum: 1\r\n\r\n",
        ),
        with_trailers("trailers that do not come", "X-Sum", "0\r\n\r\n"),
    ]);
    cases
}

fn bodies_until_close() -> Vec<Case> {
    let until_close = |what: &str, body: &[u8]| {
        let answer = [head("200 OK\nContent-Type: text/plain"), body.to_vec()].concat();
        get(what).answer_and_close(answer)
    };
    vec![
        until_close("3 bytes until the close", b"abc"),
        until_close("100 KiB until the close", &pattern::bytes(100 * 1024)),
        until_close("nothing until the close", b""),
        get("Connection: close and a length")
            .answer_and_close(whole("200 OK\nConnection: close", "abc")),
    ]
}

/// Answers that take their time.
fn in_pieces() -> Vec<Case> {
    let events: Vec<_> = (0..5)
        .map(|n| format!("id: {n}\nevent: tick\ndata: {{\"n\": {n}}}\n\n"))
        .collect();
    let lines = "200 OK\nContent-Type: text/event-stream\nCache-Control: no-cache";
    let in_chunks = [head(format!("{lines}\nTransfer-Encoding: chunked"))];
    let in_chunks = in_chunks.into_iter().chain(chunks(&events));
    let until_close = events.iter().map(|event| event.as_bytes().to_vec());
    let until_close = [head(lines)].into_iter().chain(until_close);
    let answer = whole("200 OK\nX-A: b", pattern::bytes(40_000));
    vec![
        get("events in chunks").slow_answer(in_chunks),
        get("events until the close")
            .slow_answer(until_close)
            .then(Step::Close),
        get("a head in pieces").slow_answer([&answer[..5], &answer[5..25], &answer[25..]]),
        get("a body in pieces").slow_answer(answer.chunks(9_000)),
        get("a chunk in pieces").slow_answer([
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6",
            "\r\nab",
            "cdef\r",
            "\n0\r\n",
            "\r\n",
        ]),
    ]
}

/// Answers with a status of 1xx before the answer, unasked.
fn informational() -> Vec<Case> {
    let hints = "103 Early Hints\nLink: </a.css>; rel=preload\nLink: </b.js>; rel=preload";
    let before = |what: &str, lines: &[&str]| {
        let heads = lines.iter().map(head);
        let last = whole("200 OK\nLink: </a.css>", "abc");
        get(what).slow_answer(heads.chain([last]))
    };
    vec![
        before("100 unasked", &["100 Continue"]),
        before("102 twice", &["102 Processing", "102 Processing\nX-A: b"]),
        before("103", &[hints]),
        before(
            "102, 103 and 103",
            &["102 Processing", hints, "103 Early Hints\nX-A: b"],
        ),
        before("103 with nothing", &["103 Early Hints"]),
        before("199", &["199 Own\nX-A: b"]),
    ]
}

/// Requests that wait for a 100.
fn expectations() -> Vec<Case> {
    let expecting = |what: &str, body: &str| {
        Case::post(format!("100-continue: {what}"))
            .field("Expect", "100-continue")
            .body(body)
            .sending(Sending::OnContinue)
    };
    let large = "b".repeat(100 * 1024);
    let go_on = [
        Step::Send(head("100 Continue")),
        Step::ReadBody,
        Step::Send(whole("201 Created", "made")),
    ];
    let refused = || whole("417 Expectation Failed\nX-A: b", "no");
    vec![
        expecting("a small body", "abc").steps(go_on.clone()),
        expecting("a large body", &large).steps(go_on),
        expecting("417 for a small body", "abc").early_answer(refused()),
        expecting("417 for a large body", &large).early_answer(refused()),
        expecting("401 for a small body", "abc").early_answer(whole("401 Unauthorized", "no")),
    ]
}

/// Answers whose end never comes.
fn broken_off() -> Vec<Case> {
    let known = |promised: usize, sent: usize| {
        let lines = format!("200 OK\nContent-Length: {promised}");
        [head(lines), pattern::bytes(sent).to_vec()].concat()
    };
    let cut = |what: &str, rest: &str| {
        let sent = in_chunks("200 OK", &open_chunks(["abc", "de"]));
        let sent = [&*sent, rest.as_bytes()].concat();
        get(what).answer_and_close(sent)
    };
    // What was sent shall be on its way before the reset.
    let reset = |what: &str, sent: Vec<u8>| {
        let steps = [Step::ReadBody, Step::Send(sent), Step::Pause(SLOWLY)];
        get(what).steps(steps).then(Step::Reset)
    };
    let until_close = [head("200 OK"), b"abc".to_vec()].concat();
    vec![
        get("50 of 100 bytes").answer_and_close(known(100, 50)),
        get("0 of 100 bytes").answer_and_close(known(100, 0)),
        get("100 of 300 KiB").answer_and_close(known(300 * 1024, 100 * 1024)),
        get("50 of 100 bytes, slowly")
            .slow_answer([known(100, 50)])
            .then(Step::Close),
        reset("50 of 100 bytes, reset", known(100, 50)),
        reset("100 of 300 KiB, reset", known(300 * 1024, 100 * 1024)),
        reset("until the close, reset", until_close),
        reset("chunks, reset", in_chunks("200 OK", &open_chunks(["abc"]))),
        cut("no last chunk", ""),
        cut("half a chunk", "9\r\nabc"),
        cut("half a size", "1"),
        cut("a chunk without its end", "1\r\na"),
        cut("no empty line behind the last chunk", "0\r\n"),
        cut("half a trailer", "0\r\nX-Sum: 5"),
        cut("a size that is none", "x\r\nabc\r\n0\r\n\r\n"),
        cut(
            "a size that is too large",
            "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        ),
        cut("a chunk longer than its size", "2\r\nabc\r\n0\r\n\r\n"),
    ]
}

/// What is no answer of HTTP/1.1, or can be read in more than one way.
fn unusable() -> Vec<Case> {
    let body = NEVER_SEEN;
    let length = body.len();
    let bad = |what: &str, head: &str| {
        let answer = format!("{head}\r\n\r\n{body}");
        get(what).answer_and_close(answer)
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
        ok("a folded field", &format!("X-A: b\r\n c\r\n{fine}")),
        ok("a folded length", &format!("Content-Length:\r\n {length}")),
        ok("a fold before any field", &format!(" X-A: b\r\n{fine}")),
        ok("a space before the colon", &format!("X-A : b\r\n{fine}")),
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
            "a switch that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: a",
        ),
        get("nothing").steps([Step::ReadBody, Step::Close]),
        get("half a status line").answer_and_close("HTTP/1.1 2"),
        get("half a head").answer_and_close("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: b"),
        get("only 100").answer_and_close(head("100 Continue")),
    ]
}

/// The same length twice can be read in one way, and must not be passed on so (RFC 9110, 8.6).
fn lengths_said_twice() -> Vec<Case> {
    vec![
        get("the same length in two fields").answer(whole("200 OK\nContent-Length: 3", "abc")),
        get("the same length twice in a list")
            .answer("HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc".as_bytes()),
    ]
}
