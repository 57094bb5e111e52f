//! URLs that parse, those that must not, and joining.

use super::*;

fn parse(url: &str) -> Target {
    Target::parse(url).unwrap()
}

fn error(url: &str) -> TargetError {
    Target::parse(url).unwrap_err()
}

#[test]
fn url_parts_are_parsed() {
    let target = parse("HTTPS://Alm.Corp.Example.:8443/qcbin/x%2fy/../?a=1&b=?");
    assert_eq!(target.scheme(), Scheme::Https);
    assert_eq!(target.host(), &Host::Name("alm.corp.example".into()));
    assert_eq!(target.port(), 8443);
    assert_eq!(target.path(), "/qcbin/x%2fy/../");
    assert_eq!(target.query(), Some("a=1&b=?"));
    assert_eq!(target.path_and_query(), "/qcbin/x%2fy/../?a=1&b=?");
    assert_eq!(target.authority(), "alm.corp.example:8443");
    assert_eq!(target.origin(), "https://alm.corp.example:8443");
    assert_eq!(
        target.to_string(),
        "https://alm.corp.example:8443/qcbin/x%2fy/../?a=1&b=?"
    );
}

#[test]
fn missing_path_is_the_root() {
    assert_eq!(parse("http://a").path_and_query(), "/");
    assert_eq!(parse("http://a").query(), None);
    assert_eq!(parse("http://a?").path_and_query(), "/?");
    assert_eq!(parse("http://a?").query(), Some(""));
    assert_eq!(parse("http://a?x=/../\\").query(), Some("x=/../\\"));
}

#[test]
fn default_port_is_omitted() {
    assert_eq!(parse("http://a:80/").to_string(), "http://a/");
    assert_eq!(parse("https://a:443/").authority(), "a");
    assert_eq!(parse("https://a:80/").authority(), "a:80");
    assert_eq!(
        parse("https://[2001:DB8::1]:8443/").authority(),
        "[2001:db8::1]:8443"
    );
}

#[test]
fn ambiguous_url_is_rejected() {
    assert_eq!(error("https://good@evil/"), TargetError::UserInfo);
    assert_eq!(error("https://user:pw@host:443/"), TargetError::UserInfo);
    assert_eq!(error("https://user:p/w@host:443/"), TargetError::UserInfo);
    assert_eq!(error("https://user:p#w@host:443/"), TargetError::UserInfo);
    assert_eq!(error("https://good\\@evil/"), TargetError::Backslash);
    assert_eq!(error("https://good\\.evil/"), TargetError::Backslash);
    assert_eq!(error("https://good/a\\b"), TargetError::Backslash);
    assert_eq!(error("https://good/a#b"), TargetError::Fragment);
    assert_eq!(error("https://good#@evil/"), TargetError::Fragment);
    assert_eq!(error("https://good/?a#b"), TargetError::Fragment);
    assert_eq!(error("https:/good/"), TargetError::NotAbsolute);
    assert_eq!(error("https:good"), TargetError::NotAbsolute);
    assert_eq!(error("//good/"), TargetError::NotAbsolute);
    assert_eq!(error("/x"), TargetError::NotAbsolute);
    assert_eq!(error(""), TargetError::NotAbsolute);
    assert_eq!(error("ftp://good/"), TargetError::Scheme);
    assert_eq!(error("x?://good/"), TargetError::Scheme);
}

#[test]
fn characters_of_careless_clients_are_encoded() {
    let target = parse("http://a/x<y>?query={id[>10]}&b=\"c\"");
    assert_eq!(target.path(), "/x%3Cy%3E");
    assert_eq!(target.query(), Some("query={id[%3E10]}&b=%22c%22"));
    assert_eq!(parse(&target.to_string()), target);
    let joined = parse("http://a/base").join("/x?<").unwrap();
    assert_eq!(joined.path_and_query(), "/base/x?%3C");
    let target = parse("http://a/\u{fc}/?q=\u{20ac}");
    assert_eq!(
        (target.path(), target.query()),
        ("/%C3%BC/", Some("q=%E2%82%AC"))
    );
    let joined = parse("http://a/base").join("/\u{fc}").unwrap();
    assert_eq!(joined.path_and_query(), "/base/%C3%BC");
}

#[test]
fn unencoded_bytes_are_rejected_everywhere() {
    for (url, offset, byte) in [
        (" http://a/", 0, b' '),
        ("http://a/ ", 9, b' '),
        ("http://a\t/", 8, b'\t'),
        ("http://a/x\r\nHost: b", 10, b'\r'),
        ("http://a/\u{0}", 9, 0),
        ("http://a/\u{7f}", 9, 0x7f),
        ("http://b\u{fc}cher/", 8, 0xc3),
        ("http://\u{ff21}/", 7, 0xef),
        ("http://a:8\u{e9}/?q", 10, 0xc3),
    ] {
        assert_eq!(error(url), TargetError::Byte { offset, byte }, "{url:?}");
    }
}

#[test]
fn a_port_is_a_number_from_1_to_65535() {
    for port in [
        "",
        "0",
        "00",
        "080",
        "65536",
        "99999999999",
        "+80",
        "-1",
        "8o",
        "80;",
        "0x50",
    ] {
        assert_eq!(
            error(&format!("http://a:{port}/")),
            TargetError::Port,
            "{port}"
        );
    }
    assert_eq!(error("http://[::1]:/"), TargetError::Port);
    assert_eq!(parse("http://a:65535/").port(), 65535);
    assert_eq!(parse("http://a:1/").port(), 1);
}

#[test]
fn brackets_and_colons_must_match() {
    assert_eq!(error("http://::1/"), HostError::Brackets.into());
    assert_eq!(error("http://a:80:90/"), HostError::Brackets.into());
    assert_eq!(error("http://[::1]x/"), HostError::Character.into());
    assert_eq!(error("http://[::1]x:80/"), HostError::Character.into());
    assert_eq!(error("http:///x"), HostError::Empty.into());
    assert_eq!(error("http://:80/x"), HostError::Empty.into());
    assert_eq!(error("http://?x"), HostError::Empty.into());
}

#[test]
fn url_longer_than_its_limit_is_refused() {
    let long = |path: usize| format!("http://a/{}", "x".repeat(path - "http://a/".len()));
    assert_eq!(parse(&long(URL_MAX_BYTES)).to_string().len(), URL_MAX_BYTES);
    assert_eq!(
        error(&long(URL_MAX_BYTES + 1)),
        TargetError::TooLong {
            bytes: URL_MAX_BYTES + 1
        }
    );
    let no_slash = format!("http://a?{}", "x".repeat(URL_MAX_BYTES - "http://a?".len()));
    assert_eq!(
        error(&no_slash),
        TargetError::TooLong {
            bytes: URL_MAX_BYTES + 1
        }
    );
}

#[test]
fn url_length_is_counted_before_encoding() {
    for character in ["<", "%3C", "%3c"] {
        let own = URL_MAX_BYTES - "http://a/".len();
        let url = |count: usize| format!("http://a/{}", character.repeat(count));
        let target = parse(&url(own));
        assert_eq!(parse(&target.to_string()), target);
        assert!(
            parse("http://a/")
                .join(&url(own)["http://a".len()..])
                .is_ok()
        );
        assert!(!is_too_long(&url(own)) && is_too_long(&url(own + 1)));
        assert!(matches!(error(&url(own + 1)), TargetError::TooLong { .. }));
    }
    assert!(is_too_long(&"%20".repeat(URL_MAX_BYTES / 2)));
}

#[test]
fn join_keeps_every_byte() {
    for (base, rest, joined) in [
        (
            "https://alm:8443/qcbin/",
            "/rest/x%2Fy?q=",
            "/qcbin/rest/x%2Fy?q=",
        ),
        ("https://alm:8443/qcbin", "/rest", "/qcbin/rest"),
        ("https://alm:8443/qcbin/", "", "/qcbin/"),
        ("https://alm:8443/qcbin", "", "/qcbin"),
        ("https://alm:8443/qcbin", "/", "/qcbin/"),
        ("https://alm:8443/qcbin", "?q", "/qcbin?q"),
        ("https://alm:8443/qcbin/", "//rest", "/qcbin//rest"),
        ("https://alm", "//evil.example/x", "//evil.example/x"),
        ("https://alm", "", "/"),
        ("https://alm/", "/a/../b?c\\d", "/a/../b?c\\d"),
    ] {
        let target = parse(base).join(rest).unwrap();
        assert_eq!(target.path_and_query(), joined, "{base} + {rest}");
        assert_eq!(target.origin(), parse(base).origin());
    }
}

#[test]
fn join_accepts_only_a_path_or_query() {
    let base = parse("https://alm/qcbin");
    assert_eq!(base.join("x").unwrap_err(), TargetError::Path);
    assert_eq!(base.join("@evil/").unwrap_err(), TargetError::Path);
    assert_eq!(base.join(";x").unwrap_err(), TargetError::Path);
    assert_eq!(base.join("/a#b").unwrap_err(), TargetError::Fragment);
    assert_eq!(base.join("#b").unwrap_err(), TargetError::Fragment);
    assert_eq!(base.join("\\a").unwrap_err(), TargetError::Backslash);
    assert_eq!(base.join("/a\\b").unwrap_err(), TargetError::Backslash);
    assert_eq!(
        base.join("/a b").unwrap_err(),
        TargetError::Byte {
            offset: 2,
            byte: b' '
        }
    );
}

#[test]
fn raw_target_has_no_tls() {
    let target = Target::raw(Host::Name("db".into()), 443).unwrap();
    assert!(!target.scheme().is_tls());
    assert_eq!(target.authority(), "db:443");
    assert_eq!(
        Target::raw(Host::Name("db".into()), 0).unwrap_err(),
        TargetError::Port
    );
}
