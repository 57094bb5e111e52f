//! `config check` and `policy test`: what the config allows.

mod files;

use super::common::{
    ConfigArg, DONE, FAILED, Outcome, REFUSED, USAGE, complain, print, short_runtime,
};
use crate::config::{Config, QuotaSection};
use crate::dispatcher::own_addresses;
use crate::target_access::resolve;
use clap::Args;
use policy::{Candidate, Policy, PolicyError, RefusalKind};
use runtime::output::counted;
use std::error::Error;
use std::net::IpAddr;
use transport::dial::Proxy;

/// `policy test`.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The URL of the request.
    url: String,
    /// The method of the request.
    #[arg(long, default_value = "GET")]
    method: String,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn check(arg: &ConfigArg) -> Outcome {
    let found = examine(&arg.load()?)?;
    found.lines.iter().for_each(|line| print(line));
    found.mistakes.iter().for_each(|mistake| complain(mistake));
    Ok(match found.is_valid {
        true => DONE,
        false => FAILED,
    })
}

/// What `config check` reports.
pub(super) struct Examined {
    /// The verdict, the meaning of the config, and what it names.
    pub(super) lines: Vec<String>,
    /// Mistakes outside of the config.
    pub(super) mistakes: Vec<String>,
    is_valid: bool,
}

/// Checks a config that was read.
pub(super) fn examine(config: &Config) -> Result<Examined, Box<dyn Error>> {
    crate::logging::check()?;
    // With "env" the proxy is in variables, whose mistakes would otherwise appear at the first connection.
    config.relay.proxy.resolve()?;
    config.targets.proxy.resolve()?;
    let found = files::inspect(config);
    let verdict = match found.errors() {
        0 => "valid".to_owned(),
        errors => format!(
            "valid by itself, with {} in what it names",
            counted(errors, "error")
        ),
    };
    let mut lines = vec![match &config.source {
        source if source.file.is_some() => format!("{source}: {verdict}"),
        source => format!("{source} at {}: {verdict}", config.path.display()),
    }];
    lines.extend(explain(config)?);
    lines.extend_from_slice(found.lines());
    // At the start it is a warning in the log; a check is asked for mistakes.
    let unknown = Config::unknown_variables();
    lines.extend(unknown.note);
    Ok(Examined {
        is_valid: found.errors() == 0 && unknown.mistakes.is_empty(),
        lines,
        mistakes: unknown.mistakes,
    })
}

/// Returns the meaning of a config, in lines for people.
fn explain(config: &Config) -> Result<Vec<String>, PolicyError> {
    let mut lines = vec![
        format!(
            "relay: {}, at most {}",
            config.relay.url,
            counted(config.relay.connections.get(), "connection")
        ),
        format!(
            "bridge: {}, data in {}",
            config.bridge.name,
            config.bridge.data_dir.get().display()
        ),
    ];
    lines.extend(proxy_lines(config));
    let rules = &config.rules;
    if rules.endpoints.is_empty() && rules.allow.is_empty() {
        lines.push("nothing is allowed: there is no [[endpoint]] and no [[allow]]".into());
    }
    for endpoint in &rules.endpoints {
        lines.push(endpoint.to_string());
        lines.extend(endpoint_details(config, &endpoint.name));
    }
    for ((index, rule), quota) in rules.allow.iter().enumerate().zip(rules.allow_quotas()) {
        lines.push(format!("allow rule {}: {rule}", index + 1));
        lines.extend(quota_line(quota));
    }
    let signed = &config.signed_calls;
    if let Some(file) = &signed.public_key_file {
        let key = match signed.require_bridge_key {
            true => "must cover",
            false => "may cover",
        };
        lines.push(format!(
            "signed calls: every request must be signed by the key in {file}, for {} at most, with a body up to {}; \
             a signature {key} Bridge-Key",
            signed.validity_max, signed.body_max
        ));
    }
    let warnings = rules.policy(Vec::new())?.warnings();
    lines.extend(
        warnings
            .into_iter()
            .map(|warning| format!("warning: {warning}")),
    );
    Ok(lines)
}

/// Returns the proxies with their ports, which a URL may leave out. The users and passwords are not shown.
fn proxy_lines(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let relay = &config.relay.url;
    if let Ok(proxy) = config.relay.proxy.resolve()
        && let Some(server) = proxy.server_for(relay.host(), relay.port())
    {
        lines.push(format!("proxy to the relay: {server}"));
    }
    if let Ok(Proxy::Via { server, .. }) = config.targets.proxy.resolve() {
        lines.push(format!("proxy to the targets: {server}"));
    }
    lines
}

/// Returns what an endpoint has in addition to its rule.
fn endpoint_details(config: &Config, name: &str) -> Vec<String> {
    let Some(settings) = config.rules.settings(name) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    if let Some(credential) = &settings.credential {
        lines.push(format!("  credential: {credential}"));
    }
    if settings.unsigned && config.signed_calls.public_key_file.is_some() {
        lines.push("  unsigned: accepts requests without a signature".to_owned());
    }
    lines.extend(quota_line(&settings.quota));
    lines
}

/// Returns the limits of an endpoint or rule, if it has any.
fn quota_line(quota: &QuotaSection) -> Option<String> {
    let windows: Vec<String> = quota.maintenance.iter().map(ToString::to_string).collect();
    let limits = [
        (
            "concurrent_max",
            quota.concurrent_max.map(|max| max.get().to_string()),
        ),
        ("rate", quota.rate.map(|rate| rate.to_string())),
        (
            "request_max",
            quota.request_max.map(|size| size.to_string()),
        ),
        (
            "response_max",
            quota.response_max.map(|size| size.to_string()),
        ),
        (
            "connect_timeout",
            quota.connect_timeout.map(|time| time.to_string()),
        ),
        (
            "head_timeout",
            quota.head_timeout.map(|time| time.to_string()),
        ),
        (
            "idle_timeout",
            quota.idle_timeout.map(|time| time.to_string()),
        ),
        (
            "total_timeout",
            quota.total_timeout.map(|time| time.to_string()),
        ),
        (
            "maintenance",
            (!windows.is_empty()).then(|| windows.join(" and ")),
        ),
    ];
    let set: Vec<String> = limits
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key} {}", value?)))
        .collect();
    (!set.is_empty()).then(|| format!("  limits: {}", set.join(", ")))
}

pub(super) fn test(args: &TestArgs) -> Outcome {
    let config = args.config.load()?;
    let policy: Policy = config.rules.policy(own_addresses())?;
    let explanation = policy.explain(&args.method, &args.url);
    if let Err(refusal) = &explanation.decision
        && refusal.kind() == RefusalKind::InvalidUrl
    {
        // No request could have this URL: the policy decided nothing.
        complain(&format!(
            "{refusal}; the argument is a URL like https://ci.corp.example/hooks/1"
        ));
        return Ok(USAGE);
    }
    let upper = args.method.to_ascii_uppercase();
    if let Err(refusal) = &explanation.decision
        && refusal.kind() == RefusalKind::Method
        && upper != args.method
    {
        // No list of methods can have this one, so the advice of the rules would be wrong.
        complain(&format!("methods are case-sensitive: use --method {upper}"));
        return Ok(USAGE);
    }
    print(&explanation.to_string());
    let Ok(candidate) = &explanation.decision else {
        return Ok(REFUSED);
    };
    // As for a real request: the rules allow a name, but the policy decides again on its addresses.
    let resolving = resolve(candidate.target().host());
    match short_runtime()?.block_on(resolving) {
        Ok(addresses) => {
            let (lines, is_allowed) = judge(candidate, &addresses);
            lines.iter().for_each(|line| print(line));
            Ok(if is_allowed { DONE } else { REFUSED })
        }
        Err(failure) => {
            print(&format!("{}; the request would fail now", failure.detail));
            Ok(REFUSED)
        }
    }
}

/// Returns the policy's decision on each address, and whether it allows any.
fn judge(candidate: &Candidate, addresses: &[IpAddr]) -> (Vec<String>, bool) {
    let mut is_allowed = false;
    let line = |address: &IpAddr| match candidate.approve(*address) {
        Ok(approved) => {
            is_allowed = true;
            format!("{address}: allowed by {}", approved.rule())
        }
        Err(refusal) => format!("{address}: refused: {refusal}"),
    };
    let lines = addresses.iter().map(line).collect();
    (lines, is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn config_check_shows_proxies_with_ports() {
        let dir = crate::testing::TempDir::new("check proxies");
        let path = dir.path().join("bridge.toml");
        let text = "[relay]\nurl = \"https://relay.example.com\"\nproxy = \"http://proxy.example\"\n\
                    [bridge]\nname = \"b\"\ndata_dir = \"d\"\n[targets]\nproxy = \"http://[fd00::1]\"\n";
        std::fs::write(&path, text).unwrap();
        let lines = explain(&Config::load(&path).unwrap()).unwrap();
        for line in [
            "proxy to the relay: proxy.example:3128",
            "proxy to the targets: [fd00::1]:3128",
        ] {
            assert!(lines.iter().any(|shown| shown == line), "{lines:#?}");
        }
    }

    #[test]
    fn config_check_explains_every_rule() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/bridge.toml");
        let text = explain(&Config::load(&path).unwrap()).unwrap().join("\n");
        for part in [
            "endpoint alm",
            "allow rule 1: host ci.corp.example",
            "allow rule 2",
            "credential: alm-sync",
            "head_timeout 300s",
            "POST",
            "/hooks/*",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
