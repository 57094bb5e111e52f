//! `run --service`: the program while the service control manager runs it.
//!
//! A service has no standard error. What ends it is in the event log, and the rest in `log.file`, which the config of a
//! service has by default.

use super::super::super::common::{ConfigArg, DONE, FAILED, Outcome};
use super::super::super::run::start;
use crate::text::error_chain;
use bridge_windows::event_log::{Severity, report};
use bridge_windows::service;

/// Runs as the service, until the manager stops it.
pub(in super::super::super) fn run(config: &ConfigArg) -> Outcome {
    let config = config.clone();
    service::run(move || work(&config)).map_err(|error| {
        format!(
            "`run --service` is the command of the service, and the service control manager has not started this \
             process ({error}): use `integration-bridge service start`, or `run` without --service"
        )
    })?;
    Ok(DONE)
}

fn work(config: &ConfigArg) -> u8 {
    let file = config.config.display();
    report(
        Severity::Info,
        &format!("The bridge starts with the config {file}."),
    );
    let code = match start(config) {
        Ok(DONE) => {
            report(Severity::Info, "The bridge has stopped.");
            DONE
        }
        Ok(code) => {
            let text = format!("The bridge has stopped with the exit code {code}.");
            report(Severity::Error, &text);
            code
        }
        Err(error) => {
            let text = format!("The bridge cannot run: {}", error_chain(error.as_ref()));
            report(Severity::Error, &text);
            FAILED
        }
    };
    // Log lines pass through a queue: without this the last ones would be lost.
    runtime::log::flush();
    code
}
