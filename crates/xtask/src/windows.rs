//! `cargo xtask windows`: the bridge for Windows, as a service under Wine.
//!
//! ```text
//! imports   nothing that Windows Server 2008 R2 lacks
//! wine      a prefix of its own: install, pair, start, status over the pipe
//! site      relay and target on Linux: a call through the tunnel, a stop that drains it
//!           the machine starts again, and the service with it; uninstall
//! ```
//!
//! Wine has no real access control lists, event log, automatic restarts and elevation: `deploy/guide/installation.md` lists what
//! this does not show.

mod wine;

use crate::dist::{check_imports, windows_program};
use crate::site::{OBSERVE_EVERY, Program, SLOW, Site, TIMEOUT};
use crate::step::{Failed, Step, profile_dir};
use crate::test;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;
use wine::Wine;

/// The profile of Cargo.toml for the program, if none is given: it takes the least time to compile.
const CARGO_PROFILE: &str = "wine";

/// The program's directory. Blanks and letters outside of ASCII must work in every path.
const PROGRAM_DIR: &str = r"C:\Program Files\Integration Bridge ä";

/// The directory of config and data, as the guide has it.
const OWN_DIR: &str = r"C:\ProgramData\Integration Bridge";

/// The config's name.
const CONFIG: &str = "bridge ä.toml";

/// Wine keeps no access control lists: it shows the Unix modes of files as lists, in which other users always have a place.
const SHARED: &str = "data_dir_shared = true";

/// What to test.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// The program, such as the released one in target/dist; without it, a debug build
    #[arg(long, value_name = "EXE")]
    program: Option<PathBuf>,
    /// The relay that the bridge connects to; without it, a debug build
    #[arg(long, value_name = "FILE")]
    relay: Option<PathBuf>,
}

/// Runs the test.
pub(crate) fn run(args: &Args) -> Result<(), Failed> {
    let program = match &args.program {
        Some(program) => found(program)?,
        None => windows_program(CARGO_PROFILE)?,
    };
    check_imports(&program)?;
    let relay = match &args.relay {
        Some(relay) => found(relay)?,
        None => {
            test::build()?;
            PathBuf::from(Step::built_program("debug", "integration-relay").path())
        }
    };
    let directory = profile_dir("windows-test");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).map_err(|error| Failed::new(format!("{error}")))?;
    step("a relay and a target on this machine");
    let site = Site::start(&Program::new(&relay), &directory)?;
    let wine = Wine::start(&directory)?;
    let outcome = check(&wine, &site, &program);
    if outcome.is_err() {
        wine.show(&format!(r"{OWN_DIR}\data\bridge.log"));
    }
    outcome
}

/// Returns a file's path for programs that start in another directory.
fn found(file: &Path) -> Result<PathBuf, Failed> {
    fs::canonicalize(file).map_err(|error| Failed::new(format!("{}: {error}", file.display())))
}

fn check(wine: &Wine, site: &Site, program: &Path) -> Result<(), Failed> {
    let config = format!(r"{OWN_DIR}\{CONFIG}");
    let exe = format!(r"{PROGRAM_DIR}\integration-bridge.exe");
    wine.put(program, &exe)?;
    wine.put(&site.ca_file(), &format!(r"{OWN_DIR}\relay-ca.pem"))?;
    wine.write(&config, &site.bridge_config("proxy = \"system\"", SHARED))?;
    let bridge = |args: &[&str]| wine.run(&exe, args);
    let with_config = |args: &[&str]| bridge(&[args, &["--config", &config]].concat());

    step("version and config");
    expect(bridge(&["--version"])?, 0, "integration-bridge")?;
    expect(with_config(&["config", "check"])?, 0, "valid")?;
    step("pairing");
    let secret = format!(r"{OWN_DIR}\secret.txt");
    let key = site.bridge_key()?;
    wine.write(&secret, &key.secret)?;
    let paired = with_config(&[
        "pair",
        "--client-id",
        &key.id,
        "--client-secret-file",
        &secret,
    ])?;
    expect(paired, 0, "")?;
    wine.remove(&secret)?;
    step("a service that is not installed");
    expect(bridge(&["service", "status"])?, 1, "not installed")?;
    expect(bridge(&["service", "start"])?, 1, "not installed")?;
    step("service install, with a path that has blanks and ä");
    let installed = with_config(&["service", "install", "--wait", "60s"])?;
    expect(installed, 0, "is connected to")?;
    expect(bridge(&["service", "status"])?, 0, "running, process")?;
    let shown = bridge(&["service", "status"])?;
    // Quoted: the blank would end the path otherwise, and another program could be started in its place.
    expect(
        shown,
        0,
        &format!("\"{exe}\" run --service --config \"{config}\""),
    )?;
    step("the named pipe");
    expect(with_config(&["status"])?, 0, "online")?;
    expect(with_config(&["reload"])?, 0, "config reloaded")?;
    expect(
        bridge(&["log-level", "debug", "--config", &config])?,
        0,
        "filter",
    )?;
    expect(with_config(&["run"])?, 1, "in use by another")?;
    step("doctor");
    let doctor = with_config(&["doctor"])?;
    for fact in ["memory", "disk", "random", "data", "tunnel"] {
        expect_line(&doctor.1, fact)?;
    }
    let system = with_config(&["doctor", "--system"])?;
    expect_line(&system.1, "Windows")?;
    step("a credential, sealed for this machine");
    let password = format!(r"{OWN_DIR}\password.txt");
    wine.write(&password, "sesame")?;
    let origin = format!("http://127.0.0.1:{}", site.target_port());
    let set = with_config(&[
        "credential",
        "set",
        "alm",
        "--kind",
        "basic",
        "--user",
        "me",
        "--secret-file",
        &password,
        "--origin",
        &origin,
    ])?;
    expect(set, 0, "")?;
    expect(with_config(&["credential", "list"])?, 0, "alm")?;
    let key_file = wine.read(&format!(r"{OWN_DIR}\data\credentials.key"))?;
    if !key_file.starts_with(b"DPAPI1") {
        return Err(Failed::new("credentials.key is not sealed"));
    }
    step("a call through the tunnel");
    site.expect_call("/")?;
    step("a stop drains");
    let slow = site.call_in_background("/slow");
    thread::sleep(SLOW / 4);
    let began = Instant::now();
    expect(bridge(&["service", "stop"])?, 0, "service stopped")?;
    if began.elapsed() < SLOW / 4 {
        return Err(Failed::new("the stop did not wait for a running call"));
    }
    slow.join()
        .map_err(|_| Failed::new("the thread of the call panicked"))??;
    expect(bridge(&["service", "status"])?, 1, "stopped")?;
    expect(with_config(&["status"])?, 1, "no bridge runs")?;
    step("start, stop, restart");
    expect(bridge(&["service", "start"])?, 0, "service started")?;
    site.eventually_call("/")?;
    expect(bridge(&["service", "restart"])?, 0, "service restarted")?;
    site.eventually_call("/")?;
    step("the machine starts again, and the service with it");
    wine.restart_machine()?;
    let began = Instant::now();
    while bridge(&["service", "status"])?.0 != Some(0) {
        if began.elapsed() > TIMEOUT {
            return Err(Failed::new("the service did not start with the machine"));
        }
        thread::sleep(OBSERVE_EVERY);
    }
    site.eventually_call("/")?;
    step("uninstall");
    expect(bridge(&["service", "uninstall"])?, 0, "removed")?;
    expect(bridge(&["service", "status"])?, 1, "not installed")?;
    // Config, identity and credentials stay.
    wine.read(&config)?;
    wine.read(&format!(r"{OWN_DIR}\data\identity.json"))?;
    println!(
        "   not shown by Wine: access control lists, event log, restarts after a crash, elevation, install.ps1"
    );
    Ok(())
}

fn step(what: &str) {
    println!("== windows: {what}");
}

/// Checks the exit code of a command, and that its output has a text.
fn expect(outcome: (Option<i32>, String), code: i32, text: &str) -> Result<(), Failed> {
    let (found, written) = outcome;
    if found == Some(code) && written.contains(text) {
        return Ok(());
    }
    Err(Failed::new(format!(
        "expected the exit code {code} and {text:?}, found {found:?} and:\n{written}"
    )))
}

/// Checks that a line begins with a word, and was not skipped.
fn expect_line(written: &str, word: &str) -> Result<(), Failed> {
    let mut lines = written.lines().filter(|line| line.contains(word));
    match lines.any(|line| !line.contains("skip")) {
        true => Ok(()),
        false => Err(Failed::new(format!("no result for {word} in:\n{written}"))),
    }
}
