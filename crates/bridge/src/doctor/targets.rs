//! What the config allows, and whether it can be reached.

use super::Check;
use crate::config::Config;
use crate::credentials::alm;
use crate::dispatcher::{Active, own_addresses};
use crate::health::probe;
use std::sync::Arc;

/// What the config says.
pub(super) fn config(config: &Config) -> Check {
    let rules = &config.rules;
    let found = format!(
        "{}: {} endpoints, {} allow rules",
        config.path.display(),
        rules.endpoints.len(),
        rules.allow.len()
    );
    if config.bridge.paused {
        return Check::warn(
            "config",
            format!("{found}; paused"),
            "remove paused = true from [bridge]",
        );
    }
    if rules.endpoints.is_empty() && rules.allow.is_empty() {
        return Check::warn(
            "config",
            found,
            "nothing is allowed: add an [[endpoint]] or an [[allow]]",
        );
    }
    Check::ok("config", found)
}

/// The policy's warnings, and every endpoint.
pub(super) async fn check(config: &Config, checks: &mut Vec<Check>) {
    if !config.bridge.data_dir.get().exists() && !config.rules.endpoints.is_empty() {
        checks.push(Check::skipped(
            "endpoint",
            "endpoints are looked at once this bridge is paired",
        ));
        return;
    }
    let credentials = match crate::credentials::load(config) {
        Ok(credentials) => credentials,
        Err(error) => {
            let found = crate::text::error_chain(&error);
            checks.push(Check::fail(
                "credentials",
                found,
                "endpoints are not looked at without them",
            ));
            return;
        }
    };
    let active = match Active::new(config.clone(), own_addresses(), credentials) {
        Ok(active) => Arc::new(active),
        Err(error) => {
            checks.push(Check::fail(
                "policy",
                error.to_string(),
                "correct the rules",
            ));
            return;
        }
    };
    let warnings = active.policy.warnings();
    if warnings.is_empty() {
        checks.push(Check::ok("policy", "no rule is unusual"));
    }
    for warning in warnings {
        checks.push(Check::warn("policy", warning, "is that meant?"));
    }
    for endpoint in &config.rules.endpoints {
        checks.push(look_at(&active, &endpoint.name).await);
    }
}

/// One endpoint: name, connection, TLS, HTTP, and its credential.
async fn look_at(active: &Arc<Active>, name: &str) -> Check {
    let found = probe(active, name, true).await;
    alm::sign_out_of(&active.access, &active.credentials, name).await;
    let settings = active.config.rules.settings(name);
    let credential = settings.and_then(|settings| settings.credential.as_deref());
    let addresses: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
    let mut text = format!("{name}: ");
    if !addresses.is_empty() {
        text.push_str(&format!("is {}; ", addresses.join(", ")));
    }
    if let Some(address) = found.connected {
        text.push_str(&format!("connected to {address}; "));
    }
    if let Some(failure) = &found.failure {
        text.push_str(&format!("{} ({})", failure.detail, failure.code));
        let advice = match failure.code {
            protocol::Code::TargetDns => "does this machine's resolver know the name?",
            protocol::Code::TargetRefused => {
                "does it run, and does a firewall let this machine reach it?"
            }
            protocol::Code::TargetTls => {
                "if its CA is your own, give it as ca_file of [targets] or of the endpoint"
            }
            protocol::Code::RefusedByPolicy => "the policy refuses its address",
            _ => "",
        };
        return Check::fail("endpoint", text, advice);
    }
    let Some(status) = found.status else {
        return Check::ok("endpoint", text);
    };
    text.push_str(&format!("answers {status}"));
    match (status, credential) {
        (401 | 403, Some(credential)) => {
            text.push_str(&format!("; the credential {credential} is not accepted"));
            Check::fail(
                "endpoint",
                text,
                "set it again: `integration-bridge credential set`",
            )
        }
        (401 | 403, None) => Check::ok("endpoint", text + "; callers bring their own credential"),
        (500.., _) => Check::warn("endpoint", text, "the target is not well"),
        (_, Some(credential)) => Check::ok(
            "endpoint",
            format!("{text}; the credential {credential} is accepted"),
        ),
        (_, None) => Check::ok("endpoint", text),
    }
}
