//! What commands print. A reader that has gone (`| head`) ends a command quietly, and a disk that is full
//! fails it: never with a panic.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that a command wanted to print is lost.
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// Prints a text to standard output. Returns whether it was taken.
pub fn print(text: &str) -> bool {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = &written
        && !IS_LOST.swap(true, Ordering::Relaxed)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        complain(&format!("the output cannot be written: {error}"));
    }
    written.is_ok()
}

/// Whether something was lost: the command has failed.
pub fn is_lost() -> bool {
    IS_LOST.load(Ordering::Relaxed)
}

/// Prints an error to standard error, if that takes it.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "error: {line}");
}
