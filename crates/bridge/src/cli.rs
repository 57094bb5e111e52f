//! What an administrator types. An error is said once, with what caused it and what to do.

mod audit;
mod check;
mod credential;
mod doctor;
mod pair;
mod policy_test;
mod run;
mod secret_input;
mod service;
mod status;
mod support_bundle;

use crate::config::{Config, ConfigError};
use crate::text::error_chain;
use clap::{Args, Parser, Subcommand};
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// Done.
const DONE: u8 = 0;
/// It did not work.
const FAILED: u8 = 1;
/// `policy test`: the request would be refused.
const REFUSED: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; `policy test`: the request would be allowed; `status`: the bridge is online
  1  it did not work; standard error says why and what to do. `status`: the bridge runs and is offline
  2  the command line is wrong
  3  `policy test`: the request would be refused; `credential test`: a target does not accept it";

/// Makes requests inside this network for a relay in the cloud, as far as its own config allows.
#[derive(Debug, Parser)]
#[command(name = "integration-bridge", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where the config is.
#[derive(Debug, Clone, Args)]
struct ConfigArg {
    /// The config file
    #[arg(
        long,
        env = "BRIDGE_CONFIG",
        default_value = "bridge.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
}

impl ConfigArg {
    /// Where the data is, whatever else is wrong with the config.
    fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        Config::data_dir_of(&self.config)
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.config)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Register this bridge with the relay, by an API key with the role bridge
    Pair(pair::PairArgs),
    /// Connect to the relay and serve; this is what the service runs
    Run(ConfigArg),
    /// Look at the config
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at what the config allows
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Keep credentials for targets on this machine
    #[command(subcommand)]
    Credential(credential::CredentialCommand),
    /// Look at this machine, the way to the relay, and every endpoint: name the hop that fails
    Doctor(doctor::DoctorArgs),
    /// Ask the running bridge how it is
    Status(status::StatusArgs),
    /// Have the running bridge read its config again
    Reload(ConfigArg),
    /// Change what the running bridge logs
    LogLevel(status::LogLevelArgs),
    /// Install the bridge as a service of this machine
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Put everything that support needs into one archive, without secrets
    SupportBundle(support_bundle::BundleArgs),
    /// Look at the audit file
    #[command(subcommand)]
    Audit(audit::AuditCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Parse the config, explain each rule in words, say what is wrong and where
    Check(ConfigArg),
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Would this request go, by which rule, and to which addresses
    Test(policy_test::TestArgs),
}

type Outcome = Result<u8, Box<dyn Error>>;

/// Runs the program.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Pair(args) => pair::pair(args),
        Command::Run(config) => run::run(&config),
        Command::Config(ConfigCommand::Check(config)) => check::check(&config),
        Command::Policy(PolicyCommand::Test(args)) => policy_test::test(&args),
        Command::Credential(command) => credential::run(command),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Status(args) => status::status(&args),
        Command::Reload(config) => status::reload(&config),
        Command::LogLevel(args) => status::log_level(&args),
        Command::Service(command) => service::run(&command),
        Command::SupportBundle(args) => support_bundle::run(&args),
        Command::Audit(command) => audit::run(&command),
    };
    runtime::log::flush();
    match outcome {
        // A command whose output was lost has failed.
        Ok(DONE) if runtime::output::is_lost() => ExitCode::from(FAILED),
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&error_chain(error.as_ref()));
            ExitCode::from(FAILED)
        }
    }
}

/// Prints a line of a command's answer.
fn say(line: &str) {
    runtime::output::print(&format!("{line}\n"));
}

/// Says what went wrong.
fn complain(line: &str) {
    runtime::output::complain(line);
}

/// A runtime for the commands that are done soon.
fn short_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_takes_no_secret() {
        let command = Cli::command();
        command.clone().debug_assert();
        let pair = command.find_subcommand("pair").unwrap();
        assert!(
            pair.get_arguments()
                .all(|arg| arg.get_long() != Some("client-secret"))
        );
    }
}
