//! `config check`: is the file right, and what does it mean?

use super::{ConfigArg, DONE, Outcome, say};
use crate::config::Config;

pub(super) fn check(arg: &ConfigArg) -> Outcome {
    let config = arg.load()?;
    for line in explain(&config)? {
        say(&line);
    }
    Ok(DONE)
}

pub(super) fn explain(config: &Config) -> Result<Vec<String>, policy::PolicyError> {
    let mut lines = vec![
        format!("{}: no mistakes", config.path.display()),
        format!(
            "relay: {}, {} connections at most",
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_rule_is_explained() {
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
