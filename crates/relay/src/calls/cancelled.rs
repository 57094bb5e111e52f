//! Records a call whose caller left: its future is dropped, and no code after its `await` runs.

use crate::access::Principal;
use crate::control_plane::ControlPlane;
use crate::ingress::failure_log::LoggedRequest;
use crate::progress::Progress;
use crate::request_name::RequestName;
use crate::storage::audit::AuditEvent;
use protocol::{Code, Failure};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// A call in progress. Dropped before [`Self::disarm`], it leaves a log line and a row of the audit record.
pub(super) struct CancelGuard<'a> {
    pub(super) control: &'a Arc<ControlPlane>,
    pub(super) principal: &'a Principal,
    pub(super) name: &'a RequestName,
    pub(super) host: String,
    pub(super) bridge: Option<String>,
    pub(super) progress: Arc<Progress>,
    pub(super) started: Instant,
    pub(super) is_armed: bool,
}

impl CancelGuard<'_> {
    /// Ends the guard: the call has an outcome.
    pub(super) fn disarm(mut self) {
        self.is_armed = false;
    }
}

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let detail = "its caller closed the connection before the response";
        // The exchange was dropped before this guard, and has noted how far it came.
        let failure = Failure::new(Code::Cancelled, self.progress.execution(), detail);
        let bridge = self.progress.bridge();
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
            took_ms: u64::try_from(took).unwrap_or(u64::MAX),
            count: 1,
            detail: json!({
                "host": self.host,
                "label": self.name.label(),
                "status": null,
                "detail": detail,
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
