//! `doctor --system`: what this bridge needs of a machine, what the machine has, and the verdict.
//!
//! It needs no config, no identity and no network, so that it can be run before anything is installed. It changes
//! nothing. The figures are those of `deploy/guide/performance.md`, with a margin.

use super::facts::{self, Kernel, MemoryLimit, OpenFiles};
use super::table::{Requirement, Requirements, Verdict};
use super::{DISK_MIN_BYTES, FILES_MIN, GIB, MEMORY_MIN_BYTES, MIB, OTHER_HOST, RAISE_FILES};
use crate::config::Config;
use crate::doctor::report::State;
use crate::text::error_chain;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Memory without which the bridge does not run reliably: 14 MiB at rest, and buffers of a few exchanges.
const MEMORY_FLOOR_BYTES: u64 = 32 * MIB;

/// Disk space without which the bridge does not start: identity, journal and audit file need a part of it at once.
const DISK_FLOOR_BYTES: u64 = 64 * MIB;

/// The oldest kernel of Linux that the standard library of the programming language supports.
const LINUX_MIN: (u32, u32) = (3, 2);

/// Architectures for which there are releases.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// A clock before this moment (2026-01-01) was never set: no certificate is valid for it.
const CLOCK_MIN_S: u64 = 1_767_225_600;

/// The data directory of the packages, if there is no config.
#[cfg(not(windows))]
const DATA_DIR: &str = "/var/lib/integration-bridge";

/// Compares this machine with the requirements. The config need not exist.
pub(crate) fn examine(config_file: &Path) -> Requirements {
    let config = Config::load(config_file);
    // Also if the config has a mistake elsewhere.
    let data_dir = Config::data_dir_of(config_file).unwrap_or_else(|_| default_data_dir());
    Requirements::new(vec![
        Requirement::new(
            "operating system",
            "Linux 3.2 or newer, or Windows",
            operating_system(std::env::consts::OS, facts::os_name(), facts::kernel()),
        ),
        Requirement::new(
            "architecture",
            ARCHITECTURES.join(" or "),
            architecture(std::env::consts::ARCH),
        ),
        Requirement::new("cores", "1", cores()),
        Requirement::new(
            "memory",
            format!("{} free", size(MEMORY_MIN_BYTES)),
            memory(facts::free_memory(), facts::total_memory()),
        ),
        Requirement::new(
            "memory limit",
            format!("none, or at least {}", size(MEMORY_MIN_BYTES)),
            memory_limit(facts::memory_limit()),
        ),
        Requirement::new(
            "disk",
            format!("{} free", size(DISK_MIN_BYTES)),
            disk(&data_dir),
        ),
        Requirement::new(
            "open files",
            FILES_MIN.to_string(),
            open_files(facts::open_files()),
        ),
        Requirement::new(
            "clock",
            "set from the network",
            clock(now_s(), facts::clock_source()),
        ),
        Requirement::new("data directory", "writable", writable(&data_dir)),
        Requirement::new(
            "config",
            "readable, without mistakes",
            config_found(
                config_file,
                config.as_ref().err().map(|error| error_chain(error)),
            ),
        ),
        Requirement::new(
            "other programs",
            "no ALM or Octane on this host",
            neighbours(facts::neighbours()),
        ),
    ])
}

#[cfg(not(windows))]
fn default_data_dir() -> PathBuf {
    PathBuf::from(DATA_DIR)
}

#[cfg(windows)]
fn default_data_dir() -> PathBuf {
    let base = std::env::var_os("ProgramData").map_or_else(|| PathBuf::from("."), PathBuf::from);
    base.join("Integration Bridge").join("data")
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

fn operating_system(os: &str, name: Option<String>, kernel: Option<Kernel>) -> Verdict {
    let shown = name.unwrap_or_else(|| os.to_owned());
    match (os, kernel) {
        ("linux", Some(kernel)) => {
            let found = format!("{shown}, kernel {}", kernel.text);
            match kernel.version < LINUX_MIN {
                true => Verdict::bad(
                    State::Fail,
                    found,
                    "use a machine with a newer system: this kernel lacks system calls that the bridge needs",
                ),
                false => Verdict::ok(found),
            }
        }
        ("windows", _) => Verdict::ok(shown),
        // A container may hide it.
        ("linux", None) => Verdict {
            found: shown,
            ..Verdict::unknown()
        },
        _ => Verdict::bad(
            State::Warn,
            shown,
            "use Linux or Windows: the bridge is not tested on other systems",
        ),
    }
}

fn architecture(found: &str) -> Verdict {
    match ARCHITECTURES.contains(&found) {
        true => Verdict::ok(found),
        false => Verdict::bad(
            State::Warn,
            found,
            "there is no release for this architecture: the bridge is not tested on it",
        ),
    }
}

fn cores() -> Verdict {
    facts::cores().map_or_else(
        |_| Verdict::unknown(),
        |cores| Verdict::ok(cores.to_string()),
    )
}

fn memory(free: Option<u64>, total: Option<u64>) -> Verdict {
    let Some(free) = free else {
        return match total {
            Some(total) => Verdict {
                found: format!("{} in all", size(total)),
                ..Verdict::unknown()
            },
            None => Verdict::unknown(),
        };
    };
    let of = total.map_or_else(String::new, |total| format!(" of {}", size(total)));
    let found = format!("{} free{of}", size(free));
    let bounds = (MEMORY_MIN_BYTES, MEMORY_FLOOR_BYTES);
    Verdict::of_amount(free, found, bounds, "free memory, or use another machine")
}

fn memory_limit(limit: Option<MemoryLimit>) -> Verdict {
    match limit {
        None => Verdict::unknown(),
        Some(MemoryLimit::Any) => Verdict::ok("none"),
        Some(MemoryLimit::AtMost(bytes)) => Verdict::of_amount(
            bytes,
            size(bytes),
            (MEMORY_MIN_BYTES, MEMORY_FLOOR_BYTES),
            "raise the limit of the container or of the unit (MemoryMax)",
        ),
    }
}

fn disk(data_dir: &Path) -> Verdict {
    let Some(place) = facts::existing(data_dir) else {
        return Verdict::unknown();
    };
    let Some(free) = facts::disk_free(&place) else {
        return Verdict::unknown();
    };
    let found = format!("{} free at {}", size(free), place.display());
    Verdict::of_amount(
        free,
        found,
        (DISK_MIN_BYTES, DISK_FLOOR_BYTES),
        "free disk space for journal, audit file and log, or set bridge.data_dir",
    )
}

fn open_files(limit: Option<OpenFiles>) -> Verdict {
    match limit {
        None => Verdict::unknown(),
        Some(OpenFiles::Any) => Verdict::ok("no limit"),
        Some(OpenFiles::AtMost(files)) => {
            Verdict::of_amount(files, files.to_string(), (FILES_MIN, 0), RAISE_FILES)
        }
    }
}

fn clock(now_s: u64, source: Option<&str>) -> Verdict {
    if now_s < CLOCK_MIN_S {
        return Verdict::bad(
            State::Fail,
            "before the year of this release",
            "set the clock (NTP): certificates and signatures depend on it",
        );
    }
    match source {
        Some(source) => Verdict::ok(format!("set by {source}")),
        // Virtual machines and containers get their time from the host. `doctor` compares it with the relay's.
        None => Verdict {
            found: "plausible; its source is not known".to_owned(),
            ..Verdict::unknown()
        },
    }
}

fn writable(data_dir: &Path) -> Verdict {
    let (place, found) = match facts::existing(data_dir) {
        Some(place) if place == data_dir => (place, data_dir.display().to_string()),
        Some(place) => {
            let found = format!("{} does not exist yet", data_dir.display());
            (place, found)
        }
        None => return Verdict::unknown(),
    };
    // The service has another user, and its installation creates the directory: this is no failure yet.
    match facts::writable(&place) {
        None => Verdict {
            found,
            ..Verdict::unknown()
        },
        Some(true) => Verdict::ok(found),
        Some(false) => Verdict::bad(
            State::Warn,
            format!("{found}; this user may not write to {}", place.display()),
            "run this command as the user that runs the bridge, or have root create the directory for it",
        ),
    }
}

fn config_found(file: &Path, mistake: Option<String>) -> Verdict {
    match mistake {
        None => Verdict::ok(file.display().to_string()),
        // A machine is examined before anything is installed on it.
        Some(_) if !file.exists() => Verdict {
            found: "no config yet".to_owned(),
            ..Verdict::unknown()
        },
        Some(mistake) => Verdict::bad(
            State::Warn,
            mistake,
            "correct the file; `integration-bridge config check` reports its mistakes",
        ),
    }
}

fn neighbours(found: Option<Vec<&'static str>>) -> Verdict {
    match found {
        None => Verdict::unknown(),
        Some(found) if found.is_empty() => Verdict::ok("none detected"),
        Some(found) => Verdict::bad(
            State::Warn,
            format!("{} appears to run here", found.join(" and ")),
            OTHER_HOST,
        ),
    }
}

/// Returns a size for people, in MiB or GiB.
fn size(bytes: u64) -> String {
    match bytes {
        GIB.. => format!("{:.1} GiB", bytes as f64 / GIB as f64),
        _ => format!("{} MiB", bytes / MIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(text: &str, version: (u32, u32)) -> Option<Kernel> {
        Some(Kernel {
            text: text.to_owned(),
            version,
        })
    }

    #[test]
    fn old_kernel_does_not_meet_the_requirements() {
        let old = operating_system("linux", None, linux("2.6.32-754.el6", (2, 6)));
        assert_eq!(old.state, State::Fail);
        assert_eq!(old.found, "linux, kernel 2.6.32-754.el6");
        let name = Some("Debian GNU/Linux 12 (bookworm)".to_owned());
        let new = operating_system("linux", name, linux("6.1.0-18-amd64", (6, 1)));
        assert_eq!(new.state, State::Ok);
        assert!(new.found.starts_with("Debian"), "{}", new.found);
        assert_eq!(operating_system("linux", None, None).state, State::Skipped);
        assert_eq!(operating_system("macos", None, None).state, State::Warn);
        assert_eq!(architecture("x86_64").state, State::Ok);
        assert_eq!(architecture("riscv64").state, State::Warn);
    }

    #[test]
    fn memory_is_judged_by_two_bounds() {
        for (mib, state) in [
            (16, State::Fail),
            (31, State::Fail),
            (32, State::Warn),
            (127, State::Warn),
            (128, State::Ok),
        ] {
            let free = memory(Some(mib * MIB), Some(4 * GIB));
            assert_eq!(free.state, state, "{mib}");
            let limit = memory_limit(Some(MemoryLimit::AtMost(mib * MIB)));
            assert_eq!(limit.state, state, "{mib}");
        }
        assert_eq!(
            memory(Some(512 * MIB), Some(4 * GIB)).found,
            "512 MiB free of 4.0 GiB"
        );
        assert_eq!(memory(None, Some(GIB)).found, "1.0 GiB in all");
        assert_eq!(memory(None, None).state, State::Skipped);
        assert_eq!(memory_limit(Some(MemoryLimit::Any)).state, State::Ok);
    }

    #[test]
    fn clock_before_the_release_is_a_failure() {
        assert_eq!(clock(0, Some("chronyd")).state, State::Fail);
        assert_eq!(clock(CLOCK_MIN_S, Some("chronyd")).state, State::Ok);
        assert_eq!(clock(CLOCK_MIN_S, None).state, State::Skipped);
        assert_eq!(open_files(Some(OpenFiles::AtMost(1024))).state, State::Warn);
        assert_eq!(open_files(Some(OpenFiles::Any)).state, State::Ok);
        assert_eq!(neighbours(Some(vec!["ALM"])).state, State::Warn);
    }

    #[test]
    fn missing_data_directory_is_judged_by_the_one_above() {
        let dir = crate::testing::TempDir::new("requirements");
        let path = dir.path().join("a/b");
        assert_eq!(facts::existing(&path).unwrap(), dir.path());
        let found = writable(&path);
        assert!(
            found.found.contains("does not exist yet"),
            "{}",
            found.found
        );
        assert_eq!(
            config_found(&path, Some("gone".into())).state,
            State::Skipped
        );
    }
}
