//! Errors of an allow list as a whole.

use super::{ENDPOINTS_MAX, RULES_MAX};
use crate::rule::PatternError;
use crate::rule::endpoint::EndpointError;
use thiserror::Error;

/// Why rules and endpoints are no valid policy. Rule numbers begin at 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// More than [`RULES_MAX`].
    #[error("{rules} allow rules; at most {RULES_MAX} are allowed")]
    TooManyRules {
        /// How many.
        rules: usize,
    },
    /// More than [`ENDPOINTS_MAX`].
    #[error("{endpoints} endpoints; at most {ENDPOINTS_MAX} are allowed")]
    TooManyEndpoints {
        /// How many.
        endpoints: usize,
    },
    /// A rule that [`Rule::validate`](crate::Rule::validate) refuses.
    #[error("allow rule {number} cannot be used")]
    Rule {
        /// Which rule.
        number: usize,
        /// What is wrong with it.
        source: PatternError,
    },
    /// An endpoint that [`Endpoint::validate`](crate::Endpoint::validate) refuses.
    #[error("endpoint {number} ({name:?}) cannot be used")]
    Endpoint {
        /// Which endpoint.
        number: usize,
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// Two rules are identical.
    #[error("allow rules {first} and {second} are the same")]
    SameRule {
        /// The earlier one.
        first: usize,
        /// The later one.
        second: usize,
    },
    /// Two endpoints with one name.
    #[error("two endpoints are named {name}")]
    SameEndpoint {
        /// The name.
        name: String,
    },
}
