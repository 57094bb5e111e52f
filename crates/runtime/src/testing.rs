//! What the tests of several crates share. Not for programs.

mod metrics;

pub use metrics::check_metrics;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A fresh directory, removed with the value.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one, with `label` in its name.
    ///
    /// # Panics
    /// When the directory cannot be made.
    pub fn new(label: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        // A killed test run leaves its directories, and process ids come back.
        let moment = SystemTime::now().duration_since(UNIX_EPOCH);
        let moment = moment.unwrap_or_default().as_nanos();
        let name = format!("bridge-{label}-{}-{count}-{moment:x}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a test can make a directory");
        Self(path)
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A disk of a few pages: an own memory file system, which only root can mount. Unmounted with the value.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub struct SmallDisk(TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// Mounts one of a number of KiB; `None` without the privilege.
    ///
    /// # Panics
    /// When root cannot mount it.
    pub fn new(label: &str, kib: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let dir = TempDir::new(label);
        let mut mount = std::process::Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={kib}k,mode=0700"),
            "tmpfs",
        ]);
        let mounted = mount.arg(dir.path()).status().expect("mount can be run");
        assert!(mounted.success(), "mount: {mounted}");
        Some(Self(dir))
    }

    /// Returns the path where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all the room that is left.
    ///
    /// # Panics
    /// When the file that takes it cannot be opened.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .open(self.filler())
            .expect("a test can open a file");
        while file.write(&[b'x'; 4096]).is_ok() {}
    }

    /// Gives the room back.
    ///
    /// # Panics
    /// When nothing took it.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("the filler is there");
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.path())
            .status();
        drop(unmounted);
    }
}
