//! May this request go to this target? Deny by default.
//!
//! ```text
//! URL, or endpoint + path --> Policy::decide_* --> Candidate --> resolve (by the caller) --> approve --> Approved
//!                                   |                                                          |
//!                                   +----------------------> Refusal <-------------------------+
//! ```
//!
//! A request is checked twice: once by its own content ([`Policy::decide_url`],
//! [`Policy::decide_endpoint`], [`Policy::decide_connect`]) and once by each address that its host
//! resolved to ([`Candidate::approve`]). Only an [`Approved`] may be connected to, at exactly its
//! [`Approved::socket_addr`], and only this crate can make one:
//!
//! ```compile_fail
//! let forged = policy::Approved {}; // its fields are private, and it has no constructor
//! ```
//!
//! Everything here is a function of its arguments: no I/O, no clock, no lock. The users of this crate
//! resolve names, connect, and read the config.
//!
//! ```
//! use policy::{HostPattern, Methods, Policy, Rule};
//!
//! let rule = Rule::new(HostPattern::parse("ci.corp.example")?, Methods::parse(&["POST"])?);
//! let policy = Policy::new(vec![rule], vec![])?;
//!
//! let candidate = policy.decide_url("POST", "https://ci.corp.example/hooks/7")?;
//! let approved = candidate.approve("10.1.2.3".parse()?)?;
//! assert_eq!(approved.socket_addr().to_string(), "10.1.2.3:443");
//!
//! assert!(candidate.approve("169.254.169.254".parse()?).is_err());
//! assert!(policy.decide_url("GET", "https://ci.corp.example/hooks/7").is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod address;
mod policy;
mod rule;
mod target;

pub use crate::policy::candidate::{Approved, Candidate, RESOLVED_MAX, RuleRef};
pub use crate::policy::explain::{Explanation, RuleVerdict};
pub use crate::policy::refusal::{REFUSAL_MAX_BYTES, Refusal, RefusalKind};
pub use crate::policy::{ENDPOINTS_MAX, Policy, PolicyError, RULES_MAX};
pub use crate::rule::endpoint::{
    ENDPOINT_NAME_MAX_BYTES, Endpoint, EndpointError, is_endpoint_name,
};
pub use crate::rule::host_pattern::HostPattern;
pub use crate::rule::methods::{METHOD_MAX_BYTES, Methods};
pub use crate::rule::overrides::Overrides;
pub use crate::rule::path_pattern::PathPattern;
pub use crate::rule::{ENTRIES_MAX, PatternError, Ports, Rule};
pub use crate::target::host::{Host, HostError};
pub use crate::target::path::path_ambiguity;
pub use crate::target::{Scheme, Target, TargetError, URL_MAX_BYTES, is_too_long};
