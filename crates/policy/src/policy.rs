//! The allow list as a whole, and its decisions.
//!
//! ```text
//! decide_url, decide_connect --> refused by name? --> every rule in order --> Candidate
//! decide_endpoint --> that endpoint alone: method, path below its base -------------------------> Candidate
//! ```
//!
//! [`evaluate`] checks a request against one rule; [`admission`] checks the addresses of a matching rule.

pub(crate) mod admission;
pub(crate) mod candidate;
mod configured;
pub(crate) mod error;
pub(crate) mod evaluate;
pub(crate) mod explain;
pub(crate) mod refusal;

pub use self::error::PolicyError;

use self::admission::{Grant, Limits};
use self::candidate::{Candidate, RuleRef};
use self::evaluate::{Miss, Request};
use self::explain::Explanation;
use self::refusal::{Refusal, RefusalKind};
use crate::rule::Rule;
use crate::rule::endpoint::Endpoint;
use crate::rule::methods::{Methods, is_connect};
use crate::target::host::Host;
use crate::target::path::ambiguity;
use crate::target::{Target, TargetError};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Rules in one policy: as many patterns as a bridge can announce to its relay.
pub const RULES_MAX: usize = 512;

/// Endpoints in one policy: as many as a bridge can announce to its relay.
pub const ENDPOINTS_MAX: usize = 256;

/// Rules and endpoints. Without any, everything is refused. A config reload creates a new policy.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    endpoints: Vec<Endpoint>,
    /// The limits of every rule; candidates share them.
    limits: Arc<Limits>,
}

impl Policy {
    /// Creates a policy from the config's `[[allow]]` and `[[endpoint]]` entries, in their order.
    ///
    /// # Errors
    /// [`PolicyError`] for entries that are invalid, duplicate or too many.
    pub fn new(rules: Vec<Rule>, endpoints: Vec<Endpoint>) -> Result<Self, PolicyError> {
        if rules.len() > RULES_MAX {
            return Err(PolicyError::TooManyRules { rules: rules.len() });
        }
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(PolicyError::TooManyEndpoints {
                endpoints: endpoints.len(),
            });
        }
        // Duplicates are errors: two equal entries are usually one that was meant to differ.
        for (at, rule) in rules.iter().enumerate() {
            rule.validate().map_err(|source| PolicyError::Rule {
                number: at + 1,
                source,
            })?;
            if let Some(first) = rules[..at].iter().position(|other| other == rule) {
                return Err(PolicyError::SameRule {
                    first: first + 1,
                    second: at + 1,
                });
            }
        }
        for (at, endpoint) in endpoints.iter().enumerate() {
            let name = endpoint.name.clone();
            if let Err(source) = endpoint.validate() {
                return Err(PolicyError::Endpoint {
                    number: at + 1,
                    name,
                    source,
                });
            }
            if endpoints[..at].iter().any(|other| other.name == name) {
                return Err(PolicyError::SameEndpoint { name });
            }
        }
        Ok(Self {
            rules,
            endpoints,
            limits: Arc::default(),
        })
    }

    /// Sets the addresses of the machine's own interfaces. They are refused unless a rule names them by
    /// address.
    #[must_use]
    pub fn with_own_addresses(mut self, addresses: Vec<IpAddr>) -> Self {
        Arc::make_mut(&mut self.limits).own = addresses
            .into_iter()
            .map(|addr| addr.to_canonical())
            // Loopback has a rule of its own, which also accepts `localhost` as its name.
            .filter(|addr| !addr.is_loopback())
            .collect();
        self
    }

    /// Restricts every rule to addresses on the public internet, even if it names others. For a relay
    /// that calls targets directly.
    #[must_use]
    pub fn with_public_only(mut self) -> Self {
        Arc::make_mut(&mut self.limits).public_only = true;
        self
    }

    /// Decides whether `method` may be called on `url`, by the rules. Endpoints are not considered.
    ///
    /// OPTIONS for a URL without a path is about the server itself: the request line has `*` (RFC 9112, 3.2.4). A
    /// rule that allows some paths only does not allow it.
    ///
    /// # Errors
    /// The [`Refusal`] of the nearest rule, or one that states that there is no rule.
    pub fn decide_url(&self, method: &str, url: &str) -> Result<Candidate, Refusal> {
        let mut target = Target::parse(url)?;
        if method == "OPTIONS" {
            target = target.into_asterisk(url);
        }
        self.decide(&Request::http(method, target)?)
    }

    /// Decides whether `method` may be called on an endpoint. `path_and_query` follows the name in
    /// `/v1/endpoints/{name}`: empty, or beginning with `/` or `?`. It is appended to the base path
    /// byte for byte.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such endpoint, or it does not allow the request.
    pub fn decide_endpoint(
        &self,
        name: &str,
        method: &str,
        path_and_query: &str,
    ) -> Result<Candidate, Refusal> {
        let Some(endpoint) = self.endpoints.iter().find(|endpoint| endpoint.name == name) else {
            return Err(Refusal::unknown_endpoint(name));
        };
        let target = endpoint.base.join(path_and_query)?;
        let request = Request::http(method, target)?;
        let rule = RuleRef::Endpoint(endpoint.name.clone());
        if is_connect(method) {
            let detail =
                format!("{rule} opens no raw streams: they need an allow rule with connect = true");
            return Err(Refusal::new(RefusalKind::Connect, detail));
        }
        if !endpoint.methods.allows(method) {
            return Err(Miss::Method.refusal(&rule, &request));
        }
        // The base path is a boundary only if the target reads the path as we do.
        if endpoint.narrows()
            && let Some(why) = ambiguity(request.target.path())
        {
            return Err(Miss::Ambiguous(why).refusal(&rule, &request));
        }
        // Before a name is resolved, so that a metadata name is never looked up.
        self.limits.refuse_host(request.target.host())?;
        let host = request.target.host();
        let grant = Grant::endpoint(rule, host, endpoint.this_host).dropping(endpoint.overrides());
        if let Host::Addr(addr) = request.target.host() {
            self.limits.admit(&grant, request.target.host(), *addr)?;
        }
        Ok(Candidate::new(&self.limits, request, vec![grant]))
    }

    /// Decides like [`decide_endpoint`](Self::decide_endpoint), for a request that the bridge makes on
    /// its own behalf, such as a sign-in. It ignores the methods that callers may use; all other checks
    /// apply.
    ///
    /// # Errors
    /// [`Refusal`], as [`decide_endpoint`](Self::decide_endpoint).
    pub fn decide_own(
        &self,
        name: &str,
        method: &str,
        path_and_query: &str,
    ) -> Result<Candidate, Refusal> {
        let own = self.endpoints.iter().find(|endpoint| endpoint.name == name);
        // Only the methods of callers are lifted. The check of path and address stays: the target is not more
        // trusted because the bridge itself sends the request.
        let mut own = own
            .cloned()
            .ok_or_else(|| Refusal::unknown_endpoint(name))?;
        own.methods = Methods::Any;
        let policy = Self {
            rules: Vec::new(),
            endpoints: vec![own],
            limits: Arc::clone(&self.limits),
        };
        policy.decide_endpoint(name, method, path_and_query)
    }

    /// Decides whether a raw stream may be opened to `host:port`. `host` is as in a URL; an IPv6
    /// address may lack its brackets. The candidate's method is `CONNECT`. Its target has the scheme
    /// `http`, because no TLS is added, and the path `/`, which is not used.
    ///
    /// # Errors
    /// The [`Refusal`] of the nearest rule, or one that states that there is no rule. Only rules with
    /// `connect` allow it. Their schemes, methods and paths are not checked: a raw stream shows none of
    /// them.
    pub fn decide_connect(&self, host: &str, port: u16) -> Result<Candidate, Refusal> {
        // `Host::parse` requires brackets around IPv6, as in a URL. Here there is no URL.
        let host = match host.parse::<Ipv6Addr>() {
            Ok(addr) => Host::Addr(addr.into()),
            Err(_) => Host::parse(host).map_err(TargetError::from)?,
        };
        self.decide(&Request::raw(Target::raw(host, port)?))
    }

    /// Explains the decision of every rule about a request, for people.
    pub fn explain(&self, method: &str, url: &str) -> Explanation {
        let request = Target::parse(url).map_err(Refusal::from);
        match request.and_then(|target| Request::http(method, target)) {
            Ok(request) => Explanation {
                rules: (0..self.rules.len())
                    .map(|index| self.verdict(index, &request))
                    .collect(),
                decision: self.decide(&request),
            },
            Err(refusal) => Explanation {
                rules: Vec::new(),
                decision: Err(refusal),
            },
        }
    }

    /// Returns warnings about settings that are allowed but rarely intended, each with its rule or endpoint.
    pub fn warnings(&self) -> Vec<String> {
        let rules = self.rules.iter().enumerate().flat_map(|(index, rule)| {
            let name = RuleRef::Allow(index, rule.host.clone());
            rule.warnings()
                .into_iter()
                .map(move |warning| format!("{name}: {warning}"))
        });
        let endpoints = self.endpoints.iter().flat_map(|endpoint| {
            let warnings = endpoint.warnings().into_iter();
            warnings.map(move |warning| format!("endpoint {}: {warning}", endpoint.name))
        });
        rules.chain(endpoints).collect()
    }

    /// Returns the endpoints, in the config's order.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Returns the rules, in the config's order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn decide(&self, request: &Request) -> Result<Candidate, Refusal> {
        // Before the rules: no rule can help, and the refusal should not advise to add one.
        self.limits.refuse_host(request.target.host())?;
        // Every rule is checked, not only the first that matches: which rule applies may depend on the address.
        let mut grants = Vec::new();
        let mut nearest: Option<(usize, Miss)> = None;
        for index in 0..self.rules.len() {
            match self.check(index, request) {
                Ok(grant) => grants.push(grant),
                Err(miss) => {
                    let is_nearer = |(other, known): &(usize, Miss)| {
                        self.nearness(index, &miss, request) > self.nearness(*other, known, request)
                    };
                    // Of equally near rules the first one is kept: an administrator reads the config from its top.
                    if nearest.as_ref().is_none_or(is_nearer) {
                        nearest = Some((index, miss));
                    }
                }
            }
        }
        if !grants.is_empty() {
            return Ok(Candidate::new(&self.limits, request.clone(), grants));
        }
        Err(match nearest {
            // A rule for other hosts is no hint. The advice is to add one.
            None | Some((_, Miss::Host)) => Refusal::no_rule(request.target.host()),
            Some((index, miss)) => miss.refusal(&self.rule_ref(index), request),
        })
    }

    /// Checks a request against one rule. An address in the URL is checked at once.
    fn check(&self, index: usize, request: &Request) -> Result<Grant, Miss> {
        evaluate::evaluate(&self.rules[index], request)?;
        let rule = &self.rules[index];
        let grant = Grant::allow(self.rule_ref(index), rule.host.clone());
        let grant = grant.dropping(rule.overrides());
        let host = request.target.host();
        self.limits.refuse_host(host).map_err(Miss::Address)?;
        // The address is known already, so the administrator gets the reason now and not after a lookup.
        if let Host::Addr(addr) = host {
            self.limits
                .admit(&grant, host, *addr)
                .map_err(Miss::Address)?;
        }
        Ok(grant)
    }

    /// Returns how near a rule was. One that names the host is nearer than one that any name may resolve into.
    fn nearness(&self, index: usize, miss: &Miss, request: &Request) -> (bool, u8) {
        (
            self.rules[index].host.matches(request.target.host()),
            miss.stage(),
        )
    }

    fn rule_ref(&self, index: usize) -> RuleRef {
        RuleRef::Allow(index, self.rules[index].host.clone())
    }
}

#[cfg(test)]
mod tests;
