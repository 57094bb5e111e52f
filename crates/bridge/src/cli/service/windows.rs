//! The commands of `service` on Windows: steps around the service control manager.
//!
//! ```text
//! install: directories and their lists -> service -> source of the event log -> start -> wait until online
//! ```
//!
//! `process` is the program's side, while the manager runs it.

mod process;

use super::super::common::{DONE, FAILED, Outcome, print, warn};
use super::super::status::status_of;
use super::shared::{check_variables, reason};
use super::{InstallArgs, ScopeArgs, UninstallArgs};
use crate::config::{Config, FilePath};
use crate::status::Status;
use bridge_windows::service::{self, Command, State};
use bridge_windows::{acl, event_log};
use runtime::files::{Dir, make_private_dir};
use runtime::shortage::in_words;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(in super::super) use process::run as run_process;

/// How often the service is observed after a start or a stop.
const OBSERVE_EVERY: Duration = Duration::from_millis(250);

/// How long a stop may take: the drain of requests, and a margin.
const STOP_MAX: Duration = Duration::from_secs(60);

/// The directory of config and data below `%ProgramData%`.
const OWN_DIRECTORY: &str = "Integration Bridge";

/// What is said to a user without the rights.
const NOT_ADMINISTRATOR: &str = "this command needs the rights of an administrator: run it in a window that was opened \
                                 with \"Run as administrator\"";

pub(super) fn install(args: &InstallArgs) -> Outcome {
    // Checked first, because the manager would restart an invalid service for ever.
    let config = args.config.load()?;
    let config_file = std::path::absolute(&args.config.config)?;
    check_variables(&config_file)?;
    if !acl::is_administrator() {
        return Err(NOT_ADMINISTRATOR.into());
    }
    prepare(&config, &config_file)?;
    let program = std::env::current_exe()?;
    let command = Command {
        program: &program,
        // Quoted by the library: both paths may have blanks.
        arguments: vec![
            "run".into(),
            "--service".into(),
            "--config".into(),
            config_file.into(),
        ],
    };
    let unsupported = service::install(&command, &args.account);
    for what in unsupported.map_err(|error| failed("install", &error))? {
        warn(&format!(
            "this Windows does not know a setting of the service: {what}"
        ));
    }
    if let Err(error) = event_log::register() {
        warn(&format!(
            "the event viewer will not know the source {}: {}",
            event_log::SOURCE,
            in_words(&error)
        ));
    }
    print(&format!(
        "service {} installed: it runs as {}, and starts with the machine",
        service::NAME,
        args.account
    ));
    if args.no_start {
        return Ok(DONE);
    }
    // A running process has an earlier program or config.
    stop_and_wait()?;
    service::start().map_err(|error| failed("start", &error))?;
    print("service started; waiting until it is connected");
    let data_dir = std::path::absolute(config.bridge.data_dir.get())?;
    let status = wait_online(&data_dir, args.wait.get())?;
    print(&format!(
        "the bridge {} of tenant {} is connected to {}",
        status.bridge, status.tenant, status.relay
    ));
    Ok(DONE)
}

pub(super) fn uninstall(args: &UninstallArgs) -> Outcome {
    if service::find()
        .map_err(|error| failed("find", &error))?
        .is_none()
    {
        return Err("the service is not installed".into());
    }
    if !args.no_start {
        stop_and_wait()?;
    }
    service::remove().map_err(|error| failed("remove", &error))?;
    // It may be missing, where the service was installed by other means.
    let _ = event_log::unregister();
    print(&format!(
        "service {} removed; config and data were not changed",
        service::NAME
    ));
    Ok(DONE)
}

pub(super) fn start(_: &ScopeArgs) -> Outcome {
    service::start().map_err(|error| failed("start", &error))?;
    wait_for(State::Running, service_start_max())?;
    print("service started");
    Ok(DONE)
}

pub(super) fn stop(_: &ScopeArgs) -> Outcome {
    if service::find()
        .map_err(|error| failed("find", &error))?
        .is_none()
    {
        return Err(NOT_INSTALLED.into());
    }
    stop_and_wait()?;
    print("service stopped");
    Ok(DONE)
}

pub(super) fn restart(_: &ScopeArgs) -> Outcome {
    stop_and_wait()?;
    service::start().map_err(|error| failed("start", &error))?;
    wait_for(State::Running, service_start_max())?;
    print("service restarted");
    Ok(DONE)
}

pub(super) fn status(_: &ScopeArgs) -> Outcome {
    let found = service::find().map_err(|error| failed("find", &error))?;
    let Some(found) = found else {
        print("the service is not installed");
        return Ok(FAILED);
    };
    let state = match found.state {
        State::Stopped if found.code == 0 => "stopped".to_owned(),
        State::Stopped => format!("stopped, with the exit code {}", found.code),
        State::Starting => "starting".to_owned(),
        State::Running => "running".to_owned(),
        State::Stopping => "stopping".to_owned(),
    };
    print(&match found.process {
        Some(process) => format!("{}: {state}, process {process}", service::NAME),
        None => format!("{}: {state}", service::NAME),
    });
    // An ordinary user may not see them.
    if let Ok((account, command)) = service::installed_as() {
        print(&format!("account: {account}"));
        print(&format!("command: {command}"));
    }
    Ok(match found.state {
        State::Running => DONE,
        State::Stopped | State::Starting | State::Stopping => FAILED,
    })
}

/// Makes sure that the service's account can use the directories, and that ordinary users cannot.
fn prepare(config: &Config, config_file: &Path) -> Result<(), String> {
    if let Some(dir) = config_file.parent()
        && dir.starts_with(own_directory())
    {
        let opened = own(dir)?;
        acl::make_config_dir(&opened).map_err(|error| not_restricted(dir, &error))?;
        print(&format!(
            "{}: administrators write, the service reads",
            dir.display()
        ));
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let key_file = config.bridge.key_file.as_ref().map(FilePath::get);
    let public_key = config.signed_calls.public_key_file.as_ref();
    let files = [program.as_path(), config_file].into_iter().chain(key_file);
    let files = files.chain(public_key.map(FilePath::get));
    for file in files.chain(config.ca_files().into_iter().map(|(_, file)| file)) {
        let readable = open(file).and_then(|opened| {
            if !acl::has_trusted_owner(&opened)? {
                warn(&format!(
                    "{} belongs to another user, who can change what the service does",
                    file.display()
                ));
            }
            match acl::access(&opened)? {
                // The service's account is one of all users.
                acl::Access::Open => Ok(()),
                acl::Access::Private | acl::Access::Single => acl::let_service_read(&opened),
            }
        });
        if let Err(error) = readable {
            warn(&format!(
                "the service must be able to read {}: {}",
                file.display(),
                in_words(&error)
            ));
        }
    }
    let data_dir = config.bridge.data_dir.get();
    make_private_dir(data_dir).map_err(|error| not_restricted(data_dir, &error))?;
    // Opened as the bridge does: a link that another user made is refused.
    Dir::open(data_dir).map_err(|error| not_restricted(data_dir, &error))?;
    restrict(data_dir)?;
    print(&format!(
        "{}: only administrators and the service have access",
        data_dir.display()
    ));
    // Of its files, those that were copied to it: new ones have its list.
    let entries = fs::read_dir(data_dir).map_err(|error| not_restricted(data_dir, &error))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            restrict(&entry.path())?;
        }
    }
    let log = config.log.file.as_ref().map(|file| file.in_dir(data_dir));
    let audit = config.audit.enabled.then(|| config.audit.path(data_dir));
    for file in [log, audit].into_iter().flatten() {
        let Some(dir) = file.parent().filter(|dir| !dir.starts_with(data_dir)) else {
            continue;
        };
        match dir.exists() {
            true => print(&format!(
                "note: the service must be able to write {}",
                dir.display()
            )),
            false => make_private_dir(dir).map_err(|error| not_restricted(dir, &error))?,
        }
    }
    Ok(())
}

/// Gives a file or directory the list of a private one, which has the service's account.
fn restrict(path: &Path) -> Result<(), String> {
    let opened = own(path)?;
    acl::make_private(&opened).map_err(|error| not_restricted(path, &error))
}

/// Opens a file or directory of an administrator. Every user may make directories in `%ProgramData%`, and an owner may change
/// the list again.
fn own(path: &Path) -> Result<File, String> {
    let opened = open(path).map_err(|error| not_restricted(path, &error))?;
    match acl::has_trusted_owner(&opened) {
        Ok(true) => Ok(opened),
        Ok(false) => Err(format!(
            "{0} belongs to another user: remove it, or take it over with `takeown /A /R /F \"{0}\"`",
            path.display()
        )),
        Err(error) => Err(not_restricted(path, &error)),
    }
}

/// Opens a file or directory itself, and not what a link in its place leads to.
fn open(path: &Path) -> io::Result<File> {
    use bridge_windows::files::{FLAG_DIRECTORY, FLAG_NO_FOLLOW};
    use std::os::windows::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.read(true);
    options
        .custom_flags(FLAG_DIRECTORY | FLAG_NO_FOLLOW)
        .open(path)
}

fn not_restricted(path: &Path, error: &io::Error) -> String {
    format!(
        "cannot restrict the access to {}: {}",
        path.display(),
        in_words(error)
    )
}

fn own_directory() -> PathBuf {
    let data = std::env::var_os("ProgramData").unwrap_or_else(|| r"C:\ProgramData".into());
    PathBuf::from(data).join(OWN_DIRECTORY)
}

/// Stops the service if it runs, and waits until its process has ended.
fn stop_and_wait() -> Result<(), String> {
    let found = service::find().map_err(|error| failed("find", &error))?;
    match found.map(|found| found.state) {
        None | Some(State::Stopped) => return Ok(()),
        Some(State::Stopping) => {}
        Some(State::Starting | State::Running) => {
            service::stop().map_err(|error| failed("stop", &error))?;
        }
    }
    wait_for(State::Stopped, STOP_MAX)
}

/// Returns how long a start may take until the service reports that it runs.
fn service_start_max() -> Duration {
    STOP_MAX
}

fn wait_for(state: State, limit: Duration) -> Result<(), String> {
    let until = Instant::now() + limit;
    loop {
        let found = service::find().map_err(|error| failed("find", &error))?;
        let Some(found) = found else {
            return Err(NOT_INSTALLED.to_owned());
        };
        match found.state {
            found if found == state => return Ok(()),
            State::Stopped => return Err(ended(found.code)),
            _ if Instant::now() >= until => {
                return Err(format!(
                    "the service did not get there within {} s: it is {:?}",
                    limit.as_secs(),
                    found.state
                ));
            }
            State::Starting | State::Running | State::Stopping => {
                std::thread::sleep(OBSERVE_EVERY);
            }
        }
    }
}

/// Waits until the bridge is online.
///
/// # Errors
/// Why it is not, after `limit` or as soon as its process has ended.
fn wait_online(data_dir: &Path, limit: Duration) -> Result<Status, String> {
    let until = Instant::now() + limit;
    loop {
        let found = service::find().map_err(|error| failed("find", &error))?;
        if let Some(found) = found.filter(|found| found.state == State::Stopped) {
            return Err(ended(found.code));
        }
        let why_not = match status_of(data_dir) {
            Ok(status) if status.online => return Ok(status),
            Ok(status) => reason(&status),
            Err(error) => format!("the service runs, and does not respond yet: {error}"),
        };
        if Instant::now() >= until {
            return Err(why_not);
        }
        std::thread::sleep(OBSERVE_EVERY);
    }
}

fn ended(code: u32) -> String {
    format!(
        "the service was started and its process ended with the exit code {code}; the reason is in the event viewer \
         (Windows logs, Application, source {}) and in the log file",
        event_log::SOURCE
    )
}

const NOT_INSTALLED: &str =
    "the service is not installed: run `integration-bridge service install`";

/// Returns why the manager did not do something, and what to do.
fn failed(action: &str, error: &io::Error) -> String {
    let why = match error.raw_os_error() {
        // ERROR_ACCESS_DENIED.
        Some(5) => NOT_ADMINISTRATOR,
        // ERROR_SERVICE_DOES_NOT_EXIST.
        Some(1060) => NOT_INSTALLED,
        // ERROR_SERVICE_ALREADY_RUNNING, ERROR_SERVICE_NOT_ACTIVE.
        Some(1056) => "it runs already",
        Some(1062) => "it does not run",
        // ERROR_SERVICE_DISABLED.
        Some(1058) => "an administrator has disabled it",
        // ERROR_INVALID_SERVICE_ACCOUNT, ERROR_SERVICE_LOGON_FAILED.
        Some(1057 | 1069) => "its account (--account) does not exist here, or may not run services",
        // ERROR_SERVICE_MARKED_FOR_DELETE.
        Some(1072) => {
            "another program, such as the list of services, still has it open: close that program"
        }
        _ => return format!("cannot {action} the service: {}", in_words(error)),
    };
    format!("cannot {action} the service: {why}")
}
