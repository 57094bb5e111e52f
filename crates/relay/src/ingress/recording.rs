//! Records how a request that passes through ended: in the audit record's sums, the metrics and the trace.

use super::failure_log::LoggedRequest;
use super::pass::IngressKind;
use crate::access::Principal;
use crate::data_plane::DataPlane;
use crate::exchange::TunnelResponse;
use crate::request_name::RequestName;
use crate::routing::select_tunnel::RouteTarget;
use crate::telemetry;
use http::Request;
use hyper::body::Incoming;
use opentelemetry::trace::SpanKind;
use protocol::Failure;
use std::sync::Arc;
use std::time::Instant;

/// A request in progress, until its outcome is recorded.
pub(super) struct RecordingGuard<'a> {
    data: &'a DataPlane,
    principal: &'a Principal,
    name: &'a str,
    request: &'a RequestName,
    /// The endpoint, unless the request goes to a URL.
    endpoint: Option<&'a str>,
    /// The host of that URL.
    host: Option<&'a str>,
    started: Instant,
    span: Option<telemetry::Span>,
}

impl<'a> RecordingGuard<'a> {
    /// Begins to measure a request.
    pub(super) fn begin(
        data: &'a DataPlane,
        principal: &'a Principal,
        kind: &IngressKind<'a>,
        request: &Request<Incoming>,
    ) -> Self {
        let mut span = data.span("endpoint", SpanKind::Server, request.headers());
        if let Some(span) = &mut span {
            span.set("http.request.method", request.method().to_string());
            span.set("bridge.tenant", principal.tenant_name.to_string());
            span.set("bridge.endpoint", kind.name.to_owned());
            span.set("bridge.request", kind.request.id().to_owned());
        }
        Self {
            data,
            principal,
            name: kind.name,
            request: kind.request,
            endpoint: match kind.route {
                RouteTarget::Endpoint(name) => Some(name),
                RouteTarget::Host(_) => None,
            },
            host: kind.host,
            started: Instant::now(),
            span,
        }
    }

    fn log(&self, bridge: &str, status: u16) {
        let logged = LoggedRequest {
            name: self.request,
            principal: Some(self.principal),
            endpoint: self.endpoint,
            host: self.host,
            bridge: Some(bridge),
            started: self.started,
        };
        logged.responded(status);
    }

    /// Records the response, whose body's bytes are counted from here on, or the failure.
    pub(super) fn end(self, result: Result<&mut TunnelResponse, &Failure>, up: u64) {
        let (traffic, took) = (&self.data.traffic, self.started.elapsed());
        match result {
            Ok(response) => {
                let bridge = &response.through.owner.name;
                self.log(bridge, response.head.status);
                if let Some(mut span) = self.span {
                    span.set("bridge.name", bridge.to_string());
                    span.answered(response.head.status);
                }
                // `ok` means that the target has responded, with any status.
                let sum = traffic.endpoint(self.principal, self.name, bridge, "ok");
                self.data.metrics.endpoint_took(took);
                sum.responded(took, up);
                response.body.count_into(sum);
            }
            Err(failure) => {
                let code = failure.code.as_str();
                // Without a bridge: several may have been tried.
                let sum = traffic.endpoint(self.principal, self.name, &Arc::default(), code);
                sum.responded(took, 0);
                if let Some(mut span) = self.span {
                    span.failed(failure);
                }
            }
        }
    }
}
