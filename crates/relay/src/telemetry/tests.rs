//! Which requests get spans.

use super::*;

fn spans(ratio: f64) -> (Arc<Spans>, mpsc::Receiver<SpanData>) {
    let (queue, waiting) = mpsc::channel(2);
    let spans = Spans {
        queue,
        dropped: Arc::default(),
        ratio,
        scope: InstrumentationScope::builder("test").build(),
    };
    (Arc::new(spans), waiting)
}

fn with_parent(flags: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
    headers.insert(trace::TRACEPARENT, parent.parse().unwrap());
    headers
}

#[test]
fn span_joins_a_sampled_trace_of_the_caller() {
    let (spans, mut waiting) = spans(0.0);
    let begin = |headers: &HeaderMap| spans.begin("call", SpanKind::Server, headers);
    assert!(begin(&with_parent("00")).is_none());
    let mut span = begin(&with_parent("01")).unwrap();
    span.answered(204);
    drop(span);
    let data = waiting.try_recv().unwrap();
    let trace = data.span_context.trace_id().to_string();
    assert_eq!(trace, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(data.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert!(data.parent_span_is_remote);
    let status = KeyValue::new("http.response.status_code", 204);
    assert!(data.attributes.contains(&status));
}

#[test]
fn ratio_decides_without_a_trace() {
    let none = HeaderMap::new();
    let (never, _) = spans(0.0);
    assert!(never.begin("call", SpanKind::Server, &none).is_none());
    let (always, mut waiting) = spans(1.0);
    drop(always.begin("call", SpanKind::Server, &none).unwrap());
    let data = waiting.try_recv().unwrap();
    assert_ne!(data.span_context.trace_id(), TraceId::INVALID);
    assert_eq!(data.parent_span_id, SpanId::INVALID);
}

#[test]
fn unreachable_collector_loses_spans_only() {
    let (spans, waiting) = spans(1.0);
    for _ in 0..5 {
        drop(spans.begin("call", SpanKind::Server, &HeaderMap::new()));
    }
    assert_eq!(waiting.len(), 2);
    assert_eq!(spans.dropped.load(Ordering::Relaxed), 3);
}
