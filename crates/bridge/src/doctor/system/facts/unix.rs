//! Facts of a Unix system: texts of the kernel under `/proc` and `/sys`, and a few system calls.

use super::{Kernel, MemoryLimit, OpenFiles, parse};
use std::fs;
use std::path::Path;

/// Returns the name and version of the system.
pub(crate) fn os_name() -> Option<String> {
    // A container from scratch has neither file: its system is that of the host, which it cannot see.
    let files = ["/etc/os-release", "/usr/lib/os-release"];
    let mut texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    texts.find_map(|text| parse::os_release(&text))
}

/// Returns the version of the kernel.
pub(crate) fn kernel() -> Option<Kernel> {
    parse::kernel(&fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
}

/// Returns the memory that programs may still take, in bytes.
pub(crate) fn free_memory() -> Option<u64> {
    // Not `MemFree`: the kernel gives memory of its page cache to programs that need it. Kernels before 3.14 do
    // not report it.
    meminfo("MemAvailable")
}

/// Returns the memory of this machine, in bytes.
pub(crate) fn total_memory() -> Option<u64> {
    meminfo("MemTotal")
}

fn meminfo(key: &str) -> Option<u64> {
    parse::meminfo(&fs::read_to_string("/proc/meminfo").ok()?, key)
}

/// Returns the limit of memory of a control group or container.
pub(crate) fn memory_limit() -> Option<MemoryLimit> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    parse::memory_limit(&groups, |file| {
        fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()
    })
}

/// Returns the free space of the disk that has `path`, in bytes.
pub(crate) fn disk_free(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    // `f_bavail`, not `f_bfree`: a part of the disk is reserved for root.
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Returns how many files this process may open.
pub(crate) fn open_files() -> Option<OpenFiles> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Some(limit.current.map_or(OpenFiles::Any, OpenFiles::AtMost))
}

/// Returns the program that sets the clock from the network.
pub(crate) fn clock_source() -> Option<&'static str> {
    // Files that these programs keep while they run, so that no other program must be started.
    let signs = [
        ("/run/systemd/timesync/synchronized", "systemd-timesyncd"),
        ("/run/chrony/chronyd.pid", "chronyd"),
        ("/run/chronyd.pid", "chronyd"),
        ("/var/run/chronyd.pid", "chronyd"),
        ("/run/ntpd.pid", "ntpd"),
        ("/var/run/ntpd.pid", "ntpd"),
    ];
    let found = signs.iter().find(|(file, _)| Path::new(file).exists());
    found.map(|(_, program)| *program)
}

/// Returns whether this user may write into a directory.
pub(crate) fn writable(dir: &Path) -> Option<bool> {
    Some(rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok())
}

/// Returns the names of programs on this host that should not run next to a bridge.
pub(crate) fn neighbours() -> Option<Vec<&'static str>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        let Some(line) = is_process
            // Processes of other users may be hidden, and any process may have ended since.
            .then(|| fs::read(entry.path().join("cmdline")).ok())
            .flatten()
        else {
            continue;
        };
        if let Some(name) = parse::neighbour(&String::from_utf8_lossy(&line))
            && !found.contains(&name)
        {
            found.push(name);
        }
    }
    Some(found)
}
