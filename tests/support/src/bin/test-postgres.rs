//! A private PostgreSQL for a run of all tests. It prints its URL, and ends with its standard input.
#![expect(
    clippy::print_stdout,
    reason = "its one line is what it is started for"
)]

use std::io::Read as _;

fn main() {
    let server = support::postgres::PostgresServer::start();
    println!("{}", server.url());
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
}
