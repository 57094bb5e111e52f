//! `audit verify`: checks that an audit file is exactly what the bridge wrote.

use super::head::{HeadFile, head_path};
use super::lines::rotated;
use crate::text::{hex, unhex};
use protocol::opening::AuditTranscript;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

/// Rotated files that are read at most.
const FILES_MAX: u32 = 10_000;

/// Longest line of a valid file, in bytes.
const LINE_MAX_BYTES: usize = 1024 * 1024;

/// The result for a valid file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// Files that were read, including rotated ones.
    pub(crate) files: usize,
    /// The number of the first line.
    pub(crate) first: u64,
    /// The number of the last line.
    pub(crate) last: u64,
    /// The hash of the last line.
    pub(crate) hash: String,
    /// The line up to which the bridge has signed.
    pub(crate) signed: u64,
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
    #[error("{path}: {source}", path = .path.display())]
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

/// Reads all parts of an audit file, oldest first, and compares them with the signed head and with anchors.
///
/// # Errors
/// The first defect.
pub(crate) fn verify(
    path: &Path,
    public_key: &[u8],
    anchors: &[Anchor],
) -> Result<Verified, Broken> {
    // Numbers have no gaps, so the first missing one ends the list. The highest number is the oldest file.
    let mut files: Vec<PathBuf> = (1..FILES_MAX)
        .map(|number| rotated(path, number))
        .take_while(|file| file.exists())
        .collect();
    files.reverse();
    files.push(path.to_owned());
    let head = head(path, public_key)?;
    let mut anchors: Vec<Anchor> = anchors.to_vec();
    // Signed by the bridge, so it counts like one that was stored elsewhere.
    anchors.extend(head.iter().map(|head| Anchor {
        seq: head.seq,
        hash: head.hash.clone(),
    }));
    let mut chain = Chain::default();
    for file in &files {
        read(file, &mut chain, &anchors)?;
    }
    let (first, last) = chain.first.zip(chain.last).ok_or_else(|| Broken::Empty {
        path: path.to_owned(),
    })?;
    for anchor in &anchors {
        if anchor.seq > last.0 {
            return Err(Broken::Head(format!(
                "the file ends at line {}, but line {} existed: its end was cut off",
                last.0, anchor.seq
            )));
        }
    }
    Ok(Verified {
        files: files.len(),
        first,
        last: last.0,
        hash: last.1,
        signed: head.map_or(0, |head| head.seq),
    })
}

/// Returns the head, if its signature is valid, or `None` for a file that has not been signed yet.
fn head(path: &Path, public_key: &[u8]) -> Result<Option<HeadFile>, Broken> {
    let path = head_path(path);
    // Without following links: root may verify a file of the bridge's own user, which could link to another.
    let mut text = Vec::new();
    runtime::files::open(&path)
        .and_then(|file| file.take(LINE_MAX_BYTES as u64).read_to_end(&mut text))
        .map_err(|source| Broken::Io {
            path: path.clone(),
            source,
        })?;
    let wrong = |what: &str| Broken::Head(format!("{}: {what}", path.display()));
    let head: HeadFile =
        serde_json::from_slice(&text).map_err(|_| wrong("not a head of an audit file"))?;
    if head.seq == 0 {
        return Ok(None);
    }
    let bytes = |text: &str| unhex(text).ok_or_else(|| wrong("not a head of an audit file"));
    let id: [u8; 16] = bytes(&head.id)?
        .try_into()
        .map_err(|_| wrong("not a head of an audit file"))?;
    let hash: [u8; 32] = bytes(&head.hash)?
        .try_into()
        .map_err(|_| wrong("not a head of an audit file"))?;
    let transcript = AuditTranscript {
        id: &id,
        sequence: head.seq,
        hash: &hash,
    };
    if !transcript.is_signed_by(public_key, &bytes(&head.signature)?) {
        return Err(wrong("the signature is not of this bridge's key"));
    }
    Ok(Some(head))
}

/// The chain so far: the first line's number; the last line's number and hash.
#[derive(Default)]
struct Chain {
    first: Option<u64>,
    last: Option<(u64, String)>,
}

fn read(path: &Path, chain: &mut Chain, anchors: &[Anchor]) -> Result<(), Broken> {
    let failed = |source| Broken::Io {
        path: path.to_owned(),
        source,
    };
    let file = runtime::files::open(path).map_err(failed)?;
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(failed)?;
        let broken = |what: String| Broken::Line {
            path: path.to_owned(),
            line: number + 1,
            what,
        };
        if line.len() > LINE_MAX_BYTES {
            return Err(broken("the line is too long".into()));
        }
        let value: Value =
            serde_json::from_slice(&line).map_err(|_| broken("the line is not JSON".into()))?;
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
        chain.first.get_or_insert(seq);
        chain.last = Some((seq, hash));
    }
    Ok(())
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
    fn file_verifies_over_restarts_and_rotations() {
        let dir = TempDir::new("audit");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        for _ in 0..3 {
            write(&path, &key, 2000, 40);
        }
        let verified = verify(&path, key.public(), &[]).unwrap();
        // `opened`, forty calls and one sum; three times.
        assert_eq!((verified.first, verified.last), (1, 3 * 42));
        assert_eq!(verified.signed, verified.last);
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
        let verified = verify(&path, key.public(), &[]).unwrap();
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
        fs::remove_file(rotated(&path, 1)).unwrap();
        assert_eq!(verify(&path, key.public(), &[]).unwrap().first, 5);
        fs::rename(&path, dir.path().join("audit.jsonl-20260102")).unwrap();
        write(&path, &key, 1 << 20, 1);
        let verified = verify(&path, key.public(), &[]).unwrap();
        assert_eq!((verified.first, verified.last), (7, 9));
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
        verify(&path, key.public(), &[]).unwrap();
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
            verify(&path, key.public(), &[]).map_err(|error| error.to_string())
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
        let error = verify(&path, other.public(), &[]).unwrap_err();
        assert!(error.to_string().contains("signature"), "{error}");
        // An anchor from the relay counts as well.
        let anchor = Anchor {
            seq: 99,
            hash: String::new(),
        };
        let error = verify(&path, key.public(), &[anchor]).unwrap_err();
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
        verify(&path, key.public(), &[]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"half_line_bytes\":15"), "{text}");
    }
}
