//! The names of rotated files: `audit.jsonl.1` is the latest one, the highest number the oldest.
//!
//! ```text
//! rotation:    .2 -> .3, .1 -> .2, audit.jsonl -> .1, a new audit.jsonl
//! after a crash between two renames, one number is missing:   audit.jsonl, .1, .3
//! ```
//!
//! Readers skip a missing number. The bridge gives the files consecutive numbers again before it continues.

use runtime::files::Dir;
use std::io;
use std::path::{Path, PathBuf};

/// The highest number of a rotated file.
const NUMBER_MAX: u32 = 9_999;

pub(super) fn rotated_name(name: &str, number: u32) -> String {
    format!("{name}.{number}")
}

/// Returns the path of a rotated file.
pub(in crate::audit) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Returns the numbers of the rotated files, from the latest on. Two missing numbers in a row end the list: a crash
/// leaves only one.
pub(in crate::audit) fn numbers(exists: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut numbers = Vec::new();
    let mut next = 1;
    while let Some(number) = (next..next + 2).find(|number| exists(*number)) {
        if number > NUMBER_MAX {
            break;
        }
        numbers.push(number);
        next = number + 1;
    }
    numbers
}

/// Returns the numbers that are missing between those of the rotated files.
pub(in crate::audit) fn missing(numbers: &[u32]) -> Vec<u32> {
    let last = numbers.last().copied().unwrap_or_default();
    (1..last)
        .filter(|number| !numbers.contains(number))
        .collect()
}

/// Returns the numbers of the rotated files in a directory.
pub(super) fn numbers_in(dir: &Dir, name: &str) -> Vec<u32> {
    numbers(|number| dir.open_file(&rotated_name(name, number)).is_ok())
}

/// Gives the rotated files consecutive numbers, which they do not have after a crash between two renames.
///
/// # Errors
/// The system's error.
pub(super) fn close_gaps(dir: &Dir, name: &str) -> io::Result<()> {
    let numbers = numbers_in(dir, name);
    if missing(&numbers).is_empty() {
        return Ok(());
    }
    // From the latest on: each file moves to a number that is free. A crash leaves one number missing, as before.
    for (wanted, number) in (1..).zip(numbers) {
        if wanted != number {
            dir.rename(&rotated_name(name, number), &rotated_name(name, wanted))?;
        }
    }
    dir.sync()
}
