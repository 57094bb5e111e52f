//! Which way a URL goes.
//!
//! | the URL | goes |
//! | --- | --- |
//! | a bridge is named, or a connected one serves its host | through that bridge |
//! | public, and enabled for this tenant | direct |
//! | public, not enabled | refused: the site administrator can enable it |
//! | not public, no bridge serves it | refused: a bridge must be installed where it can be reached |

use crate::direct::{self, Direct};
use crate::registry::Entry;
use crate::router::{self, Wanted};
use crate::state::State;
use policy::{Policy, Target};
use protocol::{Code, Failure};
use std::sync::Arc;

/// The way.
#[derive(Debug)]
pub enum Route {
    /// Through a bridge; the one that would be chosen now.
    Bridge(Arc<Entry>),
    /// By the relay itself, as far as this policy allows.
    Direct(Box<Policy>),
    /// No way.
    Refused(Failure),
}

/// What is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// Whose it is (the tenant's id).
    pub tenant: &'a Arc<str>,
    /// The bridge that was asked for.
    pub bridge: Option<&'a str>,
    /// Bridges that it may go through; empty for any.
    pub within: &'a [String],
    /// Where it goes, and how it was written.
    pub target: &'a Target,
    /// As it was given.
    pub url: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Tunnels that it may not go through.
    pub except: &'a [Arc<Entry>],
}

/// Says the way. Names are resolved only where no bridge has it, and only to say why not.
pub async fn decide(state: &State, sent: Sent<'_>) -> Route {
    let chosen = router::choose(
        &state.registry,
        &*state.directory,
        sent.tenant,
        sent.bridge,
        Wanted::Host(sent.target.host()),
        sent.within,
        sent.except,
    );
    let failure = match chosen {
        Ok(entry) => return Route::Bridge(entry),
        Err(failure) => failure,
    };
    // Whoever names a bridge wants that one; a key that is narrowed to some has no other way.
    if sent.bridge.is_some() || !sent.within.is_empty() {
        return Route::Refused(failure);
    }
    if let Some(policy) = enabled(state, sent) {
        return Route::Direct(Box::new(policy));
    }
    // A bridge that is away may serve it when it is back.
    if matches!(failure.code, Code::BridgeOffline | Code::Overloaded) {
        return Route::Refused(failure);
    }
    let addresses = state
        .direct
        .addresses(sent.tenant, sent.target.host())
        .await;
    if Direct::are_public(&addresses) {
        let detail = format!(
            "{} is public, and this tenant may not call it directly: a site administrator can \
             enable it (direct_urls), or a bridge can serve it",
            sent.target.host()
        );
        return Route::Refused(Failure::not_sent(Code::RefusedByPolicy, detail));
    }
    Route::Refused(failure)
}

/// The tenant's policy for direct calls, if it allows this one.
fn enabled(state: &State, sent: Sent<'_>) -> Option<Policy> {
    let patterns = state.directory.direct_urls(sent.tenant);
    if patterns.is_empty() {
        return None;
    }
    // They were checked when they were set.
    let policy = direct::pattern::policy(&patterns).ok()?;
    let allowed = policy.decide_url(sent.method, sent.url).is_ok();
    allowed.then_some(policy)
}
