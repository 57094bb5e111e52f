//! Fields of log lines without what a peer could forge with: line breaks, and the escapes of a terminal.

use crate::log::Lines;
use crate::peer_text::{Escaping, escape};
use std::fmt::{self, Write as _};
use std::io;
use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

/// Writes a field of an event as `name=value`, and the message alone.
pub(super) fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => {}
        name if writer.has_ansi_escapes() => {
            // Italic and dimmed, as in the library's own format.
            write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
        }
        name => write!(writer, "{name}=")?,
    }
    write!(Escaping::line(writer), "{value:?}")
}

/// Escapes in lines of JSON what JSON itself allows in strings, such as C1 and changes of direction.
pub(super) struct EscapedLines(pub(super) Lines);

impl io::Write for EscapedLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line.strip_suffix(b"\n").unwrap_or(line)) {
            Ok(text) => {
                let mut text = escape(text).into_owned();
                text.push('\n');
                io::Write::write_all(&mut self.0, text.as_bytes())?;
            }
            // The formatter writes UTF-8 only.
            Err(_) => io::Write::write_all(&mut self.0, line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Written;
    use super::*;
    use tracing_subscriber::field::MakeExt as _;
    use tracing_subscriber::fmt::format::debug_fn;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn peer_text_forges_no_log_line() {
        let hostile = "x\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J\u{9b}31m\u{202e}\r";
        for is_terminal in [false, true] {
            let written = Written::default();
            let writer = written.clone();
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(move || writer.clone())
                .fmt_fields(debug_fn(field).delimited(" "))
                .with_ansi(is_terminal);
            let subscriber = tracing_subscriber::registry().with(layer);
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(host = %hostile, text = hostile, number = 3, "hello {hostile}");
            });
            let text = written.text();
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains("\u{1b}[2J"), "{text:?}");
            for c in ['\r', '\u{9b}', '\u{202e}'] {
                assert!(!text.contains(c), "{text:?}");
            }
            if !is_terminal {
                assert!(text.contains("hello x\\n2026"), "{text:?}");
                assert!(text.contains("host=x\\n2026"), "{text:?}");
                assert!(text.contains(" number=3"), "{text:?}");
                assert!(!text.contains('\u{1b}'), "{text:?}");
            }
        }
    }
}
