//! Facts of this machine: one function for each. `None` means that the system does not report the fact.
//!
//! `parse` reads the texts of the kernel; it needs no system and has the tests. `unix`, `windows` and `other` ask the system.

#[cfg(not(any(unix, windows)))]
mod other;
// Windows has the names of programs alone.
#[cfg(any(unix, windows, test))]
#[cfg_attr(windows, allow(dead_code, reason = "most texts are those of Unix"))]
mod parse;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(not(any(unix, windows)))]
pub(crate) use other::{
    clock_source, disk_free, free_memory, kernel, memory_limit, neighbours, open_files, os_name,
    total_memory, writable,
};
#[cfg(unix)]
pub(crate) use unix::{
    clock_source, disk_free, free_memory, kernel, memory_limit, neighbours, open_files, os_name,
    total_memory, writable,
};
#[cfg(windows)]
pub(crate) use windows::{
    clock_source, disk_free, free_memory, kernel, memory_limit, neighbours, open_files, os_name,
    total_memory, writable,
};

use std::path::{Path, PathBuf};

/// The version of an operating system's kernel.
#[cfg_attr(not(unix), allow(dead_code, reason = "only some systems report it"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As the system shows it.
    pub(crate) text: String,
    /// Its first two numbers.
    pub(crate) version: (u32, u32),
}

/// How many files this process may open.
#[cfg_attr(not(unix), allow(dead_code, reason = "only some systems report it"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenFiles {
    /// At most this many.
    AtMost(u64),
    /// Any number.
    Any,
}

/// The limit of memory that a control group or container sets.
#[cfg_attr(not(unix), allow(dead_code, reason = "only some systems report it"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryLimit {
    /// Bytes.
    AtMost(u64),
    /// There is none.
    Any,
}

/// Returns the number of cores that this process may use.
pub(crate) fn cores() -> std::io::Result<usize> {
    Ok(std::thread::available_parallelism()?.get())
}

/// Returns the path, or the closest directory above it that exists.
pub(crate) fn existing(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        // The last ancestor of a relative path is empty.
        .map(|dir| match dir.as_os_str().is_empty() {
            true => Path::new("."),
            false => dir,
        })
        .find(|dir| dir.exists())
        .map(Path::to_owned)
}
