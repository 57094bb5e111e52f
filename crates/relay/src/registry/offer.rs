//! What a bridge serves, parsed once.

use policy::{Host, HostPattern};
use protocol::frame::Serves;
use std::sync::Arc;

/// What a bridge serves.
#[derive(Debug)]
pub struct Offer {
    /// As the bridge said it.
    pub serves: Arc<Serves>,
    /// Its host patterns; `None` when it keeps them to itself.
    hosts: Option<Vec<HostPattern>>,
}

impl Offer {
    pub(super) fn new(serves: Arc<Serves>) -> Self {
        let hosts = serves.hosts.as_ref().map(|patterns| {
            // A pattern that this relay cannot read is one that it cannot choose by.
            let parsed = patterns.iter().filter_map(|p| HostPattern::parse(p).ok());
            parsed.collect()
        });
        Self { serves, hosts }
    }

    /// The endpoints that it declares.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.serves.endpoints.iter().map(String::as_str)
    }

    /// Whether a PUT or DELETE to the endpoint may be made twice.
    pub fn is_repeatable(&self, endpoint: &str) -> bool {
        self.serves.repeatable.iter().any(|name| name == endpoint)
    }

    /// Whether it may serve the host: a pattern matches, or it does not tell its patterns.
    pub fn may_serve(&self, host: &Host) -> bool {
        self.hosts
            .as_ref()
            .is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(host)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::frame::Bounded;

    #[test]
    fn what_a_bridge_serves_decides_and_silence_means_ask() {
        let serves = |hosts: Option<Vec<&str>>| Serves {
            endpoints: Bounded::truncated(["alm".to_owned()]),
            hosts: hosts.map(|all| Bounded::truncated(all.into_iter().map(str::to_owned))),
            repeatable: Bounded::default(),
        };
        let named = Offer::new(Arc::new(serves(Some(vec!["*.corp.example", "10.0.0.0/8"]))));
        let host = |url: &str| policy::Target::parse(url).unwrap().host().clone();
        assert_eq!(named.endpoints().collect::<Vec<_>>(), ["alm"]);
        assert!(named.may_serve(&host("http://ci.corp.example/")));
        assert!(named.may_serve(&host("http://10.1.2.3/")));
        assert!(!named.may_serve(&host("http://other.example/")));
        let silent = Offer::new(Arc::new(serves(None)));
        assert!(silent.may_serve(&host("http://other.example/")));
    }
}
