//! `[endpoints]`: the responses of named endpoints.

use runtime::config::Mistake;
use serde::{Deserialize, Serialize};

/// `[endpoints]` of `relay.toml`.
///
/// ```toml
/// [endpoints]
/// sandbox = true
/// sandbox_except = ["acme/wiki"]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Endpoints {
    /// Whether responses of endpoints get `Content-Security-Policy: sandbox`: in a browser all endpoints are one
    /// origin, and the page of one could otherwise use the sessions of another. Defaults to true.
    pub sandbox: bool,
    /// Endpoints whose responses do not get it, as `TENANT/ENDPOINT`. Defaults to none.
    pub sandbox_except: Vec<String>,
}

impl Default for Endpoints {
    fn default() -> Self {
        Self {
            sandbox: true,
            sandbox_except: Vec::new(),
        }
    }
}

impl Endpoints {
    /// Checks that each exception names a tenant and an endpoint.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn validate(&self) -> Result<(), Mistake> {
        let is_pair = |text: &&String| {
            text.split_once('/').is_some_and(|(tenant, name)| {
                !tenant.is_empty() && !name.is_empty() && !name.contains('/')
            })
        };
        match self.sandbox_except.iter().find(|text| !is_pair(text)) {
            None => Ok(()),
            Some(text) => {
                let message = format!("has {text:?}: write TENANT/ENDPOINT, as in \"acme/wiki\"");
                Err(Mistake::of_key("endpoints.sandbox_except", message))
            }
        }
    }

    /// Returns whether the responses of a tenant's endpoint get the policy.
    pub(crate) fn has_sandbox(&self, tenant: &str, endpoint: &str) -> bool {
        let is_named = |text: &String| text.split_once('/') == Some((tenant, endpoint));
        self.sandbox && !self.sandbox_except.iter().any(is_named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exception_is_one_endpoint_of_one_tenant() {
        let parse = |text: &str| toml::from_str::<Endpoints>(text).unwrap();
        assert!(Endpoints::default().has_sandbox("acme", "wiki"));
        assert!(!parse("sandbox = false").has_sandbox("acme", "wiki"));
        let some = parse("sandbox_except = [\"acme/wiki\"]");
        assert!(!some.has_sandbox("acme", "wiki"));
        assert!(some.has_sandbox("acme", "ci") && some.has_sandbox("other", "wiki"));
        assert!(some.validate().is_ok());
        for wrong in ["wiki", "/wiki", "acme/", "a/b/c"] {
            let table = Endpoints {
                sandbox_except: vec![wrong.to_owned()],
                ..Endpoints::default()
            };
            assert!(table.validate().is_err(), "{wrong}");
        }
    }
}
