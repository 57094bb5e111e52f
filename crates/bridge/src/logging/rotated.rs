//! A log file that is rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The file, `FILE.1` and so on behind it.
#[derive(Debug)]
pub(super) struct Rotated {
    path: PathBuf,
    max_bytes: u64,
    files: u32,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

fn open(path: &Path) -> io::Result<Open> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o640);
    }
    let file = options.open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}

impl Rotated {
    pub(super) fn open(path: &Path, max_bytes: u64, files: u32) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        Ok(Self {
            path: path.to_owned(),
            max_bytes,
            files,
            open: Mutex::new(open(path)?),
        })
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn rotate(&self, now: &mut Open) -> io::Result<()> {
        let _ = fs::remove_file(self.numbered(self.files));
        for number in (1..self.files).rev() {
            let _ = fs::rename(self.numbered(number), self.numbered(number + 1));
        }
        fs::rename(&self.path, self.numbered(1))?;
        *now = open(&self.path)?;
        Ok(())
    }
}

impl Write for &Rotated {
    /// One event at a time comes here, whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut now = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if now.bytes > 0 && now.bytes + line.len() as u64 > self.max_bytes {
            // Where it cannot be rotated it grows: a log is worth more than its limit.
            let _ = self.rotate(&mut now);
        }
        now.file.write_all(line)?;
        now.bytes += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_file_is_rotated_and_the_oldest_goes() {
        let dir = TempDir::new("log");
        let path = dir.path().join("bridge.log");
        let log = Rotated::open(&path, 100, 2).unwrap();
        for number in 0..20 {
            writeln!(&log, "line {number:02} {}", "x".repeat(20)).unwrap();
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert!(read(&path).contains("line 19"));
        assert!(log.numbered(1).exists() && log.numbered(2).exists());
        assert!(!log.numbered(3).exists());
        assert!(read(&path).len() <= 100);
    }
}
