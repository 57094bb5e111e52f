//! What commands print. A closed pipe (`| head`) ends a command quietly, and a full disk fails it; neither panics.
//!
//! Control characters are escaped: much of what commands print came from a peer, and a terminal would obey it.

use crate::peer_text::{escape, escape_document};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a part of the output was lost.
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// Prints a text of whole lines to standard output. Returns whether it was written.
pub fn print(text: &str) -> bool {
    write(&escape_document(text))
}

/// Clears the terminal and moves the cursor to its top.
pub fn clear_terminal() -> bool {
    write("\u{1b}[2J\u{1b}[H")
}

fn write(text: &str) -> bool {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = &written
        && !IS_LOST.swap(true, Ordering::Relaxed)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        complain(&format!("cannot write the output: {error}"));
    }
    written.is_ok()
}

/// Whether a part of the output was lost, so that the command has failed.
pub fn is_lost() -> bool {
    IS_LOST.load(Ordering::Relaxed)
}

/// Whether standard output leads nowhere, although writing to it succeeds: it is `/dev/null`. A program that is started
/// with a closed output gets that as well, from the runtime of the language.
#[cfg(unix)]
pub fn is_discarded() -> bool {
    use std::fs::{File, metadata};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let own = io::stdout().as_fd().try_clone_to_owned();
    let own = own.and_then(|own| File::from(own).metadata());
    match (own, metadata("/dev/null")) {
        (Ok(own), Ok(null)) => own.file_type().is_char_device() && own.rdev() == null.rdev(),
        // What it is shows when something is written.
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// Whether standard output leads nowhere; not known on this system.
#[cfg(not(unix))]
pub fn is_discarded() -> bool {
    false
}

/// Prints a warning to standard error, if that is possible.
pub fn warn(line: &str) {
    let _ = writeln!(io::stderr(), "warning: {}", escape(line));
}

/// Prints an error to standard error, if that is possible.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "error: {}", escape(line));
}

/// Returns a number with its noun: `1 session`, `2 sessions`.
pub fn counted(count: impl TryInto<u64>, noun: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noun_follows_its_number() {
        let texts = [0_usize, 1, 2].map(|count| counted(count, "session"));
        assert_eq!(texts, ["0 sessions", "1 session", "2 sessions"]);
    }
}
