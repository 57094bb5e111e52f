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

/// Fields with another method.
const METHODS: [&str; 8] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-method",
    "x-http-verb",
    "x-original-method",
    "x-forwarded-method",
    "http-method-override",
];

/// Fields with another path, or with a prefix of it.
const PATHS: [&str; 18] = [
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-rewrite-url",
    "x-rewrite-uri",
    "x-rewrite-path",
    "x-override-url",
    "x-forwarded-prefix",
    "x-forwarded-path",
    "x-forwarded-uri",
    "x-forwarded-url",
    "x-forwarded-context",
    "x-envoy-original-path",
    "x-script-name",
    "script-name",
    "x-path-info",
    "path-info",
    "request-uri",
];

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
        (self.no_method && is_one_of(&METHODS, name)) || (self.no_path && is_one_of(&PATHS, name))
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
        is_one_of(&METHODS, name)
    }
}

fn is_one_of(names: &[&str], name: &str) -> bool {
    let normal = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => byte.to_ascii_lowercase(),
        _ => b'-',
    };
    // Lengths first: most fields differ in them, and this runs for each field of a request.
    names.iter().any(|known| {
        known.len() == name.len()
            && known
                .bytes()
                .zip(name.bytes())
                .all(|(known, byte)| known == normal(byte))
    })
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
}
