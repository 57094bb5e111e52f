//! Facts of systems other than Unix, of which the standard library reports few.

use super::{Kernel, MemoryLimit, OpenFiles};
use std::path::Path;

/// Returns the name and version of the system.
pub(crate) fn os_name() -> Option<String> {
    None
}

/// Returns the version of the kernel.
pub(crate) fn kernel() -> Option<Kernel> {
    None
}

/// Returns the memory that programs may still take, in bytes.
pub(crate) fn free_memory() -> Option<u64> {
    None
}

/// Returns the memory of this machine, in bytes.
pub(crate) fn total_memory() -> Option<u64> {
    None
}

/// Returns the limit of memory of a control group or container.
pub(crate) fn memory_limit() -> Option<MemoryLimit> {
    None
}

/// Returns the free space of the disk that has `path`, in bytes.
pub(crate) fn disk_free(_: &Path) -> Option<u64> {
    None
}

/// Returns how many files this process may open.
pub(crate) fn open_files() -> Option<OpenFiles> {
    None
}

/// Returns the program that sets the clock from the network.
pub(crate) fn clock_source() -> Option<&'static str> {
    None
}

/// Returns whether this user may write into a directory.
pub(crate) fn writable(_: &Path) -> Option<bool> {
    None
}

/// Returns the names of programs on this host that should not run next to a bridge.
pub(crate) fn neighbours() -> Option<Vec<&'static str>> {
    None
}
