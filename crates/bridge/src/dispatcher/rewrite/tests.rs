//! Redirects and cookies, before and after the rewriting.

use super::*;
use policy::{Methods, Policy};

const ALM: &str = "https://alm.corp.example:8443/qcbin/";

const BOTH: Rewrite = Rewrite {
    location: true,
    cookies: true,
};

fn endpoint(url: &str) -> Endpoint {
    Endpoint::new("alm", url, Methods::Any).unwrap()
}

/// Returns the rewritten field.
fn rewritten(url: &str, name: &'static str, value: &[u8]) -> Vec<u8> {
    let mut headers = HeaderMap::new();
    headers.append(name, HeaderValue::from_bytes(value).unwrap());
    BOTH.apply(&mut headers, &endpoint(url), "/");
    assert_eq!(headers.len(), 1);
    headers[name].as_bytes().to_vec()
}

#[track_caller]
fn leads(url: &str, place: &str, to: &str) {
    for name in ["location", "content-location"] {
        let written = rewritten(url, name, place.as_bytes());
        assert_eq!(String::from_utf8(written).unwrap(), to, "{name}: {place}");
    }
}

#[track_caller]
fn is_left(url: &str, place: &str) {
    for name in ["location", "content-location"] {
        let written = rewritten(url, name, place.as_bytes());
        assert_eq!(written, place.as_bytes(), "{name}: {place}");
    }
}

#[track_caller]
fn is_set(url: &str, cookie: &str, as_this: &str) {
    let written = rewritten(url, "set-cookie", cookie.as_bytes());
    assert_eq!(String::from_utf8(written).unwrap(), as_this, "{cookie}");
}

fn parse(words: &[&str]) -> Result<Rewrite, String> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    Rewrite::parse(&words)
}

#[test]
fn rewrite_names_each_field_once() {
    assert_eq!(parse(&["location", "cookies"]), Ok(BOTH));
    assert_eq!(parse(&["cookies", "location"]), Ok(BOTH));
    let cookies = parse(&["cookies"]).unwrap();
    assert!(cookies.cookies && !cookies.location && !cookies.is_none());
    let location = parse(&["location"]).unwrap();
    assert!(location.location && !location.cookies && !location.is_none());
    assert!(parse(&[]).unwrap().is_none());
    assert!(Rewrite::default().is_none());
    for wrong in [
        &["locations"][..],
        &["Location"],
        &[""],
        &["cookies", "body"],
        &["cookies", "cookies"],
        &["location", "cookies", "location"],
    ] {
        let error = parse(wrong).unwrap_err();
        assert!(error.contains("\"location\""), "{error}");
        assert!(error.contains("\"cookies\""), "{error}");
    }
    assert_eq!(
        parse(&["body"]).unwrap_err(),
        "\"body\" cannot be rewritten: write \"location\", \"cookies\", or both"
    );
}

#[test]
fn rewrite_option_changes_its_own_fields() {
    let alm = endpoint(ALM);
    let fields = [
        ("location", "/qcbin/x"),
        ("content-location", "/qcbin/x"),
        ("set-cookie", "a=1; Path=/qcbin/x"),
        ("x-location", "/qcbin/x"),
        ("link", "</qcbin/x>"),
    ];
    let changed = |rewrite: Rewrite| -> Vec<&str> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        rewrite.apply(&mut headers, &alm, "/");
        let changed = fields
            .iter()
            .filter(|(name, value)| headers[*name] != value);
        changed.map(|(name, _)| *name).collect()
    };
    assert_eq!(changed(Rewrite::default()), [""; 0]);
    let location = parse(&["location"]).unwrap();
    assert_eq!(changed(location), ["location", "content-location"]);
    assert_eq!(changed(parse(&["cookies"]).unwrap()), ["set-cookie"]);
}

#[test]
fn location_below_the_endpoint_is_rewritten() {
    for (place, to) in [
        ("https://alm.corp.example:8443/qcbin/", "/v1/endpoints/alm/"),
        (
            "https://alm.corp.example:8443/qcbin/a/b",
            "/v1/endpoints/alm/a/b",
        ),
        (
            "HTTPS://ALM.Corp.Example:8443/qcbin/a",
            "/v1/endpoints/alm/a",
        ),
        (
            "https://alm.corp.example.:8443/qcbin/a",
            "/v1/endpoints/alm/a",
        ),
        ("//alm.corp.example:8443/qcbin/a", "/v1/endpoints/alm/a"),
        ("/qcbin/", "/v1/endpoints/alm/"),
        ("/qcbin/a%2Fb;c=1/", "/v1/endpoints/alm/a%2Fb;c=1/"),
        ("/qcbin//a", "/v1/endpoints/alm//a"),
        ("/qcbin/?", "/v1/endpoints/alm/?"),
        ("/qcbin/#", "/v1/endpoints/alm/#"),
        ("/qcbin/..a", "/v1/endpoints/alm/..a"),
    ] {
        leads(ALM, place, to);
    }
}

#[test]
fn query_and_fragment_stay_byte_for_byte() {
    for tail in [
        "?x=%2F&y=a+b&y=",
        "?to=https://alm.corp.example:8443/qcbin/",
        "?a/../b#c",
        "#/qcbin/../x?y",
        "?#",
        "?q={x[1];y}|'\\",
    ] {
        leads(
            ALM,
            &format!("/qcbin/a{tail}"),
            &format!("/v1/endpoints/alm/a{tail}"),
        );
        is_left(ALM, &format!("/other{tail}"));
    }
}

#[test]
fn missing_port_is_the_schemes_default() {
    for base in ["https://a.example/", "https://a.example:443/"] {
        leads(base, "https://a.example/x", "/v1/endpoints/alm/x");
        leads(base, "https://a.example:443/x", "/v1/endpoints/alm/x");
        leads(base, "//a.example:443/x", "/v1/endpoints/alm/x");
        is_left(base, "https://a.example:80/x");
        is_left(base, "http://a.example/x");
        is_left(base, "http://a.example:443/x");
    }
    leads("http://a.example/", "//a.example/x", "/v1/endpoints/alm/x");
    leads("http://[::1]:80/", "http://[0::1]/x", "/v1/endpoints/alm/x");
}

#[test]
fn endpoint_at_the_root_has_every_path() {
    let root = "http://a.example";
    leads(root, "/", "/v1/endpoints/alm/");
    leads(root, "http://a.example", "/v1/endpoints/alm/");
    leads(root, "http://a.example?x", "/v1/endpoints/alm/?x");
    leads(root, "http://a.example#x", "/v1/endpoints/alm/#x");
    leads(root, "http://a.example//b", "/v1/endpoints/alm//b");
    leads(root, "/v1/endpoints/x", "/v1/endpoints/alm/v1/endpoints/x");
}

#[test]
fn base_without_final_slash_has_itself_and_below() {
    let base = "http://a.example/app";
    leads(base, "/app", "/v1/endpoints/alm");
    leads(base, "/app?x#y", "/v1/endpoints/alm?x#y");
    leads(base, "/app/", "/v1/endpoints/alm/");
    leads(base, "/app/x", "/v1/endpoints/alm/x");
    is_left(base, "/app2");
    is_left(base, "/ap");
    is_left(ALM, "/qcbin");
    is_left(ALM, "/qcbin?x");
}

#[test]
fn location_elsewhere_is_unchanged() {
    for place in [
        "",
        "?x",
        "#x",
        "a",
        "./a",
        "../qcbin/a",
        "qcbin/a",
        "/",
        "/other",
        "/qcbin2/a",
        "/QCBIN/a",
        "/%71cbin/a",
        "/qcbin%2Fa",
        "//qcbin/a",
        "//other.example/qcbin/a",
        "///alm.corp.example:8443/qcbin/a",
        "https://other.example:8443/qcbin/a",
        "https://alm.corp.example.other.example:8443/qcbin/a",
        "https://x.alm.corp.example:8443/qcbin/a",
        "https://alm.corp.example/qcbin/a",
        "https://alm.corp.example:08443/qcbin/a",
        "https://alm.corp.example:8443",
        "http://alm.corp.example:8443/qcbin/a",
        "https:/qcbin/a",
        "https:alm.corp.example:8443/qcbin/a",
        "https://alm.corp.example:8443@other.example/qcbin/a",
        "https://me:pw@alm.corp.example:8443/qcbin/a",
        "https://other.example\\@alm.corp.example:8443/qcbin/a",
        "/\\other.example/qcbin/a",
        "\\\\alm.corp.example:8443/qcbin/a",
        "javascript:alert(1)",
        "mailto:a@alm.corp.example",
        "/qcbin/a b",
        "/qcbin/a?b c",
        "/qcbin/a\tb",
    ] {
        is_left(ALM, place);
    }
}

#[test]
fn ambiguous_location_is_unchanged() {
    for path in [
        "/qcbin/..",
        "/qcbin/../x",
        "/qcbin/../qcbin/x",
        "/x/../qcbin/x",
        "/qcbin/.",
        "/qcbin/./x",
        "/qcbin/%2e%2e/x",
        "/qcbin/.%2E/x",
        "/qcbin/%252e%252e/x",
        "/qcbin/..%2fx",
        "/qcbin/..;/x",
        "/qcbin/x\\..\\y",
        "/qcbin/x%5cy",
        "/qcbin/%",
        "/qcbin/%0d%0aSet-Cookie:%20a=1",
    ] {
        is_left(ALM, path);
        is_left(ALM, &format!("https://alm.corp.example:8443{path}"));
        is_left("https://alm.corp.example:8443", path);
    }
}

#[test]
fn location_that_is_not_text_is_unchanged() {
    for place in [&b"/qcbin/\xe9"[..], b"/qcbin/a?\xc3\xa9", b"/qcbin/a#\xff"] {
        assert_eq!(rewritten(ALM, "location", place), place);
    }
    let long = format!("/qcbin/{}", "a".repeat(policy::URL_MAX_BYTES));
    is_left(ALM, &long);
}

#[test]
fn rewritten_location_leads_to_the_same_target() {
    for base in [
        "https://a.example",
        "https://a.example/x",
        "https://a.example/x/",
        "https://a.example/x//",
        "https://a.example:444/x/y%2Fz/",
    ] {
        let own = endpoint(base);
        let policy = Policy::new(Vec::new(), vec![own.clone()]).unwrap();
        let mut led = 0;
        for rest in [
            "",
            "/",
            "//",
            "/a",
            "/a//b/",
            "//a",
            "/a?b=/../c",
            "?q",
            "/?",
            "a",
        ] {
            let place = format!("{}{}{rest}", own.base.origin(), own.base.path());
            let written = rewritten(base, "location", place.as_bytes());
            let written = String::from_utf8(written).unwrap();
            let Some(path) = written.strip_prefix("/v1/endpoints/alm") else {
                assert_eq!(written, place);
                continue;
            };
            led += 1;
            let candidate = policy.decide_endpoint("alm", "GET", path).unwrap();
            assert_eq!(candidate.target().to_string(), place, "{base}: {path}");
        }
        assert!(led >= 9, "{base}: {led}");
    }
}

#[test]
fn cookie_below_the_endpoint_gets_that_path() {
    for (path, to) in [
        ("/qcbin/", "/v1/endpoints/alm/"),
        ("/qcbin/a", "/v1/endpoints/alm/a"),
        ("/qcbin/a/", "/v1/endpoints/alm/a/"),
        ("/qcbin//a", "/v1/endpoints/alm//a"),
    ] {
        is_set(
            ALM,
            &format!("a=1; Path={path}"),
            &format!("a=1; Path={to}"),
        );
    }
    let root = "http://a.example";
    is_set(root, "a=1; Path=/", "a=1; Path=/v1/endpoints/alm/");
    is_set(root, "a=1; Path=/x", "a=1; Path=/v1/endpoints/alm/x");
    let base = "http://a.example/app";
    is_set(base, "a=1; Path=/app", "a=1; Path=/v1/endpoints/alm/");
    is_set(base, "a=1; Path=/app/", "a=1; Path=/v1/endpoints/alm/");
    is_set(base, "a=1; Path=/app/x", "a=1; Path=/v1/endpoints/alm/x");
}

#[test]
fn cookie_above_the_endpoint_gets_all_of_it() {
    let deep = "http://a.example/x/y/";
    for path in ["/", "/x", "/x/", "/x/y", "/x/y/"] {
        let cookie = format!("a=1; Path={path}");
        is_set(deep, &cookie, "a=1; Path=/v1/endpoints/alm/");
    }
    is_set(ALM, "a=1; Path=/qcbin", "a=1; Path=/v1/endpoints/alm/");
    is_set(
        "http://a.example/app",
        "a=1; Path=/",
        "a=1; Path=/v1/endpoints/alm/",
    );
}

#[test]
fn cookie_without_a_path_is_unchanged() {
    for attribute in [
        "",
        "; Path",
        "; Path=",
        "; Path= ",
        "; XPath=/qcbin/",
        "; Path x=/qcbin/",
        "; =/qcbin/",
    ] {
        let cookie = format!("a=1{attribute}");
        is_set(ALM, &cookie, &cookie);
        let cookie = format!("a=1{attribute}; Secure");
        is_set(ALM, &cookie, &cookie);
    }
    is_set("http://a.example", "a=1; Path=", "a=1; Path=");
}

#[test]
fn cookie_for_another_path_gets_the_endpoints_path() {
    for path in [
        "qcbin",
        "\"/qcbin/\"",
        "\"/v1/endpoints/other/\"",
        "/other",
        "/qcbin2",
        "/qcbi",
        "//",
        "/QCBIN/",
        "/v1/",
        "/v1/endpoints/",
        "/v1/endpoints/other/",
        "/qcbin/../v1/endpoints/other/",
        "/qcbin/..",
        "/qcbin/./x",
        "/qcbin/a\\..\\..\\b",
        "/qcbin/%2e%2E/x",
        "/x, b=2",
        "https://alm.corp.example:8443/qcbin/",
    ] {
        is_set(
            ALM,
            &format!("a=1; Path={path}; Secure"),
            "a=1; Path=/v1/endpoints/alm/; Secure",
        );
    }
}

#[test]
fn every_domain_is_removed() {
    for domain in [
        "alm.corp.example",
        ".alm.corp.example",
        "corp.example",
        "ALM.Corp.EXAMPLE",
        "example",
        "",
        ".",
        "x.alm.corp.example",
        "other.example",
        "relay.example",
        "127.0.0.1",
        "[::1]",
        "alm.corp.example:8443",
    ] {
        is_set(ALM, &format!("a=1; Domain={domain}"), "a=1");
        is_set(ALM, &format!("a=1;domain= {domain} ;Secure"), "a=1;Secure");
        is_set(
            ALM,
            &format!("a=1; HttpOnly; DOMAIN={domain}; b"),
            "a=1; HttpOnly; b",
        );
    }
    is_set(ALM, "a=1; Domain; Secure", "a=1; Secure");
    is_set(ALM, "a=1; Domain=a.example; Domain=b.example", "a=1");
}

#[test]
fn each_of_several_paths_is_confined() {
    is_set(
        ALM,
        "a=1; Path=/qcbin/x; Path=/other",
        "a=1; Path=/v1/endpoints/alm/x; Path=/v1/endpoints/alm/",
    );
    is_set(
        ALM,
        "a=1; Path=/v1/endpoints/other/; Path=",
        "a=1; Path=/v1/endpoints/alm/; Path=",
    );
}

#[test]
fn other_cookie_attributes_are_unchanged() {
    is_set(
        ALM,
        "sid=1;Secure ; sAmEsItE=lax;  pATh\t= /qcbin/x \t;Max-Age=5;Partitioned; Expires=Wed, 21 Oct 2015 07:28:00 GMT; odd = x=y ;;",
        "sid=1;Secure ; sAmEsItE=lax;  pATh\t= /v1/endpoints/alm/x \t;Max-Age=5;Partitioned; Expires=Wed, 21 Oct 2015 07:28:00 GMT; odd = x=y ;;",
    );
    for pair in [
        "",
        "=",
        "a",
        "Path=/qcbin/x",
        "Domain=corp.example",
        "a=\"b, c\" d",
        "a=b=Path=/qcbin/",
        " a = /qcbin/ ",
    ] {
        is_set(
            ALM,
            &format!("{pair}; Path=/qcbin/x"),
            &format!("{pair}; Path=/v1/endpoints/alm/x"),
        );
        is_set(ALM, pair, pair);
    }
    let written = rewritten(ALM, "set-cookie", b"n=\xe9\xff; Path=/qcbin/\xe9; x=\x80");
    assert_eq!(written, b"n=\xe9\xff; Path=/v1/endpoints/alm/\xe9; x=\x80");
}

#[test]
fn host_prefixed_cookies_keep_their_path() {
    for name in ["__Host-sid", "__host-sid", "__HOST-", " __Host-sid"] {
        let cookie = format!("{name}=1; Secure; Path=/");
        is_set(ALM, &cookie, &cookie);
        // No browser accepts these, and other clients do not know the prefix.
        for wrong in [
            "; Path=/qcbin/; Domain=corp.example",
            "; Path=/; Domain=corp.example",
            "; Path=/v1/endpoints/other/",
            "; Path=/; Path=/other",
        ] {
            let written = rewritten(ALM, "set-cookie", format!("{name}=1{wrong}").as_bytes());
            let written = String::from_utf8(written).unwrap();
            let mut paths = written.split("; ").skip(1);
            assert!(
                paths.all(|path| path == "Path=/v1/endpoints/alm/"),
                "{written}"
            );
        }
        let cookie = format!("{name}=1; Secure");
        is_set(ALM, &cookie, &cookie);
    }
    for name in ["__Secure-sid", "__Hos", "x__Host-sid", "__Host_sid"] {
        is_set(
            ALM,
            &format!("{name}=1; Secure; Path=/"),
            &format!("{name}=1; Secure; Path=/v1/endpoints/alm/"),
        );
    }
}

#[test]
fn several_cookies_keep_their_order() {
    let mut headers = HeaderMap::new();
    headers.append("set-cookie", HeaderValue::from_static("a=1; Path=/qcbin/a"));
    headers.append("x-other", HeaderValue::from_static("/qcbin/"));
    headers.append("set-cookie", HeaderValue::from_static("b=2; Path=/other"));
    headers.append("set-cookie", HeaderValue::from_static("a=3; Path=/"));
    BOTH.apply(&mut headers, &endpoint(ALM), "/");
    let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
    assert_eq!(
        cookies,
        [
            "a=1; Path=/v1/endpoints/alm/a",
            "b=2; Path=/v1/endpoints/alm/",
            "a=3; Path=/v1/endpoints/alm/"
        ]
    );
    assert_eq!(headers["x-other"], "/qcbin/");
    assert_eq!(headers.len(), 4);
}

#[test]
fn relative_redirect_of_bare_name_keeps_endpoint() {
    let given = |asked: &str, place: &'static str| {
        let mut headers = HeaderMap::new();
        headers.append(header::LOCATION, HeaderValue::from_static(place));
        BOTH.apply(&mut headers, &endpoint(ALM), asked);
        headers[header::LOCATION].to_str().unwrap().to_owned()
    };
    assert_eq!(given("", "login?a=b"), "/v1/endpoints/alm/login?a=b");
    assert_eq!(given("?x", "a/b"), "/v1/endpoints/alm/a/b");
    for place in ["../up", "?x=1", "#top", "mailto:a", "//other/x"] {
        assert_eq!(given("", place), place);
    }
    assert_eq!(given("/", "login"), "login");
}

#[test]
fn cookie_of_bare_name_gets_the_endpoints_path() {
    let given = |asked: &str, cookie: &'static str| {
        let mut headers = HeaderMap::new();
        headers.append(header::SET_COOKIE, HeaderValue::from_static(cookie));
        BOTH.apply(&mut headers, &endpoint(ALM), asked);
        headers[header::SET_COOKIE].to_str().unwrap().to_owned()
    };
    for asked in ["", "?x=1"] {
        for (cookie, start) in [
            ("a=1", "a=1"),
            ("a=1; Secure", "a=1; Secure"),
            ("a=1; Path=", "a=1"),
            ("a=1; Path; Secure", "a=1; Secure"),
            ("a=1; Path=x", "a=1"),
        ] {
            let expected = format!("{start}; Path=/v1/endpoints/alm/");
            assert_eq!(given(asked, cookie), expected, "{asked}");
        }
        let two = "a=1; Path=; Path=/qcbin/x";
        assert_eq!(given(asked, two), "a=1; Path=/v1/endpoints/alm/x");
    }
    assert_eq!(given("/", "a=1; Secure"), "a=1; Secure");
}
