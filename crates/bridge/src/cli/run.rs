//! `run`: the command of the service.
//!
//! SIGTERM and SIGINT drain the bridge; a second one exits immediately. SIGHUP reloads the config and opens the log files again.

use super::common::{ConfigArg, DONE, FAILED, Outcome};
use super::secret_input::{SECRET_ENV, SECRET_FILE_ENV, Wanted, secret};
use crate::bridge::{Bridge, RunningBridge};
use crate::config::Config;
use crate::identity::{Identity, IdentityError};
use crate::logging;
use crate::own_files;
use crate::pairing::{self, ApiKey, PairError};
use crate::text::error_chain;
use runtime::value::{self, Form, ValueError};
use std::path::Path;
use transport::backoff::Reconnect;
use transport::workers::{WorkerShare, builder};

/// The client id of the API key with which `run` pairs.
const CLIENT_ID_ENV: &str = "BRIDGE_CLIENT_ID";

pub(super) fn run(arg: &ConfigArg) -> Outcome {
    let config = arg.load()?;
    // Before the log is opened: in the place of another file it would destroy it.
    own_files::check(&config)?;
    logging::start(&config.log, config.bridge.data_dir.get())?;
    let is_in_file = config.log.file.is_some();
    let outcome = run_with_log(config);
    // The error is printed to standard error, which a reader of the log file does not see.
    if is_in_file && let Err(error) = &outcome {
        tracing::error!(error = error_chain(error.as_ref()), "the bridge stops");
    }
    outcome
}

fn run_with_log(config: Config) -> Outcome {
    let runtime = builder(WorkerShare::Half).build()?;
    let code = runtime.block_on(async {
        // Before everything else: without a handler, SIGHUP during a slow start would end the process.
        let mut signals = Signals::new()?;
        // Pairing retries for as long as the relay is unreachable, so it must be possible to stop it.
        tokio::select! {
            paired = pair_if_needed(&config) => paired?,
            () = signals.stop() => return Ok(DONE),
        }
        let bridge = Bridge::start(config)?;
        Ok::<_, Box<dyn std::error::Error>>(serve(bridge, &mut signals).await)
    })?;
    // Without waiting for blocking tasks: a name lookup may take longer than the service manager waits.
    runtime.shutdown_background();
    Ok(code)
}

/// Pairs a bridge that has an API key in its environment and no identity yet, as in a container. An
/// unreachable relay is retried; a rejection is an error.
async fn pair_if_needed(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let of_variable =
        |name: &str, error: ValueError| format!("environment variable {name}: {error}");
    let client_id = value::variable(Form::Key, CLIENT_ID_ENV)
        .map_err(|error| of_variable(CLIENT_ID_ENV, error))?;
    let Some(client_id) = client_id else {
        return Ok(());
    };
    let dir = config.bridge.open_data_dir()?;
    match Identity::load(&dir) {
        Err(IdentityError::NotPaired { .. }) => {}
        // Paired, or damaged: the start reports a damaged identity.
        Ok(_) | Err(_) => return Ok(()),
    }
    let file = value::variable(Form::Setting, SECRET_FILE_ENV)
        .map_err(|error| of_variable(SECRET_FILE_ENV, error))?;
    let wanted = Wanted {
        what: "client secret",
        form: Form::Key,
        option: SECRET_FILE_ENV,
        variable: Some(SECRET_ENV),
    };
    let client_secret = secret(wanted, file.as_deref().map(Path::new))?;
    // The relay would count it as a failed authentication.
    if client_secret.is_empty() {
        return Err(
            format!("the client secret is empty ({SECRET_FILE_ENV} or {SECRET_ENV})").into(),
        );
    }
    let api_key = ApiKey {
        client_id,
        client_secret,
    };
    let mut waits = Reconnect::new();
    loop {
        let error = match pairing::pair(config, &api_key).await {
            Ok(identity) => {
                tracing::info!(
                    relay = identity.relay,
                    tenant = identity.tenant,
                    bridge = identity.name,
                    "paired by the API key in the environment"
                );
                return Ok(());
            }
            Err(error @ (PairError::Dial { .. } | PairError::NoResponse { .. })) => error,
            Err(error) => return Err(error.into()),
        };
        let wait = waits.next_wait(None);
        tracing::warn!(
            error = error_chain(&error),
            ?wait,
            "pairing failed; retrying"
        );
        tokio::time::sleep(wait).await;
    }
}

async fn serve(bridge: RunningBridge, signals: &mut Signals) -> u8 {
    while let Signal::Reload = signals.next().await {
        // The result is in the log, in `status` and at the relay. A rejected config changes nothing.
        // An administrator, or another program that rotates logs, has renamed the log file.
        runtime::logging::reopen();
        let _ = bridge.reload();
    }
    tracing::info!(
        exchanges = bridge.exchanges(),
        "shutting down: draining running exchanges"
    );
    // A service manager sends one signal and kills after a timeout; the second one comes from a person.
    tokio::select! {
        () = bridge.shutdown() => DONE,
        () = signals.stop() => {
            tracing::warn!("second signal received: exiting immediately");
            FAILED
        }
    }
}

/// The meaning of a signal.
enum Signal {
    Stop,
    Reload,
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }

    /// Waits for a signal to stop, and ignores requests to reload.
    async fn stop(&mut self) {
        while let Signal::Reload = self.next().await {}
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Signal::Stop,
            // Without a handler only the system can end the process.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for a signal to stop, and ignores requests to reload.
    async fn stop(&mut self) {
        while let Signal::Reload = self.next().await {}
    }
}
