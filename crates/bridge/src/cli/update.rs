//! `update`: verifies a new program, tries it, puts it in the place of this one, and restarts the service.
//!
//! The steps and their rules are in the module `update`; this is their order, and what the administrator sees.

mod restart;

use super::common::{ConfigArg, DONE, Outcome, print, short_runtime, warn};
use super::status::status_of;
use crate::config::Config;
use crate::control::message::ControlError;
use crate::status::Status;
use crate::update::managed;
use crate::update::manifest::{Manifest, ManifestError, verify};
use crate::update::place::{Installed, Place, Staged, program_path};
use crate::update::rules::{Allowed, Decision, decide};
use crate::update::source::{Origin, Source};
use crate::update::trial::{self, Ran};
use crate::versions;
use clap::Args;
use protocol::version::ProgramVersion;
use restart::Plan;
use ring::digest::{Context, SHA256};
use runtime::config::Timeout;
use runtime::time::rfc3339;
use std::error::Error;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Time for `NEW --version`.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for `NEW doctor --route`, whose steps have their own timeouts.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(120);

/// `update`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  integration-bridge update --check                        the versions that the operator named
  integration-bridge update --check --from integration-bridge-1.4.0
  integration-bridge update --from https://downloads.example.com/integration-bridge-1.4.0

FILE.manifest and FILE.sig must be next to FILE. The signature must be by a key in update.keys of
the config; without a key nothing is installed. The old program is kept as PROGRAM.previous. If
the new one does not connect to the relay, the old one is put back.")]
pub(super) struct UpdateArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The new program: a file, or an https:// URL of one.
    #[arg(long, value_name = "FILE|URL", required_unless_present = "check")]
    from: Option<Origin>,
    /// Change nothing: verify the files, and report whether they would be installed.
    #[arg(long)]
    check: bool,
    /// Also install a version that is older than this one.
    #[arg(long)]
    allow_downgrade: bool,
    /// Also install a version that is newer than the newest one that the operator of the relay has named, or while the
    /// running bridge does not tell which one that is.
    #[arg(long)]
    allow_newer: bool,
    /// Also install outside of update.window.
    #[arg(long)]
    ignore_window: bool,
    /// Also install in a container, which is kept like a machine.
    #[arg(long)]
    in_container: bool,
    /// Also install if the new program does not reach the relay now. It must still start.
    #[arg(long)]
    offline: bool,
    /// Do not restart the service.
    #[arg(long)]
    no_restart: bool,
    /// How long to wait until the restarted bridge is connected.
    #[arg(long, default_value = "60s", value_name = "TIME")]
    wait: Timeout,
}

pub(super) fn update(args: &UpdateArgs) -> Outcome {
    let config = args.config.load()?;
    let running = Running::find(config.bridge.data_dir.get());
    if let Running::Unknown(why) = &running {
        // Without the operator's versions, the rule about the newest one would be skipped in silence.
        if !args.allow_newer {
            return Err(format!(
                "{why}; the versions that the operator of the relay named are therefore not known: add --allow-newer to go on \
                 without them"
            )
            .into());
        }
        warn(why);
    }
    let status = running.status();
    show_versions(&running);
    let Some(from) = &args.from else {
        return Ok(DONE);
    };
    // Before anything is read: neither file nor server matters without it.
    if config.update.keys.is_empty() {
        return Err(ManifestError::NoKeys.into());
    }
    let place = match args.check {
        true => None,
        false => Some(prepare(args, &config)?),
    };
    let runtime = short_runtime()?;
    let source = Source::new(from.clone(), &config)?;
    let manifest = runtime.block_on(manifest(&source, &config))?;
    let version = &manifest.version;
    print(&format!(
        "{from}: version {version} for {}, released {}, signed by a trusted key",
        manifest.target,
        rfc3339(i64::try_from(manifest.released).unwrap_or(i64::MAX))
    ));
    let named = status.map(|status| status.version.named());
    let allowed = Allowed {
        downgrade: args.allow_downgrade,
        newer: args.allow_newer,
    };
    let decision = decide(
        version,
        &versions::running(),
        (
            &named.unwrap_or_default(),
            status.is_some_and(|status| status.online),
        ),
        config.update.pin.as_ref(),
        allowed,
    )?;
    let goal = match decision {
        Decision::Installed => {
            print("this version is installed already");
            return Ok(DONE);
        }
        Decision::Install => Goal::Connected,
        Decision::StillRefused { oldest } => {
            warn(&format!(
                "the relay accepts no version below {oldest}: {version} does not connect, either; install {oldest} or a newer \
                 version next"
            ));
            Goal::Runs
        }
    };
    let Some(place) = &place else {
        runtime.block_on(receive(&source, &manifest, None))?;
        print("the file is complete and may be installed");
        return Ok(DONE);
    };
    let mut staged = place.stage()?;
    runtime.block_on(receive(&source, &manifest, Some(&mut staged)))?;
    let mut written = Context::new(&SHA256);
    staged.complete(|piece| written.update(piece))?;
    if written.finish().as_ref() != manifest.sha256 {
        return Err("the disk returns other bytes than were written; nothing was changed".into());
    }
    try_program(&staged, version, args)?;
    // Before the exchange: it looks for the process that runs the old file.
    let plan = match &running {
        Running::Unknown(why) => Plan::ByHand(why.clone()),
        Running::None | Running::Known(_) => restart::plan(status, &place.program),
    };
    let installed = place.install(staged)?;
    print(&format!(
        "installed {version} as {}; the old program is {}",
        place.program.display(),
        installed.previous().display()
    ));
    if args.no_restart {
        print("restart the bridge to run it");
        return Ok(DONE);
    }
    let until = (goal, args.wait.get());
    finish(&plan, installed, version, &config, until)
}

/// The bridge that runs with the config.
#[derive(Debug)]
enum Running {
    /// None does.
    None,
    /// It told its status.
    Known(Box<Status>),
    /// One may run, and its status is not known for this reason.
    Unknown(String),
}

impl Running {
    fn find(data_dir: &Path) -> Self {
        let error = match status_of(data_dir) {
            Ok(status) => return Self::Known(Box::new(status)),
            Err(error) => error,
        };
        match error.downcast_ref::<ControlError>() {
            Some(control) if control.is_not_running() => Self::None,
            Some(_) | None => Self::Unknown(error.to_string()),
        }
    }

    fn status(&self) -> Option<&Status> {
        match self {
            Self::Known(status) => Some(status),
            Self::None | Self::Unknown(_) => None,
        }
    }
}

/// What the restarted bridge must reach, or the old program is put back.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// It is connected.
    Connected,
    /// It runs: the relay refuses it, as it did before.
    Runs,
}

impl Goal {
    /// Returns what a bridge that reached it does.
    fn reached(self) -> &'static str {
        match self {
            Self::Connected => "is connected",
            Self::Runs => "is not connected, because the relay accepts no version so old",
        }
    }
}

/// Prints what the operator of the relay wants.
fn show_versions(running: &Running) {
    match running {
        Running::Known(status) => print(&status.version.to_string()),
        Running::Unknown(_) => print(&format!("version {}", versions::running())),
        Running::None => print(&format!(
            "version {}; no bridge runs with this config, so the versions that the operator of the relay named are not \
             known",
            versions::running()
        )),
    }
}

/// Checks that this program may be replaced now.
fn prepare(args: &UpdateArgs, config: &Config) -> Result<Place, Box<dyn Error>> {
    let program = program_path()?;
    if let Some(owner) = managed::owner(&program, args.in_container) {
        return Err(format!("{}: {owner}", program.display()).into());
    }
    if let Some(window) = &config.update.window
        && !args.ignore_window
        && !window.contains(SystemTime::now())
    {
        return Err(format!(
            "updates are installed in the window \"{window}\" (UTC, update.window); add --ignore-window to install now"
        )
        .into());
    }
    let place = Place::of(program)?;
    // An update that ended before the lock was taken has replaced this program, and the rules would compare with the
    // version before it.
    program_path()?;
    Ok(place)
}

/// Reads and verifies the manifest.
async fn manifest(source: &Source, config: &Config) -> Result<Manifest, Box<dyn Error>> {
    let manifest = source.manifest().await?;
    let signatures = source.signatures().await?;
    Ok(verify(&manifest, &signatures, &config.update.keys)?)
}

/// Reads the program, and compares it with the manifest. It is written to `staged`, if there is one.
async fn receive(
    source: &Source,
    manifest: &Manifest,
    mut staged: Option<&mut Staged<'_>>,
) -> Result<(), Box<dyn Error>> {
    let mut hash = Context::new(&SHA256);
    let mut bytes = 0_u64;
    let mut sink = |piece: &[u8]| -> io::Result<()> {
        hash.update(piece);
        bytes += piece.len() as u64;
        match &mut staged {
            Some(staged) => staged.write(piece),
            None => Ok(()),
        }
    };
    source.program(manifest.size, &mut sink).await?;
    if bytes != manifest.size {
        return Err(format!(
            "FILE has {bytes} bytes, and its manifest names {}: it is truncated",
            manifest.size
        )
        .into());
    }
    match hash.finish().as_ref() == manifest.sha256 {
        true => Ok(()),
        false => Err(
            "the SHA-256 of FILE is not the one in its manifest: it was damaged or exchanged; do not use it".into(),
        ),
    }
}

/// Runs the new program, which is not in its place yet.
fn try_program(
    staged: &Staged<'_>,
    version: &ProgramVersion,
    args: &UpdateArgs,
) -> Result<(), Box<dyn Error>> {
    let program = staged.path.as_path();
    let ran = trial::run(program, &[OsStr::new("--version")], VERSION_TIMEOUT);
    let ran = ran.map_err(|error| format!("the new program: {error}; nothing was changed"))?;
    if !ran.is_success || ran.stdout.trim() != format!("integration-bridge {version}") {
        show_output(&ran);
        return Err(format!(
            "the new program does not report the version {version}; nothing was changed"
        )
        .into());
    }
    print("the new program starts");
    let config = std::path::absolute(&args.config.config)?;
    let route = [
        OsStr::new("doctor"),
        OsStr::new("--route"),
        OsStr::new("--config"),
        config.as_os_str(),
    ];
    let why = match trial::run(program, &route, ROUTE_TIMEOUT) {
        Ok(ran) if ran.is_success => {
            print("the new program reads the config and reaches the relay");
            return Ok(());
        }
        Ok(ran) => {
            show_output(&ran);
            "it does not reach the relay with this config".to_owned()
        }
        Err(error) => format!("`doctor --route`: {error}"),
    };
    match args.offline {
        true => {
            print(&format!("warning: the new program was tried: {why}"));
            Ok(())
        }
        false => Err(format!(
            "the new program was tried: {why}; nothing was changed. Add --offline to install it although the relay is not \
             reachable now"
        )
        .into()),
    }
}

/// Prints what a program wrote. Each line is escaped already.
fn show_output(ran: &Ran) {
    for line in ran.last_lines() {
        print(&format!("  {line}"));
    }
}

/// Restarts the bridge, and puts the old program back if the new one does not connect.
fn finish(
    plan: &Plan,
    installed: Installed<'_>,
    version: &ProgramVersion,
    config: &Config,
    until: (Goal, Duration),
) -> Outcome {
    let (goal, _) = until;
    let service = match plan {
        Plan::NotRunning => {
            print("no bridge runs with this config; start it to run the new version");
            return Ok(DONE);
        }
        Plan::ByHand(why) => {
            print(&format!("restart the bridge to run it: {why}"));
            return Ok(DONE);
        }
        Plan::Service(service) => service,
    };
    let data_dir = config.bridge.data_dir.get();
    let restarted = service.restart();
    let why = match restarted.and_then(|()| wait_until(data_dir, version, until)) {
        Ok(()) => {
            let reached = goal.reached();
            print(&format!("the service runs {version} and {reached}"));
            return Ok(DONE);
        }
        Err(why) => why,
    };
    installed.roll_back().map_err(|error| {
        format!(
            "the new program does not work ({why}), and the old one could not be put back: {error}"
        )
    })?;
    let running = versions::running();
    let back = service
        .restart()
        .and_then(|()| wait_until(data_dir, &running, until));
    let back = match (back, goal) {
        (Ok(()), Goal::Connected) => format!("the old program {running} is back and connected"),
        (Ok(()), Goal::Runs) => format!("the old program {running} is back"),
        (Err(error), Goal::Connected) => {
            format!("the old program {running} is back, and is not connected: {error}")
        }
        (Err(error), Goal::Runs) => {
            format!("the old program {running} is back, and does not run: {error}")
        }
    };
    let failed = match goal {
        Goal::Connected => "did not connect",
        Goal::Runs => "did not run",
    };
    Err(format!("{version} was installed and {failed}: {why}; {back}").into())
}

/// How often a restarted bridge is observed.
const OBSERVE_EVERY: Duration = Duration::from_millis(250);

/// Waits until the bridge runs this version and has reached the goal.
fn wait_until(
    data_dir: &Path,
    version: &ProgramVersion,
    (goal, wait): (Goal, Duration),
) -> Result<(), String> {
    let until = std::time::Instant::now() + wait;
    loop {
        let why_not = match status_of(data_dir) {
            Ok(status) if status.version.running != version.to_string() => {
                format!("version {} still runs", status.version.running)
            }
            Ok(status) if status.online || matches!(goal, Goal::Runs) => return Ok(()),
            Ok(status) => {
                let mut slots = status.connections.into_iter();
                let error = slots.find_map(|slot| slot.error);
                error.unwrap_or_else(|| "it is not connected yet".to_owned())
            }
            Err(error) => error.to_string(),
        };
        if std::time::Instant::now() >= until {
            return Err(format!("{why_not} (after {} s)", wait.as_secs()));
        }
        std::thread::sleep(OBSERVE_EVERY);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::net::UnixListener;

    #[test]
    fn silent_bridge_is_no_stopped_one() {
        let dir = TempDir::new("update");
        assert!(matches!(Running::find(dir.path()), Running::None));
        let socket = dir.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let closing = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let running = Running::find(dir.path());
        assert!(matches!(running, Running::Unknown(_)), "{running:?}");
        assert!(running.status().is_none());
        closing.join().unwrap();
        // Its file stays, as after a kill.
        assert!(socket.exists());
        assert!(matches!(Running::find(dir.path()), Running::None));
    }
}
