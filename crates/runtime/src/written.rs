//! Files that a config names and the program writes, such as logs: none may be another file of the program.
//!
//! A log is appended to and renamed. In the place of a key, a database or the record of another part, it would destroy
//! that file.

use crate::files::lead_to_one;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// A key that names another file of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collision {
    /// The config key.
    pub key: String,
    /// What is wrong with its value.
    pub text: String,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

/// Returns the keys whose file is also that of another key, or one of the program's own. `written` has the keys with
/// the files that the program writes; `own` has the other files, each with what it is for. No file needs to exist.
pub fn collisions(written: &[(&str, PathBuf)], own: &[(String, PathBuf)]) -> Vec<Collision> {
    let own: Vec<(&str, PathBuf)> = own
        .iter()
        .map(|(purpose, path)| (purpose.as_str(), canonical(path)))
        .collect();
    let mut earlier: Vec<(&str, PathBuf)> = Vec::new();
    let mut found = Vec::new();
    for (key, given) in written {
        // Two logs may go to one terminal, and to `/dev/null`.
        if fs::metadata(given).is_ok_and(|found| !found.is_file()) {
            continue;
        }
        let path = canonical(given);
        let other = earlier
            .iter()
            .find(|(_, other)| destroys(&path, other) || destroys(other, &path))
            .or_else(|| own.iter().find(|(_, other)| destroys(&path, other)));
        if let Some((purpose, _)) = other {
            found.push(Collision {
                key: (*key).to_owned(),
                text: format!(
                    "{} is also the file of {purpose}: name another file",
                    given.display()
                ),
            });
        }
        earlier.push((*key, path));
    }
    found
}

/// Returns whether writing one file changes the other: it is the same, the name of a rotated part, or the name under
/// which its next content is prepared.
fn destroys(path: &Path, other: &Path) -> bool {
    if path == other {
        return true;
    }
    // The same file under two names: a hard link, or letters in another case where the file system ignores it.
    if lead_to_one(path, other) {
        return true;
    }
    path.parent() == other.parent()
        && match (name(path), name(other)) {
            (Some(path), Some(other)) => is_part(path, other) || is_next_content(path, other),
            (None, _) | (_, None) => false,
        }
}

fn name(path: &Path) -> Option<&str> {
    path.file_name().and_then(OsStr::to_str)
}

/// Whether a log of the first name renames itself to the second one.
fn is_part(log: &str, other: &str) -> bool {
    let number = other
        .strip_prefix(log)
        .and_then(|rest| rest.strip_prefix('.'));
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Whether the program writes the next content of the second name under the first one.
fn is_next_content(path: &str, other: &str) -> bool {
    path.strip_prefix(other) == Some(".new")
}

/// Returns the path without links. Of a file that does not exist, the directory above it decides.
fn canonical(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for above in path.ancestors() {
        let (Ok(mut found), Ok(rest)) = (fs::canonicalize(above), path.strip_prefix(above)) else {
            continue;
        };
        for part in rest.components() {
            match part {
                Component::ParentDir => {
                    found.pop();
                }
                Component::Normal(name) => found.push(name),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        return found;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn written_file_may_be_no_other_one() {
        let dir = TempDir::new("written");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("data")).unwrap();
        let own = [("the identity".to_owned(), at("data/identity.json"))];
        let keys = |log: &str, audit: &str| {
            let written = [("log.file", at(log)), ("audit.file", at(audit))];
            let found = collisions(&written, &own);
            found.into_iter().map(|one| one.key).collect::<Vec<_>>()
        };
        assert!(keys("data/log", "data/audit").is_empty());
        assert!(keys("data/identity", "data/identity.json.bak").is_empty());
        for log in [
            "data/identity.json",
            "data/./none/../identity.json",
            "data/identity.json.new",
        ] {
            assert_eq!(keys(log, "data/audit"), ["log.file"], "{log}");
        }
        assert_eq!(keys("data/one", "data/one"), ["audit.file"]);
        assert_eq!(keys("data/one", "data/one.1"), ["audit.file"]);
        assert_eq!(keys("data/one.12", "data/one"), ["audit.file"]);
        let found = collisions(&[("log.file", at("data/identity.json"))], &own);
        let text = found[0].to_string();
        assert!(text.starts_with("log.file: "), "{text}");
        assert!(text.contains("the file of the identity"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn link_to_another_file_is_found() {
        let dir = TempDir::new("written-links");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("data")).unwrap();
        fs::write(at("data/key"), "x").unwrap();
        std::os::unix::fs::symlink(at("data"), at("link")).unwrap();
        fs::hard_link(at("data/key"), at("twin")).unwrap();
        let own = [
            ("the key".to_owned(), at("data/key")),
            ("the journal".to_owned(), at("data/journal")),
        ];
        for log in ["link/key", "link/journal", "twin"] {
            let found = collisions(&[("log.file", at(log))], &own);
            assert_eq!(found.len(), 1, "{log}");
        }
        // A terminal or a pipe is not destroyed.
        let null = || PathBuf::from("/dev/null");
        let both = [("log.file", null()), ("audit.file", null())];
        assert!(collisions(&both, &own).is_empty());
    }
}
