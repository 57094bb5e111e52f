//! `[[endpoint]]` and `[[allow]]` as the policy has them, and the settings of an endpoint that are not part
//! of the policy: its certificates, credential and limits.

use super::rewrite::Rewrite;
use super::{AllowSection, CallerCredentials, EndpointSection, QuotaSection};
use policy::{
    Endpoint, HostPattern, Methods, PathPattern, Policy, PolicyError, Ports, Rule, RuleRef, Scheme,
};
use protocol::frame::{Bounded, Serves};
use protocol::limits::{SERVES_ENDPOINTS_MAX, SERVES_HOSTS_MAX};
use runtime::config::Mistake;
use runtime::map::FastMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The rules of a config.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The allow list, in its order.
    pub allow: Vec<Rule>,
    /// The endpoints, in their order.
    pub endpoints: Vec<Endpoint>,
    settings: FastMap<String, EndpointSettings>,
    /// The quota of each rule of the allow list, in its order.
    quotas: Vec<QuotaSection>,
    /// The CA file of each rule of the allow list, in its order.
    ca_files: Vec<Option<PathBuf>>,
}

/// The settings of an endpoint in addition to its rule.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndpointSettings {
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) health_path: Option<String>,
    pub(crate) credential: Option<String>,
    pub(crate) caller_credentials: CallerCredentials,
    pub(crate) unsigned: bool,
    pub(crate) rewrite: Rewrite,
    pub(crate) repeatable: bool,
    pub(crate) quota: QuotaSection,
}

/// Returns a proposal for the name of an endpoint, as the end of a message.
fn endpoint_like(text: &str) -> String {
    let name =
        protocol::name::proposal(text).map(|name| name.to_ascii_lowercase().replace('.', "-"));
    let name = name.map(|name| name.trim_start_matches(['-', '_']).to_owned());
    let name = name.filter(|name| policy::is_endpoint_name(name));
    name.map_or_else(String::new, |name| format!(", for example `{name}`"))
}

/// A mistake at a value, with its key in front of the message.
fn wrong<T>(key: &str, value: &Spanned<T>, error: impl Display) -> Mistake {
    Mistake::at(value.span(), format!("{key}: {error}"))
}

impl Rules {
    pub(super) fn new(
        endpoints: Vec<EndpointSection>,
        allow: &[AllowSection],
    ) -> Result<Self, Mistake> {
        let mut rules = Self {
            allow: Vec::new(),
            endpoints: Vec::new(),
            settings: FastMap::default(),
            quotas: Vec::new(),
            ca_files: Vec::new(),
        };
        let last = allow
            .last()
            .map(|section| section.host.span())
            .or_else(|| endpoints.last().map(|section| section.name.span()));
        for section in endpoints {
            rules.add_endpoint(section)?;
        }
        for section in allow {
            rules.allow.push(rule(section)?);
            rules.quotas.push(QuotaSection::from(section));
            let ca_file = section.ca_file.as_ref();
            rules
                .ca_files
                .push(ca_file.map(|file| file.get().to_owned()));
        }
        // Only their number can be wrong now, so the last one is where it is.
        rules
            .policy(Vec::new())
            .map_err(|error| Mistake::at(last.unwrap_or_default(), error.to_string()))?;
        Ok(rules)
    }

    fn add_endpoint(&mut self, section: EndpointSection) -> Result<(), Mistake> {
        let methods = match &section.methods {
            None => Methods::Any,
            Some(methods) => Methods::parse(methods.get_ref())
                .map_err(|error| wrong("methods", methods, error))?,
        };
        let (name, url) = (&section.name, &section.url);
        let mut endpoint =
            Endpoint::new(name.get_ref(), url.get_ref(), methods).map_err(|error| match error {
                policy::EndpointError::Name => {
                    let like = endpoint_like(name.get_ref());
                    wrong("name", name, format!("{error}{like}"))
                }
                policy::EndpointError::Url(_)
                | policy::EndpointError::Query
                | policy::EndpointError::Path { .. }
                | policy::EndpointError::Methods(_) => wrong("url", url, error),
            })?;
        endpoint.pass_overrides = section.pass_overrides;
        let endpoint = endpoint.with_this_host(section.this_host);
        // The health check passes the policy like a request: a path that it would reject is a mistake here.
        if let Some(path) = &section.health_path {
            let checking = Policy::new(Vec::new(), vec![endpoint.clone()]);
            let decided = checking
                .map(|policy| policy.decide_endpoint(&endpoint.name, "GET", path.get_ref()))
                .map_err(|error| wrong("health_path", path, error))?;
            decided.map_err(|refusal| wrong("health_path", path, refusal))?;
        }
        if let Some(name) = &section.credential {
            super::check_credential_name(name.get_ref())
                .map_err(|error| wrong("credential", name, error))?;
        }
        let rewrite = match &section.rewrite {
            None => Rewrite::default(),
            Some(rewrite) => Rewrite::parse(rewrite.get_ref())
                .map_err(|error| wrong("rewrite", rewrite, error))?,
        };
        let quota = QuotaSection::from(&section);
        let settings = EndpointSettings {
            quota,
            unsigned: section.unsigned,
            rewrite,
            repeatable: section.repeatable,
            ca_file: section.ca_file.map(|file| file.get().to_owned()),
            health_path: section.health_path.map(Spanned::into_inner),
            credential: section.credential.map(Spanned::into_inner),
            caller_credentials: section.caller_credentials,
        };
        if self
            .settings
            .insert(endpoint.name.clone(), settings)
            .is_some()
        {
            let error = "another endpoint has this name already; each needs its own";
            return Err(wrong("name", name, error));
        }
        self.endpoints.push(endpoint);
        Ok(())
    }

    /// Returns the policy, for a host with these addresses.
    ///
    /// # Errors
    /// [`PolicyError`] when there are too many rules.
    pub fn policy(&self, own_addresses: Vec<IpAddr>) -> Result<Policy, PolicyError> {
        let policy = Policy::new(self.allow.clone(), self.endpoints.clone())?;
        Ok(policy.with_own_addresses(own_addresses))
    }

    /// Returns what the bridge advertises to the relay.
    pub fn serves(&self, with_hosts: bool) -> Serves {
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.name.clone());
        if self.endpoints.len() > SERVES_ENDPOINTS_MAX {
            tracing::warn!(
                advertised = SERVES_ENDPOINTS_MAX,
                endpoints = self.endpoints.len(),
                "too many endpoints; advertising the first ones only"
            );
        }
        // An incomplete list would make the relay skip this bridge for hosts that it serves; without a list
        // the relay asks.
        // Several rules may have the same host, with other ports or paths.
        let mut hosts: Vec<String> = Vec::new();
        for rule in &self.allow {
            let host = rule.host.to_string();
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let with_hosts = with_hosts && hosts.len() <= SERVES_HOSTS_MAX;
        let is_repeatable = |name: &&String| {
            self.settings(name)
                .is_some_and(|settings| settings.repeatable)
        };
        let names = self.endpoints.iter().map(|endpoint| &endpoint.name);
        Serves {
            endpoints: Bounded::truncated(endpoints),
            hosts: with_hosts.then(|| Bounded::truncated(hosts)),
            repeatable: Bounded::truncated(names.filter(is_repeatable).cloned()),
        }
    }

    /// Returns the quota of each endpoint.
    pub(crate) fn endpoint_quotas(&self) -> impl Iterator<Item = (&String, &QuotaSection)> {
        self.settings
            .iter()
            .map(|(name, settings)| (name, &settings.quota))
    }

    /// Returns the quota of each rule of the allow list, in its order.
    pub(crate) fn allow_quotas(&self) -> impl Iterator<Item = &QuotaSection> {
        self.quotas.iter()
    }

    /// Returns the CA file of the entry that allows a request. Of several rules that allow it, the first one
    /// decides, before its address is known.
    pub(crate) fn ca_file(&self, rule: &RuleRef) -> Option<&Path> {
        match rule {
            RuleRef::Endpoint(name) => self.settings(name)?.ca_file.as_deref(),
            RuleRef::Allow(index, _) => self.ca_files.get(*index)?.as_deref(),
        }
    }

    /// Returns the CA file of each rule of the allow list, in its order.
    pub(crate) fn allow_ca_files(&self) -> impl Iterator<Item = Option<&Path>> {
        self.ca_files.iter().map(Option::as_deref)
    }

    /// Returns the settings of an endpoint.
    pub(crate) fn settings(&self, endpoint: &str) -> Option<&EndpointSettings> {
        self.settings.get(endpoint)
    }
}

fn rule(section: &AllowSection) -> Result<Rule, Mistake> {
    let host = HostPattern::parse(section.host.get_ref())
        .map_err(|error| wrong("host", &section.host, error))?;
    let methods = Methods::parse(section.methods.get_ref())
        .map_err(|error| wrong("methods", &section.methods, error))?;
    let mut rule = Rule::new(host, methods);
    if let Some(schemes) = &section.schemes {
        let parsed: Option<Vec<_>> = schemes.get_ref().iter().map(|s| Scheme::parse(s)).collect();
        let expected = "write [\"http\"], [\"https\"], or leave it out for both";
        rule.schemes = Some(parsed.ok_or_else(|| wrong("schemes", schemes, expected))?);
    }
    if let Some(ports) = &section.ports {
        let parsed: Result<Vec<u16>, _> = ports
            .get_ref()
            .iter()
            .map(|port| u16::try_from(*port))
            .collect();
        let expected = "a port is a number from 1 to 65535";
        let parsed = parsed.map_err(|_| wrong("ports", ports, expected))?;
        rule.ports = Ports::parse(&parsed).map_err(|error| wrong("ports", ports, error))?;
    }
    if let Some(paths) = &section.paths {
        let parsed: Result<Vec<_>, _> = paths
            .get_ref()
            .iter()
            .map(|p| PathPattern::parse(p))
            .collect();
        rule.paths = Some(parsed.map_err(|error| wrong("paths", paths, error))?);
    }
    rule.resolved = section.resolved;
    rule.connect = section.connect;
    rule.pass_overrides = section.pass_overrides;
    // Some keys contradict each other only together, for example `connect` and `paths`.
    rule.validate()
        .map_err(|error| wrong("allow", &section.host, error))?;
    Ok(rule)
}
