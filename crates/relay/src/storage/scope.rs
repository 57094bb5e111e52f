//! The scope of an API key: the bridges, endpoints, hosts and credentials that it is narrowed to.

use super::model::Role;
use protocol::name;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a key is narrowed to. An empty list narrows nothing, with one exception: a key with hosts and no endpoints may
/// use no endpoint, and the reverse.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
// Unknown fields are an error in stored scopes, too: to ignore a list of a newer version would widen the key.
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// Names of bridges that its requests may go through, or that it may manage or pair.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<String>,
    /// Names of endpoints that it may use. Of a bridge key: that its bridges may declare.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Host patterns of URLs that it may call: exact, `*.example.com`, an address, or a network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Names of credentials that it may use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<String>,
}

/// Entries in each list of a scope.
const SCOPE_MAX: usize = 64;

/// Longest entry of a scope, in bytes.
const SCOPE_ENTRY_MAX_BYTES: usize = 255;

/// One list of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Narrowing {
    Bridge,
    Endpoint,
    Host,
    Credential,
}

impl Narrowing {
    /// Returns whether keys of the role can be narrowed like this: whether one of their operations checks it.
    fn fits(self, role: Role) -> bool {
        match (role, self) {
            (Role::Caller | Role::Admin, _)
            | (Role::Bridge, Self::Bridge | Self::Endpoint)
            | (Role::Synchronizer, Self::Bridge | Self::Endpoint | Self::Host) => true,
            (Role::Bridge, Self::Host | Self::Credential)
            | (Role::Synchronizer, Self::Credential)
            | (Role::SiteAdmin, _) => false,
        }
    }

    fn explain_misfit(self, role: Role) -> String {
        let why = match role {
            Role::SiteAdmin => "such a key cannot be narrowed",
            Role::Bridge => {
                "it pairs bridges: list bridges, or the endpoints that they may declare"
            }
            Role::Synchronizer => "it makes no calls, and only calls name credentials",
            Role::Caller | Role::Admin => "that is not possible",
        };
        format!("a {role} key cannot be narrowed to a {self}: {why}")
    }

    fn accepts(self, entry: &str) -> bool {
        entry.len() <= SCOPE_ENTRY_MAX_BYTES
            && match self {
                Self::Bridge | Self::Credential => name::is_valid(entry),
                Self::Endpoint => policy::is_endpoint_name(entry),
                Self::Host => policy::HostPattern::parse(entry).is_ok(),
            }
    }

    fn hint(self, entry: &str) -> String {
        match self {
            Self::Bridge | Self::Credential => {
                "use 1 to 64 letters, digits, `.`, `_` or `-`".to_owned()
            }
            Self::Endpoint => policy::EndpointError::Name.to_string(),
            Self::Host => match policy::HostPattern::parse(entry) {
                Err(error) => error.to_string(),
                Ok(_) => format!("it is longer than {SCOPE_ENTRY_MAX_BYTES} bytes"),
            },
        }
    }
}

impl fmt::Display for Narrowing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Endpoint => "endpoint",
            Self::Host => "host",
            Self::Credential => "credential",
        })
    }
}

impl Scope {
    /// Returns whether it narrows nothing.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Checks whether it can be the scope of a key with this role: the role's operations check each of its lists, and
    /// each entry can match something.
    pub(super) fn check(&self, role: Role) -> Result<(), String> {
        let lists = [
            (Narrowing::Bridge, &self.bridges),
            (Narrowing::Endpoint, &self.endpoints),
            (Narrowing::Host, &self.hosts),
            (Narrowing::Credential, &self.credentials),
        ];
        for (narrowing, list) in lists {
            if list.is_empty() {
                continue;
            }
            // A list that no operation of the role checks would promise a restriction that does not exist.
            if !narrowing.fits(role) {
                return Err(narrowing.explain_misfit(role));
            }
            if list.len() > SCOPE_MAX {
                return Err(format!(
                    "a key lists at most {SCOPE_MAX} {narrowing}s, and this one lists {}",
                    list.len()
                ));
            }
            if let Some(entry) = list.iter().find(|entry| !narrowing.accepts(entry)) {
                return Err(format!(
                    "`{}` cannot be the name of a {narrowing}: {}",
                    entry.escape_debug().take(80).collect::<String>(),
                    narrowing.hint(entry),
                ));
            }
        }
        // Only calls name credentials, and an endpoint list without hosts excludes calls.
        if !self.credentials.is_empty() && self.hosts.is_empty() && !self.endpoints.is_empty() {
            return Err(
                "a key that lists endpoints and no hosts makes no calls, and only calls name \
                 credentials: list hosts too, or leave the credentials out"
                    .to_owned(),
            );
        }
        Ok(())
    }

    pub(super) fn to_stored(&self) -> String {
        // Lists of strings always serialize.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }

    pub(super) fn from_stored(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_must_fit_the_role() {
        let scope = |letters: &str| {
            let list = |letter: char, entry: &str| match letters.contains(letter) {
                true => vec![entry.to_owned()],
                false => Vec::new(),
            };
            Scope {
                bridges: list('b', "b1"),
                endpoints: list('e', "alm"),
                hosts: list('h', "*.corp.example"),
                credentials: list('c', "sync"),
            }
        };
        for (role, good, bad) in [
            (
                Role::Bridge,
                &["", "b", "e", "be"][..],
                &["h", "c", "bh", "bec"][..],
            ),
            (
                Role::Caller,
                &["", "b", "e", "h", "c", "hc", "hebc"],
                &["ec", "ebc"],
            ),
            (
                Role::Synchronizer,
                &["", "b", "e", "h", "heb"],
                &["c", "hc", "hebc"],
            ),
            (Role::Admin, &["", "b", "e", "h", "c", "hebc"], &["ec"]),
            (Role::SiteAdmin, &[""], &["b", "e", "h", "c", "hebc"]),
        ] {
            for letters in good {
                assert_eq!(scope(letters).check(role), Ok(()), "{role} {letters}");
            }
            for letters in bad {
                assert!(scope(letters).check(role).is_err(), "{role} {letters}");
            }
        }
    }

    #[test]
    fn entry_that_matches_nothing_is_rejected() {
        let one = |entry: &str| vec![entry.to_owned()];
        let all = Scope::default;
        let long = "x".repeat(256);
        for scope in [
            Scope {
                bridges: one("a b"),
                ..all()
            },
            Scope {
                bridges: one(""),
                ..all()
            },
            Scope {
                endpoints: one("ALM"),
                ..all()
            },
            Scope {
                endpoints: one("*"),
                ..all()
            },
            Scope {
                hosts: one("*"),
                ..all()
            },
            Scope {
                hosts: one("http://a.example/"),
                ..all()
            },
            Scope {
                hosts: one(&long),
                ..all()
            },
            Scope {
                credentials: one("a/b"),
                ..all()
            },
            Scope {
                hosts: vec!["a.example".to_owned(); SCOPE_MAX + 1],
                ..all()
            },
        ] {
            let error = scope.check(Role::Caller).unwrap_err();
            assert!(error.len() < 400, "{error}");
        }
    }
}
