//! The methods that a rule or an endpoint allows.

use super::{PatternError, check_entries, list};
use std::fmt;

/// Longest method: standard ones have up to 17 bytes.
pub const METHOD_MAX_BYTES: usize = 32;

/// The allowed methods. CONNECT is not among them: raw streams have their own setting.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Methods {
    /// Any.
    Any,
    /// These, compared case-sensitively (RFC 9110 section 9.1).
    Only(Vec<String>),
}

impl Methods {
    /// Parses `methods = [...]` of the config; `["*"]` is any.
    ///
    /// # Errors
    /// [`PatternError`] when the list is empty or too long, names a method twice, mixes `*` with
    /// others, or contains an entry that is not a method in capitals.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, PatternError> {
        let names: Vec<String> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        if names == ["*"] {
            return Ok(Self::Any);
        }
        let methods = Self::Only(names);
        methods.validate()?;
        Ok(methods)
    }

    /// Whether this method is allowed.
    pub fn allows(&self, method: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(names) => names.iter().any(|name| name == method),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), PatternError> {
        let Self::Only(names) = self else {
            return Ok(());
        };
        check_entries("methods", names)?;
        names.iter().try_for_each(|name| check_name(name))
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Only(names) => f.write_str(&list(names)),
        }
    }
}

fn check_name(name: &str) -> Result<(), PatternError> {
    if name == "*" {
        return Err(PatternError::MethodStar);
    }
    if !is_method(name) {
        return Err(PatternError::Method);
    }
    let upper = name.to_ascii_uppercase();
    // Before the check of the case, so that `connect` gets the hint about raw streams as well.
    if is_connect(name) {
        Err(PatternError::MethodConnect)
    // Methods are case-sensitive (RFC 9110 section 9.1), so `get` would never match a usual request.
    } else if upper != name {
        Err(PatternError::MethodCase { upper })
    } else {
        Ok(())
    }
}

/// Whether a text is a token (RFC 9110 section 5.6.2) of at most [`METHOD_MAX_BYTES`].
pub(crate) fn is_method(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=METHOD_MAX_BYTES).contains(&text.len()) && text.bytes().all(is_tchar)
}

/// Whether the method is CONNECT, in upper or lower case: a lenient target may treat `connect` as CONNECT.
pub(crate) fn is_connect(method: &str) -> bool {
    method.eq_ignore_ascii_case("CONNECT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_is_any_method() {
        assert_eq!(Methods::parse(&["*"]), Ok(Methods::Any));
        let methods = Methods::parse(&["GET", "M-SEARCH"]).unwrap();
        assert!(methods.allows("M-SEARCH"));
        assert!(!methods.allows("get"));
        assert!(!methods.allows("POST"));
        assert_eq!(methods.to_string(), "GET, M-SEARCH");
    }

    #[test]
    fn method_lists_are_checked() {
        let long = "A".repeat(33);
        let cases: [(&[&str], PatternError); 9] = [
            (&[], PatternError::Empty { what: "methods" }),
            (&["GET", "GET"], PatternError::Twice { what: "methods" }),
            (&["*", "GET"], PatternError::MethodStar),
            (
                &["post"],
                PatternError::MethodCase {
                    upper: "POST".into(),
                },
            ),
            (
                &["Get"],
                PatternError::MethodCase {
                    upper: "GET".into(),
                },
            ),
            (&["CONNECT"], PatternError::MethodConnect),
            (&["GE T"], PatternError::Method),
            (&[""], PatternError::Method),
            (&[&long], PatternError::Method),
        ];
        for (names, error) in cases {
            assert_eq!(Methods::parse(names), Err(error), "{names:?}");
        }
    }

    #[test]
    fn method_is_a_token() {
        for method in ["GET", "get", "M-SEARCH", "X!#$%&'*+-.^_`|~9"] {
            assert!(is_method(method), "{method}");
        }
        for method in [
            "", "G T", "GET\r\n", "GET/", "G\u{cb}T", "(", "\"GET\"", "GET\0",
        ] {
            assert!(!is_method(method), "{method:?}");
        }
    }
}
