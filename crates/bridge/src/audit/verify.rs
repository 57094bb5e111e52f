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
mod tests {
    use super::super::{Audit, Keep};
    use super::*;
    use crate::identity::Key;
    use crate::testing::TempDir;
    use serde_json::json;
    use std::fs;
    use std::time::Duration;

    fn keep(bytes: u64) -> Keep {
        Keep {
            file_max_bytes: bytes,
            file_max_age: Duration::from_secs(3600),
            files: 50,
        }
    }

    fn write(path: &Path, key: &Key, bytes: u64, count: usize) {
        let audit = Audit::open(path, keep(bytes), key.clone()).unwrap();
        for number in 0..count {
            audit.add(json!({"event": "call", "number": number}));
        }
        let took = Duration::from_millis(3);
        audit.endpoint("alm", "GET", "200".into(), took);
        audit.endpoint("alm", "GET", "200".into(), took);
        audit.stop();
    }

    #[test]
    fn missing_file_cannot_be_read() {
        let dir = TempDir::new("audit-missing");
        let (key, path) = (Key::generate().unwrap(), dir.path().join("none.jsonl"));
        for head_file in [None, Some(path.as_path())] {
            let broken = verify(&path, head_file, key.public(), &[]).unwrap_err();
            assert!(matches!(broken, Broken::Io { .. }), "{broken}");
            let text = format!("cannot read {}: it does not exist", path.display());
            assert_eq!(broken.to_string(), text);
        }
    }

    #[test]
    fn file_verifies_over_restarts_and_rotations() {
        let dir = TempDir::new("audit");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        for _ in 0..3 {
            write(&path, &key, 2000, 40);
        }
        let verified = verify(&path, None, key.public(), &[]).unwrap();
        // `opened`, forty calls and one sum; three times.
        assert_eq!((verified.first, verified.last), (1, 3 * 42));
        assert_eq!(verified.signed, verified.last);
        assert!(verified.unproved.is_empty(), "{verified:?}");
        assert!(verified.files > 3, "{verified:?}");
    }

    /// As logrotate does it, with its names and with others, while the bridge runs and while it is stopped.
    #[test]
    fn chain_survives_rotation_by_another_program() {
        let dir = TempDir::new("audit-moved");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        let audit = Audit::open(&path, keep(1 << 20), key.clone()).unwrap();
        let add = |count: u64| {
            runtime::logging::reopen();
            let wanted = audit.lines() + count;
            let until = std::time::Instant::now() + Duration::from_secs(30);
            audit.add(json!({"event": "call"}));
            while audit.lines() < wanted {
                assert!(std::time::Instant::now() < until, "{audit:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        add(1);
        // The name that the bridge itself would use: the chain is checked over both files.
        fs::rename(&path, rotated(&path, 1)).unwrap();
        add(2);
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .contains("\"reason\":\"moved\"")
        );
        let verified = verify(&path, None, key.public(), &[]).unwrap();
        assert_eq!((verified.files, verified.first, verified.last), (2, 1, 4));
        // As `copytruncate` does it.
        fs::copy(&path, dir.path().join("audit.jsonl-20260101")).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
        add(2);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with('{') && text.contains("\"reason\":\"cut\""),
            "{text}"
        );
        audit.stop();
        fs::rename(&path, dir.path().join("audit.jsonl-20260102")).unwrap();
        write(&path, &key, 1 << 20, 1);
        // Files with names that are not known cannot be told from removed ones.
        let error = verify(&path, None, key.public(), &[]).unwrap_err();
        assert!(matches!(error, Broken::Line { .. }), "{error}");
        // With the names that the bridge uses, no line is missing.
        fs::rename(rotated(&path, 1), rotated(&path, 3)).unwrap();
        for (name, number) in [("audit.jsonl-20260101", 2), ("audit.jsonl-20260102", 1)] {
            fs::rename(dir.path().join(name), rotated(&path, number)).unwrap();
        }
        let verified = verify(&path, None, key.public(), &[]).unwrap();
        assert_eq!((verified.files, verified.first, verified.last), (4, 1, 9));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn audit_continues_after_a_full_disk_and_counts_loss() {
        let Some(disk) = crate::testing::SmallDisk::new("audit-disk", 256) else {
            return;
        };
        let path = disk.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        disk.fill();
        // No file exists yet, and the disk has no space for one.
        let audit = Audit::open(&path, keep(1 << 20), key.clone()).unwrap();
        for number in 0..5 {
            audit.add(json!({"event": "call", "number": number}));
        }
        let until = std::time::Instant::now() + Duration::from_secs(30);
        disk.free();
        while audit.lines() < 3 {
            assert!(std::time::Instant::now() < until, "{audit:?}");
            audit.add(json!({"event": "call", "number": "later"}));
            std::thread::sleep(Duration::from_millis(50));
        }
        audit.stop();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"event\":\"lost\""), "{text}");
        let lost: u64 = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|line| line["event"] == "lost")
            .map(|line| line["count"].as_u64().unwrap())
            .sum();
        assert!(lost >= 5, "{text}");
        verify(&path, None, key.public(), &[]).unwrap();
    }

    #[test]
    fn changes_gaps_and_truncation_are_detected() {
        let dir = TempDir::new("audit-broken");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        write(&path, &key, 1 << 20, 10);
        let good = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = good.lines().collect();
        let check = |lines: &[&str]| {
            fs::write(&path, lines.join("\n") + "\n").unwrap();
            verify(&path, None, key.public(), &[]).map_err(|error| error.to_string())
        };
        assert!(check(&lines).is_ok());
        let changed = lines[4].replace("\"number\":3", "\"number\":4");
        let mut with_change = lines.clone();
        with_change[4] = &changed;
        assert!(check(&with_change).unwrap_err().contains("was changed"));
        let mut with_gap = lines.clone();
        with_gap.remove(4);
        assert!(check(&with_gap).unwrap_err().contains("missing"));
        let cut = check(&lines[..lines.len() - 1]).unwrap_err();
        assert!(cut.contains("cut off"), "{cut}");
        // No line follows the last one: only the head detects a change in it.
        let last = lines[11].replace("\"count\":2", "\"count\":1");
        let mut with_last = lines.clone();
        with_last[11] = &last;
        assert!(check(&with_last).unwrap_err().contains("was changed"));
        // The signature is not of another key.
        check(&lines).unwrap();
        let other = Key::generate().unwrap();
        let error = verify(&path, None, other.public(), &[]).unwrap_err();
        assert!(error.to_string().contains("signature"), "{error}");
        // An anchor from the relay counts as well.
        let anchor = Anchor {
            seq: 99,
            hash: String::new(),
        };
        let error = verify(&path, None, key.public(), &[anchor]).unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
    }

    #[test]
    fn half_line_after_a_crash_is_removed_and_counted() {
        let dir = TempDir::new("audit-crash");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        write(&path, &key, 1 << 20, 3);
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"seq\":6,\"at\":1");
        fs::write(&path, text).unwrap();
        write(&path, &key, 1 << 20, 1);
        verify(&path, None, key.public(), &[]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"half_line_bytes\":15"), "{text}");
    }

    /// As `kill -9` or a power failure leaves it, before the bridge runs again.
    #[test]
    fn unfinished_last_line_is_no_defect() {
        let dir = TempDir::new("audit-unfinished");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        write(&path, &key, 1 << 20, 3);
        let good = fs::read(&path).unwrap();
        let found = verify(&path, None, key.public(), &[]).unwrap();
        assert_eq!((found.last, found.unfinished_bytes), (5, 0));
        for tail in [&b"{\"seq\":6,\"at\":1"[..], &[0; 500], b"{"] {
            fs::write(&path, [&good[..], tail].concat()).unwrap();
            let found = verify(&path, None, key.public(), &[]).unwrap();
            assert_eq!((found.last, found.signed), (5, 5));
            assert_eq!(found.unfinished_bytes, tail.len() as u64);
            assert!(found.unproved.is_empty(), "{found:?}");
        }
        // With a line break it is a line, which the bridge has not written.
        fs::write(&path, [&good[..], b"{\"seq\":6\n"].concat()).unwrap();
        let error = failure(&path, &key);
        assert!(error.contains("the line is not JSON"), "{error}");
        // A line that the bridge has signed was complete.
        fs::write(&path, &good[..good.len() - 20]).unwrap();
        let error = failure(&path, &key);
        assert!(error.contains("its end was cut off"), "{error}");
        // A rotated file was complete, too.
        fs::write(rotated(&path, 1), &good[..good.len() - 20]).unwrap();
        fs::write(&path, "").unwrap();
        let error = failure(&path, &key);
        assert!(error.contains("the line is not JSON"), "{error}");
    }

    fn failure(path: &Path, key: &Key) -> String {
        verify(path, None, key.public(), &[])
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn removed_beginning_is_detected() {
        let dir = TempDir::new("audit-start");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        write(&path, &key, 1 << 20, 10);
        let text = fs::read_to_string(&path).unwrap();
        let rest: Vec<&str> = text.lines().skip(3).collect();
        fs::write(&path, rest.join("\n") + "\n").unwrap();
        let error = failure(&path, &key);
        assert!(error.contains("its beginning was removed"), "{error}");
        // Also after the bridge has signed again.
        write(&path, &key, 1 << 20, 1);
        let error = failure(&path, &key);
        assert!(error.contains("its beginning was removed"), "{error}");
    }

    #[test]
    fn rotation_moves_the_start() {
        let dir = TempDir::new("audit-rotation");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        let few = Keep {
            files: 3,
            ..keep(2000)
        };
        for files in [3, 3, 2, 1] {
            let keep = Keep {
                files,
                ..few.clone()
            };
            let audit = Audit::open(&path, keep, key.clone()).unwrap();
            for number in 0..100 {
                audit.add(json!({"event": "call", "number": number}));
            }
            audit.stop();
            let verified = verify(&path, None, key.public(), &[]).unwrap();
            assert!(verified.first > 1, "{verified:?}");
            assert!(verified.unproved.is_empty(), "{verified:?}");
            assert_eq!(verified.files, files as usize + 1);
        }
        // The oldest file was removed by hand.
        fs::remove_file(rotated(&path, 1)).unwrap();
        let error = failure(&path, &key);
        assert!(error.contains("its beginning was removed"), "{error}");
    }

    #[test]
    fn emptied_file_stays_visible_after_a_restart() {
        let dir = TempDir::new("audit-emptied");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        write(&path, &key, 1 << 20, 10);
        fs::write(&path, "").unwrap();
        let error = failure(&path, &key);
        assert!(error.contains("is empty"), "{error}");
        write(&path, &key, 1 << 20, 1);
        let error = failure(&path, &key);
        assert!(error.contains("its beginning was removed"), "{error}");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("all lines up to 12 are missing"), "{text}");
        // With rotated files: the gap is in the middle.
        let path = dir.path().join("other.jsonl");
        write(&path, &key, 2000, 40);
        fs::write(&path, "").unwrap();
        write(&path, &key, 1 << 20, 1);
        let error = failure(&path, &key);
        assert!(error.contains("missing"), "{error}");
    }

    #[test]
    fn rewritten_file_stays_visible_after_a_restart() {
        let dir = TempDir::new("audit-rewritten");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        write(&path, &key, 1 << 20, 10);
        // Another chain of the same length, without the bridge's key.
        let mut prev = hex(&NO_LINE);
        let mut text = String::new();
        for seq in 1..=12 {
            let line = json!({"seq": seq, "at": 1, "prev": prev, "event": "call"}).to_string();
            prev = hex(digest(&SHA256, line.as_bytes()).as_ref());
            text.push_str(&line);
            text.push('\n');
        }
        fs::write(&path, &text).unwrap();
        let error = failure(&path, &key);
        assert!(error.contains("line 12 was changed"), "{error}");
        write(&path, &key, 1 << 20, 1);
        let error = failure(&path, &key);
        assert!(error.contains("line 12 or 13 was changed"), "{error}");
        // A head that claims that nothing was signed yet.
        fs::write(&path, &text).unwrap();
        let head = json!({"id": "00".repeat(16), "seq": 0, "hash": hex(&NO_LINE), "signature": ""});
        fs::write(head_path(&path), head.to_string()).unwrap();
        let error = failure(&path, &key);
        assert!(error.contains("the head is not signed"), "{error}");
    }

    #[test]
    fn copy_without_head_is_inconclusive() {
        let dir = TempDir::new("audit-copy");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        write(&path, &key, 1 << 20, 10);
        let copy = dir.path().join("copy.jsonl");
        fs::copy(&path, &copy).unwrap();
        let verified = verify(&copy, None, key.public(), &[]).unwrap();
        assert_eq!(verified.unproved, [Unproved::NoHead]);
        // With the head, or with what the relay has stored, all is proved.
        let head = head_path(&path);
        let with_head = verify(&copy, Some(&head), key.public(), &[]).unwrap();
        assert!(with_head.unproved.is_empty(), "{with_head:?}");
        let anchor = Anchor {
            seq: verified.last,
            hash: verified.hash,
        };
        let anchored = verify(&copy, None, key.public(), &[anchor]).unwrap();
        assert!(anchored.unproved.is_empty(), "{anchored:?}");
        let missing = verify(&copy, Some(&copy.with_extension("none")), key.public(), &[]);
        assert!(missing.is_err());
    }
}
