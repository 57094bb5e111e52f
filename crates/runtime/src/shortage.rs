//! Temporary shortages of this machine: file descriptors, memory, ports, disk space.
//!
//! A shortage is never reported as the fault of a target or of a peer, and the program recovers from it without a
//! restart.

use std::error::Error;
use std::io;

/// Whether the process or the machine has no descriptor, memory or buffer left.
pub fn is_shortage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory || is_no_resource(error)
}

/// The same for a failed connection, where also no local port may be left.
///
/// A machine without an address of the target's family reports the same error as one without a free port.
/// `has_address` returns whether it has one.
pub fn is_connect_shortage(error: &io::Error, has_address: impl FnOnce() -> bool) -> bool {
    is_shortage(error) || (error.kind() == io::ErrorKind::AddrNotAvailable && has_address())
}

/// Whether a disk fails, perhaps temporarily: it is full, over its quota, read-only, or has an I/O error. Includes
/// [`is_shortage`].
pub fn is_disk_trouble(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StaleNetworkFileHandle
            | io::ErrorKind::TimedOut
    ) || is_io_error(error)
        || is_shortage(error)
}

/// Returns the I/O error in a chain of errors, if there is one.
pub fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            // An error that wraps another has no error number of its own: the inner one has it.
            let inner = found
                .get_ref()
                .and_then(|inner| io_error(inner as &(dyn Error + 'static)));
            return Some(inner.unwrap_or(found));
        }
        next = error.source();
    }
    None
}

/// Returns the cause of a failed file or socket operation in words for an administrator, as a sentence after a colon.
pub fn in_words(error: &io::Error) -> String {
    // The text of a program, not of the system.
    if error.get_ref().is_some() {
        return error.to_string();
    }
    let words = match error.kind() {
        io::ErrorKind::NotFound => "it does not exist",
        io::ErrorKind::AlreadyExists => "it exists already",
        io::ErrorKind::PermissionDenied => "this user has no permission",
        io::ErrorKind::NotADirectory => "a part of its path is a file, not a directory",
        io::ErrorKind::IsADirectory => "it is a directory",
        io::ErrorKind::StorageFull => "the disk is full",
        io::ErrorKind::QuotaExceeded => "the quota of the disk is used up",
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only",
        io::ErrorKind::AddrInUse => "another program uses this address",
        io::ErrorKind::AddrNotAvailable => "this machine does not have this address",
        io::ErrorKind::ConnectionRefused => "nothing listens there",
        _ => {
            let text = error.to_string();
            return match text.rfind(" (os error ") {
                Some(at) => text[..at].to_owned(),
                None => text,
            };
        }
    };
    words.to_owned()
}

/// Whether a chain of errors contains a shortage.
pub fn is_in(error: &(dyn Error + 'static)) -> bool {
    io_error(error).is_some_and(is_shortage)
}

#[cfg(unix)]
fn is_no_resource(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
    )
}

#[cfg(windows)]
fn is_no_resource(error: &io::Error) -> bool {
    // ERROR_TOO_MANY_OPEN_FILES, ERROR_NO_SYSTEM_RESOURCES, ERROR_NONPAGED_SYSTEM_RESOURCES,
    // ERROR_COMMITMENT_LIMIT, WSAEMFILE, WSAENOBUFS.
    matches!(
        error.raw_os_error(),
        Some(4 | 1450 | 1451 | 1455 | 10024 | 10055)
    )
}

#[cfg(not(any(unix, windows)))]
fn is_no_resource(_: &io::Error) -> bool {
    false
}

#[cfg(unix)]
fn is_io_error(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::IO)
}

#[cfg(windows)]
fn is_io_error(error: &io::Error) -> bool {
    // ERROR_NOT_READY, ERROR_CRC, ERROR_SECTOR_NOT_FOUND, ERROR_WRITE_FAULT, ERROR_READ_FAULT, ERROR_GEN_FAILURE,
    // ERROR_IO_DEVICE, ERROR_DEVICE_NOT_CONNECTED. A virus scanner or a backup may have the file open for a moment:
    // ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION.
    matches!(
        error.raw_os_error(),
        Some(21 | 23 | 27 | 29 | 30 | 31 | 32 | 33 | 1117 | 1167)
    )
}

#[cfg(not(any(unix, windows)))]
fn is_io_error(_: &io::Error) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn system_error_is_in_plain_words() {
        let of = |errno: Errno| in_words(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert_eq!(of(Errno::NOENT), "it does not exist");
        assert_eq!(of(Errno::ADDRINUSE), "another program uses this address");
        for errno in [Errno::IO, Errno::NOTDIR, Errno::MFILE, Errno::LOOP] {
            assert!(!of(errno).contains("os error"), "{errno:?}");
        }
        assert_eq!(in_words(&io::Error::new(io::ErrorKind::NotFound, "x")), "x");
    }

    #[test]
    fn shortage_differs_from_refusal() {
        let of = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS] {
            assert!(is_shortage(&of(errno)) && is_disk_trouble(&of(errno)));
            let wrapped = io::Error::other(of(errno));
            assert!(is_in(&wrapped), "{errno:?}");
        }
        for errno in [
            Errno::CONNREFUSED,
            Errno::HOSTUNREACH,
            Errno::CONNRESET,
            Errno::ACCESS,
        ] {
            assert!(!is_shortage(&of(errno)) && !is_disk_trouble(&of(errno)));
        }
        for errno in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::ROFS,
            Errno::IO,
            Errno::STALE,
        ] {
            assert!(
                is_disk_trouble(&of(errno)) && !is_shortage(&of(errno)),
                "{errno:?}"
            );
        }
        let no_port = of(Errno::ADDRNOTAVAIL);
        assert!(is_connect_shortage(&no_port, || true));
        assert!(!is_connect_shortage(&no_port, || false));
    }
}
