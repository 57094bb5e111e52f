//! Records how an exchange ended: in the statistics, and in the audit file.

use super::super::Records;
use super::super::named::{self, NamedRequest};
use super::super::refusal::limited;
use super::Exchange;
use crate::audit::{Kind, cut};
use protocol::frame::{ContextText, RequestTarget};
use protocol::{Code, Execution, Failure};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What is recorded of a URL that cannot be parsed: it may hold anything.
const INVALID_URL: &str = "(no URL)";

impl Exchange {
    /// Records the end. Endpoints are busy: the statistics list only their failures, and the audit file
    /// their sums.
    pub(super) fn record(&self, records: &Records, took: Duration, result: &Result<(), Failure>) {
        match result {
            Ok(()) => records.board.answered(),
            Err(failure) => records.board.failed(failure),
        }
        let method = &*self.head.method;
        let outcome = || match (result, self.status) {
            (Ok(()), Some(status)) => status.to_string(),
            (Ok(()), None) => "done".to_owned(),
            (Err(failure), _) => failure.code.to_string(),
        };
        let to = match &self.head.target {
            RequestTarget::Endpoint { name, .. } => {
                if let Some(audit) = &records.audit {
                    audit.endpoint(name, method, outcome(), took);
                }
                if let (Ok(()), Some(status)) = (result, self.status) {
                    records.on_response.note(name, status);
                }
                // Its sum is in the audit file already; a line for each request would fill the disk.
                if result.is_ok() {
                    return;
                }
                format!("endpoint {name}")
            }
            RequestTarget::Connect { host, port } => format!("{host}:{port}"),
            RequestTarget::Url(url) => policy::Target::parse(url).map_or_else(
                |_| INVALID_URL.to_owned(),
                |target| target.authority().to_owned(),
            ),
        };
        records.board.call(method, &to, outcome(), took);
        let Some(audit) = &records.audit else {
            return;
        };
        let entry = || self.audit_entry(&outcome(), took, result);
        match result {
            // It cost its caller nothing: many of them would displace the lines about others.
            Err(failure) if failure.execution.is_safe_to_repeat() => {
                let kind = Kind {
                    event: event(failure),
                    method: cut(method).into_owned(),
                    to: cut(&to).into_owned(),
                    outcome: outcome(),
                };
                audit.refusal(self.head.share.caller, kind, entry);
            }
            Ok(()) | Err(_) => audit.add(entry()),
        }
    }

    /// Returns how log lines name the request.
    pub(in super::super) fn named(&self) -> NamedRequest {
        NamedRequest::new(&self.head, &self.context)
    }

    /// Logs the end: a failure at level INFO, unless its reason was logged already; a response at level DEBUG.
    pub(super) fn log(&self, took: Duration, result: &Result<(), Failure>) {
        let (attempt, method) = (self.head.call.map(|call| call.attempt), &self.head.method);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match result {
            Err(_) if self.is_logged.load(Ordering::Relaxed) => {}
            Err(failure) => limited(|| {
                let named = self.named();
                tracing::info!(
                    id = named.id, label = named.label, host = named.host,
                    endpoint = named.endpoint, method, path = named.path, attempt,
                    code = %failure.code, execution = %failure.execution,
                    detail = failure.detail, took_ms, "request failed"
                );
            }),
            Ok(()) if tracing::enabled!(tracing::Level::DEBUG) => {
                let named = self.named();
                tracing::debug!(
                    id = named.id,
                    label = named.label,
                    host = named.host,
                    endpoint = named.endpoint,
                    method,
                    path = named.path,
                    attempt,
                    status = self.status,
                    took_ms,
                    "request done"
                );
            }
            Ok(()) => {}
        }
    }

    /// Returns the entry for the audit file. It has the path of a URL, and never its query.
    fn audit_entry(&self, outcome: &str, took: Duration, result: &Result<(), Failure>) -> Value {
        let (to, path) = match &self.head.target {
            RequestTarget::Endpoint { name, .. } => (format!("endpoint {name}"), self.named().path),
            RequestTarget::Connect { host, port } => (format!("{host}:{port}"), None),
            RequestTarget::Url(url) => match policy::Target::parse(url) {
                Ok(target) => (
                    format!("{}://{}", target.scheme(), target.authority()),
                    Some(target.path().to_owned()),
                ),
                Err(_) => (INVALID_URL.to_owned(), None),
            },
        };
        let failure = result.as_ref().err();
        let call = self.head.call.map(|call| crate::text::hex(&call.call));
        json!({
            "event": failure.map_or("call", event),
            "id": named::id(&self.head, &self.context),
            "label": self.context.label.as_ref().map(ContextText::as_str),
            "method": cut(&self.head.method),
            "to": cut(&to),
            "path": path.as_deref().map(cut),
            "credential": self.head.credential.as_deref().map(cut),
            "call": call,
            "attempt": self.head.call.map(|call| call.attempt),
            "outcome": outcome,
            "execution": failure.map_or(Execution::Executed, |f| f.execution).as_str(),
            "detail": failure.map(|failure| cut(&failure.detail)),
            "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// Returns the event of a failed request.
fn event(failure: &Failure) -> &'static str {
    match failure.code == Code::RefusedByPolicy {
        true => "refused",
        false => "call",
    }
}
