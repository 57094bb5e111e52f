//! Audit files that were tampered with, and those that a crash left.

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
