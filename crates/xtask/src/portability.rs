//! `cargo xtask portability`: the static programs on machines that this one is not.
//!
//! ```text
//! this kernel     as it is, with figures: size, memory, time of the start
//! kernel 3.10     a filter answers later system calls with ENOSYS (Red Hat Enterprise Linux 7)
//! kernel 3.2      the oldest that is supported
//! kernel 3.0      the same (SUSE Linux Enterprise Server 11 SP3)
//! kernel 2.6.32   the same (Red Hat Enterprise Linux 6)
//! aarch64         qemu, which passes system calls on to this kernel
//! ```
//!
//! Each runs a relay and a bridge: pair, connect, a call through the tunnel, `status`, a stop that drains it.

use crate::dist::{Target, released_programs};
use crate::site::{OBSERVE_EVERY, Program, SLOW, Site, TIMEOUT};
use crate::step::{Failed, Step, profile_dir};
use crate::tool;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

/// Starts a program with a filter of system calls.
const OLDER_KERNEL: &str = include_str!("portability/older_kernel.py");

/// Runs programs for aarch64.
const EMULATOR: &str = "/usr/bin/qemu-aarch64-static";

/// Its Debian package.
const EMULATOR_PACKAGE: &str = "qemu-user-static";

/// How often the first call is tried: the time of the start is a figure.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The programs, as DIR/TRIPLE/PROGRAM; without it, those in target/dist, which are built if they are missing
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Another machine.
struct Machine {
    name: &'static str,
    target: Target,
    kind: Kind,
}

enum Kind {
    /// This machine.
    Here,
    /// An older kernel: the number of its last system call.
    OlderKernel(u16),
    /// An emulator of another processor.
    Emulated,
}

const MACHINES: [Machine; 6] = [
    Machine {
        name: "this kernel",
        target: Target::LinuxX86_64,
        kind: Kind::Here,
    },
    Machine {
        name: "kernel 3.10",
        target: Target::LinuxX86_64,
        // finit_module
        kind: Kind::OlderKernel(313),
    },
    Machine {
        name: "kernel 3.2",
        target: Target::LinuxX86_64,
        // process_vm_writev
        kind: Kind::OlderKernel(311),
    },
    Machine {
        name: "kernel 3.0",
        target: Target::LinuxX86_64,
        // setns
        kind: Kind::OlderKernel(308),
    },
    Machine {
        name: "kernel 2.6.32",
        target: Target::LinuxX86_64,
        // perf_event_open
        kind: Kind::OlderKernel(298),
    },
    Machine {
        name: "aarch64",
        target: Target::LinuxAarch64,
        kind: Kind::Emulated,
    },
];

/// Runs the programs on each machine.
pub(crate) fn run(args: &Args) -> Result<(), Failed> {
    if !Path::new(EMULATOR).exists() {
        tool::install_packages(&[EMULATOR_PACKAGE])?;
    }
    let directory = profile_dir("portability-test");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).map_err(failed)?;
    let script = directory.join("older_kernel.py");
    fs::write(&script, OLDER_KERNEL).map_err(failed)?;
    for (number, machine) in MACHINES.iter().enumerate() {
        println!("== portability: {}", machine.name);
        let programs = match &args.programs {
            Some(given) => fs::canonicalize(given.join(machine.target.triple())).map_err(failed)?,
            None => released_programs(machine.target)?,
        };
        let started = |name: &str| {
            let file = programs.join(name);
            match machine.kind {
                Kind::Here => Program::new(&file),
                Kind::OlderKernel(last) => {
                    let script = script.to_string_lossy().into_owned();
                    Program::started_by(["python3".to_owned(), script, last.to_string()], &file)
                }
                Kind::Emulated => Program::started_by([EMULATOR], &file),
            }
        };
        let relay = started("integration-relay");
        let bridge = started("integration-bridge");
        let place = directory.join(number.to_string());
        let figures = check(&relay, &bridge, &place)?;
        if matches!(machine.kind, Kind::Here) {
            let size = fs::metadata(programs.join("integration-bridge")).map_err(failed)?;
            println!(
                "   bridge: a file of {:.1} MiB; {:.1} MiB of memory after a call; {} ms from the start to the response to \
                 a call",
                mib(size.len()),
                mib(figures.memory_bytes),
                figures.start.as_millis()
            );
        }
    }
    Ok(())
}

/// What was measured of a bridge.
struct Figures {
    /// From its start to the response to a call, which includes curl's time.
    start: Duration,
    memory_bytes: u64,
}

/// A bridge, which is killed if the check fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check(relay: &Program, bridge: &Program, directory: &Path) -> Result<Figures, Failed> {
    let site = Site::start(relay, directory)?;
    let own = directory.join("bridge");
    fs::create_dir_all(&own).map_err(failed)?;
    fs::copy(site.ca_file(), own.join("relay-ca.pem")).map_err(failed)?;
    fs::write(own.join("bridge.toml"), site.bridge_config("", "")).map_err(failed)?;
    let command = |args: &[&str]| {
        let mut command = bridge.command();
        command.args(args).args(["--config", "bridge.toml"]);
        command.current_dir(&own);
        command
    };
    let says = |args: &[&str], text: &str| {
        let output = command(args).output().map_err(failed)?;
        let written = String::from_utf8_lossy(&output.stdout);
        match output.status.success() && written.contains(text) {
            true => Ok(()),
            false => Err(Failed::new(format!(
                "integration-bridge {}: {}, without {text:?}:\n{written}{}",
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ))),
        }
    };
    let key = site.bridge_key()?;
    fs::write(own.join("secret"), &key.secret).map_err(failed)?;
    let pair = [
        "pair",
        "--client-id",
        &key.id,
        "--client-secret-file",
        "secret",
    ];
    says(&pair, "")?;
    let log = fs::File::create(own.join("bridge.log")).map_err(failed)?;
    let began = Instant::now();
    let child = command(&["run"]).stderr(log).spawn().map_err(failed)?;
    let mut running = Running(child);
    while let Err(error) = site.expect_call("/") {
        if began.elapsed() > TIMEOUT {
            let log = fs::read_to_string(own.join("bridge.log")).unwrap_or_default();
            return Err(Failed::new(format!(
                "{error}\nThe log of the bridge:\n{log}"
            )));
        }
        thread::sleep(TRY_EVERY);
    }
    let start = began.elapsed();
    says(&["status"], "online")?;
    says(&["reload"], "config reloaded")?;
    let memory_bytes = memory(running.0.id())?;
    let slow = site.call_in_background("/slow");
    thread::sleep(SLOW / 4);
    let process = running.0.id().to_string();
    let (is_asked, _) = Step::program("kill").args(["-TERM", &process]).outcome()?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = running.0.try_wait().map_err(failed)? {
            break status;
        }
        if began.elapsed() > TIMEOUT {
            return Err(Failed::new("the bridge does not stop"));
        }
        thread::sleep(OBSERVE_EVERY);
    };
    if !is_asked || !status.success() || began.elapsed() < SLOW / 4 {
        return Err(Failed::new(format!(
            "the bridge did not drain: {status} after {:?}",
            began.elapsed()
        )));
    }
    slow.join()
        .map_err(|_| Failed::new("the thread of the call panicked"))??;
    Ok(Figures {
        start,
        memory_bytes,
    })
}

/// Returns the memory of a process: its own, and pages of files that it uses.
fn memory(process: u32) -> Result<u64, Failed> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).map_err(failed)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| Failed::new("the process has no VmRSS"))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for readers")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failed(error: std::io::Error) -> Failed {
    Failed::new(error.to_string())
}
