//! `[hop_headers]`: the header fields that name the relay.

/// `[hop_headers]` of `relay.toml`.
///
/// ```toml
/// [hop_headers]
/// via = true
/// forwarded = true
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hops {
    /// Whether requests and responses that pass through get a `Via`. Defaults to false.
    pub via: bool,
    /// Whether requests that pass through get a `Forwarded`, with the caller's address. Defaults to false.
    pub forwarded: bool,
}
