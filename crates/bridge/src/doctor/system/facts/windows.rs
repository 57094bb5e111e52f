//! Facts of Windows: a few system calls, and the registry.

use super::{Kernel, MemoryLimit, OpenFiles, parse};
use bridge_windows::system;
use std::path::Path;

/// Returns the name and version of the system.
pub(crate) fn os_name() -> Option<String> {
    Some(system::version())
}

/// Returns the version of the kernel: it is that of the system.
pub(crate) fn kernel() -> Option<Kernel> {
    None
}

/// Returns the memory that programs may still take, in bytes.
pub(crate) fn free_memory() -> Option<u64> {
    Some(system::memory()?.available)
}

/// Returns the memory of this machine, in bytes.
pub(crate) fn total_memory() -> Option<u64> {
    Some(system::memory()?.total)
}

/// Returns the limit of memory of a job object. A service has none, unless a program gives it one.
pub(crate) fn memory_limit() -> Option<MemoryLimit> {
    None
}

/// Returns the free space of the disk that has `path`, in bytes.
pub(crate) fn disk_free(path: &Path) -> Option<u64> {
    system::disk_free(path).ok()
}

/// Returns how many files this process may open. The system limits the memory of handles alone.
pub(crate) fn open_files() -> Option<OpenFiles> {
    Some(OpenFiles::Any)
}

/// Returns the program that sets the clock from the network.
pub(crate) fn clock_source() -> Option<&'static str> {
    system::has_time_service().then_some("the Windows time service")
}

/// Returns whether this user may write into a directory.
pub(crate) fn writable(dir: &Path) -> Option<bool> {
    Some(runtime::findings::is_writable(dir))
}

/// Returns the names of programs on this host that should not run next to a bridge. Both are installed as services, whose
/// command lines every user may read.
pub(crate) fn neighbours() -> Option<Vec<&'static str>> {
    let mut found = Vec::new();
    for line in system::service_commands() {
        if let Some(name) = parse::neighbour(&line)
            && !found.contains(&name)
        {
            found.push(name);
        }
    }
    Some(found)
}
