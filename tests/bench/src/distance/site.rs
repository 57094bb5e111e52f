//! The two systems over a line each, and the target that they share.

use std::error::Error;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use support::process::command;
use support::setup::Endpoint;
use support::{Line, Link, Running, TempDir, TestEnv, ThrowawayCa};

use crate::bulk::Bulk;

const ENDPOINT: &str = "app";

/// Everything that runs for one round trip.
pub(super) struct Site {
    /// Large bodies through the plain TLS connection.
    pub(super) plain: Bulk,
    /// The same through the tunnel.
    pub(super) tunnel: Bulk,
    installation: TestEnv,
    _yardstick: (Running, Link, Running),
    _files: TempDir,
    _target: Running,
}

impl Site {
    pub(super) async fn start(line: Line) -> Result<Self, Box<dyn Error>> {
        let (target, target_addr) = spawn("target", command("bench-target")).await?;

        let files = TempDir::new("yardstick");
        let ca = ThrowawayCa::new();
        let ca_file = ca.write_to(files.path());
        let issued = ca.issue(&["localhost"]).write_to(files.path(), "far");
        let mut far = command("bench-tls");
        far.args(["accept", &target_addr.to_string()])
            .args([&issued.cert_file, &issued.key_file]);
        let (far, far_addr) = spawn("far end", far).await?;
        let link = Link::start(far_addr, line);
        let mut near = command("bench-tls");
        near.args(["dial", &link.addr().to_string()]).arg(ca_file);
        let (near, near_addr) = spawn("near end", near).await?;

        let installation = TestEnv::bare()
            .endpoint(Endpoint::new(ENDPOINT, format!("http://{target_addr}/")))
            .bridge(|bridge| bridge.set("relay.connections", 1))
            .over(line)
            .start()
            .await;
        Ok(Self {
            plain: Bulk {
                addr: near_addr,
                prefix: String::new(),
                authorization: None,
            },
            tunnel: Bulk {
                addr: installation.relay.internal().addr(),
                prefix: format!("/v1/endpoints/{ENDPOINT}"),
                authorization: Some(installation.caller.basic()),
            },
            installation,
            _yardstick: (near, link, far),
            _files: files,
            _target: target,
        })
    }

    /// Relay and bridge.
    pub(super) fn products(&self) -> [&Running; 2] {
        let TestEnv { relay, bridge, .. } = &self.installation;
        [relay.process(), bridge.process()]
    }
}

/// Starts a program that prints its address.
async fn spawn(name: &str, command: Command) -> Result<(Running, SocketAddr), Box<dyn Error>> {
    let running = Running::spawn(name, command);
    let said = running
        .wait_log("listening on ", Duration::from_secs(10))
        .await;
    let addr = said.trim_start_matches("listening on ").parse()?;
    Ok((running, addr))
}
