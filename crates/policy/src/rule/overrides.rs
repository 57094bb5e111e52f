//! Header fields that replace a request's method or path at targets that honour them.
//!
//! ```text
//! POST /read/x                         what the rule allowed
//! X-HTTP-Method-Override: DELETE       what some frameworks execute instead
//! X-Original-URL: /admin               what some servers route by instead
//! ```
//!
//! A rule that restricts methods or paths would be without effect at such a target, so the fields are dropped
//! there. Names are compared as CGI variables are: without case, and with every other character as `-`, because
//! `X_HTTP_METHOD_OVERRIDE` becomes the same variable.
//!
//! Out of reach: a method in the query or in the body (`_method=DELETE`), and the `Destination` of WebDAV's COPY
//! and MOVE.

/// Names of fields.
struct Names {
    /// Those that begin with `x-`, without it.
    after_x: &'static [&'static str],
    /// All others.
    others: &'static [&'static str],
}

/// Fields with another method.
const METHODS: Names = Names {
    after_x: &[
        "http-method-override",
        "http-method",
        "http-verb",
        "http-verb-override",
        "httpmethod-override",
        "method",
        "method-override",
        "methodoverride",
        "verb",
        "verb-override",
        "override-method",
        "original-method",
        "original-http-method",
        "forwarded-method",
        "gwt-method",
        "real-method",
        "request-method",
        "requested-method",
        "rest-method",
        "rewrite-method",
    ],
    others: &["http-method-override", "method-override"],
};

/// Fields with another path, or with a prefix of it.
const PATHS: Names = Names {
    after_x: &[
        "original-url",
        "original-uri",
        "original-path",
        "original-request-uri",
        "rewrite-url",
        "rewrite-uri",
        "rewrite-path",
        "rewritten-url",
        "url-rewrite",
        "override-url",
        "override-uri",
        "override-path",
        "forwarded-prefix",
        "forwarded-path",
        "forwarded-pathbase",
        "forwarded-pathname",
        "forwarded-base",
        "forwarded-original-path",
        "forwarded-request-uri",
        "forwarded-uri",
        "forwarded-url",
        "forwarded-context",
        "envoy-original-path",
        "external-path",
        "http-destinationurl",
        "http-path-override",
        "iis-original-url",
        "ingress-path",
        "ms-original-url",
        "ms-proxy-url",
        "path",
        "path-info",
        "proxy-url",
        "real-url",
        "replaced-path",
        "request-path",
        "request-uri",
        "script-name",
        "uri",
        "url",
    ],
    others: &["script-name", "path-info", "request-uri"],
};

/// Which of a request's fields are dropped, because the rule that allowed it restricts what they replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overrides {
    /// Fields with another method are dropped.
    pub no_method: bool,
    /// Fields with another path are dropped.
    pub no_path: bool,
}

impl Overrides {
    /// Whether the field is dropped.
    pub fn drops(self, name: &str) -> bool {
        (self.no_method && METHODS.has(name)) || (self.no_path && PATHS.has(name))
    }

    /// Returns what either drops.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            no_method: self.no_method || other.no_method,
            no_path: self.no_path || other.no_path,
        }
    }

    /// Whether the field names another method, for decisions that depend on the method.
    pub fn is_method(name: &str) -> bool {
        METHODS.has(name)
    }
}

impl Names {
    /// Whether a field has one of the names, in any spelling.
    fn has(&self, name: &str) -> bool {
        let normal = |byte: u8| match byte {
            byte if byte.is_ascii_alphanumeric() => byte.to_ascii_lowercase(),
            _ => b'-',
        };
        // This runs for each field of a request, and few begin with `x-`.
        let (names, rest) = match name.as_bytes() {
            [b'x' | b'X', separator, rest @ ..] if normal(*separator) == b'-' => {
                (self.after_x, rest)
            }
            name => (self.others, name),
        };
        // Lengths first: most names differ in them.
        names.iter().any(|known| {
            known.len() == rest.len()
                && known
                    .bytes()
                    .zip(rest)
                    .all(|(known, byte)| known == normal(*byte))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn override_fields_are_known_in_every_spelling() {
        let both = Overrides {
            no_method: true,
            no_path: true,
        };
        for name in [
            "X-HTTP-Method-Override",
            "x_http_method_override",
            "X.HTTP-METHOD_OVERRIDE",
            "x-http-method",
            "X-Method-Override",
            "X-Original-URL",
            "x_original_url",
            "X-Rewrite-Url",
            "X-Forwarded-Prefix",
            "X_Verb",
            "Method-Override",
            "x.uri",
            "Request_URI",
        ] {
            assert!(both.drops(name), "{name}");
            assert!(!Overrides::default().drops(name), "{name}");
        }
        for name in [
            "x-forwarded-for",
            "x-http-methods",
            "accept",
            "",
            "x-original-ur",
            "x-",
            "xuri",
            "verb",
            "path",
            "access-control-request-method",
        ] {
            assert!(!both.drops(name), "{name}");
        }
        let method = Overrides {
            no_method: true,
            ..Overrides::default()
        };
        assert!(method.drops("x-http-method") && !method.drops("x-original-url"));
        assert!(Overrides::is_method("X_HTTP_METHOD") && !Overrides::is_method("x-original-url"));
    }

    #[test]
    fn guide_names_every_override_field() {
        let guide = include_str!("../../../../deploy/guide/bridge-administrator.md");
        let guide = guide.to_ascii_lowercase();
        for (row, names) in [("| another method |", METHODS), ("| another path |", PATHS)] {
            let shown = guide.lines().find(|line| line.starts_with(row));
            let shown = shown.expect("the row is in the guide");
            let shown: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
            let after_x = names.after_x.iter().map(|name| format!("x-{name}"));
            let others = names.others.iter().map(|name| (*name).to_owned());
            let known: Vec<String> = after_x.chain(others).collect();
            assert_eq!(shown, known, "{row}");
        }
    }
}
