//! What a bridge serves, parsed once.

use policy::{Host, HostPattern};
use protocol::frame::Serves;
use std::sync::Arc;

/// What a bridge may do with an endpoint that it declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The name is its own.
    Own,
    /// The name has no owner: the first bridge that declares it may have it.
    Free,
    /// The name belongs to these other bridges.
    Taken(Vec<Arc<str>>),
    /// The key that the bridge was paired with lists other endpoints.
    NotListed,
}

/// What a bridge serves, and which of the names are its own.
#[derive(Debug)]
pub(crate) struct AdvertisedRoutes {
    /// As the bridge declared it.
    pub serves: Arc<Serves>,
    /// Its host patterns; `None` if it does not declare them.
    hosts: Option<Vec<HostPattern>>,
    /// What it may do with each endpoint, in the order of `serves`.
    standings: Vec<Standing>,
}

impl AdvertisedRoutes {
    /// Returns what a bridge serves, with what it may do with each endpoint, and whether it may serve hosts.
    pub(crate) fn new(
        serves: Arc<Serves>,
        (standings, may_serve_hosts): (Vec<Standing>, bool),
    ) -> Self {
        let hosts = serves.hosts.as_ref().map(|patterns| {
            // A pattern that this version cannot parse matches nothing.
            let parsed = patterns.iter().filter_map(|p| HostPattern::parse(p).ok());
            parsed.collect()
        });
        Self {
            serves,
            hosts: match may_serve_hosts {
                true => hosts,
                // An empty list matches no host, as opposed to no list.
                false => Some(Vec::new()),
            },
            standings,
        }
    }

    /// Returns what a bridge declared before it went offline. It is not known which endpoints are its own, so all of
    /// them count.
    pub(crate) fn recalled(serves: Serves) -> Self {
        let standings = vec![Standing::Own; serves.endpoints.len()];
        Self::new(Arc::new(serves), (standings, true))
    }

    /// Returns the endpoints that it declares, and what it may do with each.
    pub(crate) fn declared(&self) -> impl Iterator<Item = (&str, &Standing)> {
        let names = self.serves.endpoints.iter().map(String::as_str);
        names.zip(&self.standings)
    }

    /// Returns the endpoints that are routed to it: those that it declares and whose names are its own.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &str> {
        let own = self
            .declared()
            .filter(|(_, standing)| **standing == Standing::Own);
        own.map(|(name, _)| name)
    }

    /// Returns the endpoints that it declares and whose names belong to another bridge.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&str, &Standing)> {
        self.declared().filter(|(_, standing)| match standing {
            Standing::Taken(_) | Standing::NotListed => true,
            Standing::Own | Standing::Free => false,
        })
    }

    /// Returns whether both were made from the same declaration and give the same routes.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.serves, &other.serves)
            && self.standings == other.standings
            && self.hosts == other.hosts
    }

    /// Returns whether a PUT or DELETE to the endpoint may be executed twice.
    pub(crate) fn is_repeatable(&self, endpoint: &str) -> bool {
        self.serves.repeatable.iter().any(|name| name == endpoint)
    }

    /// Returns whether it declares the endpoint, its own or not.
    pub(crate) fn declares(&self, endpoint: &str) -> bool {
        self.serves.endpoints.iter().any(|name| name == endpoint)
    }

    /// Returns whether it may serve the host: a pattern matches, or it declares no patterns.
    pub(crate) fn may_serve(&self, host: &Host) -> bool {
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
    fn bridge_without_patterns_may_serve_any_host() {
        let serves = |hosts: Option<Vec<&str>>| Serves {
            endpoints: Bounded::truncated(["alm".to_owned()]),
            hosts: hosts.map(|all| Bounded::truncated(all.into_iter().map(str::to_owned))),
            repeatable: Bounded::default(),
        };
        let offer = |serves| AdvertisedRoutes::new(Arc::new(serves), (vec![Standing::Own], true));
        let named = offer(serves(Some(vec!["*.corp.example", "10.0.0.0/8"])));
        let host = |url: &str| policy::Target::parse(url).unwrap().host().clone();
        assert_eq!(named.endpoints().collect::<Vec<_>>(), ["alm"]);
        assert!(named.may_serve(&host("http://ci.corp.example/")));
        assert!(named.may_serve(&host("http://10.1.2.3/")));
        assert!(!named.may_serve(&host("http://other.example/")));
        let silent = offer(serves(None));
        assert!(silent.may_serve(&host("http://other.example/")));
        let bound = AdvertisedRoutes::new(Arc::new(serves(None)), (vec![Standing::Own], false));
        assert!(!bound.may_serve(&host("http://other.example/")));
    }

    #[test]
    fn only_own_endpoints_are_routed() {
        let names = ["own", "free", "taken", "unlisted"];
        let serves = Serves {
            endpoints: Bounded::truncated(names.map(str::to_owned)),
            ..Serves::default()
        };
        let standings = vec![
            Standing::Own,
            Standing::Free,
            Standing::Taken(vec!["b1".into()]),
            Standing::NotListed,
        ];
        let offer = AdvertisedRoutes::new(Arc::new(serves), (standings, true));
        assert_eq!(offer.endpoints().collect::<Vec<_>>(), ["own"]);
        let refused: Vec<_> = offer.refused().map(|(name, _)| name).collect();
        assert_eq!(refused, ["taken", "unlisted"]);
    }
}
