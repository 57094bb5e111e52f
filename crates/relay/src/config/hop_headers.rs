//! `[hops]`: the header fields that name the relay.

/// `[hops]` of `relay.toml`.
///
/// ```toml
/// [hops]
/// via = true
/// forwarded = true
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hops {
    /// Whether requests and responses that pass through get a `Via`. Defaults to false.
    pub via: bool,
    /// Whether requests that pass through get a `Forwarded`, with the caller's address. Defaults to false.
    pub forwarded: bool,
}
