//! Requests of every kind; what they are answered with is plain.

use crate::case::{Case, Check, chunks, head, odd_pieces, open_chunks, whole};
use support::pattern;
use support::recorder::Sending;

pub(crate) fn all() -> Vec<Case> {
    [
        paths(),
        queries(),
        unclear_targets(),
        methods(),
        plain_fields(),
        known_fields(),
        fields_of_one_hop(),
        whole_bodies(),
        chunked_bodies(),
        bodies_of_other_methods(),
        early_answers(),
    ]
    .concat()
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

fn queries() -> Vec<Case> {
    let mut cases = gets(
        "query",
        &[
            "/a?",
            "/a??",
            "/?a",
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
    cases
}

/// Two readers may read these differently, or they are no targets at all. `#` is not among them: what
/// is behind it never belongs to a request.
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
            "/a^b`c",
            "/a<b>",
            "/a[b]",
            "/caf\u{e9}",
            "/a?\"b\"",
            "/a?b|c",
            "/a?b\\c",
            "/a?<b>",
            "/a?caf\u{e9}",
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
    let with_body = ["PUT", "PATCH", "PROPFIND", "REPORT", "LOCK", "put"].map(|method| {
        Case::new(format!("method {method} with a body"), method, "/a")
            .field("Content-Type", "application/xml")
            .body("<a xmlns=\"DAV:\"/>")
    });
    let to_head = Case::new("method HEAD", "HEAD", "/a");
    let to_head = to_head.answer(head("200 OK\nContent-Length: 2"));
    [&bodiless[..], &with_body, &[to_head]].concat()
}

/// Names and values as such.
fn plain_fields() -> Vec<Case> {
    let odd_name = "X!#$%&'*+-.^_`|~9";
    let obs_text: Vec<u8> = (0x80..=0xff_u8).collect();
    let mut many = Case::get("100 fields");
    for n in 0..100 {
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
            .line("X-Empty:")
            .line("X-Blank: \t "),
        Case::get("white space around a value").line("X-Padded: \t a \t b  \t"),
        Case::get("no space before a value").line("X-Tight:a"),
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
        Case::get("values of 24 KiB in all")
            .field("X-Long", "v".repeat(8 * 1024))
            .field("X-Long", "w".repeat(8 * 1024))
            .field("X-Longer", "x".repeat(8 * 1024)),
    ]
}

/// Fields that an intermediary may be tempted by.
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
    let crumbs: Vec<_> = (0..60).map(|n| format!("c{n}=\"{n}=\"")).collect();
    cases.extend([
        named("twice")
            .field("Authorization", "Basic YTpi")
            .field("Authorization", "Basic Yzpk"),
        Case::get("cookies in three lines")
            .field("Cookie", "a=b; c=d")
            .field("Cookie", "e=f")
            .field("cookie", "a=g;h=;i"),
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
        Case::get("keep-alive that nobody names")
            .field("Keep-Alive", "timeout=5")
            .field("Proxy-Connection", "close"),
        Case::get("transfer codings that are welcome")
            .connection("close, TE")
            .field("TE", "deflate;q=0.5, gzip"),
        Case::get("an upgrade that is not taken")
            .connection("close, Upgrade, HTTP2-Settings")
            .field("Upgrade", "h2c")
            .field("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ]
}

/// Around what travels with a head (16 KiB), and more.
const SIZES: [usize; 7] = [0, 1, 16_383, 16_384, 16_385, 100 * 1024, 1024 * 1024];

fn whole_bodies() -> Vec<Case> {
    let sized = |size: &usize| {
        let body = pattern::bytes(*size);
        Case::post(format!("a body of {size} bytes")).body(body)
    };
    let mut cases: Vec<_> = SIZES.iter().map(sized).collect();
    let body = pattern::bytes(3000);
    cases.extend([
        Case::post("a body in pieces, of known length")
            .field("Content-Length", "3000")
            .pieces(odd_pieces(&body)),
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

fn chunked_bodies() -> Vec<Case> {
    let body = pattern::bytes(3000);
    let sized = |size: &usize| {
        let body = pattern::bytes(*size);
        Case::post(format!("a chunk of {size} bytes")).chunked(chunks([body]))
    };
    let mut cases: Vec<_> = SIZES[1..].iter().map(sized).collect();
    let cut = chunks(odd_pieces(&body)).concat();
    let cut: Vec<_> = cut.chunks(7).map(<[u8]>::to_vec).collect();
    let with_trailers = |chunks: Vec<Vec<u8>>, trailers: &str| {
        let mut chunks = chunks;
        chunks.push(format!("0\r\n{trailers}\r\n\r\n").into_bytes());
        chunks
    };
    cases.extend([
        Case::post("chunks of odd sizes").chunked(chunks(odd_pieces(&body))),
        Case::post("chunks of one byte").chunked(chunks(body.chunks(1).take(50))),
        Case::post("chunks that are cut anywhere").chunked(cut),
        Case::post("no chunk but the last").chunked(chunks([b""; 0])),
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
        Case::post("trailers")
            .field("Trailer", "X-Sum, X-State")
            .chunked(with_trailers(
                open_chunks(["abc", "de"]),
                "X-Sum: 5\r\nX-State:\tdone ",
            )),
        Case::post("repeated trailers")
            .field("Trailer", "x-sum")
            .chunked(with_trailers(
                open_chunks(["abc"]),
                "X-Sum: 2\r\nX-Sum:\r\nX-Sum: 1",
            )),
        Case::post("trailers without a body")
            .field("Trailer", "X-Sum")
            .chunked(with_trailers(Vec::new(), "X-Sum: 0")),
        Case::post("chunks beside a length")
            .field("Content-Length", "4")
            .chunked(chunks(["abc", "de"]))
            .check(Check::SameOrRefused),
    ]);
    cases
}

fn bodies_of_other_methods() -> Vec<Case> {
    let new = |name, method| Case::new(name, method, "/a");
    vec![
        new("GET with a body", "GET").body("abc"),
        new("GET with an empty body", "GET").body(""),
        new("GET with a body in chunks", "GET").chunked(chunks(["abc"])),
        new("DELETE with a body", "DELETE").body("abc"),
        new("DELETE with a body in chunks", "DELETE").chunked(chunks(["abc"])),
        new("OPTIONS with a body", "OPTIONS").body("abc"),
        new("PUT with an empty body", "PUT").body(""),
        new("PATCH with a body in chunks", "PATCH").chunked(chunks(["abc", "de"])),
    ]
}

/// The target does not wait for the body, and the client sends the rest when it has its answer.
fn early_answers() -> Vec<Case> {
    let body = pattern::bytes(100 * 1024);
    let answer = || whole("413 Content Too Large\nX-Max: 10", "too large");
    let known = Case::post("an answer before a body of known length")
        .field("Content-Length", body.len().to_string())
        .pieces([&body[..16 * 1024], &body[16 * 1024..]]);
    let unknown = Case::post("an answer before a body in chunks")
        .chunked(chunks([&body[..1000], &body[1000..]]));
    [known, unknown]
        .map(|case| case.sending(Sending::OnAnswer).early_answer(answer()))
        .to_vec()
}
