//! A directory of a test's own, gone when the test is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs, process};

/// A fresh directory, removed with all that is in it on drop.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Creates `label-…` under `CARGO_TARGET_TMPDIR`, or else under the system's temporary
    /// directory (`TMPDIR`). The label may hold any characters that a file name may.
    pub fn new(label: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let base = env::var_os("CARGO_TARGET_TMPDIR").map_or_else(env::temp_dir, PathBuf::from);
        // The process id alone comes back sooner or later, and a killed test leaves its directory.
        let moment = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.subsec_nanos());
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{label}-{}-{count}-{moment}", process::id()));
        fs::create_dir_all(&path)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` inside it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file inside it and returns its path.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A process that is still dying may hold the directory; leftovers in a temporary
        // directory are no reason to fail.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::TempDir;

    #[test]
    fn temp_dirs_differ_and_are_removed() {
        let first = TempDir::new("with space");
        let second = TempDir::new("with space");
        assert_ne!(first.path(), second.path());
        let path = first.path().to_owned();
        first.write("file", "content");
        assert!(path.join("file").exists());
        drop(first);
        assert!(!path.exists());
        assert!(second.path().exists());
    }
}
