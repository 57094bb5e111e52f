//! `[telemetry]`: where traces go.

use serde::Deserialize;
use std::path::PathBuf;

/// `[telemetry]`. Nothing is sent without an endpoint.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// An OpenTelemetry collector's URL for traces over HTTP, like `http://127.0.0.1:4318/v1/traces`.
    pub otlp_endpoint: Option<String>,
    /// Of the requests that bring no `traceparent`, how many make a trace: 0 to 1. Default 1. One that
    /// brings it decides by its sampled flag.
    pub ratio: f64,
    /// PEM certificates trusted for the collector, beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            ratio: 1.0,
            ca_file: None,
        }
    }
}

impl Telemetry {
    /// What cannot be.
    pub(super) fn mistake(&self) -> Option<String> {
        if !(0.0..=1.0).contains(&self.ratio) {
            return Some(format!(
                "telemetry.ratio is {}: write a number from 0.0 to 1.0",
                self.ratio
            ));
        }
        let endpoint = self.otlp_endpoint.as_deref()?;
        let is_url = endpoint
            .parse::<http::Uri>()
            .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        (!is_url).then(|| {
            "telemetry.otlp_endpoint is no URL: write one like \
             \"http://127.0.0.1:4318/v1/traces\""
                .to_owned()
        })
    }
}
