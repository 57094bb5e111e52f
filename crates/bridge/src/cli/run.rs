//! `run`: the command of the service.
//!
//! SIGTERM and SIGINT drain the bridge; a second one exits immediately. SIGHUP reloads the config and opens the log files again.
//!
//! The service manager gets READY when the process works, whether or not the relay is reachable: a restart would not
//! help. Its status line says whether the bridge is connected.

use super::common::{ConfigArg, DONE, FAILED, NEEDS_CORRECTION, Outcome, complain, warn};
use super::secret_input::{SECRET_ENV, SECRET_FILE_ENV, Wanted, secret};
use crate::bridge::{Bridge, RunningBridge, StartError};
use crate::config::{Config, ConfigError};
use crate::data_dir::DataDirError;
use crate::identity::{Identity, IdentityError};
use crate::logging;
use crate::own_files;
use crate::pairing::{self, ApiKey, PairError};
use crate::pairing_file::{PairingFile, PairingFileError, PrepareError, keep};
use crate::text::error_chain;
use clap::Args;
use runtime::liveness::Liveness;
use runtime::service_manager::ServiceManager;
use runtime::value::{self, Form, ValueError};
use std::error::Error;
use std::path::Path;
use std::time::Duration;
use transport::backoff::Reconnect;
use transport::workers::{WorkerShare, builder};

/// The client id of the API key with which `run` pairs.
const CLIENT_ID_ENV: &str = "BRIDGE_CLIENT_ID";

/// The file with which `run` pairs, in place of an API key.
const BUNDLE_FILE_ENV: &str = "BRIDGE_BUNDLE_FILE";

/// What a stop may take: the drain, then signing out of targets and writing the audit file.
const STOP_MAX: Duration = Duration::from_secs(60);

/// `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The service control manager has started this process.
    #[cfg(windows)]
    #[arg(long, hide = true)]
    service: bool,
}

pub(super) fn run(args: &RunArgs) -> Outcome {
    #[cfg(windows)]
    if args.service {
        return super::service::run_process(&args.config);
    }
    match start(&args.config) {
        // Printed here, because the exit code tells the service manager that a restart would not help.
        Err(error) if needs_correction(error.as_ref()) => {
            complain(&error_chain(error.as_ref()));
            Ok(NEEDS_CORRECTION)
        }
        outcome => outcome,
    }
}

/// Returns whether the same error would end every further start until the administrator corrects config or pairing.
fn needs_correction(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return error.needs_correction();
    }
    if error.is::<PairingFileError>() {
        return true;
    }
    if let Some(error) = error.downcast_ref::<PrepareError>() {
        return error.needs_correction();
    }
    if let Some(error) = error.downcast_ref::<StartError>() {
        return matches!(
            error,
            StartError::OtherPairing(_)
                | StartError::Identity(
                    IdentityError::NotPaired { .. } | IdentityError::Damaged { .. }
                )
        );
    }
    match error.downcast_ref::<PairError>() {
        Some(PairError::OtherTenant { .. }) => true,
        // Each further attempt would count as a failed authentication. 408 and 429 end by themselves.
        Some(PairError::Refused { status, .. }) => {
            (400..500).contains(status) && !matches!(status, 408 | 429)
        }
        Some(_) | None => false,
    }
}

/// Runs the bridge until it is stopped.
pub(super) fn start(arg: &ConfigArg) -> Outcome {
    // Before the config is read: the file may be the origin of what it lacks.
    let bundle = bundle_if_needed(&arg.config)?;
    let config = arg.load()?;
    // Before the log is opened: in the place of another file it would destroy it.
    own_files::check(&config)?;
    logging::start(&config.log, config.bridge.data_dir.get())?;
    let is_in_file = config.log.file.is_some();
    let outcome = run_with_log(config, bundle);
    // The error is printed to standard error, which a reader of the log file does not see.
    if is_in_file && let Err(error) = &outcome {
        tracing::error!(error = error_chain(error.as_ref()), "the bridge stops");
    }
    outcome
}

/// Returns the pairing file of the environment, if the bridge is not paired yet, and keeps what the config lacks. A paired
/// bridge does not need it: its secret is spent, and it may be gone.
fn bundle_if_needed(path: &Path) -> Result<Option<PairingFile>, Box<dyn Error>> {
    let file = value::variable(Form::Setting, BUNDLE_FILE_ENV)
        .map_err(|error| format!("environment variable {BUNDLE_FILE_ENV}: {error}"))?;
    let Some(file) = file else {
        return Ok(None);
    };
    let loaded = Config::load(path);
    if let Ok(config) = &loaded
        && !is_unpaired(config)?
    {
        return Ok(None);
    }
    let usable = PairingFile::read(Path::new(&file)).and_then(|file| {
        file.check_expiry()?;
        Ok(file)
    });
    let file = match (usable, loaded) {
        (Ok(file), _) => file,
        // Perhaps the bridge is paired, and needs no pairing file: then the mistake in its config has to be corrected.
        (Err(error), Err(mistake)) if path.exists() => {
            warn(&format!("if this bridge is not paired yet: {error}"));
            return Err(mistake.into());
        }
        (Err(error), _) => return Err(error.into()),
    };
    keep(&file, path)?;
    Ok(Some(file))
}

/// Returns whether there is no identity. A damaged one is reported by the start.
fn is_unpaired(config: &Config) -> Result<bool, DataDirError> {
    let dir = config.bridge.open_data_dir()?;
    Ok(matches!(
        Identity::load(&dir),
        Err(IdentityError::NotPaired { .. })
    ))
}

fn run_with_log(config: Config, bundle: Option<PairingFile>) -> Outcome {
    let manager = ServiceManager::of_environment();
    let runtime = builder(WorkerShare::Half).build()?;
    let code = runtime.block_on(async {
        // Before everything else: without a handler, SIGHUP during a slow start would end the process.
        let mut signals = Signals::new()?;
        // Pairing retries for as long as the relay is unreachable, so it must be possible to stop it, and the watchdog
        // needs its pings.
        let liveness = Liveness::default();
        let pinging = tokio::spawn(liveness.clone().keep_alive(manager.clone()));
        tokio::select! {
            paired = liveness.guard("pairing", pair_if_needed(&config, bundle, &manager)) => paired?,
            () = signals.stop() => return Ok(DONE),
        }
        pinging.abort();
        let bridge = Bridge::start(config)?;
        manager.ready("started");
        let _reporting = bridge.report_to(&manager);
        Ok::<_, Box<dyn Error>>(serve(bridge, &mut signals, &manager).await)
    })?;
    // Without waiting for blocking tasks: a name lookup may take longer than the service manager waits.
    runtime.shutdown_background();
    Ok(code)
}

/// Returns the API key in the environment of a bridge that has no identity yet, as in a container.
fn api_key_if_needed(config: &Config) -> Result<Option<ApiKey>, Box<dyn Error>> {
    let of_variable =
        |name: &str, error: ValueError| format!("environment variable {name}: {error}");
    let client_id = value::variable(Form::Key, CLIENT_ID_ENV)
        .map_err(|error| of_variable(CLIENT_ID_ENV, error))?;
    let Some(client_id) = client_id else {
        return Ok(None);
    };
    if !is_unpaired(config)? {
        return Ok(None);
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
    Ok(Some(ApiKey {
        client_id,
        client_secret,
    }))
}

/// Pairs a bridge that has no identity yet, with a pairing file or an API key of its environment. An unreachable relay is
/// retried; a rejection is an error.
async fn pair_if_needed(
    config: &Config,
    bundle: Option<PairingFile>,
    manager: &ServiceManager,
) -> Result<(), Box<dyn Error>> {
    let (api_key, tenant) = match bundle {
        Some(file) => (file.api_key, Some(file.tenant)),
        None => match api_key_if_needed(config)? {
            Some(api_key) => (api_key, None),
            None => return Ok(()),
        },
    };
    let mut waits = Reconnect::new();
    loop {
        let error = match pairing::pair_in(config, &api_key, tenant.as_deref()).await {
            Ok(identity) => {
                let by = match tenant {
                    Some(_) => "pairing file",
                    None => "API key",
                };
                tracing::info!(
                    relay = identity.relay,
                    tenant = identity.tenant,
                    bridge = identity.name,
                    "paired by the {by} in the environment"
                );
                return Ok(());
            }
            Err(error @ (PairError::Dial { .. } | PairError::NoResponse { .. })) => error,
            Err(error) => return Err(error.into()),
        };
        let wait = waits.next_wait(None);
        let error = error_chain(&error);
        tracing::warn!(error, ?wait, "pairing failed; retrying");
        // An unreachable relay must not exceed the time limit of the start.
        manager.ready(&format!("not paired: {error}; it goes on trying"));
        tokio::time::sleep(wait).await;
    }
}

async fn serve(bridge: RunningBridge, signals: &mut Signals, manager: &ServiceManager) -> u8 {
    while let Signal::Reload = signals.next().await {
        // The result is in the log, in `status` and at the relay. A rejected config changes nothing.
        // An administrator, or another program that rotates logs, has renamed the log file.
        runtime::logging::reopen();
        let _reloading = manager.reloading();
        let _ = bridge.reload();
    }
    manager.stopping(STOP_MAX);
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
    #[cfg_attr(not(unix), expect(dead_code, reason = "only Unix has a signal for it"))]
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

#[cfg(windows)]
struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
    ctrl_break: tokio::signal::windows::CtrlBreak,
    close: tokio::signal::windows::CtrlClose,
    service: Option<bridge_windows::service::Control>,
}

#[cfg(windows)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close};
        Ok(Self {
            interrupt: ctrl_c()?,
            ctrl_break: ctrl_break()?,
            close: ctrl_close()?,
            service: bridge_windows::service::Control::current(),
        })
    }

    /// Waits for Ctrl+C, Ctrl+Break, the end of the window, or a stop by the service control manager. `reload` is a command
    /// on this system.
    async fn next(&mut self) -> Signal {
        let of_service = async {
            match &mut self.service {
                Some(service) => service.stop().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.ctrl_break.recv() => {}
            _ = self.close.recv() => {}
            () = of_service => {}
        }
        Signal::Stop
    }

    /// Waits for a signal to stop.
    async fn stop(&mut self) {
        self.next().await;
    }
}

#[cfg(not(any(unix, windows)))]
struct Signals;

#[cfg(not(any(unix, windows)))]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn restart_is_prevented_where_it_cannot_help() {
        let refused = |status| PairError::Refused {
            status,
            advice: "",
            detail: String::new(),
        };
        let dir = TempDir::new("run");
        let config = dir.path().join("bridge.toml");
        std::fs::write(&config, "[relay").unwrap();
        let not_paired = IdentityError::NotPaired {
            path: String::new(),
        };
        let errors: [(Box<dyn Error>, bool); 5] = [
            (Config::load(&config).unwrap_err().into(), true),
            (StartError::Identity(not_paired).into(), true),
            (refused(401).into(), true),
            (refused(503).into(), false),
            (std::io::Error::other("a disk").into(), false),
        ];
        for (error, expected) in errors {
            assert_eq!(needs_correction(error.as_ref()), expected, "{error}");
        }
    }
}
