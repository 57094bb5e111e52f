//! W3C Trace Context: the trace to which a request belongs.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Names the trace, and the caller's span in it.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Additions of tracing vendors.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest `tracestate` that is forwarded, in bytes. The specification requires at least this much (W3C Trace
/// Context, 3.3.1.5).
const STATE_MAX_BYTES: usize = 512;

/// Returns the trace of a request, if it has a valid one.
pub(crate) fn of(headers: &HeaderMap) -> Option<(HeaderValue, Option<HeaderValue>)> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let parent = all.next().filter(|value| is_valid(value.as_bytes()))?;
    // Two contradict each other, and neither can be trusted.
    if all.next().is_some() {
        return None;
    }
    let state = headers.get(TRACESTATE);
    let state = state.filter(|state| state.len() <= STATE_MAX_BYTES && state.to_str().is_ok());
    Some((parent.clone(), state.cloned()))
}

/// Whether a text is `version-traceid-parentid-flags` in lower-case hexadecimal with no id of zeros. A later version
/// may have more fields.
fn is_valid(text: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
    if text.len() < 55 || text.len() > 256 {
        return false;
    }
    let (version, trace, parent, flags) = (&text[..2], &text[3..35], &text[36..52], &text[53..55]);
    let dashes = text[2] == b'-' && text[35] == b'-' && text[52] == b'-';
    let ends = match version {
        b"ff" => false,
        b"00" => text.len() == 55,
        _ => text.len() == 55 || text[55] == b'-',
    };
    dashes
        && ends
        && [version, trace, parent, flags].into_iter().all(hex)
        && !zero(trace)
        && !zero(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_valid_trace_is_forwarded() {
        let of_text = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_str(text).unwrap());
            of(&headers).is_some()
        };
        assert!(of_text(GOOD));
        assert!(of_text(&GOOD.replacen("00", "01", 1)));
        assert!(of_text(&format!("{}-more", GOOD.replacen("00", "01", 1))));
        for wrong in [
            "",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
        ] {
            assert!(!of_text(wrong), "{wrong}");
        }
    }
}
