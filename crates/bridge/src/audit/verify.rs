//! `audit verify`: checks that an audit file is exactly what the bridge wrote, and says what cannot be concluded.

use super::head::{HeadFile, head_path};
use super::lines::{missing, numbers, rotated};
use crate::text::hex;
use ring::digest::{SHA256, digest};
use runtime::shortage::in_words;
use serde_json::Value;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

/// Longest line of a valid file, in bytes.
const LINE_MAX_BYTES: usize = 1024 * 1024;

/// The hash before the very first line.
const NO_LINE: [u8; 32] = [0; 32];

/// The result for a file without a defect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// Files that were read, including rotated ones.
    pub(crate) files: usize,
    /// Numbers that no rotated file has, as after a crash during a rotation.
    pub(crate) missing_numbers: Vec<u32>,
    /// The number of the first line.
    pub(crate) first: u64,
    /// The number of the last line.
    pub(crate) last: u64,
    /// The hash of the last line.
    pub(crate) hash: String,
    /// The line up to which the bridge has signed.
    pub(crate) signed: u64,
    /// The bytes of a last line that is not complete, as after a crash; 0 if it is.
    pub(crate) unfinished_bytes: u64,
    /// What cannot be concluded. Empty for a valid file.
    pub(crate) unproved: Vec<Unproved>,
}

/// What cannot be concluded from the files that were given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unproved {
    /// There is no head.
    #[error(
        "that the bridge wrote these lines, and that none is missing at the end: the head is not there; name its \
         copy with --head-file, or a line that the relay has stored with --head"
    )]
    NoHead,
    /// The bridge has signed no line.
    #[error("that the bridge wrote these lines: its head was signed before the first one")]
    NothingSigned,
    /// There is no signed start.
    #[error(
        "that none is missing at the beginning: earlier lines may have been removed by rotation or by hand"
    )]
    NoStart,
    /// Earlier lines were signed with another key, perhaps before a pairing with another relay.
    #[error(
        "that the lines before line {line} are what the bridge wrote: it had another key then{key}; since that line \
         nothing was changed or removed{remedy}",
        key = match former {
            Some(former) => format!(", with the fingerprint {former}"),
            None => ", which the lines do not name".to_owned(),
        },
        remedy = match former {
            Some(_) => "; if that was this bridge's key, give the fingerprint with --former-key",
            None => "",
        }
    )]
    OtherKey {
        /// The line that records the change.
        line: u64,
        /// The fingerprint of the key before, if the bridge knew it.
        former: Option<String>,
    },
}

/// A line's number and hash that were stored elsewhere, for example at the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) seq: u64,
    pub(crate) hash: String,
}

/// Why a file is not valid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// A file cannot be read.
    #[error("cannot read {path}: {why}", path = .path.display(), why = in_words(.source))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There are no lines.
    #[error("{path} is empty", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A line does not follow the previous one.
    #[error("{path}:{line}: {what}", path = .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line in that file, from 1.
        line: usize,
        /// The defect.
        what: String,
    },
    /// The head or an anchor does not match.
    #[error("{0}")]
    Head(String),
}

/// Reads all parts of an audit file, oldest first, and compares them with the signed head and start, and with anchors.
/// `head_file` is the head's file, if it is not next to the audit file.
///
/// # Errors
/// The first defect.
pub(crate) fn verify(
    path: &Path,
    head_file: Option<&Path>,
    public_key: &[u8],
    anchors: &[Anchor],
) -> Result<Verified, Broken> {
    // A crash during a rotation leaves one number missing. The highest number is the oldest file.
    let numbers = numbers(|number| rotated(path, number).exists());
    let mut files: Vec<PathBuf> = numbers
        .iter()
        .rev()
        .map(|number| rotated(path, *number))
        .collect();
    files.push(path.to_owned());
    let head = match head_file {
        Some(file) => Some(head(file, public_key)?),
        None => match head(&head_path(path), public_key) {
            // A copy of the lines alone. What they are is still checked.
            Err(Broken::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            head => Some(head?),
        },
    };
    let mut unproved = Vec::new();
    let mut all: Vec<Anchor> = anchors.to_vec();
    match &head {
        None => {}
        Some(head) if head.seq == 0 => unproved.push(Unproved::NothingSigned),
        // Signed by the bridge, so it counts like one that was stored elsewhere.
        Some(head) => all.push(Anchor {
            seq: head.seq,
            hash: head.hash.to_ascii_lowercase(),
        }),
    }
    let mut chain = Chain::default();
    let mut unfinished_bytes = 0;
    for file in &files {
        // A rotated file was complete before it was renamed.
        let end = match file == path {
            true => End::MayBeUnfinished,
            false => End::Complete,
        };
        unfinished_bytes = read(file, end, &mut chain, &all)?;
    }
    let (first, last) = chain.first.zip(chain.last).ok_or_else(|| Broken::Empty {
        path: path.to_owned(),
    })?;
    for anchor in &all {
        if anchor.seq > last.0 {
            return Err(Broken::Head(format!(
                "the file ends at line {}, but line {} existed: its end was cut off",
                last.0, anchor.seq
            )));
        }
    }
    let start = head.as_ref().and_then(|head| head.start.as_ref());
    let start = start.map(|start| (start.seq, start.prev.to_ascii_lowercase()));
    match start {
        Some((seq, _)) if first.0 > seq => {
            return Err(Broken::Head(format!(
                "the file begins at line {}, but line {seq} has to exist: its beginning was removed",
                first.0
            )));
        }
        Some((seq, prev)) if first.0 == seq && first.1 != prev => {
            return Err(Broken::Head(format!(
                "line {seq} was changed: it does not follow the line that was before it"
            )));
        }
        Some(_) => {}
        None if first.0 > 1 => unproved.push(Unproved::NoStart),
        None => {}
    }
    if first.0 <= 1 && first.1 != hex(&NO_LINE) {
        return Err(Broken::Head(
            "line 1 was changed: no line was before it".into(),
        ));
    }
    if let Some(line) = chain.invalid_head {
        return Err(Broken::Head(format!(
            "line {line}: when the bridge opened the file, the head was not signed with its key; the lines before it \
             may have been changed"
        )));
    }
    let is_anchored = |line: u64| anchors.iter().any(|anchor| anchor.seq + 1 == line);
    let mut changes = chain.key_changes;
    while let Some((line, former)) = changes.pop() {
        // The last change from a key covers the earlier ones.
        changes.retain(|(_, earlier)| *earlier != former);
        if !is_anchored(line) {
            unproved.push(Unproved::OtherKey { line, former });
        }
    }
    if head.is_none() && !anchors.iter().any(|anchor| anchor.seq == last.0) {
        unproved.push(Unproved::NoHead);
    }
    Ok(Verified {
        files: files.len(),
        missing_numbers: missing(&numbers),
        first: first.0,
        last: last.0,
        hash: last.1,
        signed: head.map_or(0, |head| head.seq),
        unfinished_bytes,
        unproved,
    })
}

/// Checks the chain in these files, oldest first, which must have the line `seq` with this hash; no line for 0.
///
/// # Errors
/// The first defect.
pub(super) fn check_since(files: &[PathBuf], seq: u64, hash: &str) -> Result<(), String> {
    let anchor = Anchor {
        seq,
        hash: hash.to_owned(),
    };
    let mut chain = Chain::default();
    for file in files {
        // The bridge has removed an unfinished line before.
        read(
            file,
            End::Complete,
            &mut chain,
            std::slice::from_ref(&anchor),
        )
        .map_err(|error| error.to_string())?;
    }
    match chain.first {
        Some((first, _)) if first > seq.max(1) => {
            Err(format!("line {seq} is missing; the files begin at {first}"))
        }
        Some(_) => Ok(()),
        None => Err("there are no lines".to_owned()),
    }
}

/// Returns the head, if its signatures are valid.
fn head(path: &Path, public_key: &[u8]) -> Result<HeadFile, Broken> {
    // Without following links: root may verify a file of the bridge's own user, which could link to another.
    let mut text = Vec::new();
    runtime::files::open(path)
        .and_then(|file| file.take(LINE_MAX_BYTES as u64).read_to_end(&mut text))
        .map_err(|source| Broken::Io {
            path: path.to_owned(),
            source,
        })?;
    let wrong = |what: &str| Broken::Head(format!("{}: {what}", path.display()));
    let file: HeadFile =
        serde_json::from_slice(&text).map_err(|_| wrong("not a head of an audit file"))?;
    if file.unproved().is_none() {
        return Err(wrong("not a head of an audit file"));
    }
    match file.proved(public_key) {
        Some(_) => Ok(file),
        // Also before the first line: an unsigned head would fit to any lines.
        None if file.signature.is_empty() => Err(wrong("the head is not signed")),
        None => Err(wrong(
            "the signature is not of this bridge's key; if the bridge was paired again, start it once: it signs with \
             its new key, and records the change",
        )),
    }
}

/// The chain so far: the first line's number and predecessor; the last line's number and hash.
#[derive(Default)]
struct Chain {
    first: Option<(u64, String)>,
    last: Option<(u64, String)>,
    /// The lines that record a new key of the bridge, and the fingerprint of the former one.
    key_changes: Vec<(u64, Option<String>)>,
    /// The line that records a head that no key of the bridge has signed.
    invalid_head: Option<u64>,
}

impl Chain {
    /// Notes what the bridge found when it opened the file.
    fn opened(&mut self, seq: u64, line: &Value) {
        match line["head_key"].as_str() {
            Some("invalid") => self.invalid_head = Some(seq),
            // As former versions wrote it.
            Some("another") => self.key_changes.push((seq, None)),
            Some(_) | None => {}
        }
        if let Some(change) = line.get("key_changed") {
            let former = change["from"].as_str().map(str::to_owned);
            self.key_changes.push((seq, former));
        }
    }
}

/// Whether a file may end in the middle of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A crash or a power failure may have left a part of a line, or zeros in its place. If the bridge had signed the
    /// line, it is missing before the head.
    MayBeUnfinished,
    /// Every line is complete.
    Complete,
}

/// Reads a file, and continues the chain. Returns the bytes of an unfinished last line, which is no part of the chain.
fn read(path: &Path, end: End, chain: &mut Chain, anchors: &[Anchor]) -> Result<u64, Broken> {
    let failed = |source| Broken::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(runtime::files::open(path).map_err(failed)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if file.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        let is_finished = line.last() == Some(&b'\n');
        if is_finished {
            line.pop();
        }
        let broken = |what: String| Broken::Line {
            path: path.to_owned(),
            line: number,
            what,
        };
        let value = match serde_json::from_slice::<Value>(&line) {
            // No part of an object is valid JSON.
            Err(_) if !is_finished && end == End::MayBeUnfinished => {
                return Ok(line.len() as u64);
            }
            _ if line.len() > LINE_MAX_BYTES => {
                return Err(broken("the line is too long".into()));
            }
            value => value.map_err(|_| broken("the line is not JSON".into()))?,
        };
        let seq = value["seq"]
            .as_u64()
            .ok_or_else(|| broken("the line has no seq".into()))?;
        let prev = value["prev"].as_str().unwrap_or_default();
        // The first line has no predecessor here: earlier files may have been removed by rotation.
        if let Some((last, hash)) = &chain.last {
            if seq != last + 1 {
                return Err(broken(format!(
                    "line {} is missing; line {seq} follows",
                    last + 1
                )));
            }
            if prev != hash {
                return Err(broken(format!("line {last} or {seq} was changed")));
            }
        }
        let hash = hex(digest(&SHA256, &line).as_ref());
        let anchor = anchors.iter().find(|anchor| anchor.seq == seq);
        if anchor.is_some_and(|anchor| anchor.hash != hash) {
            return Err(broken(format!(
                "line {seq} was changed: its hash differs from the signed or given one"
            )));
        }
        if value["event"] == "opened" {
            chain.opened(seq, &value);
        }
        chain.first.get_or_insert_with(|| (seq, prev.to_owned()));
        chain.last = Some((seq, hash));
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
