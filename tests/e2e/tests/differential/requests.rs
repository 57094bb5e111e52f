//! Requests of every kind. Their responses are plain.

use super::case::{Case, Check, Target};
use super::script::{chunks, odd_pieces, open_chunks};
use support::h2_target::{Head, Step, whole};
use support::pattern;
use support::recorder::Sending;

/// The rows for a target of this protocol.
pub(crate) fn all(target: Target) -> Vec<Case> {
    let mut shared = [
        paths(),
        queries(target),
        unclear_targets(),
        methods(),
        plain_fields(target),
        known_fields(),
        bodies(target),
        bodies_of_other_methods(),
        trailers(),
        early_responses(),
        expectations(),
    ]
    .concat();
    match target {
        Target::Http1 => shared.extend([raw_fields(), fields_of_one_hop(), raw_chunks()].concat()),
        Target::Http2 => shared.retain(Case::is_for_http2),
    }
    shared
}

fn gets(what: &str, targets: &[&str]) -> Vec<Case> {
    let case = |target: &&str| Case::new(format!("{what} {target}"), "GET", target);
    targets.iter().map(case).collect()
}

fn paths() -> Vec<Case> {
    let mut cases = gets(
        "path",
        &[
            "/",
            "//",
            "//a",
            "/a//b",
            "/a/",
            "/a/b/c///",
            "/a%2Fb",
            "/a%2fb",
            "/%2F",
            "/a%00b",
            "/a%2eb/c%2Ed",
            "/a%0D%0AX-Injected:%201",
            "/a%20b+c",
            "/a%25b",
            "/a%252Fb",
            "/a%252Fb%25",
            "/*",
            "/a%3Fb%23c",
            "/%41%5a%7E",
            "/%7f%80%ff%FE",
            "/%C3%A9t%c3%a9",
            "/%E2%82%AC/%F0%9F%98%80",
            "/a;b=c;d/e;f",
            "/;",
            "/a=b&c,d",
            "/a!b$c'(d)*",
            "/me@host.example:8080/a",
            "/http://other.example/a",
            "/v1/endpoints/t/a",
            "/...",
            "/.a/..b/c..",
            "/~a/-_.b",
        ],
    );
    let long = format!("/{}", "segment/".repeat(768));
    cases.push(Case::new("path of 6 KiB", "GET", long));
    cases
}

fn queries(target: Target) -> Vec<Case> {
    let mut cases = gets(
        "query",
        &[
            "/a?",
            "/a??",
            "/?a",
            "/?",
            "/a/?b",
            "/a?b=",
            "/a?b=c+d&b=%2F&&=",
            "/a?/b/../c",
            "/a?u=http://other.example:80/b?c@d",
            "/a?b;c",
            "/a?[b]=1",
            "/a?%3f%26%3D%00",
            "/a?b=%",
            "/a?b=!$'()*,~",
        ],
    );
    let long = format!("/a?{}", "key=value&".repeat(614));
    cases.push(Case::new("query of 6 KiB", "GET", long));
    let all = "/a?aZ09!$&'()*+,-./:;=?@_~%3f%26%3D%00";
    cases.push(Case::new("query of every kind of byte", "GET", all));
    let braces = Case::new("query with braces", "GET", "/a?q={x[1];y}|'");
    cases.push(braces.check(match target {
        Target::Http1 => Check::SameOrRefused,
        Target::Http2 => Check::Same,
    }));
    cases
}

/// Targets that two receivers could read differently, and invalid ones. `#` is not among them: a fragment
/// never belongs to a request. Nor are the characters that pass percent-encoded (`edges`).
fn unclear_targets() -> Vec<Case> {
    let mut cases = gets(
        "unclear",
        &[
            "/.",
            "/..",
            "/a/.",
            "/a/..",
            "/a/./b",
            "/a/../b",
            "/../a",
            "/a/../../b",
            "/%2e",
            "/%2e%2e/a",
            "/a/%2E%2e/b",
            "/a/.%2e/b",
            "/a/..%2fb",
            "/a%2f..%2Fb",
            "/a/..;b=1/c",
            "/a/%252e%252e/b",
            "/a/..%20/b",
            "/a\\..\\b",
            "/..%5ca",
            "/a%5Cb",
            "/%c0%ae%c0%ae/",
            "/a%",
            "/a%zz",
            "/a\"b",
            "/a{b}",
            "/a|b",
            "/a^b",
            "/a[b]",
            "/a[b]^c",
            "/a?b\\c^`",
            "/a?b|c",
            "/a?b\\c",
        ],
    );
    cases.push(Case::new("unclear /\\xff", "GET", b"/\xff"));
    let cases = cases.into_iter();
    cases.map(|case| case.check(Check::SameOrRefused)).collect()
}

fn methods() -> Vec<Case> {
    let bodiless = [
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "MKCOL",
        "M-SEARCH",
        "X!#$%&'*+-.^_`|~9",
        "get",
        "Post",
    ];
    let bodiless = bodiless.map(|method| Case::new(format!("method {method}"), method, "/a"));
    let with_body = [
        "GET", "PUT", "PATCH", "DELETE", "PROPFIND", "REPORT", "LOCK", "put",
    ];
    let with_body = with_body.map(|method| {
        Case::new(format!("method {method} with a body"), method, "/a")
            .field("Content-Type", "application/xml")
            .body("<a xmlns=\"DAV:\"/>")
    });
    let to_head = Case::new("method HEAD", "HEAD", "/a");
    let head = Head::new(200).field("content-length", "2");
    let to_head = to_head.steps([Step::ReadBody, Step::Bodiless(head)]);
    [&bodiless[..], &with_body, &[to_head]].concat()
}

/// Names and values as such.
fn plain_fields(target: Target) -> Vec<Case> {
    // What fits next to the fields that a route adds.
    let (count, longer) = match target {
        Target::Http1 => (100, 8),
        Target::Http2 => (60, 4),
    };
    let odd_name = "X!#$%&'*+-.^_`|~9";
    let obs_text: Vec<u8> = (0x80..=0xff_u8).collect();
    let mut many = Case::get(format!("{count} fields"));
    for n in 0..count {
        many = many.field(&format!("X-{n}"), n.to_string());
    }
    let mut repeated = Case::get("one field 60 times");
    for n in 0..60 {
        repeated = repeated.field("X-Same", n.to_string());
    }
    vec![
        many,
        repeated,
        Case::get("fields repeated, with others between")
            .field("X-One", "1")
            .field("X-Two", "a")
            .field("X-One", "2")
            .field("x-one", "2")
            .field("X-Two", "")
            .field("X-ONE", "0"),
        Case::get("empty values")
            .field("x-empty", "")
            .field("x-empty", ""),
        Case::get("spaces and tabs in a value").field("X-Wide", "a  b\tc\t\td"),
        Case::get("commas, quotes and colons").field("X-List", "a, \"b, \\\"c\", ,d;e=\"f\" : :"),
        Case::get("bytes from 0x80 to 0xff").field("X-High", obs_text),
        Case::get("UTF-8").field("X-Text", "Grüße, 世界"),
        Case::get("a name of every kind of byte").field(odd_name, "1"),
        Case::get("digits and underscores in names")
            .field("1", "1")
            .field("x_y", "2")
            .field("X-Y", "3"),
        Case::get("a name of 200 bytes").field(&"x".repeat(200), "1"),
        Case::get("a value of 8 KiB").field("X-Long", "v".repeat(8 * 1024)),
        Case::get("values of 20 KiB and more in all")
            .field("X-Long", "v".repeat(8 * 1024))
            .field("X-Long", "w".repeat(8 * 1024))
            .field("X-Longer", "x".repeat(longer * 1024)),
        Case::get("trailers are welcome").field("te", "trailers"),
    ]
}

/// White space that HTTP/2 cannot express.
fn raw_fields() -> Vec<Case> {
    vec![
        Case::get("empty and blank values")
            .line("X-Empty:")
            .line("X-Blank: \t "),
        Case::get("white space around a value").line("X-Padded: \t a \t b  \t"),
        Case::get("no space before a value").line("X-Tight:a"),
    ]
}

/// Fields that an intermediary could interpret.
fn known_fields() -> Vec<Case> {
    let kinds = [
        "Basic dXNlcjpwYXNz",
        "bearer eyJhbGciOiJub25lIn0.e30.",
        "Digest username=\"a\", realm=\"b, c\", nonce=\"d\", uri=\"/a\", response=\"e\"",
        "NTLM TlRMTVNTUAABAAAAB4IIogAAAAA=",
        "Negotiate YIIGhgYGKwYBBQUCoIIGejCCBna=",
        "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-amz-date, Signature=c",
        "own",
        "",
    ];
    let named = |kind: &str| Case::get(format!("authorization {kind}"));
    let mut cases: Vec<_> = kinds
        .iter()
        .map(|kind| named(kind).field("Authorization", kind))
        .collect();
    let mut many_crumbs = Case::get("30 cookies in 30 fields");
    for n in 0..30 {
        many_crumbs = many_crumbs.field("Cookie", format!("c{n}=\"{n}=\""));
    }
    let crumbs: Vec<_> = (0..60).map(|n| format!("c{n}=\"{n}=\"")).collect();
    cases.extend([
        named("twice")
            .field("Authorization", "Basic YTpi")
            .field("Authorization", "Basic Yzpk"),
        Case::get("cookies in three lines")
            .field("Cookie", "a=b; c=d")
            .field("Cookie", "e=f")
            .field("cookie", "a=g;h=;i"),
        many_crumbs,
        Case::get("60 cookies in one line").field("Cookie", crumbs.join("; ")),
        Case::get("conditions")
            .field("If-Match", "\"a\", W/\"b\"")
            .field("If-None-Match", "*")
            .field("If-Modified-Since", "Sat, 29 Oct 1994 19:43:31 GMT")
            .field("If-Unmodified-Since", "yesterday"),
        Case::get("ranges")
            .field("Range", "bytes=0-0,5-,-3")
            .field("If-Range", "\"a\""),
        Case::get("negotiation")
            .field("Accept", "text/html;q=0.9, */*;q=0")
            .field("Accept-Charset", "utf-8")
            .field("Accept-Encoding", "gzip, br;q=0.5")
            .field("Accept-Encoding", "*;q=0")
            .field("Accept-Language", "de-CH, en;q=0.1"),
        Case::get("a browser's fields")
            .field("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)")
            .field("Origin", "null")
            .field("Referer", "http://other.example/a?b")
            .field("X-XSRF-TOKEN", "0123456789abcdef")
            .field("X-Requested-With", "XMLHttpRequest")
            .field("Sec-Fetch-Mode", "cors")
            .field("Upgrade-Insecure-Requests", "1"),
        Case::get("what other intermediaries wrote")
            .field("Via", "1.1 a, 1.0 b (c)")
            .field(
                "Forwarded",
                "for=192.0.2.1;proto=https, for=\"[2001:db8::1]\"",
            )
            .field("X-Forwarded-For", "192.0.2.1")
            .field("X-Forwarded-For", "192.0.2.2")
            .field("X-Forwarded-Host", "other.example")
            .field("Max-Forwards", "3")
            .field("Date", "Tue, 15 Nov 1994 08:12:31 GMT")
            .field("Cache-Control", "no-cache, max-age=0")
            .field("Pragma", "no-cache"),
        Case::get("traces")
            .field(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            .field("tracestate", "a=b, c@d=e")
            .field("baggage", "a=b;c"),
        Case::get("WebDAV")
            .field("Depth", "infinity")
            .field("Destination", "http://other.example/a%20b")
            .field("If", "(<urn:uuid:a> [\"b\"])")
            .field("Lock-Token", "<urn:uuid:a>")
            .field("Overwrite", "F")
            .field("Translate", "f"),
        Case::get("what describes a body, without one")
            .field("Content-Type", "multipart/form-data; boundary=\"a b\"")
            .field("Content-Language", "de")
            .field("Content-Encoding", "gzip")
            .field("SOAPAction", "\"\""),
    ]);
    cases
}

fn fields_of_one_hop() -> Vec<Case> {
    vec![
        Case::get("fields that Connection names")
            .connection("close, X-Hop ,x-other,,X-Absent")
            .field("x-hop", "1")
            .field("X-Other", "2")
            .field("X-Other", "3")
            .field("X-Other-Still", "4"),
        Case::get("fields that another Connection names")
            .line("Connection: x-hop")
            .field("X-Hop", "1")
            .field("X-Stays", "2"),
        Case::get("keep-alive")
            .connection("close, Keep-Alive, Proxy-Connection")
            .field("Keep-Alive", "timeout=5, max=1000")
            .field("Proxy-Connection", "keep-alive"),
        Case::get("keep-alive that Connection does not name")
            .field("Keep-Alive", "timeout=5")
            .field("Proxy-Connection", "close"),
        Case::get("transfer codings that are welcome")
            .connection("close, TE")
            .field("TE", "deflate;q=0.5, gzip"),
        Case::get("an upgrade that the target ignores")
            .connection("close, Upgrade, HTTP2-Settings")
            .field("Upgrade", "h2c")
            .field("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ]
}

/// Around what travels with a head and what a frame takes (16 KiB), and more than a window.
pub(crate) fn sizes(target: Target) -> [usize; 7] {
    let large = match target {
        Target::Http1 => 1024 * 1024,
        Target::Http2 => 3_000_000,
    };
    [0, 1, 16_383, 16_384, 16_385, 100 * 1024, large]
}

fn bodies(target: Target) -> Vec<Case> {
    let mut cases = Vec::new();
    for size in sizes(target) {
        let body = pattern::bytes(size);
        let named = |what: &str| Case::post(format!("{size} bytes {what}"));
        // More than a frame, and no multiple of one.
        let pieces = || body.chunks((size / 7).clamp(1, 20_011));
        cases.extend([
            named("of known length, in one piece").body(&body),
            named("of known length, in pieces").known(pieces()),
            named("of unknown length, in one piece").unknown([&body]),
            named("of unknown length, in pieces").unknown(pieces()),
        ]);
    }
    let body = pattern::bytes(3000);
    cases.extend([
        Case::post("odd pieces of known length").known(odd_pieces(&body)),
        Case::post("odd pieces of unknown length").unknown(odd_pieces(&body)),
        Case::post("100 pieces of one byte").unknown(body.chunks(1).take(100)),
        Case::post("no piece of unknown length").unknown([b""; 0]),
        Case::post("a body that is gzip")
            .field("Content-Type", "application/json")
            .field("Content-Encoding", "gzip")
            .body(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3"),
        Case::post("a body that looks like a message")
            .body("0\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n"),
        Case::post("a form")
            .field("Content-Type", "application/x-www-form-urlencoded")
            .body("a=b+c&d=%2F&a="),
    ]);
    cases
}

/// Chunks that a library would write in another way.
fn raw_chunks() -> Vec<Case> {
    let body = pattern::bytes(3000);
    let cut = chunks(odd_pieces(&body)).concat();
    let cut: Vec<_> = cut.chunks(7).map(<[u8]>::to_vec).collect();
    let mut with_trailers = open_chunks(["abc", "de"]);
    with_trailers.push(b"0\r\nX-Sum: 5\r\nX-State:\tdone \r\n\r\n".to_vec());
    vec![
        Case::post("chunks that are cut anywhere").chunked(cut),
        Case::post("chunks with extensions").chunked(vec![
            b"3;a\r\nabc\r\n".to_vec(),
            b"2 ;b=c;d=\"e;f\"\r\nde\r\n".to_vec(),
            b"0;g=h\r\n\r\n".to_vec(),
        ]),
        Case::post("chunk sizes in capitals and with zeros").chunked(vec![
            b"000A\r\n0123456789\r\n".to_vec(),
            b"b\r\n0123456789a\r\n".to_vec(),
            b"000\r\n\r\n".to_vec(),
        ]),
        Case::post("trailers with white space")
            .field("Trailer", "X-Sum, X-State")
            .chunked(with_trailers),
        Case::post("chunks next to a length")
            .field("Content-Length", "4")
            .chunked(chunks(["abc", "de"]))
            .check(Check::SameOrRefused),
    ]
}

fn trailers() -> Vec<Case> {
    let post = |what: &str| Case::post(what).field("trailer", "x-sum, x-state");
    vec![
        post("trailers after a body")
            .unknown(["abc", "de"])
            .trailer("x-sum", "5")
            .trailer("x-state", "done"),
        post("repeated trailers")
            .unknown(["abc"])
            .trailer("x-sum", "2")
            .trailer("x-sum", "")
            .trailer("x-sum", "1"),
        post("trailers after 100,000 bytes")
            .unknown([pattern::bytes(100_000)])
            .trailer("x-sum", "100000"),
        post("trailers without a body")
            .unknown([""; 0])
            .trailer("x-sum", "0"),
    ]
}

fn bodies_of_other_methods() -> Vec<Case> {
    let new = |name, method| Case::new(name, method, "/a");
    vec![
        new("GET with a body", "GET").body("abc"),
        new("GET with an empty body", "GET").body(""),
        new("GET with a body of unknown length", "GET").unknown(["abc"]),
        new("DELETE with a body", "DELETE").body("abc"),
        new("DELETE with a body of unknown length", "DELETE").unknown(["abc"]),
        new("OPTIONS with a body", "OPTIONS").body("abc"),
        new("PUT with an empty body", "PUT").body(""),
        new("PATCH with a body of unknown length", "PATCH").unknown(["abc", "de"]),
    ]
}

/// The target responds before it has the body. The caller sends the rest after the response.
fn early_responses() -> Vec<Case> {
    let body = pattern::bytes(100 * 1024);
    let (first, rest) = body.split_at(16 * 1024);
    [
        Case::post("a response before a body of known length").known([first, rest]),
        Case::post("a response before a body of unknown length").unknown([first, rest]),
    ]
    .map(|case| {
        let case = case.sending(Sending::OnAnswer);
        case.respond_early(Head::new(413).field("x-max", "10"), "too large")
    })
    .to_vec()
}

/// By HTTP/1.1 the body waits for a 100; by HTTP/2 the caller sends it at once.
fn expectations() -> Vec<Case> {
    let post = |what: &str, body: &str| {
        Case::post(format!("100-continue: {what}"))
            .field("expect", "100-continue")
            .body(body)
            .sending(Sending::OnContinue)
            .check(Check::Informational)
    };
    let go_on = || {
        let inform = Step::Inform(Head::new(100));
        let response = whole(Head::new(201), "made");
        [inform].into_iter().chain(response).collect::<Vec<_>>()
    };
    let large = "b".repeat(100 * 1024);
    let rejected = || Head::new(417).field("x-a", "b");
    vec![
        post("a small body", "abc").steps(go_on()),
        post("a large body", &large).steps(go_on()),
        post("417 for a small body", "abc").respond_early(rejected(), "no"),
        post("417 for a large body", &large).respond_early(rejected(), "no"),
        post("401 for a small body", "abc").respond_early(Head::new(401), "no"),
    ]
}
