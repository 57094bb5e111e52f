//! The measurements behind the project's figures, a module each: the real programs, started as
//! anybody would start them, under load on loopback. Each prints a Markdown table.
//!
//! `cargo xtask bench NAME` builds everything in release mode and calls this.

mod bulk;
mod deliveries;
mod distance;
mod growth;
mod load;
mod many;
mod peers;
mod spine;
mod table;
mod target;
mod train;

use clap::{Parser, Subcommand};
use std::error::Error;

/// What the project's own programs can do, measured on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// The way through relay and bridge against the target itself: latency of one connection,
    /// requests a second and processor time on 64
    Spine(spine::Args),
    /// Stored calls: how many a second are accepted, and what a hundred thousand cost to list
    Deliveries(deliveries::Args),
    /// Thousands of bridges on one relay: connecting, resting, and coming back after it was killed
    Many(many::Args),
    /// A part of them, in a process of its own
    #[command(hide = true)]
    Swarm(many::swarm::Args),
    /// Large transfers over a long line, and concurrent small requests
    Distance(distance::Args),
    /// Other programs that make a private port reachable, whichever are installed, next to this product
    Peers(peers::Args),
    /// Requests a second and latency with more tenants, and with more exchanges at once
    Growth(growth::Args),
    /// Work for programs that record a profile: `cargo xtask profile` calls it
    #[command(hide = true)]
    Train(train::Args),
}

// One thread: the load must take as little as it can from those that are measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    match Cli::parse().measurement {
        Measurement::Spine(args) => spine::run(&args).await,
        Measurement::Deliveries(args) => deliveries::run(&args).await,
        Measurement::Many(args) => many::run(&args).await,
        Measurement::Swarm(args) => many::swarm::run(&args).await,
        Measurement::Distance(args) => distance::run(&args).await,
        Measurement::Peers(args) => peers::run(&args).await,
        Measurement::Growth(args) => growth::run(&args).await,
        Measurement::Train(args) => train::run(&args).await,
    }
}
