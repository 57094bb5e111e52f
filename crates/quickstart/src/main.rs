//! `quickstart`: relay, bridge and a sample target in one process, for a first look.
//!
//! Everything on the way is real: the relay's database and certificate, the pairing with a fresh
//! API key, the TLS WebSocket, the bridge's policy. Only the target is a sample.

/// Prints a line. Whoever reads may have gone (`quickstart | head`): that ends nothing.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}

mod caller;
mod cli;
mod setup;
mod target;
mod tell;

use clap::Parser;
use cli::Args;
use setup::{Demo, Failure};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

/// What the process may take to end once it was asked to.
const FAREWELL: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // Only what is worth a look: the words below tell the rest.
    let lines = runtime::log::start(runtime::log::StandardError);
    let started = tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error")),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_writer(move || lines.clone())
        .try_init();
    // Nothing else logs in this process.
    drop(started);
    let result = run(&args).await;
    runtime::log::flush();
    match result {
        Ok(code) => code,
        Err(failure) => {
            runtime::output::complain(&format!("quickstart: {failure}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<ExitCode, Failure> {
    if !args.json {
        say!("Starting a relay, a bridge and a sample target on this machine ...");
    }
    let demo = Demo::start(args).await?;
    if !args.json {
        tell::set_up(&demo);
    }
    let outcome = demo.call().await?;
    if args.json {
        say!("{}", tell::json(&demo, &outcome));
    } else {
        tell::outcome(&demo, &outcome);
    }
    let code = if outcome.executed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    if !args.once {
        if !args.json {
            tell::what_next(&demo);
        }
        wait_for_end().await;
        if !args.json {
            say!("\nStopping.");
        }
    }
    let _ = tokio::time::timeout(FAREWELL, demo.stop()).await;
    Ok(code)
}

/// Waits for Ctrl-C, or for SIGTERM where there is one.
async fn wait_for_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
