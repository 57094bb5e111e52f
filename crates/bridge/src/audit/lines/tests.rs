//! Files after a crash at each step of a rotation, and after the bridge got another key.

use super::super::verify::{Anchor, Broken, Unproved, Verified, verify};
use super::*;
use crate::testing::TempDir;
use std::path::PathBuf;

struct World {
    dir: TempDir,
    path: PathBuf,
    key: Key,
}

impl World {
    fn new(label: &str) -> Self {
        let dir = TempDir::new(label);
        Self {
            path: dir.path().join("audit.jsonl"),
            key: Key::generate().unwrap(),
            dir,
        }
    }

    fn open(&self, files: u32) -> Lines {
        let keep = Keep {
            file_max_bytes: 1500,
            file_max_age: Duration::from_secs(3600),
            files,
        };
        Lines::open(&self.path, keep, &self.key).unwrap()
    }

    /// Writes lines until the last one made a rotation.
    fn rotate(&self, lines: &mut Lines) {
        let (dir, name) = (Dir::open(self.dir.path()).unwrap(), "audit.jsonl");
        loop {
            let before = dir.open_file(name).unwrap().metadata().unwrap();
            lines.append(json!({"event": "call"})).unwrap();
            let now = dir.open_file(name).unwrap().metadata().unwrap();
            if now.len() < before.len() {
                return;
            }
        }
    }

    fn verify(&self) -> Result<Verified, Broken> {
        verify(&self.path, None, self.key.public(), &[])
    }

    fn numbers(&self) -> Vec<u32> {
        numbers_in(&Dir::open(self.dir.path()).unwrap(), "audit.jsonl")
    }

    fn rename(&self, from: u32) {
        let at = |number| match number {
            0 => self.path.clone(),
            number => rotated(&self.path, number),
        };
        fs::rename(at(from), at(from + 1)).unwrap();
    }
}

#[test]
fn line_has_no_character_that_a_terminal_obeys() {
    let world = World::new("audit-escaped");
    let hostile = "\u{202e}gnp\u{9b}2J\u{7f}\u{200b}\u{2028}\n";
    let mut lines = world.open(2);
    lines
        .append(json!({"event": "call", "credential": hostile}))
        .unwrap();
    lines.sign_head().unwrap();
    let text = fs::read_to_string(&world.path).unwrap();
    let is_plain = |c| c == '\n' || runtime::peer_text::is_plain(c);
    assert!(text.chars().all(is_plain), "{text:?}");
    assert_eq!(text.lines().count(), 2);
    // The same document, whose hash is that of the written text.
    let line: Value = serde_json::from_str(text.lines().next_back().unwrap()).unwrap();
    assert_eq!(line["credential"], hostile);
    assert!(world.verify().unwrap().unproved.is_empty());
}

#[test]
fn text_of_a_caller_is_escaped_and_bounded() {
    let cut = super::super::cut;
    assert_eq!(cut("alm"), "alm");
    assert_eq!(cut("\u{202e}gnp\u{1b}[2J"), "\\u202egnp\\u001b[2J");
    let long = "\u{200b}".repeat(1000);
    assert_eq!(cut(&long), format!("{}...", "\\u200b".repeat(256)));
}

/// Three rotated files are kept and exist; the rotation removes the oldest and renames three files.
#[test]
fn rotation_survives_a_crash_after_each_rename() {
    for renames in 0..=3 {
        let world = World::new("audit-renames");
        let mut lines = world.open(3);
        for _ in 0..3 {
            world.rotate(&mut lines);
        }
        lines.append(json!({"event": "call"})).unwrap();
        lines.sign_head().unwrap();
        assert_eq!(world.numbers(), [1, 2, 3]);
        lines.remove_oldest().unwrap();
        drop(lines);
        assert_eq!(world.numbers(), [1, 2]);
        for from in [2, 1, 0].into_iter().take(renames) {
            world.rename(from);
        }
        if renames < 3 {
            let found = world.verify().unwrap();
            assert!(found.unproved.is_empty(), "{renames}: {found:?}");
            let gap = [None, Some(2), Some(1)][renames];
            assert_eq!(found.missing_numbers, Vec::from_iter(gap), "{renames}");
        }
        let mut lines = world.open(3);
        lines.sign_head().unwrap();
        let found = world.verify().unwrap();
        assert!(found.unproved.is_empty(), "{renames}: {found:?}");
        assert!(found.missing_numbers.is_empty(), "{renames}: {found:?}");
        let text = fs::read_to_string(&world.path).unwrap();
        assert!(!text.contains("broken"), "{renames}: {text}");
        // Each file that the rotation kept is kept until there is no number for it.
        while world.numbers().len() < 3 {
            world.rotate(&mut lines);
            assert_eq!(world.verify().unwrap().first, found.first, "{renames}");
        }
        world.rotate(&mut lines);
        lines.sign_head().unwrap();
        assert_eq!(world.numbers(), [1, 2, 3]);
        let later = world.verify().unwrap();
        assert!(later.first > found.first && later.unproved.is_empty());
    }
}

/// The config keeps two files instead of five: the rotation removes four files, the oldest one first.
#[test]
fn rotation_survives_a_crash_after_each_removal() {
    for removals in 0..=4 {
        let world = World::new("audit-removals");
        let mut lines = world.open(5);
        for _ in 0..5 {
            world.rotate(&mut lines);
        }
        lines.sign_head().unwrap();
        drop(lines);
        let mut lines = world.open(2);
        let numbered = |number| rotated(&world.path, number);
        let removed: Vec<_> = (2..=5)
            .map(|number| (number, fs::read(numbered(number)).unwrap()))
            .collect();
        lines.remove_oldest().unwrap();
        drop(lines);
        assert_eq!(world.numbers(), [1]);
        for (number, content) in removed.iter().take(4 - removals) {
            fs::write(numbered(*number), content).unwrap();
        }
        let found = world.verify().unwrap();
        assert!(found.unproved.is_empty(), "{removals}: {found:?}");
        let mut lines = world.open(2);
        world.rotate(&mut lines);
        lines.sign_head().unwrap();
        let found = world.verify().unwrap();
        assert!(found.unproved.is_empty(), "{removals}: {found:?}");
        assert_eq!(world.numbers(), [1, 2]);
    }
}

/// As a crash while the numbers were made consecutive leaves it.
#[test]
fn gap_is_closed_after_a_crash_in_closing_it() {
    let world = World::new("audit-gap");
    let mut lines = world.open(9);
    for _ in 0..4 {
        world.rotate(&mut lines);
    }
    lines.sign_head().unwrap();
    drop(lines);
    // The gap at 2 was moved to 3.
    world.rename(4);
    world.rename(3);
    fs::rename(rotated(&world.path, 4), rotated(&world.path, 3)).unwrap();
    assert_eq!(world.numbers(), [1, 2, 3, 5]);
    assert_eq!(world.verify().unwrap().missing_numbers, [4]);
    world.open(9).sign_head().unwrap();
    assert_eq!(world.numbers(), [1, 2, 3, 4]);
    assert!(world.verify().unwrap().unproved.is_empty());
}

fn other_key(found: &Verified) -> Vec<(u64, Option<String>)> {
    let other = found.unproved.iter().map(|unproved| match unproved {
        Unproved::OtherKey { line, former } => (*line, former.clone()),
        other => panic!("{other:?}"),
    });
    other.collect()
}

#[test]
fn new_key_signs_the_start_again() {
    let mut world = World::new("audit-new-key");
    let mut lines = world.open(2);
    for _ in 0..4 {
        world.rotate(&mut lines);
    }
    lines.sign_head().unwrap();
    drop(lines);
    let before = world.verify().unwrap();
    assert!(before.first > 1 && before.unproved.is_empty());
    let former = std::mem::replace(&mut world.key, Key::generate().unwrap());
    let error = world.verify().unwrap_err().to_string();
    assert!(error.contains("paired again"), "{error}");
    drop(world.open(2));
    let text = fs::read_to_string(&world.path).unwrap();
    let [from, to] = [&former, &world.key].map(|key| fingerprint(key.public()));
    assert!(text.contains(&from) && text.contains(&to), "{text}");
    let found = world.verify().unwrap();
    assert_eq!(other_key(&found), [(before.last + 1, Some(from.clone()))]);
    let words = found.unproved[0].to_string();
    assert!(
        words.contains(&from) && words.contains("--former-key"),
        "{words}"
    );
    // With the last line before it, as the relay has stored it, all is proved.
    let anchor = Anchor {
        seq: before.last,
        hash: before.hash,
    };
    let anchored = verify(&world.path, None, world.key.public(), &[anchor]).unwrap();
    assert!(anchored.unproved.is_empty(), "{anchored:?}");
    // The next start is no change, and rotation removes the line.
    let mut lines = world.open(2);
    lines.sign_head().unwrap();
    assert_eq!(other_key(&world.verify().unwrap()).len(), 1);
    for _ in 0..4 {
        world.rotate(&mut lines);
    }
    lines.sign_head().unwrap();
    assert!(world.verify().unwrap().unproved.is_empty());
    // A beginning that is removed stays visible.
    world.key = Key::generate().unwrap();
    fs::remove_file(rotated(&world.path, 2)).unwrap();
    drop(lines);
    drop(world.open(2));
    let error = world.verify().unwrap_err().to_string();
    assert!(error.contains("its beginning was removed"), "{error}");
}

/// As a crash between the line with the new key and the signature leaves it.
#[test]
fn new_key_survives_a_crash_before_it_signs() {
    let mut world = World::new("audit-key-crash");
    world.open(2).sign_head().unwrap();
    let head = world.path.with_extension("head.json");
    let signed = fs::read(&head).unwrap();
    let former = std::mem::replace(&mut world.key, Key::generate().unwrap());
    drop(world.open(2));
    fs::write(&head, signed).unwrap();
    drop(world.open(2));
    let found = world.verify().unwrap();
    assert_eq!(other_key(&found), [(3, Some(fingerprint(former.public())))]);
}

/// Lines of former versions do not name the key.
#[test]
fn key_of_a_former_version_is_unknown() {
    let mut world = World::new("audit-key-unknown");
    drop(world.open(2));
    let text = fs::read_to_string(&world.path).unwrap();
    let mut line: Value = serde_json::from_str(&text).unwrap();
    line.as_object_mut().unwrap().remove("public_key");
    let line = line.to_string();
    fs::write(&world.path, format!("{line}\n")).unwrap();
    let file = fs::read(world.path.with_extension("head.json")).unwrap();
    let file: HeadFile = serde_json::from_slice(&file).unwrap();
    let head = Head {
        seq: 1,
        hash: sha256(line.as_bytes()),
        ..file.unproved().unwrap()
    };
    let signed = HeadFile::signed(&world.key, &head, file.start);
    let signed = serde_json::to_vec(&signed).unwrap();
    fs::write(world.path.with_extension("head.json"), signed).unwrap();
    assert!(world.verify().unwrap().unproved.is_empty());
    world.key = Key::generate().unwrap();
    drop(world.open(2));
    assert_eq!(other_key(&world.verify().unwrap()), [(2, None)]);
}

#[test]
fn changed_head_is_not_taken_for_a_new_key() {
    let world = World::new("audit-key-changed");
    world.open(2).sign_head().unwrap();
    let head = world.path.with_extension("head.json");
    let mut file: HeadFile = serde_json::from_slice(&fs::read(&head).unwrap()).unwrap();
    file.start = None;
    file.signature = String::new();
    fs::write(&head, serde_json::to_vec(&file).unwrap()).unwrap();
    world.open(2).sign_head().unwrap();
    let error = world.verify().unwrap_err().to_string();
    assert!(error.contains("was not signed with its key"), "{error}");
}
