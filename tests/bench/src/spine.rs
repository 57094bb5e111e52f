//! What the way through relay and bridge costs, against the target itself: latency of one
//! connection, and requests a second with the processor time for each on 64.
//!
//! ```text
//! direct     load ──────────────────────────────────────> target
//! endpoint   load ──> relay (internal) ──TLS──> bridge ──> target
//! call       load ──> relay (internal) ──TLS──> bridge ──> target     POST /v1/calls
//! ```
//!
//! Each of the four is a process of its own. The rounds go through the three routes in turn, so
//! that whatever else the machine does meets all of them, and the medians over the rounds are
//! printed as a Markdown table.

mod report;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use support::setup::{Allow, Endpoint};
use support::{Running, TestEnv};

use crate::load::Load;
use report::{Report, Round};

/// How often, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; the medians over them are printed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each single measurement, of which a round has six
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

/// Keep-alive connections of the second measurement.
const CONNECTIONS: usize = 64;
/// Before anything counts: connections are made, buffers grow, pages are touched.
const WARM_UP: Duration = Duration::from_millis(700);
/// The name of the endpoint.
const ENDPOINT: &str = "app";

/// Measures, and prints the table.
pub(crate) async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let duration = Duration::from_secs(args.seconds);

    let (target, addr) = crate::target::start().await?;
    let site = start(addr).await;
    let routes = routes(addr, &site);

    for (_, load) in &routes {
        load.latencies(WARM_UP).await?;
        load.requests(CONNECTIONS, WARM_UP).await?;
    }
    let mut report = Report::new(CONNECTIONS, routes.each_ref().map(|(name, _)| *name));
    for _ in 0..args.rounds {
        for (route, (_, load)) in routes.iter().enumerate() {
            let latencies = load.latencies(duration).await?;
            let before = cpu(&site, &target);
            let (requests, took) = load.requests(CONNECTIONS, duration).await?;
            let after = cpu(&site, &target);
            let cpu = [0, 1, 2].map(|process| after[process].saturating_sub(before[process]));
            report.add(route, Round::new(latencies, requests, took, cpu));
        }
    }
    print(&report);
    Ok(())
}

/// The real relay and bridge, with the target as an endpoint and allowed by URL.
async fn start(target: SocketAddr) -> TestEnv {
    TestEnv::bare()
        .endpoint(Endpoint::new(ENDPOINT, format!("http://{target}/")))
        .allow(Allow::loopback(target.port()).methods(&["GET"]))
        .start()
        .await
}

fn routes(target: SocketAddr, site: &TestEnv) -> [(&'static str, Load); 3] {
    let relay = site.relay.internal().addr();
    let key = site.caller.basic();
    let call = json!({ "url": format!("http://{target}/small"), "method": "GET", "mode": "wait" });
    [
        ("direct", Load::get(target, "/small", None)),
        (
            "endpoint",
            Load::get(
                relay,
                &format!("/v1/endpoints/{ENDPOINT}/small"),
                Some(&key),
            ),
        ),
        (
            "call",
            Load::post(relay, "/v1/calls", &key, &call.to_string()),
        ),
    ]
}

/// Processor time so far: relay, bridge, target.
fn cpu(site: &TestEnv, target: &Running) -> [Duration; 3] {
    [site.relay.process(), site.bridge.process(), target].map(Running::cpu_time)
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn print(report: &Report) {
    println!("{report}");
}
