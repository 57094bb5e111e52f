//! Large transfers over a long link, and concurrent small requests: what the tunnel makes of
//! 1 Gbit/s at a round trip of 1, 50 and 150 ms, against one plain TLS connection over the same
//! kind of line.
//!
//! ```text
//! plain TLS   load ──> bench-tls ══ Link ══ bench-tls ──> target
//! tunnel      load ──> relay     ══ Link ══ bridge    ──> target
//! ```
//!
//! Every box is a process of its own. The bridge has one tunnel connection, so that all it carries
//! shares that. Both sides are warm: each has moved the same bytes before anything counts, on the
//! connections that are measured. The link ends TCP on either side of it, so the kernel's slow start
//! is in neither; a round trip for the request and its response is in both.

mod report;
mod site;

use std::error::Error;
use std::time::Duration;

use support::{Line, Running};
use tokio::task::{JoinSet, spawn_blocking};

use crate::bulk::{Bulk, Carrier, Way};
use crate::load::Load;
use report::{Memory, Report};
use site::Site;

/// How often, how long, how far.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; the medians over them are printed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of small requests during a transfer, of which each round trip has six
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// MiB of each transfer
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=4096))]
    mib: u64,
    /// Round trips in milliseconds
    #[arg(long, value_delimiter = ',', default_values_t = [1, 50, 150])]
    round_trips: Vec<u64>,
}

/// Callers of small requests at once.
const CALLERS: usize = 8;
const WAYS: [Way; 2] = [Way::Down, Way::Up];

/// Measures, and prints the tables.
pub(crate) async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut report = Report::new(args.mib);
    for round_trip_ms in &args.round_trips {
        let site = Site::start(Line::gigabit(Duration::from_millis(*round_trip_ms))).await?;
        let at_rest = site.products().map(Running::rss_kib);
        transfers(args, *round_trip_ms, &site, &mut report).await?;
        small(args, *round_trip_ms, &site, &mut report).await?;
        let peak = site.products().map(Running::peak_rss_kib);
        report.memory.push(Memory {
            round_trip_ms: *round_trip_ms,
            at_rest,
            peak,
        });
    }
    crate::table::print(report);
    Ok(())
}

/// The two systems in turn, down and up, on one caller's connection to each.
async fn transfers(
    args: &Args,
    round_trip_ms: u64,
    site: &Site,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let bytes = args.mib << 20;
    let mut carriers = Vec::new();
    for bulk in [&site.plain, &site.tunnel] {
        let mut carrier = bulk.connect()?;
        for way in WAYS {
            carrier = transfer(carrier, way, bytes).await?.0;
        }
        carriers.push(Some(carrier));
    }
    for _ in 0..args.rounds {
        for way in WAYS {
            let mut took = Vec::new();
            for place in &mut carriers {
                let carrier = place.take().expect("it is put back");
                let (carrier, duration) = transfer(carrier, way, bytes).await?;
                *place = Some(carrier);
                took.push(duration);
            }
            report.add(round_trip_ms, way, bytes, took[0], took[1]);
        }
    }
    Ok(())
}

/// Off this thread.
async fn transfer(
    mut carrier: Carrier,
    way: Way,
    bytes: u64,
) -> Result<(Carrier, Duration), Box<dyn Error>> {
    let took = spawn_blocking(move || {
        let took = carrier.transfer(way, bytes)?;
        std::io::Result::Ok((carrier, took))
    });
    Ok(took.await??)
}

/// Small requests while a transfer goes on: of the yardstick's on its own connections, and the
/// tunnel's next to the transfer inside it.
async fn small(
    args: &Args,
    round_trip_ms: u64,
    site: &Site,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let duration = Duration::from_secs(args.seconds);
    let bytes = args.mib << 20;
    let systems = [
        ("plain TLS", &site.plain, false),
        ("tunnel, kept caller", &site.tunnel, false),
        ("tunnel, new caller", &site.tunnel, true),
    ];
    for way in WAYS {
        for (name, bulk, fresh) in systems {
            let large = bulk.keep_going(way, bytes, 1);
            // The transfer has its stride by then.
            tokio::time::sleep(Duration::from_millis(4 * round_trip_ms)).await;
            let latencies = small_during(bulk, fresh, duration).await;
            large.stop()?;
            report.small(round_trip_ms, way, name, latencies?);
        }
    }
    Ok(())
}

async fn small_during(
    bulk: &Bulk,
    fresh: bool,
    duration: Duration,
) -> std::io::Result<Vec<Duration>> {
    let path = format!("{}/small", bulk.prefix);
    let load = Load::get(bulk.addr, &path, bulk.authorization.as_deref());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let load = load.clone();
        callers.spawn(async move {
            if fresh {
                load.first_latencies(duration).await
            } else {
                // The first exchange makes the connection, of the yardstick the TLS, too.
                let mut latencies = load.latencies(duration).await?;
                latencies.remove(0);
                Ok(latencies)
            }
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = callers.join_next().await {
        all.extend(latencies.map_err(std::io::Error::other)??);
    }
    Ok(all)
}
