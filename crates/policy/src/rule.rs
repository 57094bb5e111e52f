//! One entry of the allow list: which hosts, and which requests to them.
//!
//! ```toml
//! [[allow]]
//! host = "ci.corp.example"   # HostPattern
//! ports = [443]              # Ports; without it the scheme's default
//! methods = ["POST"]         # Methods
//! paths = ["/hooks/*"]       # PathPattern; without it every path
//! ```
//!
//! Each part parses its own text; the reader of the config assembles them. `policy` applies a rule to a
//! request.

pub(crate) mod endpoint;
pub(crate) mod error;
pub(crate) mod host_pattern;
pub(crate) mod methods;
pub(crate) mod overrides;
pub(crate) mod path_pattern;

pub use self::error::PatternError;

use self::host_pattern::HostPattern;
use self::methods::Methods;
use self::overrides::Overrides;
use self::path_pattern::PathPattern;
use crate::address;
use crate::target::Scheme;
use std::fmt;

/// Ports, methods or paths in one rule.
pub const ENTRIES_MAX: usize = 256;

/// A network with a shorter prefix than this causes a warning: IPv4, IPv6.
const WIDE_PREFIX: (u8, u8) = (8, 16);

/// The ports that a rule allows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Ports {
    /// The scheme's default: 80 for `http`, 443 for `https`. For raw streams, which have no scheme, the
    /// default port of each scheme that the rule allows.
    #[default]
    Default,
    /// These; at least one, none of them 0.
    Only(Vec<u16>),
}

impl Ports {
    /// Parses `ports = [...]` of the config.
    ///
    /// # Errors
    /// [`PatternError`] when the list is empty, holds 0 or a port twice, or more than
    /// [`ENTRIES_MAX`].
    pub fn parse(ports: &[u16]) -> Result<Self, PatternError> {
        check_entries("ports", ports)?;
        if ports.contains(&0) {
            return Err(PatternError::PortZero);
        }
        Ok(Self::Only(ports.to_vec()))
    }

    /// Whether a URL with this scheme may have this port.
    pub fn allows(&self, scheme: Scheme, port: u16) -> bool {
        match self {
            Self::Default => port == scheme.default_port(),
            Self::Only(ports) => ports.contains(&port),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the scheme's default"),
            Self::Only(ports) => f.write_str(&list(ports)),
        }
    }
}

/// One `[[allow]]` entry. A request must match all its parts; the first rule that matches allows it.
///
/// Its `Display` describes it for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The hosts.
    pub host: HostPattern,
    /// The schemes. Defaults to `None`: both.
    pub schemes: Option<Vec<Scheme>>,
    /// The ports. Defaults to the scheme's.
    pub ports: Ports,
    /// The methods.
    pub methods: Methods,
    /// The paths. Defaults to `None`: all, with their bytes unchanged. With patterns, paths that other
    /// programs could read differently (dot segments, backslashes, raw or encoded) are refused.
    pub paths: Option<Vec<PathPattern>>,
    /// Whether an address or network also allows every name that resolves into it. Defaults to `false`.
    pub resolved: bool,
    /// Whether raw streams (CONNECT) may be opened; they show neither method nor path. Defaults to `false`.
    pub connect: bool,
    /// Whether fields that replace the method or the path at some targets are sent although this rule restricts
    /// methods or paths. Defaults to `false`.
    pub pass_overrides: bool,
}

impl Rule {
    /// Creates a rule with the config's defaults: both schemes on their default ports, every path, no
    /// names that resolve into it, no raw streams.
    pub fn new(host: HostPattern, methods: Methods) -> Self {
        Self {
            host,
            schemes: None,
            ports: Ports::Default,
            methods,
            paths: None,
            resolved: false,
            connect: false,
            pass_overrides: false,
        }
    }

    /// Checks the values that the types of the parts cannot exclude, for a rule that was not parsed.
    ///
    /// # Errors
    /// The [`PatternError`] of the first part that its own `parse` would not return.
    pub fn validate(&self) -> Result<(), PatternError> {
        // The fields are public. Only canonical values compare as the checks assume.
        if HostPattern::parse(&self.host.to_string())? != self.host {
            return Err(PatternError::NotCanonical { what: "host" });
        }
        if let Some(schemes) = &self.schemes {
            check_entries("schemes", schemes)?;
        }
        if let Ports::Only(ports) = &self.ports {
            Ports::parse(ports)?;
        }
        self.methods.validate()?;
        if let Some(paths) = &self.paths {
            check_entries("paths", paths)?;
            for path in paths {
                if PathPattern::parse(&path.to_string())? != *path {
                    return Err(PatternError::NotCanonical { what: "paths" });
                }
            }
        }
        Ok(())
    }

    /// Returns warnings about settings that are allowed but rarely intended: hosts that can never be
    /// reached, very wide patterns, settings without effect.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        match &self.host {
            HostPattern::Name(name) if address::is_metadata_name(name) => {
                warnings.push(format!(
                    "{name} is a cloud metadata service: it is refused all the same"
                ));
            }
            // Allowed, since private networks have such names; a public top-level domain would be a mistake.
            HostPattern::Wildcard(suffix) if !suffix.contains('.') => {
                warnings.push(format!("{} allows every host under {suffix}", self.host));
            }
            HostPattern::Name(_) | HostPattern::Wildcard(_) => {}
            HostPattern::Addr(_) | HostPattern::Net(_) => self.warn_of_network(&mut warnings),
        }
        if self.resolved && self.host.network().is_none() {
            warnings.push("resolved has no effect: it is for addresses and networks".into());
        }
        if self.connect && (self.paths.is_some() || self.methods != Methods::Any) {
            warnings.push(
                "connect = true opens raw streams, in which methods and paths are not seen".into(),
            );
        }
        warnings
    }

    fn warn_of_network(&self, warnings: &mut Vec<String>) {
        let Some(net) = self.host.network() else {
            return;
        };
        let ends = [net.network(), net.broadcast()].map(address::always_refused);
        // Both ends of a network in one refused class: then all of it is.
        if let [Some(first), Some(last)] = ends
            && first == last
        {
            warnings.push(format!(
                "{} is {first}: it is refused all the same",
                self.host
            ));
        }
        let wide = if net.addr().is_ipv4() {
            WIDE_PREFIX.0
        } else {
            WIDE_PREFIX.1
        };
        if net.prefix_len() < wide {
            warnings.push(format!("{} is a very large network", self.host));
        }
    }

    /// Returns which fields are dropped from the requests that it allows.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            no_method: !self.pass_overrides && self.methods != Methods::Any,
            no_path: !self.pass_overrides && self.paths.is_some(),
        }
    }

    /// Whether the scheme is allowed.
    pub(crate) fn allows_scheme(&self, scheme: Scheme) -> bool {
        self.schemes
            .as_ref()
            .is_none_or(|schemes| schemes.contains(&scheme))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schemes = self
            .schemes
            .as_ref()
            .map_or("http or https".into(), |schemes| list(schemes));
        let paths = self
            .paths
            .as_ref()
            .map_or("all".into(), |paths| list(paths));
        write!(f, "host {}", self.host)?;
        if self.resolved && self.host.network().is_some() {
            write!(f, " (also names that resolve into it)")?;
        }
        write!(
            f,
            ", {schemes}, ports: {}, methods: {}, paths: {paths}",
            self.ports, self.methods
        )?;
        write!(
            f,
            ", raw streams: {}",
            if self.connect { "allowed" } else { "refused" }
        )
    }
}

/// Checks for at least one entry, at most [`ENTRIES_MAX`], and no duplicates.
pub(crate) fn check_entries<T: PartialEq>(
    what: &'static str,
    entries: &[T],
) -> Result<(), PatternError> {
    if entries.is_empty() {
        return Err(PatternError::Empty { what });
    }
    if entries.len() > ENTRIES_MAX {
        return Err(PatternError::TooMany {
            what,
            entries: entries.len(),
        });
    }
    // Quadratic, and bounded by `ENTRIES_MAX`.
    if entries
        .iter()
        .enumerate()
        .any(|(at, entry)| entries[..at].contains(entry))
    {
        return Err(PatternError::Twice { what });
    }
    Ok(())
}

/// Formats entries as `a, b, c`.
pub(crate) fn list<T: ToString>(entries: &[T]) -> String {
    entries
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
