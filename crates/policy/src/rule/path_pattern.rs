//! The paths that a rule allows, compared as raw bytes and by whole segments.
//!
//! A rule with paths refuses every path that other programs could read differently. So a prefix of
//! bytes is a prefix for the target as well.

use super::PatternError;
use crate::target::encode;
use crate::target::path::ambiguity;
use std::fmt;
use std::str::FromStr;

/// A pattern for raw paths. Its `Display` parses to an equal one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// Exactly this path.
    Exact(String),
    /// `Under("/hooks/")` is `/hooks/*`: every path that begins with it. It always ends with `/`.
    Under(String),
}

impl PathPattern {
    /// Parses one entry of `paths`. `/hooks/*` allows `/hooks/` and everything below it, not
    /// `/hooks`; `/hooks` allows only itself.
    ///
    /// # Errors
    /// [`PatternError`], with what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if !text.starts_with('/') {
            return Err(PatternError::PathStart);
        }
        if !text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'))
        {
            return Err(PatternError::PathBytes);
        }
        // Such a pattern could never match, because requests with such paths are refused.
        if let Some(why) = ambiguity(text) {
            return Err(PatternError::PathAmbiguous {
                why: why.to_string(),
            });
        }
        // As a target has it.
        let encoded = encode::path_and_query(text);
        let text = encoded.as_deref().unwrap_or(text);
        let under = text.strip_suffix('*');
        let path = under.unwrap_or(text);
        // `/hooks*` would match `/hooksx` as well, so the star must follow a slash.
        if path.contains('*') || (under.is_some() && !path.ends_with('/')) {
            return Err(PatternError::PathStar);
        }
        Ok(match under {
            Some(path) => Self::Under(path.into()),
            None => Self::Exact(path.into()),
        })
    }

    /// Whether the pattern allows this raw path.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            // `/*` is every path, and the server as a whole (`OPTIONS *`).
            Self::Under(folder) => {
                path.starts_with(folder.as_str()) || (folder == "/" && path == "*")
            }
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Under(folder) => write!(f, "{folder}*"),
        }
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_compared_as_the_target_sees_it() {
        let exact = PathPattern::parse("/a<b>").unwrap();
        assert!(exact.matches("/a%3Cb%3E"));
        assert_eq!(exact.to_string().parse(), Ok(exact));
    }

    #[test]
    fn asterisk_needs_every_path() {
        assert!(PathPattern::parse("/*").unwrap().matches("*"));
        assert!(!PathPattern::parse("/").unwrap().matches("*"));
        assert!(!PathPattern::parse("/hooks/*").unwrap().matches("*"));
    }

    #[test]
    fn path_star_matches_below_only() {
        let hooks = PathPattern::parse("/hooks/*").unwrap();
        assert_eq!(hooks.to_string(), "/hooks/*");
        for path in ["/hooks/", "/hooks/a", "/hooks/a/b", "/hooks//a"] {
            assert!(hooks.matches(path), "{path}");
        }
        for path in [
            "/hooks",
            "/hooksx",
            "/hooksx/a",
            "/Hooks/a",
            "/a/hooks/",
            "/%68ooks/a",
            "/",
        ] {
            assert!(!hooks.matches(path), "{path}");
        }
    }

    #[test]
    fn path_without_star_is_exact() {
        let hooks = PathPattern::parse("/hooks").unwrap();
        assert!(hooks.matches("/hooks"));
        for path in ["/hooks/", "/hooks/a", "/hook", "/hooks;x", "//hooks"] {
            assert!(!hooks.matches(path), "{path}");
        }
    }

    #[test]
    fn slash_star_matches_every_path() {
        let all = PathPattern::parse("/*").unwrap();
        assert!(all.matches("/"));
        assert!(all.matches("/a/b"));
    }

    #[test]
    fn invalid_path_pattern_is_rejected_with_a_hint() {
        for (text, error) in [
            ("", PatternError::PathStart),
            ("hooks", PatternError::PathStart),
            ("*", PatternError::PathStart),
            ("/hooks*", PatternError::PathStar),
            ("/*/hooks", PatternError::PathStar),
            ("/hooks/**", PatternError::PathStar),
            ("/hooks?x", PatternError::PathBytes),
            ("/hooks#x", PatternError::PathBytes),
            ("/a b", PatternError::PathBytes),
            ("/\u{e9}", PatternError::PathBytes),
        ] {
            assert_eq!(PathPattern::parse(text), Err(error), "{text}");
        }
        for text in ["/a/../b", "/a/%2e%2e/*", "/a\\b", "/a%5cb", "/a%zz"] {
            let error = PathPattern::parse(text).unwrap_err();
            assert!(
                matches!(error, PatternError::PathAmbiguous { .. }),
                "{text}: {error}"
            );
        }
    }
}
