//! A directory that an archive is made of: its files have fixed modes and times, whatever the machine's defaults are.

use super::cannot;
use super::release::{Release, work_directory};
use crate::step::Failed;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The mode of programs and scripts.
pub(super) const EXECUTABLE: u32 = 0o755;

/// The mode of all other files.
pub(super) const READABLE: u32 = 0o644;

/// A directory below the one for work.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes an empty tree.
    pub(super) fn new(name: &str) -> Result<Self, Failed> {
        let root = work_directory().join(name);
        if root.exists() {
            fs::remove_dir_all(&root).map_err(|error| cannot("empty", &root, &error))?;
        }
        fs::create_dir_all(&root).map_err(|error| cannot("create", &root, &error))?;
        Ok(Self { root })
    }

    /// Returns where it is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a file, and the directories above it.
    pub(super) fn write(
        &self,
        name: &str,
        content: impl AsRef<[u8]>,
        mode: u32,
    ) -> Result<(), Failed> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| cannot("create", parent, &error))?;
        }
        fs::write(&path, content).map_err(|error| cannot("write", &path, &error))?;
        set_mode(&path, mode)
    }

    /// Copies a file of the machine.
    pub(super) fn copy(&self, name: &str, from: &Path, mode: u32) -> Result<(), Failed> {
        self.write(name, read(from)?, mode)
    }

    /// Copies all files of a directory, with those below.
    pub(super) fn copy_directory(&self, name: &str, from: &Path) -> Result<(), Failed> {
        for file in files_below(from)? {
            self.copy(&format!("{name}/{file}"), &from.join(&file), READABLE)?;
        }
        Ok(())
    }

    /// Makes a directory, and those above it.
    pub(super) fn directory(&self, name: &Path) -> Result<(), Failed> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).map_err(|error| cannot("create", &path, &error))
    }

    /// Ends the lines of files with these ends of their names as Windows does.
    pub(super) fn end_lines_for_windows(&self, ends: &[&str]) -> Result<(), Failed> {
        for file in self.files()? {
            if ends.iter().any(|end| file.ends_with(end)) {
                let text = read_text(&self.root.join(&file))?;
                let lines = text.replace("\r\n", "\n").replace('\n', "\r\n");
                self.write(&file, lines, READABLE)?;
            }
        }
        Ok(())
    }

    /// Renames a file.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Failed> {
        let from = self.root.join(from);
        fs::rename(&from, self.root.join(to)).map_err(|error| cannot("rename", &from, &error))
    }

    /// Returns the names of all files, sorted.
    pub(super) fn files(&self) -> Result<Vec<String>, Failed> {
        files_below(&self.root)
    }

    /// Gives every directory its mode, and everything the release's time. Nothing may be written afterwards.
    pub(super) fn finish(&self, release: &Release) -> Result<(), Failed> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(release.time);
        for path in entries_below(&self.root)?.iter().chain([&self.root]) {
            if path.is_dir() {
                set_mode(path, EXECUTABLE)?;
            }
            File::open(path)
                .and_then(|file| file.set_modified(time))
                .map_err(|error| cannot("set the time of", path, &error))?;
        }
        Ok(())
    }
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failed> {
    fs::read(path).map_err(|error| cannot("read", path, &error))
}

/// Reads a file of text.
pub(super) fn read_text(path: &Path) -> Result<String, Failed> {
    fs::read_to_string(path).map_err(|error| cannot("read", path, &error))
}

/// Returns the names of a directory's entries, sorted.
pub(super) fn names_in(directory: &Path) -> Result<Vec<String>, Failed> {
    let mut names = Vec::new();
    for path in entries(directory)? {
        let name = path.file_name().unwrap_or_default();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Returns the names of all files below a directory, sorted, with `/` between their parts.
pub(super) fn files_below(directory: &Path) -> Result<Vec<String>, Failed> {
    let mut names = Vec::new();
    for path in entries_below(directory)? {
        if path.is_dir() {
            continue;
        }
        let name = path.strip_prefix(directory).unwrap_or(&path);
        names.push(name.to_string_lossy().replace('\\', "/"));
    }
    names.sort_unstable();
    Ok(names)
}

fn entries_below(directory: &Path) -> Result<Vec<PathBuf>, Failed> {
    let mut found = Vec::new();
    for path in entries(directory)? {
        if path.is_dir() {
            found.extend(entries_below(&path)?);
        }
        found.push(path);
    }
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Failed> {
    let listed = fs::read_dir(directory).map_err(|error| cannot("read", directory, &error))?;
    listed
        .map(|entry| match entry {
            Ok(entry) => Ok(entry.path()),
            Err(error) => Err(cannot("read", directory, &error)),
        })
        .collect()
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> Result<(), Failed> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| cannot("set the mode of", path, &error))
}

#[cfg(not(unix))]
fn set_mode(_: &Path, _: u32) -> Result<(), Failed> {
    Ok(())
}
