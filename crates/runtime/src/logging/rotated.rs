//! A log file that is rotated by size, and that other programs may rotate, too.
//!
//! No fault of the file is permanent: a file that was removed, was replaced or had an error is opened again, at once
//! after [`super::reopen`] and otherwise within a second. Lines that it does not take go to standard error in the
//! meantime. A file that was truncated is continued at its new end, because it is opened for appending.

use crate::files::{is_at, set_len};
use crate::log::{Sink, StandardError};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it is checked that the open file is the one at its path, and a failed one is opened again.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The file, and `FILE.1`, `FILE.2` and so on, from the newest to the oldest.
#[derive(Debug)]
pub(super) struct Rotated {
    path: PathBuf,
    max_bytes: u64,
    files: u32,
    open: Option<Open>,
    check_at: Instant,
    /// The calls of [`super::reopen`] that were followed.
    reopens: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

fn open(path: &Path) -> io::Result<Open> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let file = crate::files::open_append(path, 0o640)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}

impl Rotated {
    /// Opens the file. A failure is retried with later lines.
    pub(super) fn open(path: &Path, max_bytes: u64, files: u32) -> (Self, io::Result<()>) {
        let (open, result) = match open(path) {
            Ok(open) => (Some(open), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let rotated = Self {
            path: path.to_owned(),
            max_bytes,
            files,
            open,
            check_at: Instant::now() + CHECK_EVERY,
            reopens: super::reopens(),
        };
        (rotated, result)
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    /// Checks from time to time that the open file is the one at the path.
    fn check(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let reopens = super::reopens();
        if now < self.check_at && reopens == self.reopens {
            return Ok(());
        }
        self.reopens = reopens;
        self.check_at = now + CHECK_EVERY;
        // An administrator, or another program that rotates logs, may have moved or truncated it.
        if let Some(own) = &mut self.open {
            // Another process may append to the same file, or truncate it.
            own.bytes = own.file.metadata()?.len();
            if is_at(&self.path, &own.file).unwrap_or(false) {
                return Ok(());
            }
            self.open = None;
        }
        self.open = Some(open(&self.path)?);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        // `log.file` may be a terminal or a pipe, which must not be moved.
        if !fs::symlink_metadata(&self.path)?.is_file() {
            return Ok(());
        }
        // From the oldest to the newest: a crash in between leaves a gap and loses no file but the oldest.
        let _ = fs::remove_file(self.numbered(self.files));
        for number in (1..self.files).rev() {
            let _ = fs::rename(self.numbered(number), self.numbered(number + 1));
        }
        fs::rename(&self.path, self.numbered(1))?;
        self.open = Some(open(&self.path)?);
        Ok(())
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        self.check()?;
        let bytes = self.open.as_ref().map_or(0, |open| open.bytes);
        if bytes > 0 && bytes + line.len() as u64 > self.max_bytes {
            // A file that cannot be rotated grows: a lost log is worse than a large one.
            let _ = self.rotate();
        }
        let open = self.open.as_mut().ok_or(io::ErrorKind::NotFound)?;
        if let Err(error) = open.file.write_all(line) {
            // A full disk may have taken half a line, which would precede the next one.
            cut_back(&open.file, open.bytes);
            self.open = None;
            return Err(error);
        }
        open.bytes += line.len() as u64;
        Ok(())
    }
}

/// Removes what a failed write has added. Never extends a file: another program may have truncated it.
fn cut_back(file: &File, bytes: u64) {
    if file.metadata().is_ok_and(|found| found.len() > bytes) {
        let _ = set_len(file, bytes);
    }
}

impl Sink for Rotated {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        // The queue counts a line as lost only if neither takes it.
        let written = self.append(line);
        written.or_else(|_| StandardError.write_line(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn opened(path: &Path, max_bytes: u64, files: u32) -> Rotated {
        let (rotated, opened) = Rotated::open(path, max_bytes, files);
        opened.unwrap();
        rotated
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn rotation_removes_the_oldest_file() {
        let dir = TempDir::new("log");
        let path = dir.path().join("bridge.log");
        let mut log = opened(&path, 100, 2);
        for number in 0..20 {
            let line = format!("line {number:02} {}\n", "x".repeat(20));
            log.append(line.as_bytes()).unwrap();
        }
        assert!(read(&path).contains("line 19"));
        assert!(log.numbered(1).exists() && log.numbered(2).exists());
        assert!(!log.numbered(3).exists());
        assert!(read(&path).len() <= 100);
    }

    #[test]
    fn moved_or_removed_file_is_opened_again() {
        let dir = TempDir::new("log-gone");
        let path = dir.path().join("logs").join("bridge.log");
        let mut log = opened(&path, 1000, 2);
        log.append(b"one\n").unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        log.check_at = Instant::now();
        log.append(b"two\n").unwrap();
        assert_eq!(read(&path), "two\n");
        fs::remove_dir_all(dir.path().join("logs")).unwrap();
        log.check_at = Instant::now();
        log.append(b"three\n").unwrap();
        assert_eq!(read(&path), "three\n");
    }

    #[test]
    fn file_is_opened_again_on_request() {
        let dir = TempDir::new("log-reopen");
        let path = dir.path().join("bridge.log");
        let mut log = opened(&path, 1000, 2);
        log.append(b"one\n").unwrap();
        // Far from the next regular check.
        log.check_at = Instant::now() + Duration::from_secs(3600);
        let moved = dir.path().join("bridge.log-20260101");
        fs::rename(&path, &moved).unwrap();
        log.append(b"two\n").unwrap();
        super::super::reopen();
        log.append(b"three\n").unwrap();
        assert_eq!(
            (read(&moved), read(&path)),
            ("one\ntwo\n".into(), "three\n".into())
        );
    }

    #[test]
    fn truncated_file_has_no_hole() {
        let dir = TempDir::new("log-truncate");
        let path = dir.path().join("bridge.log");
        let mut log = opened(&path, 1000, 2);
        log.append(b"one\n").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!(read(&path), "two\n");
        cut_back(&File::options().write(true).open(&path).unwrap(), 100);
        assert_eq!(read(&path), "two\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_disk_is_recovered_from() {
        let Some(disk) = crate::testing::SmallDisk::new("log-disk", 256) else {
            return;
        };
        let path = disk.path().join("bridge.log");
        let mut log = opened(&path, 1 << 20, 2);
        log.append(b"one\n").unwrap();
        disk.fill();
        let long = [b'x'; 8192];
        log.append(&long).unwrap_err();
        // Standard error takes the line: nothing fails.
        log.write_line(b"(a line on standard error)\n").unwrap();
        disk.free();
        log.check_at = Instant::now();
        log.append(b"two\n").unwrap();
        assert_eq!(read(&path), "one\ntwo\n");
    }

    #[test]
    fn failed_open_is_retried() {
        let dir = TempDir::new("log-later");
        let path = dir.path().join("bridge.log");
        fs::create_dir(&path).unwrap();
        let (mut log, result) = Rotated::open(&path, 1000, 2);
        result.unwrap_err();
        log.append(b"one\n").unwrap_err();
        fs::remove_dir(&path).unwrap();
        log.check_at = Instant::now();
        log.append(b"two\n").unwrap();
        assert_eq!(read(&path), "two\n");
    }
}
