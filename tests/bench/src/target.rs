//! The target as a process of its own.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use support::Running;
use support::process::command;

/// Starts the target. Returns it with its address.
pub(crate) async fn start() -> Result<(Running, SocketAddr), Box<dyn Error>> {
    let running = Running::spawn("target", command("bench-target"));
    let said = running.wait_log("listening on ", Duration::from_secs(10));
    let addr = said.await.trim_start_matches("listening on ").parse()?;
    Ok((running, addr))
}
