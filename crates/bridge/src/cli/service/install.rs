//! The steps of `service install` and `service uninstall`.

use super::super::common::{DONE, FAILED, Outcome, print};
use super::unit::Service;
use super::{InstallArgs, NAME, ServiceCommand, UNSUPPORTED, UnitArgs, access, account, systemd};
use crate::config::{Config, ENVIRONMENT};
use runtime::shortage::in_words;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

pub(in super::super) fn run(command: &ServiceCommand) -> Outcome {
    if !cfg!(target_os = "linux") {
        return Err(UNSUPPORTED.into());
    }
    match command {
        ServiceCommand::Install(args) => install(args),
        ServiceCommand::Uninstall(args) => uninstall(args),
        ServiceCommand::Status => Ok(if systemd::show()? { DONE } else { FAILED }),
        ServiceCommand::Check(config) => access::check(config),
    }
}

fn install(args: &InstallArgs) -> Outcome {
    // Checked first, because the service manager would restart an invalid service for ever.
    let config = args.config.load()?;
    let service = service(args, &config)?;
    let text = service.unit()?;
    for path in service.hidden() {
        print(&format!(
            "warning: the service does not see {}: its unit hides /home, /root and /tmp (ProtectHome, PrivateTmp)",
            path.display()
        ));
    }
    if let Some(name) = set_variable() {
        return Err(format!(
            "{name} is set in this shell, and the service would not have it: put the key into {}, unset the \
             variable, and run this command again",
            service.config.display()
        )
        .into());
    }
    if !args.unit.no_start {
        prepare(&service)?;
    }
    let file = args.unit.unit_dir.join(format!("{NAME}.service"));
    runtime::files::replace(&file, text.as_bytes(), 0o644)
        .map_err(|error| format!("cannot write {}: {}", file.display(), not_written(&error)))?;
    print(&format!("{} written", file.display()));
    if args.unit.no_start {
        warn_of_problems(&service)?;
        return Ok(DONE);
    }
    // systemd reads a changed unit only after this.
    systemd::systemctl(&["daemon-reload"])?;
    systemd::systemctl(&["enable", NAME])?;
    // Not `start`, which leaves a running process of an earlier program or config as it is.
    systemd::systemctl(&["restart", NAME])?;
    print("service enabled and started; waiting until it is connected");
    let status = systemd::wait_online(&service.data_dir, args.wait.get())?;
    print(&format!(
        "the bridge {} of tenant {} is connected to {}",
        status.bridge, status.tenant, status.relay
    ));
    Ok(DONE)
}

/// Returns the variable with a config key that is set in this environment.
fn set_variable() -> Option<String> {
    let prefix = format!("{}_", ENVIRONMENT.prefix);
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .find(|name| name.starts_with(&prefix) && !ENVIRONMENT.others.contains(&name.as_str()))
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
        user: args.user.clone(),
    })
}

/// Makes sure that the service will work before anything is installed.
fn prepare(service: &Service) -> Result<(), String> {
    if !is_root() {
        return Err("`service install` creates a user and writes a unit: run it as root".into());
    }
    let user = &service.user;
    let account = match account::find(user)? {
        Some(account) => account,
        None if user == NAME => {
            let account = account::create(user, &service.data_dir)?;
            print(&format!("user {user} created"));
            account
        }
        None => {
            return Err(format!(
                "the user {user} does not exist (--user): create it, or leave --user out for the user {NAME}"
            ));
        }
    };
    account.ensure_dir(&service.data_dir, 0o700)?;
    account.take_from_root(&service.data_dir)?;
    for dir in &service.writes {
        account.ensure_dir(dir, 0o750)?;
    }
    match access::works_as(user, &service.program, &service.config)? {
        true => Ok(()),
        false => Err(format!(
            "the service would not work as the user {user} (see above); nothing was installed"
        )),
    }
}

fn is_root() -> bool {
    // The owner of a process's directory is its user.
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Tries, with `--no-start`, what needs no start. It only warns: the unit may be for a machine that is completed later,
/// as an image is.
fn warn_of_problems(service: &Service) -> Result<(), String> {
    let user = &service.user;
    let warning = match account::find(user)? {
        None => format!("the user {user} does not exist yet; the service needs it"),
        Some(_) if !is_root() => format!(
            "it was not tried whether the service works as the user {user}, which needs root"
        ),
        Some(_) => match access::works_as(user, &service.program, &service.config)? {
            true => return Ok(()),
            false => format!(
                "the service would not work as the user {user} (see above); correct it before you start the service"
            ),
        },
    };
    print(&format!("warning: {warning}"));
    Ok(())
}

fn uninstall(args: &UnitArgs) -> Outcome {
    // A unit of the distribution in another directory must not be stopped by accident.
    let file = args.unit_dir.join(format!("{NAME}.service"));
    if !file.exists() {
        return Err(format!(
            "{} does not exist: the service is not installed",
            file.display()
        )
        .into());
    }
    if !args.no_start {
        systemd::systemctl(&["disable", "--now", NAME])?;
    }
    remove(&file)?;
    if !args.no_start {
        systemd::systemctl(&["daemon-reload"])?;
    }
    print(&format!(
        "{} removed; config and data were not changed",
        file.display()
    ));
    Ok(DONE)
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
