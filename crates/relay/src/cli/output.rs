//! Output of commands: lines for people, JSON for programs. A closed pipe is an error, not a panic.
//!
//! Control characters are escaped: a bridge, a caller or a target may have chosen the text.

use super::CliError;
use runtime::peer_text::{escape, escape_document};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write as _;

/// Prints lines.
pub(super) fn lines<T: AsRef<str>>(lines: &[T]) -> Result<(), CliError> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&escape(line.as_ref()));
        text.push('\n');
    }
    write(&text)
}

/// Prints a text as it is.
pub(super) fn text(text: &str) -> Result<(), CliError> {
    write(text)
}

/// Prints a JSON document.
pub(super) fn json(document: &Value) -> Result<(), CliError> {
    write(&escape_document(&format!("{document:#}\n")))
}

/// Prints a table, or `empty` if it has no rows.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: &[[String; N]],
    empty: &str,
) -> Result<(), CliError> {
    if rows.is_empty() {
        return lines(&[empty]);
    }
    // Cells come from the database, where bridges and callers have put some of them.
    let rows: Vec<_> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| escape(cell)))
        .collect();
    let mut widths = header.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            // Characters instead of bytes: names may have letters outside ASCII.
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut put = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    put(header);
    for row in &rows {
        put(row.each_ref().map(|cell| &**cell));
    }
    write(&text)
}

fn write(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CliError::Output)
}
