//! What an administrator can do about a relay that rejects this bridge. The texts appear in the log, in
//! `status` and in `doctor`.

use crate::versions::UPDATE;
use protocol::frame::RefusedCode;
use transport::dial::DialError;
use transport::failure::Cause;

/// An error text with its remedy.
pub(super) struct Advice {
    pub(super) error: &'static str,
    pub(super) advice: &'static str,
}

/// A second process has the same identity.
pub(super) const CLONED: Advice = Advice {
    error: "another process connects with this identity",
    advice: "if the data directory was copied, remove identity.json from the copy and pair the copy \
             again",
};

/// The relay's connection number is too far from this bridge's.
pub(super) const OUT_OF_REACH: &str =
    "pair the bridge again: this restarts the connection numbers on both sides";

/// The relay has revoked the bridge or its API key.
pub(super) const REVOKED: &str =
    "this bridge or its API key was revoked: pair it again, with a new API key if that was revoked";

/// Returns what to do about a rejection.
pub(super) fn for_rejection(error: &DialError) -> &'static str {
    match error.refused() {
        Some(RefusedCode::Unauthorized) => {
            "the relay does not know this bridge: pair it again, with an API key of the right tenant"
        }
        Some(RefusedCode::Revoked) => REVOKED,
        Some(RefusedCode::TenantSuspended) => {
            "the tenant is suspended: ask the operator of the relay"
        }
        Some(RefusedCode::Version) if error.accepted_versions().is_some() => UPDATE,
        Some(RefusedCode::Version) => {
            "bridge and relay have no protocol version in common: update the older one"
        }
        Some(RefusedCode::ChannelBinding) => {
            "a middlebox between this bridge and the relay terminates TLS (TLS inspection, or a load \
             balancer that the relay is not configured for): exempt the relay's host from inspection, \
             or ask the operator of the relay to run `integration-relay bridge allow-tls-inspection`"
        }
        Some(RefusedCode::Authority) => {
            "the relay does not serve the host name in relay.url: use the URL that its operator gave"
        }
        // The relay did not decide: something before it answered.
        Some(RefusedCode::StaleEpoch { .. } | RefusedCode::Overloaded) | None => {
            let why = error.diagnosis();
            why.map_or(Cause::NotRelay.words().remedy, |why| why.remedy())
        }
    }
}
