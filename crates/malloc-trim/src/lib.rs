//! The resident memory of the process, and the return of free memory to the system.
//!
//! With `bridge-windows` this crate has the only unsafe code of the product: three calls of the C library, which take numbers
//! and no pointer.

/// Returns the resident memory of this process in bytes, or `None` on systems that do not report it.
///
/// It asks the kernel and does not wait for a disk.
#[must_use]
pub fn resident() -> Option<u64> {
    #[cfg(windows)]
    let bytes = bridge_windows::system::resident();
    #[cfg(not(windows))]
    let bytes = of_proc();
    bytes
}

/// Reads a file of the kernel.
#[cfg(not(windows))]
fn of_proc() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The smallest allocation that has pages of its own, in bytes. Above the buffers that a long body is read into: new
/// pages for each of them would cost more than the read.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_PAGES_BYTES: libc::c_int = 192 * 1024;

/// Free bytes at the end of the heap that are kept: a few such buffers.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 512 * 1024;

/// Gives each large allocation pages of its own, which return to the system with it, and keeps a little free memory for the
/// others.
///
/// By itself glibc moves both limits up with the largest allocation that was freed, to at most 32 and 64 MiB. From then on a
/// body that grows leaves holes in the heap, as large as itself. Call it before other threads are started. It does
/// nothing with other C libraries.
pub fn separate_large() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` is unsafe only while other threads allocate (mallopt(3)): a wrong limit for one of their
    // allocations would be all. The values are within the range that it accepts.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// Returns the free pages of the allocator to the system.
///
/// glibc returns only the end of a heap: one small allocation after a burst of large ones keeps the
/// whole burst resident. The call takes milliseconds for some ten thousand free blocks and blocks other
/// allocations meanwhile, so it is not for the data path. It does nothing with other C libraries.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` (malloc_trim(3), MT-Safe) takes the locks of the allocator itself, and
    // touches pages in which nothing is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn memory_before_a_small_allocation_is_returned() {
        const PIECES: usize = 1024;
        const PIECE_BYTES: usize = 64 * 1024;
        let mut pieces = Vec::with_capacity(PIECES);
        for _ in 0..PIECES {
            pieces.push(vec![1u8; PIECE_BYTES]);
        }
        let pin = vec![1u8; 64];
        let held = resident().expect("/proc is there");
        drop(pieces);
        trim();
        let left = resident().expect("/proc is there");
        assert!(
            left + (PIECES * PIECE_BYTES / 2) as u64 <= held,
            "{left} of {held} bytes are left"
        );
        drop(pin);
    }

    #[test]
    fn large_allocations_return_without_a_trim() {
        const PIECES: usize = 64;
        const PIECE_BYTES: usize = 256 * 1024;
        separate_large();
        // Without the call, glibc keeps allocations of this size in the heap from now on.
        drop(vec![1u8; 2 * PIECE_BYTES]);
        let mut pieces = Vec::with_capacity(PIECES);
        for _ in 0..PIECES {
            pieces.push(vec![1u8; PIECE_BYTES]);
        }
        let pin = vec![1u8; 64];
        let held = resident().expect("/proc is there");
        drop(pieces);
        let left = resident().expect("/proc is there");
        assert!(
            left + (PIECES * PIECE_BYTES / 2) as u64 <= held,
            "{left} of {held} bytes are left"
        );
        drop(pin);
    }
}
