//! A named base URL, reached as `/v1/endpoints/{name}/...` with everything below its path.

use super::PatternError;
use super::methods::Methods;
use crate::address;
use crate::rule::overrides::Overrides;
use crate::target::host::Host;
use crate::target::path::ambiguity;
use crate::target::{Target, TargetError};
use std::fmt;
use thiserror::Error;

/// Longest name of an endpoint, as long as a DNS label.
pub const ENDPOINT_NAME_MAX_BYTES: usize = 63;

/// Why an endpoint is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// Not `[a-z0-9][a-z0-9_-]{0,62}`.
    #[error(
        "an endpoint's name has 1 to {ENDPOINT_NAME_MAX_BYTES} of a-z, 0-9, '-' and '_', and begins with a letter or digit"
    )]
    Name,
    /// The URL cannot be parsed.
    #[error(transparent)]
    Url(#[from] TargetError),
    /// The URL has a query.
    #[error("an endpoint's URL has no query (?): callers send their own")]
    Query,
    /// Other programs could read the URL's path differently.
    #[error("the path of the endpoint's URL holds {why}")]
    Path {
        /// What it holds.
        why: String,
    },
    /// The methods are invalid.
    #[error(transparent)]
    Methods(#[from] PatternError),
}

/// One `[[endpoint]]` entry of the config.
///
/// ```toml
/// [[endpoint]]
/// name = "alm"
/// url = "https://alm.corp.example:8443/qcbin/"
/// methods = ["GET", "POST", "PUT", "DELETE"]   # without it any
/// ```
///
/// Its `Display` describes it for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `[a-z0-9][a-z0-9_-]{0,62}`.
    pub name: String,
    /// The base URL, without a query. Its host counts as named: a loopback address, or one of the
    /// machine's own, is allowed here when it is written as an address.
    pub base: Target,
    /// The methods. Defaults to any.
    pub methods: Methods,
    /// Whether fields that replace the method or the path at some targets are sent although this endpoint
    /// restricts methods, or paths by that of its URL. Defaults to `false`.
    pub pass_overrides: bool,
    /// Whether its host may be a name of this machine: loopback, or one of the machine's own addresses. Defaults to
    /// false.
    pub this_host: bool,
}

impl Endpoint {
    /// Parses and checks an entry.
    ///
    /// # Errors
    /// [`EndpointError`] names the first part that is wrong.
    pub fn new(name: &str, url: &str, methods: Methods) -> Result<Self, EndpointError> {
        let endpoint = Self {
            name: name.to_owned(),
            base: Target::parse(url)?,
            methods,
            pass_overrides: false,
            this_host: false,
        };
        endpoint.validate()?;
        Ok(endpoint)
    }

    /// Sets whether its host may be a name of this machine.
    #[must_use]
    pub fn with_this_host(mut self, this_host: bool) -> Self {
        self.this_host = this_host;
        self
    }

    /// Checks the values that the types of the parts cannot exclude.
    ///
    /// # Errors
    /// [`EndpointError`] names the first part that is wrong.
    pub fn validate(&self) -> Result<(), EndpointError> {
        if !is_endpoint_name(&self.name) {
            return Err(EndpointError::Name);
        }
        if self.base.query().is_some() {
            return Err(EndpointError::Query);
        }
        // The base path is a boundary for callers, so all programs must read it in the same way.
        if let Some(why) = ambiguity(self.base.path()) {
            return Err(EndpointError::Path {
                why: why.to_string(),
            });
        }
        self.methods.validate()?;
        Ok(())
    }

    /// Returns warnings about settings that are allowed but cannot work.
    pub fn warnings(&self) -> Vec<String> {
        let refused = match self.base.host() {
            Host::Name(name) => {
                address::is_metadata_name(name).then_some(address::AlwaysRefused::Metadata)
            }
            Host::Addr(addr) => address::always_refused(*addr),
        };
        let warn = |why| format!("{} is {why}: it is refused all the same", self.base.host());
        refused.map(warn).into_iter().collect()
    }

    /// Returns which fields are dropped from the requests that it allows.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            no_method: !self.pass_overrides && self.methods != Methods::Any,
            no_path: !self.pass_overrides && self.narrows(),
        }
    }

    /// Whether its base path restricts callers to a part of the target.
    pub(crate) fn narrows(&self) -> bool {
        self.base.path() != "/"
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "endpoint {}: {} and below, methods: {}",
            self.name, self.base, self.methods
        )
    }
}

/// Whether a text is a valid endpoint name.
pub fn is_endpoint_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=ENDPOINT_NAME_MAX_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'-' | b'_'))
        && name.bytes().next().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, url: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::new(name, url, Methods::Any)
    }

    #[test]
    fn endpoint_names_are_checked() {
        let long = "a".repeat(63);
        for name in ["alm", "0", "alm-2_b", &long] {
            assert!(endpoint(name, "https://alm/").is_ok(), "{name}");
        }
        for name in [
            "",
            "-a",
            "_a",
            "Alm",
            "a.b",
            "a/b",
            "a b",
            "\u{e9}",
            &format!("{long}a"),
        ] {
            assert_eq!(
                endpoint(name, "https://alm/").unwrap_err(),
                EndpointError::Name,
                "{name}"
            );
        }
    }

    #[test]
    fn endpoint_url_has_no_query_or_fragment() {
        assert_eq!(
            endpoint("a", "https://alm/x?y").unwrap_err(),
            EndpointError::Query
        );
        assert_eq!(
            endpoint("a", "https://alm/x?").unwrap_err(),
            EndpointError::Query
        );
        assert_eq!(
            endpoint("a", "https://alm/#x").unwrap_err(),
            TargetError::Fragment.into()
        );
        let dots = endpoint("a", "https://alm/x/%2e%2e/").unwrap_err();
        assert!(matches!(dots, EndpointError::Path { .. }), "{dots}");
        let methods = Endpoint::new("a", "https://alm/", Methods::Only(vec![])).unwrap_err();
        assert_eq!(methods, PatternError::Empty { what: "methods" }.into());
    }

    #[test]
    fn endpoint_display_and_warnings() {
        let alm = endpoint("alm", "https://ALM:8443/qcbin/").unwrap();
        assert_eq!(
            alm.to_string(),
            "endpoint alm: https://alm:8443/qcbin/ and below, methods: any"
        );
        assert!(alm.warnings().is_empty());
        assert!(alm.narrows());
        let metadata = endpoint("m", "http://169.254.169.254").unwrap();
        assert_eq!(
            metadata.warnings(),
            ["169.254.169.254 is cloud metadata: it is refused all the same"]
        );
        assert!(!metadata.narrows());
    }
}
