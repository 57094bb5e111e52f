//! The command line. An error is printed once, with its causes and the remedy.

mod audit;
mod check;
mod common;
mod credential;
mod pair;
mod run;
mod secret_input;
mod service;
mod status;
mod support;
mod update;

use clap::{CommandFactory as _, Parser, Subcommand};
use common::{ConfigArg, DONE, FAILED, Outcome, complain, print};
use runtime::output::counted;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Every command reads the config file (--config FILE) and the environment variables BRIDGE_...,
which override it. Without a file, BRIDGE_RELAY_URL, BRIDGE_NAME and BRIDGE_DATA_DIR must be set.

Exit codes:
  0  success. `policy test`: the request would be allowed. `status`: the bridge is online
  1  failure; standard error has the cause and the remedy. `status`: the bridge is offline
  2  invalid command line
  3  `policy test`: the request would be refused. `credential test`: a target rejects it
  4  `audit verify`: no defect was found, but lines may be missing
  5  `run`: config or pairing must be corrected before another start can succeed";

/// Connects to a relay, and sends its requests inside this network as far as the local config allows.
#[derive(Debug, Parser)]
#[command(name = "integration-bridge", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Register this bridge with the relay, by a pairing file or an API key with the role `bridge`.
    Pair(pair::PairArgs),
    /// Connect to the relay and serve requests until SIGTERM. This is the command of the service.
    #[command(after_help = "\
Signals:
  SIGTERM, SIGINT  drain running requests for up to 30 s, then exit; a second one exits at once
  SIGHUP           reload the config, and open the log files again

Without an identity, `run` first pairs the bridge: with the pairing file that BRIDGE_BUNDLE_FILE
names, or if BRIDGE_CLIENT_ID is set, with the client secret in BRIDGE_CLIENT_SECRET_FILE or
BRIDGE_CLIENT_SECRET.")]
    Run(run::RunArgs),
    /// Check the config file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Evaluate the rules of the config.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Manage the credentials for targets, which stay on this machine.
    #[command(subcommand)]
    Credential(credential::CredentialCommand),
    /// Check this machine, the connection to the relay and every endpoint, and name the hop that fails.
    Doctor(support::DoctorArgs),
    /// Show the status of the running bridge.
    Status(status::StatusArgs),
    /// Make the running bridge read its config again.
    Reload(ConfigArg),
    /// Change the log filter of the running bridge until it restarts.
    LogLevel(status::LogLevelArgs),
    /// Install and control the bridge as a service of this machine, or of one user.
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Write an archive for support: doctor, status, config and log, without secrets.
    SupportBundle(support::BundleArgs),
    /// Verify the audit file.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Replace this program by a newer one that a trusted party has signed, and restart the service.
    Update(update::UpdateArgs),
    /// Write the man pages, one for each command.
    #[command(hide = true)]
    Man(manual::PagesArgs),
    /// Print the script that completes this command line in a shell.
    #[command(hide = true)]
    Completions(manual::CompletionsArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read the config, explain each rule, and report mistakes with their line.
    Check(ConfigArg),
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Report whether a request would be allowed, by which rule, and at which addresses.
    #[command(after_help = "\
Example:
  integration-bridge policy test --method POST https://ci.corp.example/hooks/build")]
    Test(check::TestArgs),
}

/// Runs the program.
pub fn main() -> ExitCode {
    runtime::dumps::disable();
    malloc_trim::separate_large();
    let outcome = match Cli::parse().command {
        Command::Pair(args) => pair::pair(args),
        Command::Run(args) => run::run(&args),
        Command::Config(ConfigCommand::Check(config)) => check::check(&config),
        Command::Policy(PolicyCommand::Test(args)) => check::test(&args),
        Command::Credential(command) => credential::run(command),
        Command::Doctor(args) => support::doctor(&args),
        Command::Status(args) => status::status(&args),
        Command::Reload(config) => status::reload(&config),
        Command::LogLevel(args) => status::log_level(&args),
        Command::Service(command) => service::run(&command),
        Command::SupportBundle(args) => support::bundle(&args),
        Command::Audit(command) => audit::run(&command),
        Command::Update(args) => update::update(&args),
        Command::Man(args) => man(&args),
        Command::Completions(args) => {
            runtime::output::print(&manual::completions(Cli::command(), args.shell));
            Ok(DONE)
        }
    };
    // Log lines pass through a queue: without this the last ones would be lost.
    runtime::log::flush();
    match outcome {
        // A command whose output was lost has failed.
        Ok(DONE) if runtime::output::is_lost() => ExitCode::from(FAILED),
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&crate::text::error_chain(error.as_ref()));
            ExitCode::from(FAILED)
        }
    }
}

fn man(args: &manual::PagesArgs) -> Outcome {
    let dir = args.dir.display();
    let pages = manual::write_pages(Cli::command(), &args.dir)
        .map_err(|error| format!("cannot write the pages to {dir}: {error}"))?;
    let pages = counted(pages.len(), "page");
    print(&format!("{pages} written to {dir}"));
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_the_width_at_which_it_is_wrapped() {
        fn check(command: &clap::Command) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            for line in help.lines() {
                assert!(line.chars().count() <= 98, "{}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn command_line_is_well_formed_and_takes_no_secret() {
        let command = Cli::command();
        command.clone().debug_assert();
        let pair = command.find_subcommand("pair").unwrap();
        assert!(
            pair.get_arguments()
                .all(|arg| arg.get_long() != Some("client-secret"))
        );
    }
}
