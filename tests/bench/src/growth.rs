//! What becomes of requests a second and of latency when there are more tenants, each with a bridge
//! of its own, and when there are more exchanges at once on one bridge.
//!
//! ```text
//! tenants    64 callers ──> relay ──> 1, 10, 100, 1,000 sessions ──> bench-bridges ──> target
//! exchanges  1, 16, 256, 2,048 callers ──> relay ──> 1 session ──> bridge ──> target
//! ```
//!
//! The many bridges share a few processes (`bench-bridges`: the bridge's library, a dialer, a data
//! directory and a session for each); all else is the real programs. Every caller sends its next
//! request when it has its response, and takes the tenants in turn. Tenants only become more, so
//! these steps follow each other; the steps of exchanges take turns in every round.

mod bridges;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use support::process::command;
use support::setup::Endpoint;
use support::{Running, TestEnv};

use crate::load::Load;
use crate::table::{Series, Table, percentile_ms, print};
use bridges::Tenants;

/// How often, how long, how many.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds of each step; the medians over them are printed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load in each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Steps of tenants, rising
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
    tenants: Vec<usize>,
    /// Steps of exchanges at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 256, 2048])]
    exchanges: Vec<usize>,
}

/// Callers that share the tenants.
const CALLERS: usize = 64;
const WARM_UP: Duration = Duration::from_millis(700);
const ENDPOINT: &str = "app";

/// The limits for that many exchanges on one tunnel.
const RELAY_LIMITS: &str = "[limits]\nstreams_per_session = 4096\nstreams_per_tenant = 8192\n";
const BRIDGE_LIMITS: &str = "[relay]\nconnections = 1\n[limits]\nstreams_max = 4096\n";
/// The pool for which most of them reuse a connection to the target.
const BRIDGE_POOL: &str = "[targets]\npool_idle_per_target = 1024\npool_idle_max = 1024\n";

/// The rounds of one step.
#[derive(Default)]
struct Step {
    requests_per_s: Series,
    p50_ms: Series,
    p99_ms: Series,
    /// Relay and bridges.
    cpu_us: [Series; 2],
}

/// Measures, and prints the tables.
pub(crate) async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let target = Running::spawn("target", command("bench-target"));
    let said = target
        .wait_log("listening on ", Duration::from_secs(10))
        .await;
    let target_addr: SocketAddr = said.trim_start_matches("listening on ").parse()?;
    tenants(args, target_addr).await?;
    exchanges(args, target_addr).await
}

async fn tenants(args: &Args, target: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut tenants = Tenants::start(target).await;
    let mut table = Table::new(&[
        "tenants",
        "requests/s at 64",
        "p50, ms",
        "p99, ms",
        "CPU a request, µs: relay",
        "bridges",
        "relay memory, MiB",
    ]);
    for count in &args.tenants {
        tenants.grow_to(*count).await?;
        let load = tenants.load();
        let mut step = Step::default();
        load.at_once(CALLERS, WARM_UP).await?;
        for _ in 0..args.rounds {
            step.measure(&load, CALLERS, args.seconds, &tenants.processes())
                .await?;
        }
        let rss_mib = tenants.relay().rss_kib() as f64 / 1024.0;
        let mut cells = step.cells(*count);
        cells.push(format!("{rss_mib:.1}"));
        table.row(&cells);
    }
    print(format_args!(
        "Tenants, each with a bridge; {CALLERS} callers in all:\n\n{table}"
    ));
    Ok(())
}

async fn exchanges(args: &Args, target: SocketAddr) -> Result<(), Box<dyn Error>> {
    let pools = [("256 kept", ""), ("1,024 kept", BRIDGE_POOL)];
    let mut sites = Vec::new();
    for (_, pool) in &pools {
        let site = TestEnv::bare()
            .endpoint(Endpoint::new(ENDPOINT, format!("http://{target}/")))
            .relay(|relay| relay.toml(RELAY_LIMITS))
            .bridge(|bridge| bridge.toml(BRIDGE_LIMITS).toml(pool))
            .start()
            .await;
        let path = format!("/v1/endpoints/{ENDPOINT}/small");
        let key = site.caller.basic();
        let load = Load::get(site.relay.internal().addr(), &path, Some(&key));
        sites.push((site, load));
    }
    let mut steps: Vec<Vec<Step>> = Vec::new();
    for _ in &sites {
        steps.push(args.exchanges.iter().map(|_| Step::default()).collect());
    }
    for (_, load) in &sites {
        load.at_once(CALLERS, WARM_UP).await?;
    }
    for _ in 0..args.rounds {
        for (at, callers) in args.exchanges.iter().enumerate() {
            for ((site, load), steps) in sites.iter().zip(&mut steps) {
                steps[at]
                    .measure(
                        load,
                        *callers,
                        args.seconds,
                        &[site.relay.process(), site.bridge.process()],
                    )
                    .await?;
            }
        }
    }
    let mut table = Table::new(&[
        "exchanges at once",
        "requests/s",
        "p50, ms",
        "p99, ms",
        "CPU a request, µs: relay",
        "bridges",
        "connections to the target",
    ]);
    for (at, callers) in args.exchanges.iter().enumerate() {
        for ((pool, _), steps) in pools.iter().zip(&steps) {
            let mut cells = steps[at].cells(*callers);
            cells.push((*pool).to_owned());
            table.row(&cells);
        }
    }
    print(format_args!(
        "\nExchanges at once on one session of one bridge:\n\n{table}"
    ));
    Ok(())
}

impl Step {
    async fn measure(
        &mut self,
        load: &Load,
        callers: usize,
        seconds: u64,
        processes: &[&Running],
    ) -> Result<(), Box<dyn Error>> {
        let before = cpu(processes);
        let (mut latencies, took) = load.at_once(callers, Duration::from_secs(seconds)).await?;
        let after = cpu(processes);
        let requests = latencies.len().max(1) as f64;
        self.requests_per_s.push(requests / took.as_secs_f64());
        self.p50_ms.push(percentile_ms(&mut latencies, 50));
        self.p99_ms.push(percentile_ms(&mut latencies, 99));
        for (side, series) in self.cpu_us.iter_mut().enumerate() {
            let used = after[side].saturating_sub(before[side]);
            series.push(used.as_secs_f64() * 1e6 / requests);
        }
        Ok(())
    }

    fn cells(&self, name: usize) -> Vec<String> {
        vec![
            name.to_string(),
            self.requests_per_s.cell(0),
            self.p50_ms.cell(2),
            self.p99_ms.cell(2),
            self.cpu_us[0].cell(1),
            self.cpu_us[1].cell(1),
        ]
    }
}

/// Processor time of the first, the relay, and of all others together.
fn cpu(processes: &[&Running]) -> [Duration; 2] {
    let times: Vec<Duration> = processes.iter().map(|process| process.cpu_time()).collect();
    let relay = times.first().copied().unwrap_or_default();
    [relay, times.iter().skip(1).sum()]
}
