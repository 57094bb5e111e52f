//! Opening an audit file again: where its chain ends, and whether it is what the head says.
//!
//! ```text
//! half a line at the end     removed
//! last line, head's line     compared: what is missing or changed is written into the line `opened`
//! signature of the head      of this key, of a former one that a line names, or of none
//! ```

use super::super::head::{Head, HeadFile, head_path};
use super::names::{numbers_in, rotated, rotated_name};
use super::sha256;
use crate::text::{hex, unhex};
use runtime::files::{Dir, set_len};
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead as _, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Longest line that is read back, in bytes.
const LINE_MAX_BYTES: u64 = 64 * 1024;

/// The last line of a file.
pub(super) struct End {
    pub(super) seq: u64,
    pub(super) at: u64,
    pub(super) hash: [u8; 32],
}

impl End {
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(line).ok()?;
        Some(Self {
            seq: value["seq"].as_u64()?,
            at: value["at"].as_u64().unwrap_or_default(),
            hash: sha256(line),
        })
    }
}

/// The key that has signed a head and a start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Signer {
    /// The bridge's key.
    Own,
    /// The key that the bridge had before it was paired again.
    Former(Vec<u8>),
    /// Perhaps a former key: the lines of older versions do not name the key.
    Unknown,
    /// Not the key that the lines name: the head was changed.
    Invalid,
}

pub(super) fn head_name(name: &str) -> io::Result<String> {
    let head = head_path(Path::new(name));
    head.to_str()
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other("the file name is not UTF-8"))
}

/// Returns the head of an earlier run, if its file is readable.
pub(super) fn read_head(dir: &Dir, name: &str) -> io::Result<Option<(HeadFile, Head)>> {
    let Some(content) = dir.read(&head_name(name)?, LINE_MAX_BYTES)? else {
        return Ok(None);
    };
    let file: Option<HeadFile> = serde_json::from_slice(&content).ok();
    Ok(file.and_then(|file| file.unproved().map(|head| (file, head))))
}

/// Returns which key has signed the head.
pub(super) fn signer(dir: &Dir, name: &str, file: &HeadFile, own: &[u8]) -> Signer {
    if file.proved(own).is_some() {
        return Signer::Own;
    }
    // Rare, so that reading all lines does not matter.
    let keys = keys(dir, name);
    let signed = keys.iter().find(|(_, key)| file.proved(key).is_some());
    if let Some((_, key)) = signed {
        return Signer::Former(key.clone());
    }
    // A crash before the first signature with a new key leaves a line with that key after the head.
    match keys.iter().any(|(seq, _)| *seq <= file.seq) {
        true => Signer::Invalid,
        false => Signer::Unknown,
    }
}

/// Returns the public keys that the lines `opened` and the first lines of files name, with the numbers of these lines.
fn keys(dir: &Dir, name: &str) -> Vec<(u64, Vec<u8>)> {
    let rotated = numbers_in(dir, name);
    let rotated = rotated.iter().map(|number| rotated_name(name, *number));
    let mut keys = Vec::new();
    for name in std::iter::once(name.to_owned()).chain(rotated) {
        let Ok(file) = dir.open_file(&name) else {
            continue;
        };
        let lines = io::BufReader::new(file).split(b'\n');
        for line in lines.map_while(Result::ok) {
            let Ok(value) = serde_json::from_slice::<Value>(&line) else {
                continue;
            };
            let key = value["public_key"].as_str().and_then(unhex);
            if let (Some(seq), Some(key)) = (value["seq"].as_u64(), key) {
                keys.push((seq, key));
            }
        }
    }
    keys
}

/// Returns what is wrong with the lines from the signed head on, if anything is.
pub(super) fn broken_since(
    path: &Path,
    files_max: u32,
    head: &Head,
    last: Option<&End>,
) -> Option<String> {
    let Some(last) = last else {
        return (head.seq > 0).then(|| format!("all lines up to {} are missing", head.seq));
    };
    if last.seq < head.seq {
        return Some(format!(
            "the file ends at line {}, but line {} existed",
            last.seq, head.seq
        ));
    }
    // The files from the one with the head's line on: usually the current one alone.
    let mut files = Vec::new();
    for number in 0..=files_max {
        let file = match number {
            0 => path.to_owned(),
            number => rotated(path, number),
        };
        let first = runtime::files::open(&file).and_then(first_line);
        let Ok(first) = first else {
            break;
        };
        files.push(file);
        if first.is_some_and(|(seq, _)| seq <= head.seq) {
            break;
        }
    }
    files.reverse();
    super::super::verify::check_since(&files, head.seq, &hex(&head.hash)).err()
}

/// Returns the number of the first line, and the hash of the line before it, or `None` for an empty file.
pub(super) fn first_line(file: File) -> io::Result<Option<(u64, String)>> {
    let mut line = Vec::new();
    io::BufReader::new(file.take(LINE_MAX_BYTES)).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(&line)?;
    let seq = value["seq"].as_u64();
    let seq = seq.ok_or_else(|| io::Error::other("the line has no seq"))?;
    Ok(Some((
        seq,
        value["prev"].as_str().unwrap_or_default().to_owned(),
    )))
}

/// Removes half a line that a crash left at the end. Returns its length in bytes.
pub(super) fn cut_half_line(file: &mut File) -> io::Result<u64> {
    let bytes = file.metadata()?.len();
    let from = bytes.saturating_sub(LINE_MAX_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    io::Read::take(&mut *file, LINE_MAX_BYTES).read_to_end(&mut tail)?;
    let complete = match tail.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => from + end as u64 + 1,
        None if from == 0 => 0,
        None => {
            return Err(io::Error::other(
                "not an audit file: its last line is too long; move the file away",
            ));
        }
    };
    set_len(file, complete)?;
    Ok(bytes - complete)
}

/// Returns the last line without its line break, or `None` if the file is empty.
pub(super) fn last_line(file: &mut File, bytes: u64) -> io::Result<Option<Vec<u8>>> {
    if bytes == 0 {
        return Ok(None);
    }
    let from = bytes.saturating_sub(LINE_MAX_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    io::Read::take(&mut *file, LINE_MAX_BYTES).read_to_end(&mut tail)?;
    let text = tail.strip_suffix(b"\n").unwrap_or(&tail);
    let start = text.iter().rposition(|byte| *byte == b'\n');
    Ok(Some(text[start.map_or(0, |at| at + 1)..].to_vec()))
}
