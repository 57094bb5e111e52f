//! Stored calls: how many a second are accepted with every one on disk, and what a hundred thousand
//! of them cost the caller that lists them.
//!
//! ```text
//! one caller      load ──> relay: a commit for each call
//! 64 callers      load ──> relay: calls that come together share one
//! lists           relay with 100,000 stored calls: a page, a page of one state
//! due             the same database, opened by a second process: the next calls that are due
//! ```

use std::error::Error;
use std::time::{Duration, Instant};

use integration_relay::config::Database;
use integration_relay::storage::Storage;
use serde_json::json;
use support::{Ask, TestEnv};

use crate::load::Load;

/// How long, and how many.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of each measurement of accepting
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Stored calls that are listed
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    calls: u64,
    /// Callers that hand over at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    callers: u16,
}

/// Reads of each kind; the median is printed.
const READS: usize = 51;

/// Measures, and prints the table.
pub(crate) async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let site = TestEnv::bare()
        .relay(|relay| {
            let relay = relay.set("deliveries.queued_per_tenant", 10_000_000);
            relay.set("deliveries.accepted_per_second", 1_000_000)
        })
        .start()
        .await;
    // Nothing is delivered meanwhile: what is measured is accepting.
    site.relay.cli(&["deliveries", "pause"]).await.success();
    let call = json!({
        "mode": "deliver",
        "url": "http://ci.corp.example/hooks/defects",
        "headers": {"content-type": "application/json"},
        "body": "{\"data\": [{\"entity\": {\"id\": \"1001\"}, \"event\": \"closed\"}]}",
        "bridge": "b1",
    });
    let relay = site.relay.internal().addr();
    let load = Load::post(relay, "/v1/calls", &site.caller.basic(), &call.to_string());
    let duration = Duration::from_secs(args.seconds);
    load.requests(args.callers.into(), Duration::from_millis(500))
        .await?;
    let (single, took) = load.requests(1, duration).await?;
    let single = rate(single, took);
    let (grouped, took) = load.requests(args.callers.into(), duration).await?;
    let grouped = rate(grouped, took);

    let database = site.relay.config().with_file_name("relay.db");
    let storage = Storage::open(&Database::Sqlite(database)).await?;
    loop {
        let queued = storage.queued_calls().await?;
        let stored: u64 = queued.iter().map(|group| group.calls).sum();
        if stored >= args.calls {
            break;
        }
        load.requests(args.callers.into(), Duration::from_secs(2))
            .await?;
    }
    let queued = storage.queued_calls().await?;
    let stored: u64 = queued.iter().map(|group| group.calls).sum();
    let tenant = queued.first().map(|group| group.tenant.clone());
    let tenant = tenant.ok_or("nothing is stored")?;

    let page = list(&site, "/v1/calls?limit=100").await;
    let of_state = list(&site, "/v1/calls?limit=100&state=pending").await;
    let none = list(&site, "/v1/calls?limit=100&state=failed").await;
    let mut due = Vec::with_capacity(READS);
    for _ in 0..READS {
        let began = Instant::now();
        let calls = storage.due_calls(&tenant, i64::MAX, 128).await?;
        due.push(began.elapsed());
        if calls.len() != 128 {
            return Err("the calls that are due are not found".into());
        }
    }
    print(&[
        (
            "accepted a second, 1 caller: a commit each".into(),
            format!("{single:.0}"),
        ),
        (
            format!("accepted a second, {} callers", args.callers),
            format!("{grouped:.0}"),
        ),
        ("ratio".into(), format!("{:.1}", grouped / single)),
        (
            format!("a page of 100 of {stored} calls, over HTTP"),
            shown(page),
        ),
        ("a page of 100 of one state".into(), shown(of_state)),
        ("a page of a state that none is in".into(), shown(none)),
        ("the next 128 that are due".into(), shown(median(due))),
    ]);
    Ok(())
}

fn rate(requests: u64, took: Duration) -> f64 {
    requests as f64 / took.as_secs_f64()
}

async fn list(site: &TestEnv, path: &str) -> Duration {
    let mut times = Vec::with_capacity(READS);
    for _ in 0..READS {
        let began = Instant::now();
        let ask = Ask::get(path.to_owned()).key(&site.caller);
        site.relay.internal().send(ask).await.expect_status(200);
        times.push(began.elapsed());
    }
    median(times)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn shown(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn print(rows: &[(String, String)]) {
    println!("| stored calls (SQLite) | median |\n| --- | ---: |");
    for (what, value) in rows {
        println!("| {what} | {value} |");
    }
}
