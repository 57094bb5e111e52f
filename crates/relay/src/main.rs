//! The program `integration-relay`. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    integration_relay::cli::main()
}
