//! The log lines of requests: one for each failure, with what its caller received, and one for each response at level
//! DEBUG. The request's id leads from a caller's response to them.

use crate::access::Principal;
use crate::data_plane::DataPlane;
use crate::request_name::RequestName;
use protocol::Failure;
use std::time::{Duration, Instant};

/// A request, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoggedRequest<'a> {
    /// What it is called.
    pub(crate) name: &'a RequestName,
    /// The caller, if the key proved itself.
    pub(crate) principal: Option<&'a Principal>,
    /// The endpoint, of a request to one.
    pub(crate) endpoint: Option<&'a str>,
    /// The target's host, of a request to a URL.
    pub(crate) host: Option<&'a str>,
    /// The bridge that the last attempt was sent to, or that the caller named.
    pub(crate) bridge: Option<&'a str>,
    /// When it began.
    pub(crate) started: Instant,
}

impl LoggedRequest<'_> {
    /// Logs what the caller received.
    pub(crate) fn failed(&self, data: &DataPlane, failure: &Failure) {
        // Requests without a valid key have their own limiter: they must not use up the lines of callers that have one.
        let limiter = match self.principal {
            Some(_) => &data.failed_requests,
            None => &data.unauthenticated_requests,
        };
        if !limiter.allow() {
            return;
        }
        let suppressed = limiter.suppressed();
        tracing::info!(
            id = self.name.id(),
            label = self.name.label(),
            tenant = self.principal.map(|principal| &*principal.tenant_name),
            key = self.principal.map(|principal| &*principal.client_id),
            endpoint = self.endpoint,
            host = self.host,
            bridge = self.bridge,
            code = %failure.code,
            execution = %failure.execution,
            detail = failure.detail,
            took_ms = millis(self.started.elapsed()),
            suppressed = (suppressed > 0).then_some(suppressed),
            "request failed"
        );
    }

    /// Logs the target's response.
    pub(crate) fn responded(&self, status: u16) {
        tracing::debug!(
            id = self.name.id(),
            label = self.name.label(),
            tenant = self.principal.map(|principal| &*principal.tenant_name),
            key = self.principal.map(|principal| &*principal.client_id),
            endpoint = self.endpoint,
            host = self.host,
            bridge = self.bridge,
            status,
            took_ms = millis(self.started.elapsed()),
            "request done"
        );
    }
}

/// Returns milliseconds with one decimal.
fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e4).round() / 10.0
}
