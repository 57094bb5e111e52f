//! Checks the text of metrics: by the rules of its format, and by `promtool` where it is installed.

use crate::metrics::Format;
use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The metric whose lines are being read.
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
}

impl Family<'_> {
    /// Returns whether a sample of this name belongs to it.
    fn has(&self, sample: &str, format: Format) -> bool {
        let Some(suffix) = sample.strip_prefix(self.name) else {
            return false;
        };
        match (self.kind, format) {
            ("counter", Format::OpenMetrics) => suffix == "_total",
            ("counter", Format::Prometheus) => suffix.is_empty() && self.name.ends_with("_total"),
            ("histogram", _) => matches!(suffix, "_bucket" | "_sum" | "_count"),
            ("info", Format::OpenMetrics) => suffix == "_info",
            ("gauge", _) => suffix.is_empty(),
            _ => false,
        }
    }
}

/// Checks a text of metrics.
///
/// # Panics
/// When it breaks a rule of its format.
pub fn check_metrics(text: &str, format: Format) {
    let is_open = format == Format::OpenMetrics;
    assert_eq!(text.ends_with("\n# EOF\n"), is_open, "{text}");
    assert!(text.ends_with('\n'), "{text}");
    let mut kinds: HashMap<&str, HashSet<&str>> = HashMap::new();
    let mut samples = HashSet::new();
    let mut family: Option<Family<'_>> = None;
    for line in text.lines() {
        if line == "# EOF" {
            continue;
        }
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let rest = words.next().unwrap_or("");
            assert!(!rest.is_empty(), "{line}");
            assert!(
                kinds.entry(name).or_default().insert(kind),
                "a second {kind} of {name}"
            );
            match kind {
                "HELP" => {}
                "TYPE" => family = Some(Family { name, kind: rest }),
                "UNIT" => assert!(is_open && name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(samples.insert(series), "a second value of {series}");
        let name = series.split('{').next().unwrap_or_default();
        // A family's lines are together, so the last one that was opened is the sample's.
        let family = family.as_ref().expect("TYPE precedes the samples");
        assert!(
            family.has(name, format),
            "{line} is not of the {} {}",
            family.kind,
            family.name
        );
    }
    for (name, kinds) in kinds {
        assert!(kinds.contains("HELP") && kinds.contains("TYPE"), "{name}");
    }
    if !is_open {
        promtool(text);
    }
}

/// Runs `promtool check metrics`, which knows the older format alone.
fn promtool(text: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = spawned else {
        return;
    };
    let mut input = tool.stdin.take().expect("standard input is a pipe");
    input
        .write_all(text.as_bytes())
        .expect("promtool reads its input");
    drop(input);
    let output = tool.wait_with_output().expect("promtool ends");
    let found = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && found.is_empty(),
        "{found}\n{text}"
    );
}
