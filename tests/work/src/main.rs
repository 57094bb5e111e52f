//! `bench-work list` prints the names; `bench-work run NAME ROUNDS` does it, and nothing else,
//! so that the difference between two numbers of rounds is the cost of the rounds alone.
#![expect(clippy::print_stdout, reason = "the list is its output")]
#![expect(
    clippy::print_stderr,
    reason = "telling what is wrong with its arguments"
)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match *args {
        ["list"] => list(),
        ["run", name, rounds] => match rounds.parse() {
            Ok(rounds) if run(name, rounds) => {}
            Ok(_) | Err(_) => return usage(),
        },
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

/// A line each: name, unit, units in a round, rounds; between them tabs.
fn list() {
    for work in work::all() {
        let work::Work {
            name,
            unit,
            units,
            rounds,
            ..
        } = work;
        println!("{name}\t{unit}\t{units}\t{rounds}");
    }
}

/// Whether there is such work.
fn run(name: &str, rounds: u32) -> bool {
    let Some(work) = work::all().into_iter().find(|work| work.name == name) else {
        return false;
    };
    let mut round = work.start();
    for _ in 0..rounds {
        round();
    }
    true
}

fn usage() -> ExitCode {
    eprintln!("usage: bench-work list | bench-work run NAME ROUNDS");
    ExitCode::from(2)
}
