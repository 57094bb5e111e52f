//! What thousands of bridges cost one relay: connecting, resting, and coming back all together
//! after the relay was killed.
//!
//! ```text
//! swarm (several processes) ══TLS, sessions══> relay <──── probes: calls, health, new TLS connections
//!   the bridge's own dialing, opening,           ^
//!   session and backoff                          └══ a few whole bridges, which serve the calls
//! ```
//!
//! Every bridge has a key pair of its own, is paired by `POST /v1/pair`, and dials from a loopback
//! address of its own (`127.64.0.0` and on), as bridges in thousands of networks would.

mod handshakes;
mod pairing;
mod probe;
mod report;
pub(crate) mod swarm;
mod ticks;

use std::error::Error;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::process::command;
use support::setup::{BridgeSetup, Endpoint};
use support::{Running, Target, TestEnv};

use handshakes::Handshakes;
use pairing::Roster;
use probe::Probes;
use report::{Calm, Connected, Memory, Report, Storm};
use ticks::Ticks;

/// How many, how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bridges
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    bridges: u32,
    /// Tenants that they belong to, in equal parts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tenants: u32,
    /// Processes that run them
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    /// Seconds of rest that are measured; below 30, bridges do not count as healthy and wait longer
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    idle: u64,
    /// Seconds between the relay's end by SIGKILL and its new start
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=600))]
    down: u64,
    /// Connections of each of the two handshake measurements
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    handshakes: u32,
    /// More of the relay's config, as TOML
    #[arg(long, default_value = "")]
    relay_toml: String,
}

/// The name of the endpoint that the probes call.
const ENDPOINT: &str = "app";
/// Real bridges that serve the calls, in addition to the swarm.
const SERVING: usize = 3;
/// What connecting all may take, and coming back.
const ALL_WITHIN: Duration = Duration::from_secs(300);
/// How long the relay may settle before its rest is measured.
const SETTLE: Duration = Duration::from_secs(5);
/// Descriptors of a process in addition to one for each bridge.
const OTHER_DESCRIPTORS: u64 = 500;

/// Measures, and prints the table.
pub(crate) async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    raise_descriptors(u64::from(args.bridges) + OTHER_DESCRIPTORS)?;
    let target = Target::start().await;
    let (mut site, serving) = start(args, &target).await;
    let handshakes = Handshakes::measure(&site, args.handshakes).await?;
    let began = Instant::now();
    let roster = Roster::pair(&site, args.bridges, args.tenants).await?;
    let pairing = began.elapsed();

    let empty = Memory::of(site.relay.process())?;
    let cpu_before = site.relay.process().cpu_time();
    let began = Instant::now();
    let swarm = spawn(args, &site, &roster)?;
    let ticks = Ticks::new(&swarm);
    let took = ticks.wait_up(args.bridges, ALL_WITHIN).await? - began;
    let cpu = site.relay.process().cpu_time().saturating_sub(cpu_before);
    let connected = Connected { took, cpu };

    tokio::time::sleep(SETTLE).await;
    let full = Memory::of(site.relay.process())?;
    let probes = Probes::start(&site);
    let calm = rest(args, &site).await;
    let (storm, probed) = storm(args, &mut site, &ticks, probes).await?;
    let after = Memory::of(site.relay.process())?;
    drop((swarm, serving));

    print(&Report {
        bridges: args.bridges,
        tenants: args.tenants,
        handshakes,
        pairing,
        connected,
        empty,
        full,
        after,
        calm,
        storm,
        probed,
    });
    Ok(())
}

/// The relay with limits as an operator of so many bridges would raise them, and the bridges
/// that serve.
async fn start(args: &Args, target: &Target) -> (TestEnv, Vec<support::setup::Bridge>) {
    let room = args.bridges + 1000;
    let site = TestEnv::bare()
        .bridge(|bridge| bridge.target(ENDPOINT, target))
        .relay(|relay| {
            relay
                .set("limits.sessions_max", room)
                .set("limits.sessions_per_tenant", room)
                .set("limits.bridges_per_tenant", room)
                .set("limits.connections_max", 2 * room)
                .toml(&args.relay_toml)
        })
        .start()
        .await;
    let mut serving = Vec::new();
    for n in 1..SERVING {
        let endpoint = Endpoint::new(ENDPOINT, target.url("/"));
        let setup = BridgeSetup::new(&format!("serving-{n}")).endpoint(endpoint);
        serving.push(site.add_bridge(setup).await);
    }
    (site, serving)
}

/// A process holds a connection for each bridge: the limit is raised to what the system allows.
fn raise_descriptors(needed: u64) -> Result<(), Box<dyn Error>> {
    let limit = getrlimit(Resource::Nofile);
    if let Some(most) = limit.maximum.filter(|most| *most < needed) {
        return Err(format!(
            "{needed} open files are needed and the system allows {most}: raise the hard limit \
             (ulimit -Hn), or ask for fewer --bridges"
        )
        .into());
    }
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(())
}

fn spawn(args: &Args, site: &TestEnv, roster: &Roster) -> Result<Vec<Running>, Box<dyn Error>> {
    let file = site.dir().join("roster");
    roster.write(&file)?;
    let share = args.bridges.div_ceil(args.processes);
    let mut swarm = Vec::new();
    for first in (0..args.bridges).step_by(share as usize) {
        let mut child = command("bench");
        child
            .arg("swarm")
            .args(["--relay", &site.relay.public().addr().to_string()])
            .arg("--ca-file")
            .arg(site.relay.ca_file())
            .arg("--roster")
            .arg(&file)
            .args(["--first", &first.to_string()])
            .args(["--count", &share.to_string()]);
        swarm.push(Running::spawn(format!("swarm {first}"), child));
    }
    Ok(swarm)
}

/// All are there and nothing happens but heartbeats and the probes' few requests.
async fn rest(args: &Args, site: &TestEnv) -> Calm {
    let lasted = Duration::from_secs(args.idle);
    let began = Instant::now();
    let before = site.relay.process().cpu_time();
    tokio::time::sleep(lasted).await;
    Calm {
        began,
        lasted: began.elapsed(),
        cpu: site.relay.process().cpu_time().saturating_sub(before),
    }
}

/// The relay is killed and started again.
async fn storm(
    args: &Args,
    site: &mut TestEnv,
    ticks: &Ticks<'_>,
    probes: Probes,
) -> Result<(Storm, probe::Probed), Box<dyn Error>> {
    site.relay.kill9();
    ticks.wait_down(Duration::from_secs(60)).await?;
    tokio::time::sleep(Duration::from_secs(args.down)).await;
    let began = Instant::now();
    let began_ms = ticks::now_ms();
    site.relay.start().await;
    let ready = began.elapsed();
    ticks.wait_up(args.bridges, ALL_WITHIN).await?;
    let cpu = site.relay.process().cpu_time();
    let metrics = site.relay.metrics().await;
    let probed = probes.stop().await;
    let storm = Storm {
        began,
        ready,
        cpu,
        seconds: ticks.since(began_ms),
        bridges: args.bridges,
        relay: report::of_interest(&metrics),
    };
    Ok((storm, probed))
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn print(report: &Report) {
    println!("{report}");
}
