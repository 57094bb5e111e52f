//! The commands of `service` on Linux: steps around systemd.

use super::super::common::{DONE, FAILED, Outcome, complain, print};
use super::account::is_root;
use super::shared::check_variables;
use super::systemd::{self, Scope};
use super::unit::{Service, without_filter};
use super::{InstallArgs, NAME, ScopeArgs, UninstallArgs, UnitArgs, access, account};
use crate::config::Config;
use runtime::shortage::in_words;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The first version of systemd that knows the groups of system calls in the unit.
const FILTER_GROUPS_SINCE: u32 = 239;

/// Where packages install units.
const PACKAGE_UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];

pub(super) fn install(args: &InstallArgs) -> Outcome {
    // Checked first, because the service manager would restart an invalid service for ever.
    let config = args.config.load()?;
    let scope = scope(&args.scope);
    let service = service(args, &config)?;
    let mut text = service.unit()?;
    let file = unit_file(scope, &args.unit)?;
    for path in service.hidden() {
        print(&format!(
            "warning: the service does not see {}: its unit hides /tmp and /var/tmp (PrivateTmp)",
            path.display()
        ));
    }
    check_variables(&service.config)?;
    if !args.no_start {
        match scope {
            Scope::System => prepare(&service)?,
            Scope::User => prepare_for_user(&config)?,
        }
        if systemd::version().is_some_and(|version| version < FILTER_GROUPS_SINCE) {
            print(
                "this version of systemd cannot filter system calls by group: the unit has no filter",
            );
            text = without_filter(&text);
        }
    }
    write(&file, &text)?;
    if args.no_start {
        match scope {
            Scope::System => warn_of_problems(&service)?,
            Scope::User => warn_of(&access::problems(&config)),
        }
        return Ok(DONE);
    }
    if scope == Scope::User {
        systemd::enable_linger();
    }
    // systemd reads a changed unit only after this.
    systemd::systemctl(scope, &["daemon-reload"])?;
    systemd::systemctl(scope, &["enable", NAME])?;
    // Not `start`, which leaves a running process of an earlier program or config as it is.
    if let Err(error) = systemd::systemctl(scope, &["restart", NAME]) {
        systemd::show_journal(scope);
        return Err(format!("{error}; the last lines of its log are above").into());
    }
    print("service enabled and started; waiting until it is connected");
    let status = systemd::wait_online(scope, &service.data_dir, args.wait.get())?;
    print(&format!(
        "the bridge {} of tenant {} is connected to {}",
        status.bridge, status.tenant, status.relay
    ));
    Ok(DONE)
}

pub(super) fn uninstall(args: &UninstallArgs) -> Outcome {
    let scope = scope(&args.scope);
    // A unit of the distribution in another directory must not be stopped by accident.
    let file = unit_file(scope, &args.unit)?;
    if !file.exists() {
        return Err(format!(
            "{} does not exist: the service is not installed by `service install`",
            file.display()
        )
        .into());
    }
    if !args.no_start {
        systemd::systemctl(scope, &["disable", "--now", NAME])?;
    }
    remove(&file)?;
    if !args.no_start {
        systemd::systemctl(scope, &["daemon-reload"])?;
    }
    print(&format!(
        "{} removed; config and data were not changed",
        file.display()
    ));
    Ok(DONE)
}

pub(super) fn start(args: &ScopeArgs) -> Outcome {
    let scope = scope(args);
    systemd::systemctl(scope, &["start", NAME])?;
    systemd::check_condition(scope)?;
    print("service started");
    Ok(DONE)
}

pub(super) fn stop(args: &ScopeArgs) -> Outcome {
    systemd::systemctl(scope(args), &["stop", NAME])?;
    print("service stopped");
    Ok(DONE)
}

pub(super) fn restart(args: &ScopeArgs) -> Outcome {
    let scope = scope(args);
    systemd::systemctl(scope, &["restart", NAME])?;
    systemd::check_condition(scope)?;
    print("service restarted");
    Ok(DONE)
}

pub(super) fn status(args: &ScopeArgs) -> Outcome {
    Ok(match systemd::show(scope(args))? {
        true => DONE,
        false => FAILED,
    })
}

fn scope(args: &ScopeArgs) -> Scope {
    match args.user {
        true => Scope::User,
        false => Scope::System,
    }
}

/// Returns the unit's file.
fn unit_file(scope: Scope, args: &UnitArgs) -> Result<PathBuf, String> {
    let dir = match (&args.unit_dir, scope) {
        (Some(dir), _) => dir.clone(),
        (None, Scope::System) => PathBuf::from("/etc/systemd/system"),
        (None, Scope::User) => user_config_dir()
            .ok_or("neither HOME nor XDG_CONFIG_HOME is set: name the directory of units by --unit-dir")?
            .join("systemd/user"),
    };
    Ok(dir.join(format!("{NAME}.service")))
}

/// Returns the directory of the user's configs (XDG Base Directory Specification).
fn user_config_dir() -> Option<PathBuf> {
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    own.filter(|dir| dir.is_absolute()).or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        home.filter(|home| home.is_absolute())
            .map(|home| home.join(".config"))
    })
}

fn service(args: &InstallArgs, config: &Config) -> io::Result<Service> {
    let data_dir = std::path::absolute(config.bridge.data_dir.get())?;
    let log = config.log.file.as_ref().map(|file| file.in_dir(&data_dir));
    let audit = config.audit.enabled.then(|| config.audit.path(&data_dir));
    let mut writes = Vec::new();
    for file in [log, audit].into_iter().flatten() {
        let file = std::path::absolute(file)?;
        // A log may go to a terminal or a pipe, which needs no rule.
        let Some(dir) = file.parent().filter(|_| !file.starts_with("/dev")) else {
            continue;
        };
        let dir = dir.to_owned();
        if !dir.starts_with(&data_dir) && !writes.contains(&dir) {
            writes.push(dir);
        }
    }
    Ok(Service {
        program: std::env::current_exe()?,
        config: std::path::absolute(&args.config.config)?,
        data_dir,
        writes,
        account: (scope(&args.scope) == Scope::System).then(|| args.account.clone()),
    })
}

/// Makes sure that the service of the machine will work before anything is installed.
fn prepare(service: &Service) -> Result<(), String> {
    let Some(name) = &service.account else {
        return Ok(());
    };
    if !is_root() {
        return Err(
            "`service install` creates an account and writes a unit: run it as root, or add --user for a service of \
             your own user"
                .into(),
        );
    }
    let account = match account::find(name)? {
        Some(account) => account,
        None if name == NAME => {
            let account = account::create(name, &service.data_dir)?;
            print(&format!("account {name} created"));
            account
        }
        None => {
            return Err(format!(
                "the account {name} does not exist (--account): create it, or leave --account out for the account {NAME}"
            ));
        }
    };
    account.ensure_dir(&service.data_dir, 0o700)?;
    account.take_from_root(&service.data_dir)?;
    for dir in &service.writes {
        account.ensure_dir(dir, 0o750)?;
    }
    match access::works_as(name, &service.program, &service.config)? {
        true => Ok(()),
        false => Err(format!(
            "the service would not work as the account {name} (see above); nothing was installed"
        )),
    }
}

/// Makes sure that the service of this user will work before anything is installed.
fn prepare_for_user(config: &Config) -> Result<(), String> {
    let problems = access::problems(config);
    if problems.is_empty() {
        return Ok(());
    }
    for problem in &problems {
        complain(problem);
    }
    Err("the service would not work (see above); nothing was installed".into())
}

/// Tries, with `--no-start`, what needs no start. It only warns: the unit may be for a machine that is completed later,
/// as an image is.
fn warn_of_problems(service: &Service) -> Result<(), String> {
    let Some(name) = &service.account else {
        return Ok(());
    };
    let warning = match account::find(name)? {
        None => format!("the account {name} does not exist yet; the service needs it"),
        Some(_) if !is_root() => format!(
            "it was not tried whether the service works as the account {name}, which needs root"
        ),
        Some(_) => match access::works_as(name, &service.program, &service.config)? {
            true => return Ok(()),
            false => format!(
                "the service would not work as the account {name} (see above); correct it before you start the service"
            ),
        },
    };
    warn_of(&[warning]);
    Ok(())
}

fn warn_of(problems: &[String]) {
    for problem in problems {
        print(&format!("warning: {problem}"));
    }
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    let failed =
        |error: io::Error| format!("cannot write {}: {}", file.display(), not_written(&error));
    if let Some(dir) = file.parent()
        && user_config_dir().is_some_and(|own| dir.starts_with(own))
    {
        // A user's directory of units exists only after the first unit.
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    runtime::files::replace(file, text.as_bytes(), 0o644).map_err(failed)?;
    print(&format!("{} written", file.display()));
    let mut packaged = PACKAGE_UNITS
        .iter()
        .map(|dir| Path::new(dir).join(format!("{NAME}.service")));
    if file.starts_with("/etc")
        && let Some(packaged) = packaged.find(|packaged| packaged.exists())
    {
        print(&format!(
            "it takes the place of the package's unit {}, until `service uninstall`",
            packaged.display()
        ));
    }
    Ok(())
}

fn remove(file: &Path) -> Result<(), String> {
    std::fs::remove_file(file)
        .map_err(|error| format!("cannot remove {}: {}", file.display(), not_written(&error)))
}

/// Returns why a unit cannot be written or removed, and what to do.
fn not_written(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => {
            "the directory does not exist (--unit-dir): create it, or name the one in which the service manager finds \
             units"
                .to_owned()
        }
        ErrorKind::PermissionDenied if !is_root() => "run this command as root".to_owned(),
        _ => in_words(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directory_of_units_is_named() {
        let error = not_written(&ErrorKind::NotFound.into());
        assert!(error.contains("--unit-dir"), "{error}");
        assert!(!error.contains("root"), "{error}");
    }
}
