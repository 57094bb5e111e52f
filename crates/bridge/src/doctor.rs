//! `doctor`: checks everything between this machine, the relay and the targets, in the order of a request's
//! route, and names the hop that fails and the remedy.
//!
//! ```text
//! system -> config -> identity -> dns -> proxy -> tcp -> tls -> relay -> clock -> websocket -> tunnel -> policy -> endpoints
//! ```
//!
//! It changes nothing. It opens connections, requests the relay's `/healthz`, and sends GET to each endpoint
//! (`health_path`, or the base URL).
//!
//! `doctor --system` is another table: what the bridge needs of a machine, before anything is installed
//! (`system::requirements`).

mod certificates;
mod network;
mod report;
mod system;
mod targets;

use crate::config::Config;
use crate::text::error_chain;
use report::{Check, Report};
use std::path::Path;

pub(crate) use report::State;
pub(crate) use system::requirements::examine as examine_machine;

/// Checks config, identity and the route to the relay. A running bridge and the endpoints do not matter: a new program is
/// tried by this before it replaces the old one.
pub(crate) async fn examine_route(config_file: &Path) -> Report {
    let mut checks = Vec::new();
    match Config::load(config_file) {
        Ok(config) => {
            checks.push(targets::config(&config));
            network::route(&config, &mut checks).await;
        }
        Err(error) => checks.push(Check::fail(
            "config",
            error_chain(&error),
            "correct the file; `integration-bridge config check` reports its mistakes",
        )),
    }
    Report::new(checks)
}

/// Runs all checks. Takes up to a few minutes if hosts do not respond.
pub(crate) async fn examine(config_file: &Path) -> Report {
    let mut checks = system::check();
    let config = match Config::load(config_file) {
        Ok(config) => config,
        Err(error) => {
            checks.push(Check::fail(
                "config",
                error_chain(&error),
                "correct the file; `integration-bridge config check` reports its mistakes",
            ));
            return Report::new(checks);
        }
    };
    checks.extend(system::check_data_dir(&config));
    checks.push(targets::config(&config));
    network::check(&config, &mut checks).await;
    targets::check(&config, &mut checks).await;
    Report::new(checks)
}
