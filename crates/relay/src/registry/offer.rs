//! What a bridge serves, parsed once.

use policy::{Host, HostPattern};
use protocol::frame::Serves;
use std::sync::Arc;

/// What a bridge may do with an endpoint that it declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The name is its own.
    Own,
    /// The name has no owner: the first bridge that declares it may have it.
    Free,
    /// The name belongs to these other bridges.
    Taken(Vec<Arc<str>>),
    /// The key that the bridge was paired with lists other endpoints.
    NotListed,
}

/// What a bridge serves, as far as the names are its own.
#[derive(Debug)]
pub struct AdvertisedRoutes {
    /// As the bridge said it.
    pub serves: Arc<Serves>,
    /// Its host patterns; `None` when it keeps them to itself.
    hosts: Option<Vec<HostPattern>>,
    /// What it may do with each endpoint, in the order of `serves`.
    standings: Vec<Standing>,
}

impl AdvertisedRoutes {
    /// What a bridge serves, with what it may do with each endpoint, and whether it may serve hosts.
    pub fn new(serves: Arc<Serves>, (standings, may_serve_hosts): (Vec<Standing>, bool)) -> Self {
        let hosts = serves.hosts.as_ref().map(|patterns| {
            // A pattern that this relay cannot read is one that it cannot choose by.
            let parsed = patterns.iter().filter_map(|p| HostPattern::parse(p).ok());
            parsed.collect()
        });
        Self {
            serves,
            hosts: match may_serve_hosts {
                true => hosts,
                false => Some(Vec::new()),
            },
            standings,
        }
    }

    /// The endpoints that it declares, and what it may do with each.
    pub fn declared(&self) -> impl Iterator<Item = (&str, &Standing)> {
        let names = self.serves.endpoints.iter().map(String::as_str);
        names.zip(&self.standings)
    }

    /// The endpoints that are routed to it: those that it declares and whose names are its own.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        let own = self
            .declared()
            .filter(|(_, standing)| **standing == Standing::Own);
        own.map(|(name, _)| name)
    }

    /// The endpoints that it declares although their names are not its own.
    pub fn refused(&self) -> impl Iterator<Item = (&str, &Standing)> {
        self.declared().filter(|(_, standing)| match standing {
            Standing::Taken(_) | Standing::NotListed => true,
            Standing::Own | Standing::Free => false,
        })
    }

    /// Whether it is the same offer, made from the same word of the bridge.
    pub fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.serves, &other.serves)
            && self.standings == other.standings
            && self.hosts == other.hosts
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
