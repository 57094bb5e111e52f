//! `integration-bridge`: see the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    integration_bridge::cli::main()
}
