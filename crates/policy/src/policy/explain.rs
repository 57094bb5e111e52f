//! The decision of every rule about a request, for `policy test` and other explanations.

use super::Policy;
use super::candidate::{Candidate, RuleRef};
use super::evaluate::{Miss, Request};
use super::refusal::Refusal;
use crate::rule::Rule;
use crate::rule::host_pattern::HostPattern;
use crate::target::host::Host;
use std::fmt;

/// A decision, with the verdict of every rule. Its `Display` has a line for each:
///
/// ```text
/// allow rule 1 (host ci.corp.example) does not allow method GET: add "GET" to its methods
/// allow rule 2 (host *.corp.example) allows it
/// ```
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Every rule in the config's order; empty when the URL or the method is invalid.
    pub rules: Vec<RuleVerdict>,
    /// The decision of [`Policy::decide_url`]. Names are not resolved here: approve the candidate for
    /// each address.
    pub decision: Result<Candidate, Refusal>,
}

/// The decision of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleVerdict {
    /// The rule.
    pub rule: RuleRef,
    /// Whether it allows the request, as far as that is known without resolving its name.
    pub allows: bool,
    /// Its reason, as a predicate that follows the rule's name.
    pub reason: String,
}

impl RuleVerdict {
    fn is_cause_of(&self, refusal: &Refusal) -> bool {
        Refusal::new(refusal.kind(), self.to_string()) == *refusal
    }
}

impl fmt::Display for RuleVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.rule, self.reason)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for verdict in &self.rules {
            writeln!(f, "{verdict}")?;
        }
        match &self.decision {
            Ok(candidate) => {
                write!(
                    f,
                    "allowed by {}: {} {}",
                    candidate.rule(),
                    candidate.method(),
                    candidate.target()
                )
            }
            // The text of a refusal by a rule is that rule's line above.
            Err(refusal) => match self.rules.iter().find(|rule| rule.is_cause_of(refusal)) {
                Some(rule) if self.rules.len() > 1 => {
                    write!(f, "refused; the nearest rule is {}", rule.rule)
                }
                Some(_) => f.write_str("refused"),
                None => write!(f, "refused: {refusal}"),
            },
        }
    }
}

impl Policy {
    pub(super) fn verdict(&self, index: usize, request: &Request) -> RuleVerdict {
        let rule = &self.rules[index];
        let host = request.target.host();
        let (allows, reason) = match self.check(index, request) {
            Ok(_) => (true, allowing_text(rule, host)),
            // More detailed than in a refusal: here the administrator looks at each rule.
            Err(Miss::Host) => (false, Miss::host_text(rule, host)),
            Err(Miss::Address(refusal)) => (false, format!("would allow it, but {refusal}")),
            Err(miss) => (false, miss.text(request)),
        };
        RuleVerdict {
            rule: self.rule_ref(index),
            allows,
            reason,
        }
    }
}

fn allowing_text(rule: &Rule, host: &Host) -> String {
    match (&rule.host, host) {
        (HostPattern::Addr(_) | HostPattern::Net(_), Host::Name(_)) => {
            format!("allows it where the name resolves into {}", rule.host)
        }
        (HostPattern::Name(_) | HostPattern::Wildcard(_), _) | (_, Host::Addr(_)) => {
            "allows it".into()
        }
    }
}
