//! What the steps of all systems have in common.

use crate::config::ENVIRONMENT;
use crate::status::Status;
use std::path::Path;

/// Checks that no variable of this shell has a config key: the service would not have it. `config` is the file.
pub(super) fn check_variables(config: &Path) -> Result<(), String> {
    let prefix = format!("{}_", ENVIRONMENT.prefix);
    let set = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .find(|name| name.starts_with(&prefix) && !ENVIRONMENT.others.contains(&name.as_str()));
    match set {
        None => Ok(()),
        Some(name) => Err(format!(
            "{name} is set in this shell, and the service would not have it: put the key into {}, unset the \
             variable, and run this command again",
            config.display()
        )),
    }
}

/// Returns why a running bridge is not connected.
pub(super) fn reason(status: &Status) -> String {
    let mut text = format!("the service runs, and is not connected to {}", status.relay);
    for connection in &status.connections {
        if let Some(error) = &connection.error {
            text.push_str(&format!(": {error}"));
            if let Some(advice) = &connection.advice {
                text.push_str(&format!(" ({advice})"));
            }
            break;
        }
    }
    text.push_str("; it goes on trying, and `integration-bridge doctor` examines each step");
    text
}
