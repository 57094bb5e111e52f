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
//! printed as a Markdown table. Arguments: the number of rounds and the seconds of each
//! measurement.

mod load;
mod report;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use support::process::command;
use support::{Installation, Running};

use load::Load;
use report::{Report, Round};

/// Keep-alive connections of the second measurement.
const CONNECTIONS: usize = 64;
/// Before anything counts: connections are made, buffers grow, pages are touched.
const WARM_UP: Duration = Duration::from_millis(700);
/// The name of the endpoint.
const ENDPOINT: &str = "app";

// One thread: the load shall take as little as it can from those that are measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let rounds: u32 = args.next().map_or(Ok(5), |rounds| rounds.parse())?;
    let seconds: f64 = args.next().map_or(Ok(2.0), |seconds| seconds.parse())?;
    let duration = Duration::try_from_secs_f64(seconds)?;

    let target = Running::spawn("target", command("bench-target"));
    let line = target
        .wait_log("listening on ", Duration::from_secs(10))
        .await;
    let addr: SocketAddr = line.trim_start_matches("listening on ").parse()?;
    let site = start(addr).await;
    let routes = routes(addr, &site);

    for (_, load) in &routes {
        load.latencies(WARM_UP).await?;
        load.requests(CONNECTIONS, WARM_UP).await?;
    }
    let mut report = Report::new(CONNECTIONS, routes.each_ref().map(|(name, _)| *name));
    for _ in 0..rounds.max(1) {
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
async fn start(target: SocketAddr) -> Installation {
    let allow = format!(
        "[[allow]]\nhost = \"127.0.0.1\"\nports = [{}]\nmethods = [\"GET\"]\n",
        target.port()
    );
    Installation::builder()
        .endpoint(ENDPOINT, &format!("http://{target}/"))
        .bridge_extra(&allow)
        .start()
        .await
}

fn routes(target: SocketAddr, site: &Installation) -> [(&'static str, Load); 3] {
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
fn cpu(site: &Installation, target: &Running) -> [Duration; 3] {
    [site.relay.process(), site.bridge.process(), target].map(Running::cpu_time)
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn print(report: &Report) {
    println!("{report}");
}
