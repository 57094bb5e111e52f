//! `quickstart`: relay, bridge and a sample target in one process, for a first look.
//!
//! Everything is real: the relay's database and certificate, the pairing with a fresh API key, the TLS WebSocket, the
//! bridge's policy. Only the target is a sample.

/// Prints a line. A reader that has gone (`quickstart | head`) ends nothing.
macro_rules! print_line {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}

mod caller;
mod cli;
mod report;
mod setup;
mod target;

use caller::SetupError;
use clap::Parser;
use cli::Args;
use setup::Demo;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

/// Time for an orderly shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    runtime::dumps::disable();
    let args = Args::parse();
    // Only errors: the output below describes the rest.
    let lines = runtime::log::start(runtime::log::StandardError);
    let started = tracing_subscriber::fmt()
        .with_env_filter(log_filter())
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_writer(move || lines.clone())
        .try_init();
    // It can only fail where something logs already, which nothing in this process does.
    drop(started);
    let result = run(&args).await;
    // Log lines go through a queue: without this, an error would come before the lines that explain it.
    runtime::log::flush();
    match result {
        Ok(code) => code,
        Err(error) => {
            runtime::output::complain(&format!("quickstart: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns the filter in `RUST_LOG`, or else the one for errors. A wrong one is reported, and does not end the program: other
/// programs read the variable, too.
fn log_filter() -> tracing_subscriber::EnvFilter {
    let set = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    match set.map(|text| runtime::logging::parse_filter(text.trim())) {
        Some(Ok(filter)) => filter,
        Some(Err(error)) => {
            runtime::output::warn(&format!("environment variable RUST_LOG: {error}"));
            tracing_subscriber::EnvFilter::new("error")
        }
        None => tracing_subscriber::EnvFilter::new("error"),
    }
}

async fn run(args: &Args) -> Result<ExitCode, SetupError> {
    // With `--json`, standard output has the document only, so that a program can read it.
    if !args.json {
        print_line!("Starting a relay, a bridge and a sample target on this machine ...");
    }
    let demo = Demo::start(args).await?;
    if !args.json {
        report::setup(&demo);
    }
    let outcome = demo.call().await?;
    if args.json {
        print_line!("{}", report::json(&demo, &outcome));
    } else {
        report::outcome(&demo, &outcome);
    }
    let code = if outcome.executed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    if !args.once {
        if !args.json {
            report::next_steps(&demo);
        }
        wait_for_signal().await;
        if !args.json {
            print_line!("\nStopping.");
        }
    }
    // Bounded: a person waits, and nothing here is worth keeping.
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, demo.stop()).await;
    Ok(code)
}

/// Waits for Ctrl-C, or for SIGTERM where there is one.
async fn wait_for_signal() {
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
