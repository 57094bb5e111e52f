//! Records a call whose caller left: its future is dropped, and no code after its `await` runs.

use super::{route_of_failure, sent_bytes};
use crate::access::Principal;
use crate::control_plane::ControlPlane;
use crate::ingress::failure_log::LoggedRequest;
use crate::progress::{CALLER_LEFT, Progress};
use crate::recent_calls::{CallEnd, RecentGuard};
use crate::request_name::RequestName;
use crate::storage::audit::AuditEvent;
use protocol::{Code, Execution, Failure};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// A call in progress. Dropped before [`Self::disarm`], it leaves a log line, a row of the audit record, and its end in
/// the list of calls.
pub(super) struct CancelGuard<'a> {
    pub(super) control: &'a Arc<ControlPlane>,
    pub(super) principal: &'a Principal,
    pub(super) name: &'a RequestName,
    pub(super) host: String,
    pub(super) bridge: Option<String>,
    /// Bytes of the request's body.
    pub(super) body_bytes: usize,
    pub(super) progress: Arc<Progress>,
    pub(super) started: Instant,
    /// The call in the list of calls, until its end is recorded.
    pub(super) listed: Option<RecentGuard>,
}

impl CancelGuard<'_> {
    /// Ends the guard: the call has an outcome, which the list of calls gets.
    pub(super) fn disarm(mut self, end: &CallEnd<'_>) {
        if let Some(listed) = self.listed.take() {
            listed.end(end);
        }
    }
}

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        let Some(listed) = self.listed.take() else {
            return;
        };
        // The exchange was dropped before this guard, and has noted how far it came.
        let failure = Failure::new(Code::Cancelled, self.progress.execution(), CALLER_LEFT);
        let bridge = self.progress.bridge();
        listed.end(&CallEnd {
            result: Err(&failure),
            // A bridge is noted before the request is sent to it.
            route: match failure.execution {
                Execution::NotSent => "none",
                Execution::NotDispatched | Execution::PossiblyExecuted | Execution::Executed => {
                    route_of_failure(&failure, bridge.as_deref())
                }
            },
            bridge: bridge.as_deref(),
        });
        let logged = LoggedRequest {
            name: self.name,
            principal: Some(self.principal),
            endpoint: None,
            host: Some(&self.host),
            bridge: bridge.as_deref().or(self.bridge.as_deref()),
            started: self.started,
        };
        logged.failed(&self.control.data, &failure);
        let took = self.started.elapsed().as_millis();
        let event = AuditEvent {
            tenant: self.principal.tenant.clone(),
            actor: self.principal.client_id.clone(),
            action: "call",
            object: self.name.id().to_owned(),
            bridge: bridge.clone().unwrap_or_default(),
            result: failure.code.as_str(),
            execution: failure.execution.as_str(),
            // How much of the body was sent is not known here.
            bytes_up: sent_bytes(failure.execution, self.body_bytes),
            took_ms: u64::try_from(took).unwrap_or(u64::MAX),
            count: 1,
            detail: json!({
                "host": self.host,
                "label": self.name.label(),
                "status": null,
                "detail": failure.detail,
            })
            .to_string(),
            ..AuditEvent::default()
        };
        // A task, since a drop cannot wait. There is no runtime any more where a whole relay is dropped.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (audit, principal) = (self.control.audit.clone(), self.principal.clone());
            runtime.spawn(async move {
                audit
                    .record_call(&principal, failure.execution, event)
                    .await;
            });
        }
    }
}
