//! One rule against one request: it matches, or the first part that does not.
//!
//! ```text
//! host --> scheme --> port --> method --> path          a request
//! host --> connect --> port                             a raw stream
//! ```
//!
//! The more parts match, the nearer the rule is, and the nearest rule's reason is reported. Only its text is
//! formatted.

use super::candidate::RuleRef;
use super::refusal::{Refusal, RefusalKind, part};
use crate::rule::Rule;
use crate::rule::host_pattern::HostPattern;
use crate::rule::methods::{METHOD_MAX_BYTES, is_connect, is_method};
use crate::target::host::Host;
use crate::target::path::{Ambiguity, ambiguity};
use crate::target::{Scheme, Target};
use std::sync::Arc;

/// The parsed request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Arc<str>,
    pub(crate) target: Arc<Target>,
    /// A raw stream to the target's host and port, rather than a request.
    pub(crate) raw: bool,
    /// Why other programs could read the path differently.
    ambiguity: Option<Ambiguity>,
}

impl Request {
    pub(crate) fn http(method: &str, target: Target) -> Result<Self, Refusal> {
        if !is_method(method) {
            let detail = format!(
                "the method is not a token of at most {METHOD_MAX_BYTES} bytes, such as GET"
            );
            return Err(Refusal::new(RefusalKind::Method, detail));
        }
        let ambiguity = ambiguity(target.path());
        Ok(Self {
            method: method.into(),
            target: Arc::new(target),
            raw: false,
            ambiguity,
        })
    }

    pub(crate) fn raw(target: Target) -> Self {
        Self {
            method: "CONNECT".into(),
            target: Arc::new(target),
            raw: true,
            ambiguity: None,
        }
    }
}

/// The first part of a rule that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Miss {
    Host,
    Scheme,
    Connect,
    Port,
    Method,
    Ambiguous(Ambiguity),
    Path,
    /// Everything matches but the address in the URL.
    Address(Refusal),
}

/// Checks everything except addresses.
pub(crate) fn evaluate(rule: &Rule, request: &Request) -> Result<(), Miss> {
    // The order is that of the diagram: `Miss::stage` ranks rules by it.
    let target = &*request.target;
    if !applies_to(rule, target.host()) {
        return Err(Miss::Host);
    }
    if request.raw {
        // A raw stream shows neither scheme, method nor path, so these cannot be checked.
        return evaluate_raw(rule, target);
    }
    if !rule.allows_scheme(target.scheme()) {
        return Err(Miss::Scheme);
    }
    if !rule.ports.allows(target.scheme(), target.port()) {
        return Err(Miss::Port);
    }
    // `methods = ["*"]` does not include CONNECT: it opens a tunnel, in which no rule applies any more.
    if is_connect(&request.method) {
        if !rule.connect {
            return Err(Miss::Connect);
        }
    } else if !rule.methods.allows(&request.method) {
        return Err(Miss::Method);
    }
    let Some(paths) = &rule.paths else {
        return Ok(());
    };
    // Before the patterns: a path that matches by its bytes may leave the prefix when it is decoded.
    if let Some(why) = request.ambiguity {
        return Err(Miss::Ambiguous(why));
    }
    if paths.iter().any(|path| path.matches(target.path())) {
        Ok(())
    } else {
        Err(Miss::Path)
    }
}

/// Whether the rule is about this host. With `resolved`, an address or network is about every name: its
/// addresses are checked once it is resolved.
fn applies_to(rule: &Rule, host: &Host) -> bool {
    let by_address = match (&rule.host, host) {
        (HostPattern::Addr(_) | HostPattern::Net(_), Host::Name(_)) => rule.resolved,
        (HostPattern::Name(_) | HostPattern::Wildcard(_), _) | (_, Host::Addr(_)) => false,
    };
    by_address || rule.host.matches(host)
}

fn evaluate_raw(rule: &Rule, target: &Target) -> Result<(), Miss> {
    if !rule.connect {
        return Err(Miss::Connect);
    }
    let mut schemes = [Scheme::Http, Scheme::Https]
        .into_iter()
        .filter(|scheme| rule.allows_scheme(*scheme));
    // A raw stream has no scheme, so the default port of every allowed scheme is acceptable.
    if schemes.any(|scheme| rule.ports.allows(scheme, target.port())) {
        Ok(())
    } else {
        Err(Miss::Port)
    }
}

impl Miss {
    /// Returns how many checks the request passed.
    pub(crate) fn stage(&self) -> u8 {
        match self {
            Self::Host => 0,
            Self::Scheme => 1,
            Self::Port => 2,
            Self::Connect => 3,
            Self::Method => 4,
            Self::Ambiguous(_) => 5,
            Self::Path => 6,
            Self::Address(_) => 7,
        }
    }

    /// Returns the refusal for the administrator, when this rule or endpoint was the nearest.
    pub(crate) fn refusal(&self, rule: &RuleRef, request: &Request) -> Refusal {
        let kind = match self {
            Self::Host => RefusalKind::NoRule,
            Self::Scheme => RefusalKind::Scheme,
            Self::Connect => RefusalKind::Connect,
            Self::Port => RefusalKind::Port,
            Self::Method => RefusalKind::Method,
            Self::Ambiguous(_) | Self::Path => RefusalKind::Path,
            Self::Address(refusal) => return refusal.clone(),
        };
        Refusal::new(kind, format!("{rule} {}", self.text(request)))
    }

    /// Returns the text without the rule: a predicate that follows its name.
    pub(crate) fn text(&self, request: &Request) -> String {
        let target = &request.target;
        match self {
            Self::Host => "is for other hosts".into(),
            Self::Scheme => format!(
                "does not allow {0}: add \"{0}\" to its schemes",
                target.scheme()
            ),
            Self::Connect => {
                "does not allow raw streams (CONNECT): set connect = true in it".into()
            }
            Self::Port => format!(
                "does not allow port {0}: add {0} to its ports",
                target.port()
            ),
            Self::Method => format!(
                "does not allow method {0}: add \"{0}\" to its methods",
                request.method
            ),
            Self::Ambiguous(why) => {
                format!(
                    "allows some paths only, and this path holds {why}, so that it could be read as another one"
                )
            }
            Self::Path => format!(
                "does not allow path {}: add it to its paths",
                part(target.path())
            ),
            Self::Address(refusal) => refusal.to_string(),
        }
    }

    /// Explains why a rule is for other hosts, for [`explain`](super::explain).
    pub(crate) fn host_text(rule: &Rule, host: &Host) -> String {
        match (&rule.host, host) {
            (HostPattern::Addr(_) | HostPattern::Net(_), Host::Name(_)) => {
                "is for addresses in URLs: set resolved = true in it for names that resolve into it"
                    .into()
            }
            (HostPattern::Wildcard(suffix), Host::Name(name)) if suffix == name => {
                format!("is for hosts below {}, not for itself", part(suffix))
            }
            (HostPattern::Name(_) | HostPattern::Wildcard(_), _) | (_, Host::Addr(_)) => {
                "is for other hosts".into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Ports;
    use crate::rule::methods::Methods;
    use crate::rule::path_pattern::PathPattern;

    fn request(method: &str, url: &str) -> Request {
        Request::http(method, Target::parse(url).unwrap()).unwrap()
    }

    fn rule() -> Rule {
        Rule {
            schemes: Some(vec![Scheme::Https]),
            ports: Ports::Only(vec![8443]),
            paths: Some(vec![
                PathPattern::parse("/hooks/*").unwrap(),
                PathPattern::parse("/x").unwrap(),
            ]),
            ..Rule::new(
                HostPattern::parse("ci").unwrap(),
                Methods::parse(&["POST"]).unwrap(),
            )
        }
    }

    #[test]
    fn first_mismatch_is_reported() {
        for (method, url, expected) in [
            ("POST", "https://ci:8443/hooks/1", Ok(())),
            ("POST", "https://ci:8443/x?/../y", Ok(())),
            ("GET", "http://cj/", Err(Miss::Host)),
            ("GET", "http://ci/", Err(Miss::Scheme)),
            ("GET", "https://ci/", Err(Miss::Port)),
            ("GET", "https://ci:8443/", Err(Miss::Method)),
            ("post", "https://ci:8443/", Err(Miss::Method)),
            ("CONNECT", "https://ci:8443/", Err(Miss::Connect)),
            ("connect", "https://ci:8443/", Err(Miss::Connect)),
            ("POST", "https://ci:8443/", Err(Miss::Path)),
            (
                "POST",
                "https://ci:8443/hooks/%2e%2e/y",
                Err(Miss::Ambiguous(Ambiguity::DotSegment)),
            ),
        ] {
            assert_eq!(
                evaluate(&rule(), &request(method, url)),
                expected,
                "{method} {url}"
            );
        }
    }

    #[test]
    fn rule_without_paths_allows_any_bytes() {
        let rule = Rule::new(HostPattern::parse("ci").unwrap(), Methods::Any);
        for path in [
            "/a/../b",
            "/%2e%2e/x",
            "/a%5cb",
            "/%zz",
            "/..;/x",
            "/%c0%ae",
        ] {
            assert_eq!(
                evaluate(&rule, &request("GET", &format!("http://ci{path}"))),
                Ok(()),
                "{path}"
            );
        }
    }

    #[test]
    fn any_method_excludes_connect() {
        let mut rule = Rule::new(HostPattern::parse("ci").unwrap(), Methods::Any);
        assert_eq!(
            evaluate(&rule, &request("CONNECT", "http://ci/")),
            Err(Miss::Connect)
        );
        rule.connect = true;
        assert_eq!(evaluate(&rule, &request("CONNECT", "http://ci/")), Ok(()));
    }

    #[test]
    fn raw_stream_requires_connect_and_port() {
        let raw = |port| Request::raw(Target::raw(Host::Name("ci".into()), port).unwrap());
        let mut rule = rule();
        assert_eq!(evaluate(&rule, &raw(8443)), Err(Miss::Connect));
        rule.connect = true;
        assert_eq!(evaluate(&rule, &raw(8443)), Ok(()));
        assert_eq!(evaluate(&rule, &raw(443)), Err(Miss::Port));
        rule.ports = Ports::Default;
        assert_eq!(evaluate(&rule, &raw(443)), Ok(()));
        assert_eq!(evaluate(&rule, &raw(80)), Err(Miss::Port));
        rule.schemes = None;
        assert_eq!(evaluate(&rule, &raw(80)), Ok(()));
        assert_eq!(evaluate(&rule, &raw(22)), Err(Miss::Port));
    }

    #[test]
    fn network_applies_to_names_only_with_resolved() {
        let mut rule = Rule::new(HostPattern::parse("10.0.0.0/8").unwrap(), Methods::Any);
        assert_eq!(evaluate(&rule, &request("GET", "http://10.1.2.3/")), Ok(()));
        assert_eq!(
            evaluate(&rule, &request("GET", "http://name/")),
            Err(Miss::Host)
        );
        rule.resolved = true;
        assert_eq!(evaluate(&rule, &request("GET", "http://name/")), Ok(()));
        assert_eq!(
            evaluate(&rule, &request("GET", "http://11.1.2.3/")),
            Err(Miss::Host)
        );
    }
}
