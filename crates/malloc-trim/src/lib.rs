//! What the process holds of the host's memory, and giving back what it no longer uses.
//!
//! The home of the product's only unsafe code: one call of the C library, which takes a number and no
//! pointer.

/// Resident memory of this process in bytes; `None` where the system does not tell it in `/proc`.
///
/// Reads a file of the kernel's; does not wait for a disk.
#[must_use]
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Returns to the system the pages that the allocator keeps without using them.
///
/// glibc returns the end of a heap alone: one small allocation behind a burst of large ones keeps all of
/// the burst resident, without end. Takes milliseconds for some ten thousand free pieces, and holds up
/// whoever allocates meanwhile; so not for the data path. Does nothing with another C library.
pub fn give_back() {
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
    fn what_was_freed_behind_something_small_goes_back() {
        const PIECES: usize = 1024;
        const PIECE_BYTES: usize = 64 * 1024;
        let mut pieces = Vec::with_capacity(PIECES);
        for _ in 0..PIECES {
            pieces.push(vec![1u8; PIECE_BYTES]);
        }
        let pin = vec![1u8; 64];
        let held = resident().expect("/proc is there");
        drop(pieces);
        give_back();
        let left = resident().expect("/proc is there");
        assert!(
            left + (PIECES * PIECE_BYTES / 2) as u64 <= held,
            "{left} of {held} bytes are left"
        );
        drop(pin);
    }
}
