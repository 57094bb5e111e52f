//! What `config check` finds in the files and directories that a config names. Nothing is created or changed.

use crate::files::{Kind, Privacy, open_given, privacy, remedy, shown};
use crate::pem;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Lines for people, and whether one of them is an error.
#[derive(Debug, Default)]
pub struct Findings {
    lines: Vec<String>,
    errors: u32,
}

impl Findings {
    /// Adds something worth knowing.
    pub fn note(&mut self, text: impl Into<String>) {
        self.lines.push(text.into());
    }

    /// Adds something that works and may not be meant.
    pub fn warning(&mut self, text: impl AsRef<str>) {
        self.lines.push(format!("warning: {}", text.as_ref()));
    }

    /// Adds something that stops the program or a part of it. `key` is the config key.
    pub fn error(&mut self, key: &str, text: impl AsRef<str>) {
        self.errors += 1;
        self.lines.push(format!("error: {key}: {}", text.as_ref()));
    }

    /// Returns the lines in their order.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Returns how many errors there are.
    pub fn errors(&self) -> u32 {
        self.errors
    }

    /// Adds what a reader of a file returned: its warnings, or its error.
    pub fn read<E: std::fmt::Display>(&mut self, key: &str, read: Result<Vec<String>, E>) {
        match read {
            Ok(warnings) => {
                for warning in warnings {
                    self.warning(format!("{key}: {warning}"));
                }
            }
            Err(error) => self.error(key, error.to_string()),
        }
    }

    /// Checks a file that the program appends to or replaces: it exists and is writable, or can be made, with
    /// its directory where the program `makes_dirs`.
    pub fn written(&mut self, key: &str, path: &Path, makes_dirs: bool) {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                let text = format!("{} is a directory: name a file in it", path.display());
                self.error(key, text);
            }
            Ok(_) if is_writable(path) => {}
            Ok(_) => self.error(key, not_writable(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.made(key, path, makes_dirs);
            }
            Err(error) => self.error(key, format!("{}: {error}", path.display())),
        }
    }

    /// Checks that a file which does not exist can be made.
    fn made(&mut self, key: &str, path: &Path, makes_dirs: bool) {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let mut dir = dir.unwrap_or(Path::new("."));
        if makes_dirs && let Some(above) = dir.ancestors().find(|dir| dir.exists()) {
            dir = above;
        }
        if !dir.is_dir() {
            let text = format!(
                "{} cannot be made: the directory {} does not exist; create it",
                path.display(),
                dir.display()
            );
            self.error(key, text);
        } else if !is_writable(dir) {
            self.error(key, not_writable(dir));
        }
    }

    /// Checks a directory that the program makes if it is missing, and writes to.
    pub fn directory(&mut self, key: &str, path: &Path) {
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                self.error(key, format!("{} is not a directory", path.display()));
            }
            Ok(_) if is_writable(path) => {}
            Ok(_) => self.error(key, not_writable(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let above = path.ancestors().skip(1).find(|dir| dir.is_dir());
                match above {
                    Some(above) if !is_writable(above) => self.error(key, not_writable(above)),
                    _ => self.note(format!("{key}: {} will be created", path.display())),
                }
            }
            Err(error) => self.error(key, format!("{}: {error}", path.display())),
        }
    }

    /// Warns of a secret file that all users may read, or change. Access by a group may be meant.
    pub fn secret(&mut self, key: &str, path: &Path) {
        let Ok(found) = open_given(path).and_then(|file| privacy(&file, Kind::Given)) else {
            return;
        };
        if let Privacy::Tightened { was: mode } | Privacy::Open { mode } = found
            && mode & 0o027 != 0
        {
            self.warning(format!(
                "{key}: users other than its owner and its group can read {}, or its group can change it ({}): run {}",
                path.display(),
                shown(mode),
                remedy(path, "640")
            ));
        }
    }

    /// Checks who may read a secret file or directory.
    pub fn private(&mut self, key: &str, path: &Path, kind: Kind) {
        let Ok(found) = open_given(path).and_then(|file| privacy(&file, kind)) else {
            // Whether it can be read at all is found by its reader.
            return;
        };
        match found {
            Privacy::Private | Privacy::Group => {}
            Privacy::Tightened { was } => self.warning(format!(
                "{key}: other users have access to {} ({}); the program removes it when it starts",
                path.display(),
                shown(was)
            )),
            Privacy::Open { mode } => self.error(
                key,
                format!(
                    "other users have access to {} ({}), and this user may not change that: run {}",
                    path.display(),
                    shown(mode),
                    remedy(path, "600")
                ),
            ),
        }
    }
}

fn not_writable(path: &Path) -> String {
    format!(
        "{} is not writable by {}: change its owner or its mode",
        path.display(),
        pem::user()
    )
}

/// Returns whether this user may write a file, or into a directory. Changes nothing.
#[cfg(unix)]
pub fn is_writable(path: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(path, Access::WRITE_OK).is_ok()
}

/// Returns whether this user may write a file, or into a directory. Changes nothing.
#[cfg(windows)]
pub fn is_writable(path: &Path) -> bool {
    use std::os::windows::fs::OpenOptionsExt as _;
    // The attribute "read-only" says nothing of this user's rights. The right is asked for, and not used.
    let mut options = fs::OpenOptions::new();
    options
        .access_mode(bridge_windows::files::RIGHT_ADD)
        .custom_flags(bridge_windows::files::FLAG_DIRECTORY)
        .open(path)
        .is_ok()
}

/// Returns whether a file or directory is writable.
#[cfg(not(any(unix, windows)))]
pub fn is_writable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.permissions().readonly())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn check_of_written_files_makes_nothing() {
        let dir = TempDir::new("findings");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("log"), "").unwrap();
        let mut findings = Findings::default();
        findings.written("log.file", &at("log"), false);
        findings.written("log.file", &at("new"), false);
        findings.written("log.file", &at("none/new"), true);
        findings.directory("bridge.data_dir", &at("data"));
        assert_eq!(findings.errors(), 0, "{findings:?}");
        findings.written("log.file", &at("none/new"), false);
        findings.written("log.file", &at("log/new"), true);
        findings.written("log.file", dir.path(), false);
        findings.directory("bridge.data_dir", &at("log"));
        assert_eq!(findings.errors(), 4, "{findings:?}");
        assert!(
            findings.lines()[1].starts_with("error: log.file: "),
            "{findings:?}"
        );
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .map(|one| one.file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["log"]);
    }
}
