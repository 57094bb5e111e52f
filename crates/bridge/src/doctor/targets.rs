//! What the config allows, and whether the endpoints can be reached.

use super::report::Check;
use crate::config::Config;
use crate::credentials::{self, alm};
use crate::dispatcher::{Active, own_addresses};
use crate::health::probe;
use crate::text::error_chain;
use protocol::Code;
use runtime::output::counted;
use std::sync::Arc;
use transport::failure::Diagnosis;

/// Summarizes the config.
pub(super) fn config(config: &Config) -> Check {
    let rules = &config.rules;
    let found = format!(
        "{}: {}, {}",
        config.source,
        counted(rules.endpoints.len(), "endpoint"),
        counted(rules.allow.len(), "allow rule")
    );
    if config.bridge.paused {
        // Valid, but a bridge that was left paused looks like a failure to callers.
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

/// Checks the policy and every endpoint.
pub(super) async fn check(config: &Config, checks: &mut Vec<Check>) {
    // Loading the credentials would create the directory, for the wrong user.
    if !config.bridge.data_dir.get().exists() && !config.rules.endpoints.is_empty() {
        checks.push(Check::skipped(
            "endpoint",
            "endpoints are checked once this bridge is paired",
        ));
        return;
    }
    let credentials = match credentials::load(config) {
        Ok(credentials) => credentials,
        Err(error) => {
            let found = error_chain(&error);
            checks.push(Check::fail(
                "credentials",
                found,
                "endpoints are not checked without the credentials",
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
                "correct the [[endpoint]] and [[allow]] entries",
            ));
            return;
        }
    };
    let warnings = active.policy.warnings();
    if warnings.is_empty() {
        checks.push(Check::ok("policy", "no warnings"));
    }
    for warning in warnings {
        checks.push(Check::warn(
            "policy",
            warning,
            "check that this rule is intended",
        ));
    }
    for endpoint in &config.rules.endpoints {
        checks.push(check_endpoint(&active, &endpoint.name).await);
    }
}

/// Returns the remedy of a failure whose text has none; empty where no remedy fits all of its causes.
fn advice(code: Code) -> &'static str {
    match code {
        Code::TargetDns => "check the host name, and that the resolver of this machine knows it",
        Code::TargetRefused => {
            "check that the target runs, and that no firewall blocks this machine"
        }
        // Each cause has its own remedy, and another one would contradict it.
        Code::TargetTls => "",
        Code::TargetTimeout => {
            "check that the target responds; raise head_timeout of the endpoint if it is slow"
        }
        Code::TargetClosed | Code::TargetProtocol => {
            "see the log of the target; check that scheme and port of the URL are correct"
        }
        Code::RefusedByPolicy => {
            "change the url of the endpoint, or its entry as the message states"
        }
        Code::InvalidRequest => {
            "correct the endpoint, or store its credential, as the message states"
        }
        Code::Unauthorized | Code::Forbidden => {
            "store the credential again: `integration-bridge credential set`"
        }
        Code::Overloaded | Code::RateLimited => {
            "free memory or file descriptors of this machine, then run `doctor` again"
        }
        Code::RequestTooLarge | Code::ResponseTooLarge | Code::HeadersTooLarge => {
            "raise the limit that the text names"
        }
        // A probe does not pass the relay, so no relay responds with these.
        Code::NoBridge
        | Code::BridgeOffline
        | Code::TunnelLost
        | Code::Timeout
        | Code::Cancelled
        | Code::Standby
        | Code::DirectoryStale
        | Code::TenantSuspended
        | Code::NotFound
        | Code::MethodNotAllowed
        | Code::Conflict
        | Code::PreconditionFailed
        | Code::OutcomeUnknown
        | Code::KeySpent
        | Code::UnknownEndpoint
        | Code::Internal => "see the log of the bridge",
    }
}

/// Checks an endpoint: name, connection, TLS, HTTP, and its credential.
async fn check_endpoint(active: &Arc<Active>, name: &str) -> Check {
    let found = probe(active, name, true).await;
    // Without a sign-out, ALM keeps a session and its locks for an hour.
    alm::sign_out_of(&active.access, &active.credentials, name).await;
    let settings = active.config.rules.settings(name);
    let credential = settings.and_then(|settings| settings.credential.as_deref());
    let addresses: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
    let mut text = format!("{name}: ");
    if !addresses.is_empty() {
        text.push_str(&format!("resolves to {}; ", addresses.join(", ")));
    }
    if let Some(address) = found.connected {
        text.push_str(&format!("connected to {address}; "));
    }
    if let Some(failure) = &found.failure {
        // The failure of a connection ends with its remedy.
        let (found, remedy) = match Diagnosis::split(&failure.detail) {
            Some((found, remedy)) => (found, remedy),
            None => (failure.detail.as_str(), advice(failure.code)),
        };
        text.push_str(&format!("{found} ({})", failure.code));
        return Check::fail("endpoint", text, remedy);
    }
    let Some(status) = found.status else {
        return Check::ok("endpoint", text);
    };
    text.push_str(&format!("responds with {status}"));
    match (status, credential) {
        // Any status proves that the target is reachable. Only with a credential of the bridge's own does a
        // rejection mean that something here is wrong.
        (401 | 403, Some(credential)) => {
            text.push_str(&format!("; it rejects the credential {credential}"));
            Check::fail(
                "endpoint",
                text,
                "store the credential again: `integration-bridge credential set`",
            )
        }
        (401 | 403, None) => Check::ok(
            "endpoint",
            text + "; callers must send their own credential",
        ),
        (500.., _) => Check::warn(
            "endpoint",
            text,
            "check the target: it reports an error of its own",
        ),
        (_, Some(credential)) => Check::ok(
            "endpoint",
            format!("{text}; it accepts the credential {credential}"),
        ),
        (_, None) => Check::ok("endpoint", text),
    }
}
