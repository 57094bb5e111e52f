//! Requests of every kind; what they are answered with is plain.

use crate::case::{Case, Check};
use support::h2_target::{Head, Step, whole};
use support::pattern;
use support::recorder::Sending;

pub(crate) fn all() -> Vec<Case> {
    [
        methods(),
        paths(),
        unclear_targets(),
        fields(),
        cookies(),
        bodies(),
        trailers(),
        early_answers(),
        expectations(),
    ]
    .concat()
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
    ];
    let bodiless = bodiless.map(|method| Case::new(format!("method {method}"), method, "/a"));
    let with_body = ["GET", "PUT", "PATCH", "DELETE", "PROPFIND", "REPORT", "put"].map(|method| {
        Case::new(format!("method {method} with a body"), method, "/a")
            .field("content-type", "application/xml")
            .body("<a xmlns=\"DAV:\"/>")
    });
    [&bodiless[..], &with_body].concat()
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
            "/a/b/c///",
            "/a%2Fb",
            "/a%2fb",
            "/a%20b+c",
            "/a%252Fb%25",
            "/a%3Fb%23c",
            "/%7f%80%ff%FE",
            "/%C3%A9t%c3%a9/%E2%82%AC/%F0%9F%98%80",
            "/a;b=c;d/e;f",
            "/a!b$c'(d)*,&=",
            "/*",
            "/~a/-_.b",
            "/me@host.example:8080/a",
            "/http://other.example/a",
            "/v1/endpoints/t/a",
            "/?",
            "/a?",
            "/a??",
            "/?a",
            "/a?b=",
            "/a?b=c+d&b=%2F&&=",
            "/a?/b/../c",
            "/a?u=http://other.example:80/b?c@d",
            "/a?aZ09!$&'()*+,-./:;=?@_~%3f%26%3D%00",
            "/a?q={x[1];y}|'",
        ],
    );
    let long = format!("/a?{}", "key=value&".repeat(614));
    cases.push(Case::new("a query of 6 KiB", "GET", &long));
    cases
}

/// Two readers may read these differently.
fn unclear_targets() -> Vec<Case> {
    let targets = [
        "/a/../b",
        "/%2e%2e/a",
        "/a\\b",
        "/a{b}",
        "/a|b",
        "/a[b]^c",
        "/a%zz",
        "/a?b\\c^`",
    ];
    let cases = gets("unclear", &targets).into_iter();
    cases.map(|case| case.check(Check::SameOrRefused)).collect()
}

fn fields() -> Vec<Case> {
    let high: Vec<u8> = (0x80..=0xff_u8).collect();
    let mut many = Case::get("60 fields");
    let mut repeated = Case::get("one field 60 times");
    for n in 0..60 {
        many = many.field(&format!("x-{n}"), n.to_string());
        repeated = repeated.field("x-same", n.to_string());
    }
    vec![
        many,
        repeated,
        Case::get("fields repeated, with others between")
            .field("x-one", "1")
            .field("x-two", "a")
            .field("x-one", "2")
            .field("x-one", "2")
            .field("x-two", "")
            .field("x-one", "0"),
        Case::get("empty values")
            .field("x-empty", "")
            .field("x-empty", ""),
        Case::get("spaces, tabs, commas and quotes")
            .field("x-wide", "a  b\tc\t\td, \"e, \\\"f\" ,;g=\"h\" : :"),
        Case::get("bytes from 0x80 to 0xff").field("x-high", high),
        Case::get("UTF-8").field("x-text", "Grüße, 世界"),
        Case::get("a name of every kind of byte").field("x!#$%&'*+-.^_`|~9", "1"),
        Case::get("a value of 8 KiB").field("x-long", "v".repeat(8 * 1024)),
        Case::get("values of 20 KiB in all")
            .field("x-long", "v".repeat(8 * 1024))
            .field("x-long", "w".repeat(8 * 1024))
            .field("x-longer", "x".repeat(4 * 1024)),
        Case::get("authorization").field("authorization", "Bearer eyJhbGciOiJub25lIn0.e30."),
        Case::get("what other intermediaries wrote")
            .field("via", "1.1 a, 1.0 b (c)")
            .field("x-forwarded-for", "192.0.2.1")
            .field("x-forwarded-for", "192.0.2.2")
            .field("max-forwards", "3"),
        Case::get("a range")
            .field("range", "bytes=0-0,5-,-3")
            .field("if-range", "\"a\""),
        Case::get("trailers are welcome").field("te", "trailers"),
    ]
}

/// HTTP/2 may cut them, and whoever reads them joins them (RFC 9113, 8.2.3).
fn cookies() -> Vec<Case> {
    let mut crumbs = Case::get("30 cookies in 30 crumbs");
    for n in 0..30 {
        crumbs = crumbs.field("cookie", format!("c{n}=\"{n}=\""));
    }
    let line: Vec<_> = (0..30).map(|n| format!("c{n}={n}")).collect();
    vec![
        crumbs,
        Case::get("30 cookies in one field").field("cookie", line.join("; ")),
        Case::get("cookies in crumbs of several")
            .field("cookie", "a=b; c=d")
            .field("x-between", "1")
            .field("cookie", "e=f")
            .field("cookie", "a=g;h="),
    ]
}

/// Around what travels with a head and what a frame takes (16 KiB), and more than any window.
const SIZES: [usize; 7] = [0, 1, 16_383, 16_384, 16_385, 100_000, 3_000_000];

fn bodies() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in SIZES {
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
    cases.extend([
        Case::post("a body that is gzip")
            .field("content-type", "application/json")
            .field("content-encoding", "gzip")
            .body(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3"),
        Case::post("100 pieces of one byte").unknown(pattern::bytes(100).chunks(1)),
    ]);
    cases
}

fn trailers() -> Vec<Case> {
    let post = |what: &str| Case::post(what).field("trailer", "x-sum, x-state");
    vec![
        post("trailers behind a body")
            .unknown(["abc", "de"])
            .trailer("x-sum", "5")
            .trailer("x-state", "done"),
        post("repeated trailers")
            .unknown(["abc"])
            .trailer("x-sum", "2")
            .trailer("x-sum", "")
            .trailer("x-sum", "1"),
        post("trailers behind 100,000 bytes")
            .unknown([pattern::bytes(100_000)])
            .trailer("x-sum", "100000"),
        post("trailers without a body")
            .unknown([""; 0])
            .trailer("x-sum", "0"),
    ]
}

/// The target does not wait for the body, and the caller sends the rest when it has its answer.
fn early_answers() -> Vec<Case> {
    let body = pattern::bytes(100_000);
    let (first, rest) = body.split_at(10_000);
    let answer = || Head::new(413).field("x-max", "10");
    [
        Case::post("an answer before a body of known length").known([first, rest]),
        Case::post("an answer before a body of unknown length").unknown([first, rest]),
    ]
    .map(|case| {
        let case = case.sending(Sending::OnAnswer);
        case.early(answer(), "too large")
    })
    .to_vec()
}

/// By HTTP/1.1 the body waits for a 100; by HTTP/2 it is sent at once.
fn expectations() -> Vec<Case> {
    let post = |what: &str, body: &str| {
        Case::post(format!("100-continue: {what}"))
            .field("expect", "100-continue")
            .body(body)
            .sending(Sending::OnContinue)
    };
    let go_on = || {
        let inform = Step::Inform(Head::new(100));
        let answer = whole(Head::new(201), "made");
        [inform].into_iter().chain(answer).collect::<Vec<_>>()
    };
    let large = "b".repeat(100_000);
    let refused = || Head::new(417).field("x-a", "b");
    vec![
        post("a small body", "abc").steps(go_on()),
        post("a large body", &large).steps(go_on()),
        post("417 for a small body", "abc").early(refused(), "no"),
        post("417 for a large body", &large).early(refused(), "no"),
    ]
}
