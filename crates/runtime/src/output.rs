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

/// Prints an error to standard error, if that is possible.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "error: {}", escape(line));
}
