//! Header sections that HTTP/2 forbids (RFC 9113, 8.2 and 8.3), or that two readers could read
//! differently.

use super::case::{Expected, Table};

pub(crate) fn add(table: &mut Table<'_>) {
    names_and_values(table);
    pseudo_fields(table);
    paths(table);
    hosts(table);
}

fn names_and_values(table: &mut Table<'_>) {
    for (what, name, value) in [
        ("an upper-case name", "X-Upper", "1"),
        ("connection", "connection", "close"),
        ("a connection that names a field", "connection", "x-case"),
        ("transfer-encoding", "transfer-encoding", "chunked"),
        ("another te than trailers", "te", "gzip"),
        ("upgrade", "upgrade", "x"),
        ("keep-alive", "keep-alive", "timeout=5"),
        ("proxy-connection", "proxy-connection", "keep-alive"),
        ("a CR in a value", "x-value", "a\rb"),
        ("an LF in a value", "x-value", "a\nb"),
        ("a NUL in a value", "x-value", "a\0b"),
        (
            "a field in a value",
            "x-value",
            "a\r\ntransfer-encoding: chunked",
        ),
        (
            "a request in a value",
            "x-value",
            "a\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ),
        ("a space in a name", "x name", "1"),
        ("a colon in a name", "x:name", "1"),
        ("a CR in a name", "x\rname", "1"),
        ("an LF in a name", "x\nname", "1"),
        ("a NUL in a name", "x\0name", "1"),
        ("a field in a name", "x: 1\r\nx-name", "1"),
        ("an empty name", "", "1"),
    ] {
        table.refuse(what, |own, _| own.with(name, value));
    }
    table.add("white space around a value", Expected::Harmless, |own| {
        own.get().with("x-value", " \ta ").whole(1)
    });
}

fn pseudo_fields(table: &mut Table<'_>) {
    for name in [":method", ":scheme", ":path"] {
        table.refuse(&format!("no {name}"), |own, _| own.without(name));
    }
    for (name, value) in [
        (":method", "GET"),
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":authority", "other.example"),
        (":path", "/healthz"),
    ] {
        let what = format!("{name} twice, once {value}");
        table.refuse(&what, |own, _| own.first(name, value));
    }
    table.refuse(":path twice, both the same", |own, path| {
        own.first(":path", path)
    });
    table.refuse("an unknown one", |own, _| own.first(":x", "1"));
    table.refuse("one without a name", |own, _| own.first(":", "1"));
    table.refuse("the status of an answer", |own, _| {
        own.first(":status", "200")
    });
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
    ] {
        let what = format!("{name} behind a field");
        table.refuse(&what, |own, _| own.without(name).with(name, value));
    }
    table.refuse(":path behind a field", |own, path| {
        own.without(":path").with(":path", path)
    });
    for (what, name, value) in [
        ("a space in the method", ":method", "GET /x"),
        (
            "a line end in the method",
            ":method",
            "GET / HTTP/1.1\r\n\r\nGET",
        ),
        ("an empty method", ":method", ""),
        ("a space in the scheme", ":scheme", "ht tp"),
        ("a space in the authority", ":authority", "a b"),
        ("a line end in the authority", ":authority", "a\r\nx: y"),
        ("a path in the authority", ":authority", "localhost/x"),
        ("CONNECT with a path", ":method", "CONNECT"),
    ] {
        table.refuse(what, |own, _| own.instead(name, value));
    }
    table.refuse("a protocol that was not offered", |own, _| {
        let own = own.instead(":method", "CONNECT");
        own.first(":protocol", "websocket")
    });
}

fn paths(table: &mut Table<'_>) {
    for (what, tail) in [
        ("a space in the path", " x"),
        ("a version in the path", " HTTP/1.1"),
        ("a tab in the path", "\tx"),
        ("a CR in the path", "\rx"),
        ("an LF in the path", "\nx"),
        ("a NUL in the path", "\0x"),
        (
            "a request in the path",
            " HTTP/1.1\r\nhost: x\r\n\r\nGET /x",
        ),
        ("a space in the query", "?a b"),
        ("a line end in the query", "?a\r\nb: c"),
    ] {
        table.refuse(what, |own, path| {
            own.instead(":path", &format!("{path}{tail}"))
        });
    }
    table.refuse("an empty path", |own, _| own.instead(":path", ""));
    table.refuse("a path without its slash", |own, path| {
        own.instead(":path", path.trim_start_matches('/'))
    });
    table.refuse("a URL as the path", |own, path| {
        own.instead(":path", &format!("https://localhost{path}"))
    });
    table.refuse("a star as the path of another method", |own, _| {
        own.instead(":path", "*")
    });
    // The HTTP library takes it off before anybody sees it.
    for (what, tail) in [
        ("a fragment", "#x"),
        ("a fragment behind a query", "?a#x"),
        ("a fragment with a query", "#x?a"),
    ] {
        table.add(what, Expected::Harmless, |own| {
            let path = format!("{}{tail}", own.path());
            own.get().instead(":path", &path).whole(1)
        });
    }
}

fn hosts(table: &mut Table<'_>) {
    table.refuse("neither host nor :authority", |own, _| {
        own.without(":authority")
    });
    table.refuse("two hosts", |own, _| {
        own.with("host", "localhost").with("host", "other.example")
    });
    // The target sees the host that the bridge writes, whatever the caller sent.
    table.add("another host than :authority", Expected::Harmless, |own| {
        own.get().with("host", "other.example").whole(1)
    });
}
