//! `audit verify`: whether an audit file is what the bridge wrote.

use super::lines::rotated;
use super::{HeadFile, head_path};
use crate::text::{hex, unhex};
use protocol::opening::AuditTranscript;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

/// Rotated files that are looked for.
const FILES_MAX: u32 = 10_000;

/// Longest line of a file that is what it should be.
const LINE_MAX_BYTES: usize = 1024 * 1024;

/// What was found in a file that holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// Files that were read.
    pub(crate) files: usize,
    /// The number of the first line that is there.
    pub(crate) first: u64,
    /// The number of the last line.
    pub(crate) last: u64,
    /// The hash of the last line.
    pub(crate) hash: String,
    /// The line up to which the bridge has signed.
    pub(crate) signed: u64,
}

/// A line's number and hash that somebody else has kept, like the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) seq: u64,
    pub(crate) hash: String,
}

/// Why a file does not hold.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// It cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing.
    #[error("{path} holds no line", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A line is not what follows the one before it.
    #[error("{path}:{line}: {what}", path = .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line in it, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The head does not fit.
    #[error("{0}")]
    Head(String),
}

/// Reads all files of an audit, oldest first, and holds them against their head and what is known.
///
/// # Errors
/// The first thing that does not hold.
pub(crate) fn verify(path: &Path, public_key: &[u8], known: &[Known]) -> Result<Verified, Broken> {
    let mut files: Vec<PathBuf> = (1..FILES_MAX)
        .map(|number| rotated(path, number))
        .take_while(|file| file.exists())
        .collect();
    files.reverse();
    files.push(path.to_owned());
    let head = head(path, public_key)?;
    let mut wanted: Vec<Known> = known.to_vec();
    wanted.extend(head.iter().map(|head| Known {
        seq: head.seq,
        hash: head.hash.clone(),
    }));
    let mut chain = Chain::default();
    for file in &files {
        read(file, &mut chain, &wanted)?;
    }
    let (first, last) = chain.first.zip(chain.last).ok_or_else(|| Broken::Empty {
        path: path.to_owned(),
    })?;
    for known in &wanted {
        if known.seq > last.0 {
            return Err(Broken::Head(format!(
                "the file ends at line {}, and line {} was there: its end was cut off",
                last.0, known.seq
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

/// The head beside the file, if its signature holds. One of a file that was only just begun has none.
fn head(path: &Path, public_key: &[u8]) -> Result<Option<HeadFile>, Broken> {
    let path = head_path(path);
    // By descriptor, without following a link: root verifies what the bridge's own user wrote.
    let mut text = Vec::new();
    runtime::files::open(&path)
        .and_then(|file| file.take(LINE_MAX_BYTES as u64).read_to_end(&mut text))
        .map_err(|source| Broken::Io {
            path: path.clone(),
            source,
        })?;
    let wrong = |what: &str| Broken::Head(format!("{}: {what}", path.display()));
    let head: HeadFile = serde_json::from_slice(&text).map_err(|_| wrong("is no head"))?;
    if head.seq == 0 {
        return Ok(None);
    }
    let bytes = |text: &str| unhex(text).ok_or_else(|| wrong("is no head"));
    let id: [u8; 16] = bytes(&head.id)?
        .try_into()
        .map_err(|_| wrong("is no head"))?;
    let hash: [u8; 32] = bytes(&head.hash)?
        .try_into()
        .map_err(|_| wrong("is no head"))?;
    let transcript = AuditTranscript {
        id: &id,
        sequence: head.seq,
        hash: &hash,
    };
    if !transcript.is_signed_by(public_key, &bytes(&head.signature)?) {
        return Err(wrong("its signature is not this bridge's"));
    }
    Ok(Some(head))
}

#[derive(Default)]
struct Chain {
    first: Option<u64>,
    last: Option<(u64, String)>,
}

fn read(path: &Path, chain: &mut Chain, wanted: &[Known]) -> Result<(), Broken> {
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
            return Err(broken("is too long".into()));
        }
        let value: Value =
            serde_json::from_slice(&line).map_err(|_| broken("is no JSON".into()))?;
        let seq = value["seq"]
            .as_u64()
            .ok_or_else(|| broken("has no seq".into()))?;
        let prev = value["prev"].as_str().unwrap_or_default();
        if let Some((last, hash)) = &chain.last {
            if seq != last + 1 {
                return Err(broken(format!(
                    "line {} is missing: this is {seq}",
                    last + 1
                )));
            }
            if prev != hash {
                return Err(broken(format!("line {last}, or this one, was changed")));
            }
        }
        let hash = hex(digest(&SHA256, &line).as_ref());
        let known = wanted.iter().find(|known| known.seq == seq);
        if known.is_some_and(|known| known.hash != hash) {
            return Err(broken(format!(
                "line {seq} was changed: its hash was another one"
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
    fn what_was_written_holds_over_restarts_and_rotations() {
        let dir = TempDir::new("audit");
        let path = dir.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        for _ in 0..3 {
            write(&path, &key, 2000, 40);
        }
        let verified = verify(&path, key.public(), &[]).unwrap();
        // Opened, forty calls, one sum; three times.
        assert_eq!((verified.first, verified.last), (1, 3 * 42));
        assert_eq!(verified.signed, verified.last);
        assert!(verified.files > 3, "{verified:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn audit_goes_on_after_a_full_disk_and_counts_what_is_lost() {
        let Some(disk) = crate::testing::SmallDisk::new("audit-disk", 256) else {
            return;
        };
        let path = disk.path().join("audit.jsonl");
        let key = Key::generate().unwrap();
        disk.fill();
        // There is no file yet, and no room for one.
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
    fn a_change_a_gap_and_a_cut_tail_show() {
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
        // The last line has no follower: the head knows it.
        let last = lines[11].replace("\"count\":2", "\"count\":1");
        let mut with_last = lines.clone();
        with_last[11] = &last;
        assert!(check(&with_last).unwrap_err().contains("was changed"));
        // Another key signed nothing here.
        check(&lines).unwrap();
        let other = Key::generate().unwrap();
        let error = verify(&path, other.public(), &[]).unwrap_err();
        assert!(error.to_string().contains("signature"), "{error}");
        // What the relay knows counts, too.
        let known = Known {
            seq: 99,
            hash: String::new(),
        };
        let error = verify(&path, key.public(), &[known]).unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
    }

    #[test]
    fn half_a_line_that_a_crash_left_is_cut_and_said() {
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
