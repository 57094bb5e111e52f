//! Records how an exchange ended: in the statistics, and in the audit file.

use super::super::Records;
use super::Exchange;
use protocol::frame::RequestTarget;
use protocol::{Code, Execution, Failure};
use serde_json::{Value, json};
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
        if let Some(audit) = &records.audit {
            audit.add(self.audit_entry(&outcome(), took, result));
        }
    }

    /// Returns the entry for the audit file. It has the path of a URL, and never its query.
    fn audit_entry(&self, outcome: &str, took: Duration, result: &Result<(), Failure>) -> Value {
        let (to, path) = match &self.head.target {
            RequestTarget::Endpoint { name, .. } => (format!("endpoint {name}"), None),
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
        let is_refused = failure.is_some_and(|failure| failure.code == Code::RefusedByPolicy);
        json!({
            "event": if is_refused { "refused" } else { "call" },
            "method": self.head.method,
            "to": to,
            "path": path,
            "credential": self.head.credential,
            "call": call,
            "attempt": self.head.call.map(|call| call.attempt),
            "outcome": outcome,
            "execution": failure.map_or(Execution::Executed, |f| f.execution).as_str(),
            "detail": failure.map(|failure| &failure.detail),
            "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}
