//! One exchange, from any ingress, through any tunnel.
//!
//! An ingress passes in a head and a body. [`run`] opens a stream on the tunnel that `routing` chooses, and
//! returns the response's head and body. A request that is safe to retry, and whose body is still complete in
//! memory, is tried on another tunnel. Dropping the future, or the response's body, cancels the request.
//!
//! | file | what |
//! | --- | --- |
//! | `attempts` | the retry loop |
//! | `outcome` | what a failed attempt means, and whether it is retried |
//! | `time` | how the time of a request is shared between relay and bridge |
//! | `upload` | the request's body, replayable up to a bound |
//! | `response` | the response's body |
//! | `traffic` | byte counts for the audit record |

mod attempts;
mod outcome;
mod response;
mod time;
mod traffic;
mod upload;

pub(crate) use attempts::{RESET_ACK_TIMEOUT, await_response_head};
pub(crate) use outcome::{not_opened, settle_lost};
pub(crate) use response::{TunnelBody, TunnelResponse};
pub(crate) use traffic::{TrafficLog, TrafficSum};
pub(crate) use upload::{UploadError, pump};

use crate::access::Principal;
use crate::capacity::ExchangePermit;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::registry::{Registry, TunnelEntry};
use crate::routing::Identities;
use crate::routing::select_tunnel::{self, RouteTarget};
use bytes::Bytes;
use http_body::Body;
use protocol::frame::RequestHead;
use protocol::{Code, Execution, Failure};
use std::sync::Arc;

/// What an exchange needs of the relay.
#[derive(Debug)]
pub(crate) struct ExchangeContext {
    registry: Arc<Registry>,
    identities: Arc<dyn Identities>,
    metrics: Arc<Metrics>,
}

impl ExchangeContext {
    /// Returns the context of a relay that starts.
    pub(crate) fn new(
        registry: Arc<Registry>,
        identities: Arc<dyn Identities>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            registry,
            identities,
            metrics,
        }
    }

    /// Chooses the tunnel for the next attempt; `tried` are excluded.
    ///
    /// # Errors
    /// Why no tunnel takes the request.
    fn choose(
        &self,
        request: &ExchangeRequest<'_>,
        tried: &[Arc<TunnelEntry>],
    ) -> Result<Arc<TunnelEntry>, Failure> {
        select_tunnel::choose(
            &self.registry,
            &*self.identities,
            &request.principal.tenant,
            request.bridge,
            request.target,
            request.principal.scope.bridges(),
            tried,
        )
    }

    /// Returns the tunnel for the next attempt, without the reason if there is none.
    fn find(
        &self,
        request: &ExchangeRequest<'_>,
        tried: &[Arc<TunnelEntry>],
    ) -> Option<Arc<TunnelEntry>> {
        select_tunnel::find(
            &self.registry,
            &request.principal.tenant,
            request.bridge,
            request.target,
            request.principal.scope.bridges(),
            tried,
        )
    }
}

/// The body of a request.
#[derive(Debug)]
pub(crate) enum Outbound<B> {
    /// A complete body of at most 16 KiB, which travels with the head.
    Whole(Bytes),
    /// A body that the caller still sends.
    Streaming(B),
}

impl<B> Outbound<B> {
    /// Returns how many bytes it has, if all of it is in memory.
    pub(crate) fn known_bytes(&self) -> Option<u64> {
        match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Streaming(_) => None,
        }
    }
}

/// A request to be sent through a tunnel.
#[derive(Debug)]
pub(crate) struct ExchangeRequest<'a> {
    /// The caller.
    pub(crate) principal: &'a Principal,
    /// The only bridge that may take it, if the caller names one.
    pub(crate) bridge: Option<&'a str>,
    /// The endpoint or host, for the choice of a tunnel.
    pub(crate) target: RouteTarget<'a>,
    /// The head for the bridge.
    pub(crate) head: RequestHead,
}

/// Sends a request through a tunnel and waits for the response's head. `progress` says how far it
/// came, and through which bridge, also when the future is dropped.
///
/// # Errors
/// The failure, with the execution status.
pub(crate) async fn run<B>(
    context: &Arc<ExchangeContext>,
    request: ExchangeRequest<'_>,
    body: Outbound<B>,
    permit: ExchangePermit,
    progress: &Progress,
) -> Result<TunnelResponse, Failure>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<UploadError> + Send,
{
    let mut counted = OutcomeCounter {
        metrics: &context.metrics,
        // Replaced below. It stays if this future is dropped, which means that the caller has cancelled.
        outcome: Code::Cancelled.as_str(),
    };
    let result = attempts::run(context, request, body, permit, progress).await;
    counted.outcome = match &result {
        Ok(_) => Execution::Executed.as_str(),
        Err(failure) => failure.code.as_str(),
    };
    result
}

/// Counts the outcome of an exchange when it is dropped. An exchange that is dropped before it has one was
/// cancelled by its caller.
struct OutcomeCounter<'a> {
    metrics: &'a Metrics,
    outcome: &'static str,
}

impl Drop for OutcomeCounter<'_> {
    fn drop(&mut self) {
        self.metrics.outcome(self.outcome);
    }
}
