//! `[telemetry]`: where traces are sent.

use runtime::config::{Mistake, optional_path};
use runtime::userinfo;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[telemetry]`. Nothing is sent without an endpoint.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// The URL of an OpenTelemetry collector for traces over HTTP, like `http://127.0.0.1:4318/v1/traces`.
    /// Defaults to none.
    pub otlp_endpoint: Option<String>,
    /// Which part of the requests without a `traceparent` is traced, 0.0 to 1.0. A request with one is traced
    /// if its sampled flag is set. Defaults to 1.0.
    pub ratio: f64,
    /// Certificates that are trusted for the collector, in addition to the system's. Defaults to none.
    #[serde(with = "optional_path")]
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

fn has_user(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#'])
        .next()
        .unwrap_or_default()
        .contains('@')
}

impl Telemetry {
    /// Checks values against limits that their types do not have.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn validate(&self) -> Result<(), Mistake> {
        if !(0.0..=1.0).contains(&self.ratio) {
            let message = format!("is {}: write a number from 0.0 to 1.0", self.ratio);
            return Err(Mistake::of_key("telemetry.ratio", message));
        }
        if let Some(Err(error)) = self.otlp_endpoint.as_deref().map(userinfo::check) {
            return Err(Mistake::of_key("telemetry.otlp_endpoint", error));
        }
        if self.otlp_endpoint.as_deref().is_some_and(has_user) {
            return Err(Mistake::of_key(
                "telemetry.otlp_endpoint",
                "has a user or password, which the relay does not send: leave it out, and let the collector accept this \
                 machine",
            ));
        }
        let is_url = self.otlp_endpoint.as_deref().is_none_or(|endpoint| {
            let uri = endpoint.parse::<http::Uri>();
            uri.is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
        });
        match is_url {
            true => Ok(()),
            false => Err(Mistake::of_key(
                "telemetry.otlp_endpoint",
                "is not a URL: write one like \"http://127.0.0.1:4318/v1/traces\"",
            )),
        }
    }
}
