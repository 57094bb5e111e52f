//! The directory of the program: its rights, and the exchange of the files.
//!
//! ```text
//! PROGRAM.new        created, written, on disk, tried     PROGRAM is untouched
//! PROGRAM.previous   a second name of PROGRAM             PROGRAM is untouched
//! PROGRAM            renamed from PROGRAM.new             in one step: the old one or the new one, never none
//! ```
//!
//! On Windows a running program can be renamed and not replaced, so PROGRAM does not exist between two renames.
//!
//! A user who may write to the directory, or to one above, could exchange any of the files between two steps. Such a
//! directory is refused. The names are fixed, and each file is new or refused: no link is followed.

use runtime::files::{Dir, Owner};
use runtime::shortage::in_words;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// The program's place.
#[derive(Debug)]
pub(crate) struct Place {
    /// The program, without links in its path.
    pub(crate) program: PathBuf,
    name: String,
    dir: Dir,
    /// Locked while this exists: one update at a time.
    #[cfg(unix)]
    _lock: File,
}

/// Why the program cannot be replaced.
#[cfg_attr(
    not(unix),
    allow(
        dead_code,
        reason = "rights and locks of directories are those of Unix systems"
    )
)]
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// The system does not say where the program is.
    #[error("cannot find the file of this program: {}", in_words(.0))]
    Unknown(#[source] io::Error),
    /// Another user could exchange files.
    #[error("{path} is not safe for a program: {why}")]
    Unsafe {
        /// The file or directory.
        path: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Another update runs.
    #[error("another `integration-bridge update` is in progress")]
    Busy,
    /// A step failed. The old program is in its place.
    #[error("{action} failed for {path}: {}", in_words(.error))]
    Step {
        /// The step.
        action: &'static str,
        /// The file.
        path: String,
        /// The system's error.
        error: io::Error,
    },
}

/// Returns the file of this program, without links in its path.
///
/// # Errors
/// [`PlaceError::Unknown`], as when the file was replaced since this process started.
pub(crate) fn program_path() -> Result<PathBuf, PlaceError> {
    let program = std::env::current_exe().and_then(|path| path.canonicalize());
    program.map_err(PlaceError::Unknown)
}

impl Place {
    /// Checks the rights of a program, and locks its directory.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(crate) fn of(program: PathBuf) -> Result<Self, PlaceError> {
        let unknown = || PlaceError::Unknown(io::ErrorKind::InvalidFilename.into());
        let name = program.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(unknown)?.to_owned();
        let parent = program.parent().ok_or_else(unknown)?;
        check_rights(&program, parent)?;
        let failed = |error| step("opening the directory", parent, error);
        let dir = Dir::open(parent).map_err(failed)?;
        #[cfg(unix)]
        let lock = {
            let lock = File::open(parent).map_err(failed)?;
            match lock.try_lock() {
                Ok(()) => lock,
                Err(std::fs::TryLockError::WouldBlock) => return Err(PlaceError::Busy),
                Err(std::fs::TryLockError::Error(error)) => {
                    return Err(step("locking", parent, error));
                }
            }
        };
        Ok(Self {
            #[cfg(unix)]
            _lock: lock,
            program,
            name,
            dir,
        })
    }

    /// Creates the file of the new program, which is removed again unless it is installed.
    ///
    /// # Errors
    /// [`PlaceError::Step`].
    pub(crate) fn stage(&self) -> Result<Staged<'_>, PlaceError> {
        let name = format!("{}.new", self.name);
        let path = self.program.with_file_name(&name);
        // A killed update leaves one. No other update runs, and no other user may write here.
        match self.dir.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(step("removing", &path, error));
            }
            Ok(()) | Err(_) => {}
        }
        let created = self.dir.create(&name, 0o700, Owner::Process);
        let file = created.map_err(|error| step("creating", &path, error))?;
        Ok(Staged {
            place: self,
            name,
            path,
            file: Some(file),
        })
    }

    /// Keeps the old program as `PROGRAM.previous`, and puts the new one in its place.
    ///
    /// # Errors
    /// [`PlaceError::Step`]; the old program is in its place.
    pub(crate) fn install(&self, mut staged: Staged<'_>) -> Result<Installed<'_>, PlaceError> {
        let previous = format!("{}.previous", self.name);
        let path = self.program.with_file_name(&previous);
        match self.dir.remove(&previous) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(step("removing", &path, error));
            }
            Ok(()) | Err(_) => {}
        }
        self.keep(&previous)
            .map_err(|error| step("keeping the old program as", &path, error))?;
        // On Windows the old program has no name of its own any more.
        let renamed = self.dir.rename(&staged.name, &self.name);
        if let Err(error) = renamed {
            if cfg!(windows) {
                let _ = self.dir.rename(&previous, &self.name);
            }
            return Err(step("replacing", &self.program, error));
        }
        staged.name.clear();
        let installed = Installed {
            place: self,
            previous,
        };
        match self.dir.sync() {
            Ok(()) => Ok(installed),
            // The exchange may not survive a crash, so it must not count as done.
            Err(error) => {
                installed.roll_back()?;
                Err(step("writing the directory of", &self.program, error))
            }
        }
    }

    /// Gives the program a second name.
    #[cfg(unix)]
    fn keep(&self, previous: &str) -> io::Result<()> {
        let path = self.program.with_file_name(previous);
        match std::fs::hard_link(&self.program, &path) {
            Ok(()) => Ok(()),
            // A file system without links. After a crash it is a part of a copy, and the program is untouched.
            Err(_) => {
                let copied =
                    std::fs::copy(&self.program, &path).and_then(|_| File::open(&path)?.sync_all());
                if copied.is_err() {
                    // On a full disk, half a file would take the space that the next attempt needs.
                    let _ = self.dir.remove(previous);
                }
                copied
            }
        }
    }

    /// Renames the running program.
    #[cfg(not(unix))]
    fn keep(&self, previous: &str) -> io::Result<()> {
        self.dir.rename(&self.name, previous)
    }
}

fn step(action: &'static str, path: &Path, error: io::Error) -> PlaceError {
    PlaceError::Step {
        action,
        path: path.display().to_string(),
        error,
    }
}

/// The file of a new program.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    place: &'a Place,
    /// Empty once it has another name.
    name: String,
    /// Its path.
    pub(crate) path: PathBuf,
    /// Until it is complete: the system does not start a program that is open for writing.
    file: Option<File>,
}

impl Staged<'_> {
    /// Appends bytes.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Err(io::Error::other("the file is complete")),
        }
    }

    /// Completes the file: it gets owner and mode of the old program, and is on disk. Passes its bytes, as they were read
    /// back, to `check`.
    ///
    /// # Errors
    /// [`PlaceError::Step`].
    pub(crate) fn complete(&mut self, mut check: impl FnMut(&[u8])) -> Result<(), PlaceError> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let completed = complete(file, &self.place.program, &mut check);
        completed.map_err(|error| step("writing", &self.path, error))
    }
}

fn complete(mut file: File, program: &Path, check: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    adopt(&file, program)?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let mut piece = vec![0; 64 * 1024];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            read => check(&piece[..read]),
        }
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            let _ = self.place.dir.remove(&self.name);
        }
    }
}

/// An exchange that can be undone.
#[derive(Debug)]
pub(crate) struct Installed<'a> {
    place: &'a Place,
    previous: String,
}

impl Installed<'_> {
    /// Returns the path of the old program.
    pub(crate) fn previous(&self) -> PathBuf {
        self.place.program.with_file_name(&self.previous)
    }

    /// Puts the old program back.
    ///
    /// # Errors
    /// [`PlaceError::Step`]; the new program is in its place, the old one is `PROGRAM.previous`.
    pub(crate) fn roll_back(self) -> Result<(), PlaceError> {
        let Place {
            program, name, dir, ..
        } = self.place;
        let failed = |error| step("putting the old program back as", program, error);
        let rejected = format!("{name}.failed");
        if cfg!(windows) {
            let _ = dir.remove(&rejected);
            dir.rename(name, &rejected).map_err(failed)?;
        }
        if let Err(error) = dir.rename(&self.previous, name) {
            // A program that does not connect is better than none.
            if cfg!(windows) {
                let _ = dir.rename(&rejected, name);
            }
            return Err(failed(error));
        }
        dir.sync().map_err(failed)
    }
}

/// Gives a file the mode of the program, and its owner where this process may.
#[cfg(unix)]
fn adopt(file: &File, program: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let (own, old) = (file.metadata()?, std::fs::metadata(program)?);
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()))?;
    }
    // Without setuid and the like: a right of the old program is not given to another one.
    file.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o755))
}

#[cfg(not(unix))]
fn adopt(_: &File, _: &Path) -> io::Result<()> {
    Ok(())
}

/// Bits of a mode by which others than the owner may write.
#[cfg(unix)]
const OTHERS_WRITE: u32 = 0o022;

/// The bit of a directory in which only a file's owner may rename it.
#[cfg(unix)]
const STICKY: u32 = 0o1000;

/// Checks that no other user can exchange the program, or a directory in its path.
#[cfg(unix)]
fn check_rights(program: &Path, parent: &Path) -> Result<(), PlaceError> {
    use std::os::unix::fs::MetadataExt as _;
    let own = rustix::process::geteuid().as_raw();
    for path in program.ancestors() {
        let found = std::fs::symlink_metadata(path).map_err(PlaceError::Unknown)?;
        let refused = |why: String| {
            Err(PlaceError::Unsafe {
                path: path.display().to_string(),
                why,
            })
        };
        if found.uid() != 0 && found.uid() != own {
            let uid = found.uid();
            return refused(format!(
                "it belongs to another user (uid {uid}); run this command as that user, or let root own it"
            ));
        }
        // In /tmp and the like only the owner of a directory can rename it, and the owner is checked. The program's own
        // directory must be safe as a whole: its other files have fixed names.
        let is_sticky = found.mode() & STICKY != 0 && path != program && path != parent;
        if found.mode() & OTHERS_WRITE != 0 && !is_sticky {
            return refused(format!(
                "others may write to it (mode {:o}); remove that right: chmod go-w {}",
                found.mode() & 0o7777,
                path.display()
            ));
        }
    }
    Ok(())
}

/// The list of rights of the installation directory is the installer's; this does not check it.
#[cfg(not(unix))]
fn check_rights(_: &Path, _: &Path) -> Result<(), PlaceError> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests;
