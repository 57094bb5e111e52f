//! A URL, parsed once and strictly, so that all later code reads it in the same way.
//!
//! ```text
//! https://alm.corp.example:8443/qcbin/rest/x%2Fy?q=1
//! scheme  host             port path             query     path and query: bytes unchanged
//! ```
//!
//! Characters that no request line may have (RFC 3986, appendix A), and that many clients send all the same, are
//! percent-encoded ([`encode`]): the policy and the target then see the same text.
//!
//! Text that two parsers could read differently (userinfo, backslashes, `0x7f.1`, raw spaces) is an
//! error. Hosts are in [`host`], dot segments and the like in [`path`].

pub(crate) mod encode;
pub(crate) mod error;
pub(crate) mod host;
pub(crate) mod path;

pub use self::error::TargetError;

use self::host::{Host, HostError};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest URL, counted before [`encode`]: 32 KiB. Some servers accept request lines of 8 KiB only, others more; the
/// filters of ALM's clients need it.
pub const URL_MAX_BYTES: usize = 32 * 1024;

/// The scheme of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP. The port defaults to 80.
    Http,
    /// HTTP over TLS. The port defaults to 443.
    Https,
}

impl Scheme {
    /// Reads `http` or `https`, in any case; `None` for everything else.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https]
            .into_iter()
            .find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }

    /// Returns `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Returns 80 or 443.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// Whether the connection begins with a TLS handshake.
    pub const fn is_tls(self) -> bool {
        match self {
            Self::Http => false,
            Self::Https => true,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An absolute `http` or `https` URL without user information and fragment.
///
/// Scheme and host are canonical (lower case, no trailing dot, an address as an address); the
/// bytes of path and query are unchanged, except for characters that must be encoded. Its `Display` parses to an equal one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    scheme: Scheme,
    host: Host,
    port: u16,
    /// Host, and port unless it is the scheme's default. Shared by all targets of an endpoint.
    authority: Arc<str>,
    path_and_query: String,
    /// The length of the path in it.
    path_len: usize,
}

impl Target {
    /// Parses an absolute URL.
    ///
    /// # Errors
    /// [`TargetError`] for the first part that is wrong.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        check_bytes(url)?;
        let (scheme, rest) = url.split_once("://").ok_or(TargetError::NotAbsolute)?;
        let scheme = Scheme::parse(scheme).ok_or(TargetError::Scheme)?;
        // A backslash ends the authority, as in browsers. It is an error later, and never part of a host.
        let authority_len = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at(authority_len);
        // Only a path and a query are encoded: a host has its own form for such characters (`xn--`).
        if let Some((at, byte)) = authority
            .bytes()
            .enumerate()
            .find(|(_, byte)| !byte.is_ascii())
        {
            let offset = url.len() - rest.len() + at;
            return Err(TargetError::Byte { offset, byte });
        }
        // `http://allowed@evil/` is read differently by careless parsers; credentials belong into headers.
        if authority.contains('@') {
            return Err(TargetError::UserInfo);
        }
        let (host, port) = split_port(authority).map_err(|error| {
            // `http://user:pass/word@host/`: the port is a part of the password.
            match path_and_query.contains('@') {
                true => TargetError::UserInfo,
                false => error,
            }
        })?;
        Self::new(
            scheme,
            Host::parse(host)?,
            port.unwrap_or(scheme.default_port()),
            path_and_query,
        )
    }

    /// Creates a target for raw bytes to `host:port`. Its scheme is `http`, because no TLS is added.
    pub(crate) fn raw(host: Host, port: u16) -> Result<Self, TargetError> {
        if port == 0 {
            return Err(TargetError::Port);
        }
        Self::new(Scheme::Http, host, port, "/")
    }

    /// Returns this target with `rest` appended to its path, byte for byte: `/qcbin/` and `/qcbin` with
    /// `/rest?q=` are both `/qcbin/rest?q=`. `rest` is empty or begins with `/` or `?`.
    pub(crate) fn join(&self, rest: &str) -> Result<Self, TargetError> {
        check_bytes(rest)?;
        let base = self.path();
        // Exactly one slash at the seam, whichever side brings it.
        let base = match rest.as_bytes().first() {
            Some(b'/') => base.strip_suffix('/').unwrap_or(base),
            Some(b'?') | None => base,
            Some(b'#') => return Err(TargetError::Fragment),
            Some(b'\\') => return Err(TargetError::Backslash),
            Some(_) => return Err(TargetError::Path),
        };
        let mut path_and_query = String::with_capacity(base.len() + rest.len() + 1);
        path_and_query.push_str(base);
        path_and_query.push_str(rest);
        self.with_path_and_query(path_and_query)
    }

    /// Returns this origin with another path and query.
    fn with_path_and_query(&self, path_and_query: String) -> Result<Self, TargetError> {
        let (host, authority) = (self.host.clone(), self.authority.clone());
        Self::of_origin(self.scheme, host, self.port, authority, path_and_query)
    }

    /// Creates a target and its authority. `path_and_query` is visible ASCII, and characters that are encoded here.
    fn new(
        scheme: Scheme,
        host: Host,
        port: u16,
        path_and_query: &str,
    ) -> Result<Self, TargetError> {
        let authority = if port == scheme.default_port() {
            host.to_string()
        } else {
            format!("{host}:{port}")
        };
        Self::of_origin(scheme, host, port, authority.into(), path_and_query.into())
    }

    /// The last step of every constructor. `path_and_query` is visible ASCII, and characters that are encoded here.
    fn of_origin(
        scheme: Scheme,
        host: Host,
        port: u16,
        authority: Arc<str>,
        mut path_and_query: String,
    ) -> Result<Self, TargetError> {
        if path_and_query.contains('#') {
            return Err(TargetError::Fragment);
        }
        let mut path_len = path_and_query.find('?').unwrap_or(path_and_query.len());
        // Some programs read `\` as `/` in a path. In a query it has no such meaning.
        if path_and_query[..path_len].contains('\\') {
            return Err(TargetError::Backslash);
        }
        // An empty path is sent as `/` (RFC 9112 section 3.2.1).
        if path_len == 0 {
            path_and_query.insert(0, '/');
            path_len = 1;
        }
        let origin = scheme.as_str().len() + "://".len() + authority.len();
        let bytes = match origin + path_and_query.len() {
            bytes if bytes <= URL_MAX_BYTES => bytes,
            // Rare, so that only a long URL is counted character by character.
            _ => origin + encode::unencoded_len(&path_and_query),
        };
        if let Some(encoded) = encode::path_and_query(&path_and_query) {
            path_and_query = encoded;
            path_len = path_and_query.find('?').unwrap_or(path_and_query.len());
        }
        // Checked again: a base URL and the rest may be short each, and too long together.
        if bytes > URL_MAX_BYTES {
            return Err(TargetError::TooLong { bytes });
        }
        Ok(Self {
            scheme,
            host,
            port,
            authority,
            path_and_query,
            path_len,
        })
    }

    /// Returns this origin as the target of `OPTIONS *` (RFC 9112, 3.2.4), if the URL has neither path nor query.
    pub(crate) fn into_asterisk(mut self, url: &str) -> Self {
        let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
        if !after_scheme.contains(['/', '?']) {
            self.path_and_query = "*".to_owned();
            self.path_len = 1;
        }
        self
    }

    /// Returns the scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the name or address.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the port; the scheme's default if the URL has none. Never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the raw path. It begins with `/`, or is the `*` of `OPTIONS *`.
    pub fn path(&self) -> &str {
        &self.path_and_query[..self.path_len]
    }

    /// Returns the raw query without its `?`; `Some("")` for a bare `?`.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query[self.path_len..].strip_prefix('?')
    }

    /// Returns the request target (origin form, RFC 9112 section 3.2.1).
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// Returns the value of `Host`: with the port only if it is not the scheme's default.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns `scheme://host[:port]`, an HTTP origin (RFC 6454 section 6.2).
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The target of `OPTIONS *` is the URL without a path.
        let path_and_query = self.path_and_query.strip_prefix('*');
        let path_and_query = path_and_query.unwrap_or(&self.path_and_query);
        write!(f, "{}{path_and_query}", self.origin())
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Self::parse(url)
    }
}

/// Returns whether a URL, or its path and query, is longer than [`URL_MAX_BYTES`]. A character that this crate encodes
/// counts without its encoding.
pub fn is_too_long(text: &str) -> bool {
    text.len() > URL_MAX_BYTES && encode::unencoded_len(text) > URL_MAX_BYTES
}

/// Checks the length, and that there is no blank or control character. Both are errors in every URL.
fn check_bytes(text: &str) -> Result<(), TargetError> {
    if is_too_long(text) {
        let bytes = encode::unencoded_len(text);
        return Err(TargetError::TooLong { bytes });
    }
    match text
        .bytes()
        .enumerate()
        .find(|(_, byte)| byte.is_ascii() && !byte.is_ascii_graphic())
    {
        Some((offset, byte)) => Err(TargetError::Byte { offset, byte }),
        None => Ok(()),
    }
}

/// Splits `host[:port]`; the brackets of an IPv6 address stay with the host.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), TargetError> {
    // The colons inside of brackets belong to an IPv6 address.
    let host_len = match authority.find(']') {
        Some(end) if authority.starts_with('[') => end + 1,
        _ => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(host_len);
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok((host, None)),
        None => Err(HostError::Character.into()),
        // More colons: an IPv6 address without its brackets.
        Some(port) if port.contains(':') => Err(HostError::Brackets.into()),
        Some(port) => Ok((host, Some(parse_port(port)?))),
    }
}

/// Parses a port. Signs and leading zeros are errors, because parsers disagree about them.
fn parse_port(text: &str) -> Result<u16, TargetError> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(port) if canonical => Ok(port),
        _ => Err(TargetError::Port),
    }
}

#[cfg(test)]
mod tests;
