//! `run`: what the service runs. SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads
//! the config again.

use super::{ConfigArg, DONE, FAILED, Outcome};
use crate::bridge::{Bridge, RunningBridge};
use crate::logging;
use transport::runtime::{Share, builder};

pub(super) fn run(arg: &ConfigArg) -> Outcome {
    let config = arg.load()?;
    logging::start(&config.log)?;
    let runtime = builder(Share::Half).build()?;
    let code = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let bridge = Bridge::start(config)?;
        Ok::<_, Box<dyn std::error::Error>>(serve(bridge, &mut signals).await)
    })?;
    // What blocks (a name being resolved) does not hold the end up.
    runtime.shutdown_background();
    Ok(code)
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
