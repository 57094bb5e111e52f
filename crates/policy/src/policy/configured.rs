//! Requests of the program itself, to a URL that the operator wrote into its config: a telemetry collector.
//!
//! Such a URL is not a target: no caller chose it, and no rule allows it. This is the only constructor of an
//! [`Approved`](super::candidate::Approved) apart from the rules, so that there is still only one type that
//! can be connected to.

use super::admission::{Grant, Limits};
use super::candidate::{Candidate, RuleRef};
use super::evaluate::Request;
use super::refusal::Refusal;
use crate::target::Target;
use std::sync::Arc;

impl Candidate {
    /// Returns the request for a URL of the program's own config. Every address of exactly its host is
    /// approved, also a loopback or link-local one, where local agents listen. Never call this with text that
    /// came from a caller, a tenant or a target.
    ///
    /// `key` is the config key, for messages.
    ///
    /// # Errors
    /// [`Refusal`] when `url` is no URL of HTTP, or `method` is no method.
    pub fn for_configured(key: &str, method: &str, url: &str) -> Result<Self, Refusal> {
        let request = Request::http(method, Target::parse(url)?)?;
        let rule = RuleRef::Endpoint(key.to_owned());
        let grant = Grant::endpoint(rule, request.target.host(), false);
        let limits = Limits {
            is_configured: true,
            ..Limits::default()
        };
        Ok(Self::new(&Arc::new(limits), request, vec![grant]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_origin_is_approved_at_any_address() {
        let url = "http://collector.example:4318/v1/traces";
        let candidate = Candidate::for_configured("telemetry.otlp_endpoint", "POST", url).unwrap();
        for address in ["127.0.0.1", "10.0.0.1", "169.254.1.1", "8.8.8.8"] {
            let approved = candidate.approve(address.parse().unwrap()).unwrap();
            assert_eq!(
                approved.socket_addr().to_string(),
                format!("{address}:4318")
            );
            assert_eq!(approved.target().authority(), "collector.example:4318");
        }
        assert!(Candidate::for_configured("k", "POST", "ftp://collector.example/").is_err());
        assert!(Candidate::for_configured("k", "P ST", url).is_err());
    }
}
