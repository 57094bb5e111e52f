//! What a failed attempt means: how far the request came, and whether it is retried.
//!
//! | the attempt | is retried |
//! | --- | --- |
//! | provably not dispatched; tunnel lost or full | on another tunnel |
//! | tunnel lost, execution unknown; GET, HEAD, OPTIONS | as soon as another tunnel accepts it |
//! | the same; PUT, DELETE to a repeatable endpoint | after the bridge reported that the old session is over |
//! | anything else | never |

use super::{ExchangeContext, ExchangeRequest};
use crate::registry::{Registry, TunnelEntry};
use crate::routing::select_tunnel::RouteTarget;
use protocol::session::OpenError;
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::time::Duration;
use transport::RecvStream;

/// Poll interval for an alternative tunnel while the relay waits for a lost tunnel's report.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a request waits for the report of its lost tunnel, or for the bridge's next tunnel. A bridge that
/// is alive redials within half a second.
pub(super) const REPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// An attempt that got no response.
pub(super) struct FailedAttempt<'a> {
    pub(super) context: &'a ExchangeContext,
    pub(super) request: &'a ExchangeRequest<'a>,
    /// The tunnels that were tried, this attempt's last.
    pub(super) tried: &'a [Arc<TunnelEntry>],
    pub(super) recv: &'a RecvStream,
}

impl FailedAttempt<'_> {
    /// Returns the failure with what the bridge reports about it, and whether the request is retried: it is
    /// if it was not dispatched, and if a second execution does no harm (W-68).
    pub(super) async fn settle(&self, failure: Failure, may_retry: bool) -> (Failure, bool) {
        let is_lost = failure.code == Code::TunnelLost;
        if !is_lost || failure.execution != Execution::PossiblyExecuted {
            // Another tunnel helps only against a tunnel that is lost or full. Any other failure is the
            // target's or the policy's, and would repeat itself.
            let may_help = is_lost || failure.code == Code::Overloaded;
            let retry = may_retry && may_help && failure.execution.is_safe_to_repeat();
            return (failure, retry);
        }
        let method = &*self.request.head.method;
        let is_safe = may_retry && matches!(method, "GET" | "HEAD" | "OPTIONS");
        let (Some(entry), Some(stream)) = (self.tried.last(), self.recv.wire_id()) else {
            return (failure, is_safe);
        };
        // A request that changes nothing goes out as soon as another tunnel accepts it. Others wait for the
        // bridge's report, because until then the old session may still execute them.
        let other_tunnel = async {
            while !is_safe || self.context.find(self.request, self.tried).is_none() {
                tokio::time::sleep(RECHECK_INTERVAL).await;
            }
        };
        let registry = &self.context.registry;
        let was_undispatched = tokio::select! {
            biased;
            () = other_tunnel => return (failure, true),
            report = registry.query_fate(entry, stream, REPORT_TIMEOUT) => report,
        };
        match was_undispatched {
            Some(true) => {
                let failure = Failure {
                    execution: Execution::NotDispatched,
                    ..failure
                };
                (failure, may_retry)
            }
            Some(false) => {
                let is_opted_in =
                    may_retry && matches!(method, "PUT" | "DELETE") && self.is_repeatable();
                (failure, is_safe || is_opted_in)
            }
            None => (failure, false),
        }
    }

    /// Returns whether a PUT or DELETE may be executed twice: both the bridge that had it and the bridge
    /// that would get it must have declared the endpoint repeatable.
    fn is_repeatable(&self) -> bool {
        let RouteTarget::Endpoint(name) = self.request.target else {
            return false;
        };
        let next = self.context.find(self.request, self.tried);
        let both = [self.tried.last(), next.as_ref()];
        both.iter()
            .all(|entry| entry.is_some_and(|entry| entry.offer().is_repeatable(name)))
    }
}

/// Returns a failure with what the bridge reports about it. A lost tunnel leaves open how far its requests
/// came; the bridge knows, and reports it with its next session.
pub(crate) async fn settle_lost(
    registry: &Registry,
    entry: &TunnelEntry,
    recv: &RecvStream,
    failure: Failure,
) -> Failure {
    if failure.code != Code::TunnelLost || failure.execution != Execution::PossiblyExecuted {
        return failure;
    }
    let Some(stream) = recv.wire_id() else {
        return failure;
    };
    match registry.query_fate(entry, stream, REPORT_TIMEOUT).await {
        Some(true) => Failure {
            execution: Execution::NotDispatched,
            ..failure
        },
        Some(false) | None => failure,
    }
}

/// Returns what it means that a stream was not opened: a failure after which another tunnel may be tried.
///
/// # Errors
/// A failure that every tunnel would give.
pub(crate) fn not_opened(error: &OpenError) -> Result<Failure, Failure> {
    match error {
        OpenError::Ended | OpenError::Draining => Ok(Failure::not_sent(
            Code::BridgeOffline,
            "the bridge is disconnecting",
        )),
        OpenError::Full => Ok(Failure::not_sent(
            Code::Overloaded,
            "the bridge reached its limit of concurrent requests",
        )),
        // Another tunnel may have a later version of the wire.
        OpenError::VersionLimit { bytes, max } => Ok(Failure::not_sent(
            Code::HeadersTooLarge,
            format!(
                "the request's head has {bytes} bytes, and the version of this bridge allows {max}: update the bridge"
            ),
        )),
        OpenError::Head(error) => Err(Failure::not_sent(
            Code::HeadersTooLarge,
            format!("the request's head does not fit the tunnel: {error}"),
        )),
    }
}
