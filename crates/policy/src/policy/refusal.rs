//! Refusals, with a text that states which change of the config would allow the request.

use crate::rule::endpoint::is_endpoint_name;
use crate::target::TargetError;
use crate::target::host::Host;
use std::fmt;
use thiserror::Error;

/// Longest text of a refusal; longer ones are truncated.
pub const REFUSAL_MAX_BYTES: usize = 300;

/// Longest host, path or name within a text.
pub(crate) const PART_MAX_BYTES: usize = 80;

/// The check that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The URL, path, host or `Location` cannot be parsed.
    InvalidUrl,
    /// No endpoint has this name.
    UnknownEndpoint,
    /// No rule applies to the host.
    NoRule,
    /// The nearest rule does not allow the scheme.
    Scheme,
    /// The nearest rule does not allow the port.
    Port,
    /// The nearest rule or the endpoint does not allow the method, or it is no method at all.
    Method,
    /// The nearest rule, or any endpoint, opens no raw streams.
    Connect,
    /// The nearest rule does not allow the path, or other programs could read the path differently.
    Path,
    /// The host or its address is one that no rule can allow.
    AlwaysRefused,
    /// The address is not one that the matching rules allow.
    AddressNotAllowed,
    /// The name resolved to no address.
    NoAddress,
}

impl RefusalKind {
    /// Returns a stable name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidUrl => "invalid_url",
            Self::UnknownEndpoint => "unknown_endpoint",
            Self::NoRule => "no_rule",
            Self::Scheme => "scheme",
            Self::Port => "port",
            Self::Method => "method",
            Self::Connect => "connect",
            Self::Path => "path",
            Self::AlwaysRefused => "always_refused",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::NoAddress => "no_address",
        }
    }
}

/// Why a request is refused. Its `Display` is for the administrator: visible ASCII and spaces, at most
/// [`REFUSAL_MAX_BYTES`], without query and user information.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct Refusal {
    kind: RefusalKind,
    detail: String,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, detail: impl AsRef<str>) -> Self {
        Self {
            kind,
            detail: clip(detail.as_ref(), REFUSAL_MAX_BYTES),
        }
    }

    pub(crate) fn no_rule(host: &Host) -> Self {
        let host = part(host);
        let detail = format!(
            "no allow rule matches host {host}: add an [[allow]] entry with host = \"{host}\""
        );
        Self::new(RefusalKind::NoRule, detail)
    }

    pub(crate) fn unknown_endpoint(name: &str) -> Self {
        // A caller chose the name. It is repeated only where it is harmless in a log line.
        let detail = if is_endpoint_name(name) {
            format!("there is no endpoint {name}: add an [[endpoint]] entry with name = \"{name}\"")
        } else {
            "there is no such endpoint: its name is not one that an endpoint can have".into()
        };
        Self::new(RefusalKind::UnknownEndpoint, detail)
    }

    /// Returns the check that failed.
    pub fn kind(&self) -> RefusalKind {
        self.kind
    }

    /// Returns the text of `Display`.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl From<TargetError> for Refusal {
    fn from(error: TargetError) -> Self {
        Self::new(RefusalKind::InvalidUrl, error.to_string())
    }
}

/// Formats a host, path or name, short enough that the text around it is not truncated.
pub(crate) fn part(text: impl fmt::Display) -> String {
    clip(&text.to_string(), PART_MAX_BYTES)
}

/// Truncates a text to `max_bytes`, with dots at the end.
fn clip(text: &str, max_bytes: usize) -> String {
    const DOTS: &str = "...";
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    // A cut inside a character would panic.
    let end = text.floor_char_boundary(max_bytes - DOTS.len());
    format!("{}{DOTS}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_truncated_at_a_character() {
        assert_eq!(clip("abcdef", 6), "abcdef");
        assert_eq!(clip("abcdefg", 6), "abc...");
        assert_eq!(clip("ab\u{e9}defg", 6), "ab...");
        assert_eq!(
            Refusal::new(RefusalKind::Path, "x".repeat(999))
                .to_string()
                .len(),
            REFUSAL_MAX_BYTES
        );
    }

    #[test]
    fn invalid_endpoint_name_is_not_repeated() {
        let refusal = Refusal::unknown_endpoint("a\r\nb");
        assert!(!refusal.detail().contains('\n'));
        assert!(
            Refusal::unknown_endpoint("alm")
                .detail()
                .contains("name = \"alm\"")
        );
    }
}
