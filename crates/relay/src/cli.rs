//! The command line: parses and runs a command, and reports its error once.
//!
//! Commands open the same database as a running relay, which notices changes within half a second. Results
//! go to standard output, logs and errors to standard error. Exit codes: 0 success, 1 failure, 2 invalid
//! command line, 4 an audit record that proves nothing, 5 `serve` with a config that must be corrected first.

mod args;
mod audit_words;
mod backup;
mod bridge;
mod check;
mod control;
mod first_key;
mod health;
mod key;
mod log;
mod output;
mod pairing_file;
mod serve;
mod site;
mod tenant;

use crate::config::{Config, ConfigError, Database};
use crate::running::StartError;
use crate::storage::{Storage, StorageError};
use args::{Args, Command, ConfigCommand};
use clap::{CommandFactory as _, Parser as _};
use std::error::Error as StdError;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use transport::workers::WorkerShare;

/// Exit code of `audit verify`: no defect was found, but rows may be missing.
const UNPROVED: u8 = 4;

/// Exit code of `serve`: the config must be corrected before another start can succeed.
const NEEDS_CORRECTION: u8 = 5;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(
        "no database at {}: check storage.url and --config; `tenant create` and `serve` create a \
         database",
        .0.display()
    )]
    NoDatabase(PathBuf),
    #[error("the config was not reloaded: {0}")]
    Control(#[from] control::ControlError),
    #[error(transparent)]
    Health(#[from] health::HealthError),
    #[error("the output cannot be written: {0}")]
    Output(std::io::Error),
    #[error(
        "standard output is closed or /dev/null, and the secret of the key is shown there alone: nothing was changed; \
         run the command with an output that you keep"
    )]
    Discarded,
    #[error(
        "the output cannot be written ({why}), so the secret of the key {client_id} was not shown: {outcome}",
        why = runtime::shortage::in_words(.error)
    )]
    Unshown {
        client_id: String,
        outcome: String,
        error: std::io::Error,
    },
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
    #[error("{path} names what cannot be used: see above ({errors})", path = .path.display(), errors = runtime::output::counted(*.count, "error"))]
    Check { path: PathBuf, count: u32 },
    #[error(
        "cannot write the first site administrator's key to {}; create another with `integration-relay key create \
         --role site-admin`",
        .path.display()
    )]
    FirstKey {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Contact(String),
    #[error("cannot write the pairing file {}; it must be a new file", .path.display())]
    PairingFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Backup(String),
    #[error("{0}")]
    Environment(String),
    #[error("{0}")]
    Collision(String),
    #[error("{} missing in the audit record", runtime::output::counted(*.0, "row"))]
    AuditLost(i64),
    #[error("the audit record is not valid: {0}")]
    AuditBroken(String),
    #[error("it cannot be concluded that no row of the audit record was changed or removed: {0}")]
    AuditUnproved(String),
    #[error("name a tenant with --tenant NAME: {0}")]
    WhichTenant(String),
}

/// Runs the program.
pub fn main() -> ExitCode {
    runtime::dumps::disable();
    malloc_trim::separate_large();
    let args = Args::parse();
    if let Some(mistake) = args.mistake() {
        let kind = clap::error::ErrorKind::ArgumentConflict;
        Args::command().error(kind, mistake).exit();
    }
    let is_serve = matches!(args.command, Command::Serve);
    let result = run(args);
    // The process exits next, and the log writer is a thread that would be killed.
    runtime::log::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output has ended (`| head`), which is no error worth a message.
        Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            runtime::output::complain(&chain(&error));
            match error {
                CliError::AuditUnproved(_) => ExitCode::from(UNPROVED),
                CliError::Config(error) if is_serve && error.needs_correction() => {
                    ExitCode::from(NEEDS_CORRECTION)
                }
                CliError::Collision(_) if is_serve => ExitCode::from(NEEDS_CORRECTION),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Returns an error with its causes, each once.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Errors of libraries often repeat their cause in their own text.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn run(args: Args) -> Result<(), CliError> {
    let path = &args.config;
    // Needs no config, so that it runs on any machine.
    match &args.command {
        Command::Openapi => return output::text(crate::api::openapi::text()),
        Command::Man(pages) => {
            let written = manual::write_pages(Args::command(), &pages.dir);
            let written = written.map_err(CliError::Output)?.len();
            let dir = pages.dir.display();
            let pages = runtime::output::counted(written, "page");
            return output::lines(&[format!("{pages} written to {dir}")]);
        }
        Command::Completions(of) => {
            return output::text(&manual::completions(Args::command(), of.shell));
        }
        _ => {}
    }
    if let Command::Config(ConfigCommand::Check) = &args.command {
        let config = Config::load(path)?;
        log::check().map_err(CliError::Environment)?;
        let unknown = Config::unknown_variables();
        if let [first, rest @ ..] = unknown.mistakes.as_slice() {
            // At the start it is a warning in the log; a check is asked for mistakes.
            rest.iter()
                .for_each(|mistake| runtime::output::complain(mistake));
            return Err(CliError::Environment(first.clone()));
        }
        return check::run(&config, path, unknown.note);
    }
    let config = Config::load(path)?;
    if let Command::Reload = &args.command {
        control::send(&config, &control::Request::Reload)?;
        return output::lines(&["The running relay has read its config again."]);
    }
    if let Command::Health { ready } = &args.command {
        return health::run(&config, *ready);
    }
    let runtime = transport::workers::builder(WorkerShare::AllButOne)
        .build()
        .map_err(CliError::Runtime)?;
    runtime.block_on(async {
        match args.command {
            Command::Serve => serve::run(config, path).await,
            Command::Config(ConfigCommand::Check) | Command::Reload | Command::Health { .. } => {
                Ok(())
            }
            // The first tenant may be created before the first start; all other commands need an existing
            // database.
            Command::Tenant(command @ args::TenantCommand::Create { .. }) => {
                tenant::run(&open_or_create(&config.database).await?, command).await
            }
            Command::Tenant(command) => tenant::run(&open(&config.database).await?, command).await,
            Command::Key(command) => {
                key::run(&open(&config.database).await?, &config, command).await
            }
            Command::Bridge(command) => {
                bridge::run(&open(&config.database).await?, &config, command).await
            }
            Command::Init { output } => {
                let storage = open_or_create(&config.database).await?;
                site::init(&storage, &config.key_file, output.json).await
            }
            Command::Deliveries(command) => {
                site::deliveries(&open(&config.database).await?, command).await
            }
            Command::Audit(command) => {
                let storage = open(&config.database).await?;
                site::audit(&storage, &config.key_file, command).await
            }
            Command::Backup { file } => backup::backup(&config, &file).await,
            Command::Restore { file, replace } => backup::restore(&config, &file, replace).await,
            // Done above, without a config.
            Command::Openapi | Command::Man(_) | Command::Completions(_) => Ok(()),
        }
    })
}

/// Opens an existing database. An empty new one would look as if all data were lost.
async fn open(database: &Database) -> Result<Storage, CliError> {
    if let Database::Sqlite(path) = database
        && !path.exists()
    {
        return Err(CliError::NoDatabase(path.clone()));
    }
    open_or_create(database).await
}

/// Opens a database, and creates a missing one.
async fn open_or_create(database: &Database) -> Result<Storage, CliError> {
    // Under another name of the file, such as a hard link, SQLite would not find the relay's log of changes
    // and would destroy the file.
    crate::storage::check_name(database).map_err(StorageError::from)?;
    Ok(acting(&Storage::open(database).await?))
}

/// Returns the database with the user's account as the actor of the audit record.
fn acting(storage: &Storage) -> Storage {
    storage.acting(&format!("cli:{}", runtime::account::current()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }

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
        check(&Args::command());
    }

    #[test]
    fn commands_parse_with_config_in_any_place() {
        for line in [
            "r serve --config a.toml",
            "r --config a.toml config check",
            "r tenant create acme --config a.toml --json",
            "r tenant list --json",
            "r tenant suspend acme",
            "r key create --tenant acme --role bridge --name x --existing join --json",
            "r key list --tenant acme",
            "r key revoke ibk_1 --keep-bridges",
            "r bridge list --tenant acme",
            "r bridge revoke --tenant acme dc1",
            "r bridge disable dc1",
            "r bridge enable dc1 --tenant acme",
            "r bridge endpoints --tenant acme --json",
            "r bridge assign dc1 --endpoint alm --also",
            "r bridge release dc1 --endpoint alm --tenant acme",
            "r init --json",
            "r tenant show acme",
            "r tenant delete acme --yes",
            "r tenant direct acme --allow https://hooks.example.com/*",
            "r key create --role site-admin",
            "r key create --tenant acme --role bridge --bridge dc1 --bundle f --relay-url https://a --ca-file c",
            "r key create --tenant acme --role caller --expires 90d --host *.corp.example",
            "r key rotate ibk_1 --overlap 1h --json",
            "r audit list --tenant acme --limit 5",
            "r deliveries status",
            "r deliveries resume",
            "r backup b.db",
            "r restore b.db --replace",
            "r reload --config a.toml",
            "r health --ready --config a.toml",
            "r openapi",
            "r man --dir pages",
            "r completions fish",
        ] {
            let parsed = Args::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        for line in [
            "r",
            "r key create --tenant acme --role boss",
            "r tenant create",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        for (option, value, says) in [
            ("list --status", "abc", "must be a number from 100 to 999"),
            ("list --status", "1000", "must be a number from 100 to 999"),
            ("list --limit", "0", "must be a number from 1 to 10000"),
            ("list --result", "bogus", "known are: ok, failed"),
            ("list --action", "zzz", "key.create"),
            ("verify --head", "4:abc", "64 hexadecimal digits"),
            ("verify --head", "x:abc", "is not a number"),
        ] {
            let line = format!("r audit {option} {value}");
            let error = Args::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(says), "{line}: {error}");
        }
        for option in ["--existing join", "--bundle f"] {
            let line = format!("r key create --tenant acme --role caller {option}");
            let parsed = Args::try_parse_from(line.split(' ')).unwrap();
            assert!(parsed.mistake().is_some(), "{line}");
        }
    }

    #[test]
    fn error_chain_has_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
    }
}
