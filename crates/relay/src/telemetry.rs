//! Traces for an OpenTelemetry collector: a span for each request that the relay carries.
//!
//! | span | kind | from, to |
//! | --- | --- | --- |
//! | `call` | server | the call's document was read; the response is complete |
//! | `endpoint` | server | the request's head was read; the response's head arrived |
//! | `deliver` | client | an attempt of a stored call begins; it ends |
//!
//! `traceparent` names a span's parent. Spans carry names, codes and sizes; never a URL's path or query, a header
//! field, a body or a key. Spans wait in a bounded queue: a slow or unreachable collector loses spans, which the log
//! counts, and delays nothing. Without `telemetry.otlp_endpoint` there are no spans.

mod client;

use crate::config::Telemetry;
use crate::trace;
use client::Client;
use http::header::{HeaderMap, HeaderValue};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use protocol::Failure;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Queued spans. Further ones are dropped.
const QUEUED_MAX: usize = 4096;

/// Spans in one request to the collector.
const BATCH_MAX: usize = 512;

/// How long a batch waits for further spans.
const BATCH_WAIT: Duration = Duration::from_secs(2);

/// Time for the collector to accept a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two log lines about lost spans.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The collector's certificates cannot be read.
    #[error("telemetry.ca_file: {0}")]
    Tls(#[from] transport::tls::TlsSetupError),
    /// The exporter cannot be built.
    #[error("cannot use telemetry.otlp_endpoint: {0}")]
    Exporter(String),
}

/// Makes spans and sends them.
pub(crate) struct Spans {
    queue: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
    ratio: f64,
    scope: InstrumentationScope,
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").finish_non_exhaustive()
    }
}

impl Spans {
    /// Begins to send, if there is somewhere to send to. The task ends when the spans are dropped.
    ///
    /// # Errors
    /// [`TelemetryError`] when the collector's URL or certificates cannot be used.
    pub(crate) fn start(
        config: &Telemetry,
        node: &str,
    ) -> Result<Option<(Self, JoinHandle<()>)>, TelemetryError> {
        let Some(endpoint) = &config.otlp_endpoint else {
            return Ok(None);
        };
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new(config.ca_file.clone())?)
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| TelemetryError::Exporter(error.to_string()))?;
        let resource = Resource::builder()
            .with_service_name("integration-relay")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
            .build();
        exporter.set_resource(&resource);
        let (queue, waiting) = mpsc::channel(QUEUED_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let sending = tokio::spawn(send(exporter, waiting, dropped.clone()));
        tracing::info!(endpoint, ratio = config.ratio, "trace export started");
        let spans = Self {
            queue,
            dropped,
            ratio: config.ratio,
            scope: InstrumentationScope::builder("integration-relay").build(),
        };
        Ok(Some((spans, sending)))
    }

    /// Starts a span, if this request is sampled.
    pub(crate) fn begin(
        self: &Arc<Self>,
        name: &'static str,
        kind: SpanKind,
        headers: &HeaderMap,
    ) -> Option<Span> {
        let parent = trace::of(headers).and_then(|(parent, _)| Parent::of(&parent));
        let (trace_id, parent_id) = match parent {
            // The caller's tracer decides, so that a trace is complete or absent.
            Some(parent) if !parent.is_sampled => return None,
            Some(parent) => (parent.trace, parent.span),
            None if !self.is_sampled() => return None,
            None => (
                TraceId::from(u128::from_be_bytes(random()?)),
                SpanId::INVALID,
            ),
        };
        let id = SpanId::from(u64::from_be_bytes(random()?));
        let now = SystemTime::now();
        let data = SpanData {
            span_context: SpanContext::new(
                trace_id,
                id,
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: parent_id,
            parent_span_is_remote: parent_id != SpanId::INVALID,
            span_kind: kind,
            name: name.into(),
            start_time: now,
            end_time: now,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        };
        Some(Span {
            spans: self.clone(),
            data: Some(Box::new(data)),
        })
    }

    fn is_sampled(&self) -> bool {
        if self.ratio >= 1.0 {
            return true;
        }
        let Some(bytes) = random::<4>() else {
            return false;
        };
        f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX) < self.ratio
    }
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// A parsed `traceparent`.
struct Parent {
    trace: TraceId,
    span: SpanId,
    is_sampled: bool,
}

impl Parent {
    fn of(value: &HeaderValue) -> Option<Self> {
        let mut parts = value.to_str().ok()?.split('-').skip(1);
        let trace = TraceId::from_hex(parts.next()?).ok()?;
        let span = SpanId::from_hex(parts.next()?).ok()?;
        let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
        Some(Self {
            trace,
            span,
            is_sampled: flags & 1 == 1,
        })
    }
}

/// A started span. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Span {
    spans: Arc<Spans>,
    data: Option<Box<SpanData>>,
}

impl Span {
    /// Adds an attribute.
    pub(crate) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(data) = &mut self.data {
            data.attributes.push(KeyValue::new(key, value));
        }
    }

    /// Records the target's status.
    pub(crate) fn answered(&mut self, status: u16) {
        self.set("http.response.status_code", i64::from(status));
    }

    /// Records a failure.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.set("error.type", failure.code.as_str());
        self.set("bridge.execution", failure.execution.as_str());
        if let Some(data) = &mut self.data {
            data.status = Status::error(failure.code.as_str());
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(mut data) = self.data.take() {
            // The clock may have been set back: a span must not end before it started.
            data.end_time = SystemTime::now().max(data.start_time);
            // Never waits: a span ends on the data path.
            if self.spans.queue.try_send(*data).is_err() {
                self.spans.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Sends queued spans in batches, until the last [`Spans`] is dropped.
async fn send(
    exporter: SpanExporter,
    mut waiting: mpsc::Receiver<SpanData>,
    dropped: Arc<AtomicU64>,
) {
    let mut warned_at: Option<tokio::time::Instant> = None;
    let mut lost = 0;
    loop {
        let mut batch = Vec::new();
        if waiting.recv_many(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        let until = tokio::time::Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            let more = waiting.recv_many(&mut batch, room);
            // Zero means that the queue is closed: the batch is sent now.
            if !matches!(tokio::time::timeout_at(until, more).await, Ok(1..)) {
                break;
            }
        }
        let count = batch.len() as u64;
        let sent = tokio::time::timeout(EXPORT_TIMEOUT, exporter.export(batch)).await;
        lost += dropped.swap(0, Ordering::Relaxed);
        let error = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no response within {EXPORT_TIMEOUT:?}")),
        };
        if error.is_some() {
            lost += count;
        }
        let is_due = warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY);
        if lost > 0 && is_due {
            tracing::warn!(
                lost,
                error,
                "spans lost; the collector did not accept them in time"
            );
            warned_at = Some(tokio::time::Instant::now());
            lost = 0;
        }
    }
}

#[cfg(test)]
mod tests;
