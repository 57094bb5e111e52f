//! `config check` and `policy test`: what the config allows.

use super::common::{ConfigArg, DONE, Outcome, REFUSED, USAGE, complain, print, short_runtime};
use crate::config::Config;
use crate::dispatcher::own_addresses;
use crate::target_access::resolve;
use clap::Args;
use policy::{Candidate, Policy, PolicyError, RefusalKind};
use std::net::IpAddr;

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
    let config = arg.load()?;
    for line in explain(&config)? {
        print(&line);
    }
    Ok(DONE)
}

/// Returns the meaning of a config, in lines for people.
pub(super) fn explain(config: &Config) -> Result<Vec<String>, PolicyError> {
    let mut lines = vec![
        format!("{}: valid", config.path.display()),
        format!(
            "relay: {}, at most {} connections",
            config.relay.url,
            config.relay.connections.get()
        ),
        format!(
            "bridge: {}, data in {}",
            config.bridge.name,
            config.bridge.data_dir.get().display()
        ),
    ];
    let rules = &config.rules;
    if rules.endpoints.is_empty() && rules.allow.is_empty() {
        lines.push("nothing is allowed: there is no [[endpoint]] and no [[allow]]".into());
    }
    lines.extend(rules.endpoints.iter().map(ToString::to_string));
    let numbered = rules.allow.iter().enumerate();
    lines.extend(numbered.map(|(index, rule)| format!("allow rule {}: {rule}", index + 1)));
    let warnings = rules.policy(Vec::new())?.warnings();
    lines.extend(
        warnings
            .into_iter()
            .map(|warning| format!("warning: {warning}")),
    );
    Ok(lines)
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
    fn config_check_explains_every_rule() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/bridge.toml");
        let text = explain(&Config::load(&path).unwrap()).unwrap().join("\n");
        for part in [
            "endpoint alm",
            "allow rule 1: host ci.corp.example",
            "allow rule 2",
            "POST",
            "/hooks/*",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
