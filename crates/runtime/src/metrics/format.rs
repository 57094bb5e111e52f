//! The two text formats of metrics, and which one a scraper asks for.
//!
//! ```text
//! Accept: application/openmetrics-text --> OpenMetrics 1.0, as the library encodes it
//! anything else, or nothing            --> Prometheus' text format 0.0.4, translated line by line
//! ```
//!
//! In the older format the name after `# HELP` and `# TYPE` is that of the samples, so a counter's has `_total`. It
//! has no units, no type `info` and no last line `# EOF`.

/// A text format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, which all its tools read.
    Prometheus,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Format {
    /// Returns the format that the values of `Accept` prefer. Without a preference it is Prometheus', which a person
    /// with `curl` and `promtool check metrics` expects.
    pub fn preferred<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut prometheus) = (0.0, 0.0_f32);
        for range in accept.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            // RFC 9110, 12.4.2. A weight that is no number counts as one, as if it were missing.
            let weight = parts
                .filter_map(|part| part.split_once('='))
                .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
                .and_then(|(_, weight)| weight.trim().parse::<f32>().ok())
                .unwrap_or(1.0);
            if kind.eq_ignore_ascii_case(OPEN_METRICS) {
                open_metrics = weight.max(open_metrics);
            } else if ["text/plain", "text/*"]
                .iter()
                .any(|plain| kind.eq_ignore_ascii_case(plain))
            {
                prometheus = weight.max(prometheus);
            }
        }
        match open_metrics > 0.0 && open_metrics >= prometheus {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// Returns its content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Returns a text in OpenMetrics in this format.
    pub(super) fn of(self, text: String) -> String {
        match self {
            Self::OpenMetrics => text,
            Self::Prometheus => to_prometheus(&text),
        }
    }
}

/// Translates OpenMetrics into Prometheus' format.
fn to_prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // The library writes HELP before TYPE, and the type decides the name in both.
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        let comment = line.strip_prefix("# ");
        let mut words = comment.unwrap_or_default().splitn(3, ' ');
        match (comment, words.next(), words.next()) {
            (Some("EOF"), ..) | (Some(_), Some("UNIT"), _) => {}
            (Some(_), Some("HELP"), Some(name)) => {
                help = Some((name, words.next().unwrap_or_default()));
            }
            (Some(_), Some("TYPE"), Some(name)) => {
                let (suffix, kind) = match words.next().unwrap_or_default() {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                    out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
                }
                out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_decides_the_format() {
        let of = |accept: &str| Format::preferred(std::iter::once(accept));
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/plain;version=0.0.4;q=1,*/*;q=0.1",
            "application/openmetrics-text;q=0",
            "text/plain, application/openmetrics-text;q=0.5",
        ] {
            assert_eq!(of(accept), Format::Prometheus, "{accept}");
        }
        for accept in [
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; version=1.0.0",
            // As Prometheus 2 sends it.
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        ] {
            assert_eq!(of(accept), Format::OpenMetrics, "{accept}");
        }
        assert_eq!(Format::preferred(std::iter::empty()), Format::Prometheus);
        let two = ["text/plain;q=0.5", "application/openmetrics-text"];
        assert_eq!(Format::preferred(two.into_iter()), Format::OpenMetrics);
    }

    #[test]
    fn translation_names_the_samples() {
        let text = "# HELP a_requests Requests: 5 # EOF.\n# TYPE a_requests counter\na_requests_total{x=\"# TYPE\"} 1\n\
                    # HELP a_wait_seconds Time.\n# TYPE a_wait_seconds histogram\n# UNIT a_wait_seconds seconds\n\
                    a_wait_seconds_sum 0.5\n# HELP a_build The program.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n# EOF\n";
        let wanted = "# HELP a_requests_total Requests: 5 # EOF.\n# TYPE a_requests_total counter\na_requests_total{x=\"# TYPE\"} 1\n\
                      # HELP a_wait_seconds Time.\n# TYPE a_wait_seconds histogram\na_wait_seconds_sum 0.5\n\
                      # HELP a_build_info The program.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n";
        assert_eq!(to_prometheus(text), wanted);
    }
}
