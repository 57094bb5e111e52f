//! Peers: other programs that make a port of a private network reachable, whichever of them
//! are installed, with encryption on, doing the same things in turn.
//!
//! ```text
//! load ──> server side ══ encrypted ══ client side ──> target
//! ```
//!
//! They carry bytes; we carry requests, each of which is authenticated, routed and checked against
//! the policy, and run here with their defaults. Every program reads the same requests
//! from the same load without TLS on the near side, and its processes' children count as its own.

mod report;
mod systems;
mod usage;

use std::error::Error;
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::bulk::{Bulk, Way, mib_per_s};
use crate::load::Load;
use crate::table::percentile_ms;
use report::{Report, Round};
use systems::System;

/// How often, how long, how large.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; the medians over them are printed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each load of small requests, of which a round has four for each system
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// MiB of each transfer
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=4096))]
    mib: u64,
}

/// Keep-alive connections of the second load.
const CONNECTIONS: usize = 64;
/// Concurrent transfers during small requests.
const TRANSFERS: usize = 4;
/// Transfers in a row, so that their processor time is many of the kernel's ticks.
const REPEATS: u32 = 3;

/// Measures, and prints the tables.
pub(crate) async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let (systems, missing) = systems::start().await?;
    let mut report = Report::new(args.mib, systems.iter().map(System::label), missing);
    for round in 0..=args.rounds {
        for (place, system) in systems.iter().enumerate() {
            let measured = measure(system, args)
                .await
                .map_err(|error| format!("{}: {error}", system.label()))?;
            // The first makes everybody warm.
            if round > 0 {
                report.add(place, measured);
            }
        }
    }
    for (place, system) in systems.iter().enumerate() {
        report.peak(place, system.usage().peak_kib);
    }
    crate::table::print(report);
    Ok(())
}

/// One round of one system.
async fn measure(system: &System, args: &Args) -> Result<Round, Box<dyn Error>> {
    let duration = Duration::from_secs(args.seconds);
    let small = system.small();

    let mut one = small.latencies(duration).await?;
    let before = system.usage();
    let (requests, took) = small.requests(CONNECTIONS, duration).await?;
    let cpu = system.usage().cpu_since(&before);
    let mut fresh = small.first_latencies(duration).await?;
    let down = transfers(system, Way::Down, args.mib).await?;
    let up = transfers(system, Way::Up, args.mib).await?;
    let mut during = small_during(&system.bulk, &small, args.mib, duration).await?;
    Ok(Round {
        one_p50_ms: percentile_ms(&mut one, 50),
        one_p99_ms: percentile_ms(&mut one, 99),
        requests_per_s: requests as f64 / took.as_secs_f64(),
        cpu_us_per_request: cpu.as_secs_f64() * 1e6 / requests.max(1) as f64,
        new_per_s: fresh.len() as f64 / args.seconds as f64,
        new_p99_ms: percentile_ms(&mut fresh, 99),
        down,
        up,
        during_p50_ms: percentile_ms(&mut during, 50),
        during_p99_ms: percentile_ms(&mut during, 99),
    })
}

/// MiB a second, and seconds of processor time for a GiB.
async fn transfers(system: &System, way: Way, mib: u64) -> Result<[f64; 2], Box<dyn Error>> {
    let bulk = system.bulk.clone();
    let before = system.usage();
    let bytes = mib << 20;
    let took = spawn_blocking(move || {
        let mut carrier = bulk.connect()?;
        let mut took = Duration::ZERO;
        for _ in 0..REPEATS {
            took += carrier.transfer(way, bytes)?;
        }
        std::io::Result::Ok(took)
    });
    let took = took.await??;
    let cpu = system.usage().cpu_since(&before);
    let all = bytes * u64::from(REPEATS);
    let gib = all as f64 / f64::from(1 << 30);
    Ok([mib_per_s(all, took), cpu.as_secs_f64() / gib])
}

/// Small requests of one connection while four others download.
async fn small_during(
    bulk: &Bulk,
    small: &Load,
    mib: u64,
    duration: Duration,
) -> Result<Vec<Duration>, Box<dyn Error>> {
    let large = bulk.keep_going(Way::Down, mib << 20, TRANSFERS);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let latencies = small.latencies(duration).await;
    spawn_blocking(|| large.stop()).await??;
    Ok(latencies?)
}
