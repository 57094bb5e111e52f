//! `run`: what the service runs. SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads
//! the config again.

use super::pair::SECRET_ENV;
use super::secret_input::secret;
use super::{ConfigArg, DONE, FAILED, Outcome};
use crate::bridge::{Bridge, RunningBridge};
use crate::config::Config;
use crate::connection::chain;
use crate::data_dir::PrivateDir;
use crate::identity::{Identity, IdentityError};
use crate::logging;
use crate::pairing::{self, ApiKey, PairError};
use std::path::PathBuf;
use transport::backoff::Reconnect;
use transport::runtime::{Share, builder};

/// The API key by which `run` pairs: its client id, and the file with its secret.
const CLIENT_ID_ENV: &str = "BRIDGE_CLIENT_ID";
const SECRET_FILE_ENV: &str = "BRIDGE_CLIENT_SECRET_FILE";

pub(super) fn run(arg: &ConfigArg) -> Outcome {
    let config = arg.load()?;
    logging::start(&config.log);
    let runtime = builder(Share::Half).build()?;
    let code = runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            paired = pair_if_needed(&config) => paired?,
            () = signals.stop() => return Ok(DONE),
        }
        let bridge = Bridge::start(config)?;
        Ok::<_, Box<dyn std::error::Error>>(serve(bridge, &mut signals).await)
    })?;
    // What blocks (a name being resolved) does not hold the end up.
    runtime.shutdown_background();
    Ok(code)
}

/// Pairs a bridge that has an API key in its environment and no identity yet, as in a container. A relay
/// that cannot be reached is tried again; one that says no is not.
async fn pair_if_needed(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let Ok(client_id) = std::env::var(CLIENT_ID_ENV) else {
        return Ok(());
    };
    let dir = PrivateDir::open(config.bridge.data_dir.get())?;
    match Identity::load(&dir) {
        Err(IdentityError::NotPaired { .. }) => {}
        // It is there, or what is wrong with it is said by the start.
        Ok(_) | Err(_) => return Ok(()),
    }
    let file = std::env::var_os(SECRET_FILE_ENV).map(PathBuf::from);
    let secret = secret(
        "client secret",
        SECRET_FILE_ENV,
        file.as_deref(),
        Some(SECRET_ENV),
    )?;
    let api_key = ApiKey {
        client_id,
        client_secret: secret,
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
        tracing::warn!(error = chain(&error), ?wait, "not paired yet");
        tokio::time::sleep(wait).await;
    }
}

async fn serve(bridge: RunningBridge, signals: &mut Signals) -> u8 {
    while let Signal::Reload = signals.next().await {
        // What came of it is in the log, in `status`, and on the relay.
        let _ = bridge.reload();
    }
    tracing::info!(
        exchanges = bridge.exchanges(),
        "shutting down: what runs may finish"
    );
    tokio::select! {
        () = bridge.shutdown() => DONE,
        () = signals.stop() => {
            tracing::warn!("told again to stop: ending at once");
            FAILED
        }
    }
}

/// What a signal asks for.
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
            // Nobody can stop it then but the system.
            Err(_) => std::future::pending().await,
        }
    }

    async fn stop(&mut self) {
        while let Signal::Reload = self.next().await {}
    }
}
