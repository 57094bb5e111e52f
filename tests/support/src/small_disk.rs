//! A small disk that can be filled and freed: a tmpfs. Needs root.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, process};

/// A mounted disk, gone with the value.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts a disk of this size.
    ///
    /// # Panics
    /// Without the right to mount.
    pub fn mount(bytes: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("small-disk-{}-{number}", process::id()));
        fs::create_dir(&dir).expect("a directory for the disk can be made");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(&dir)
            .status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "a tmpfs cannot be mounted: this test needs root"
        );
        Self { dir }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    fn dump(&self) -> PathBuf {
        self.dir.join("dump")
    }

    /// Takes all the room that is left.
    ///
    /// # Panics
    /// When writing fails for another reason than want of room.
    pub fn fill(&self) {
        let mut options = OpenOptions::new();
        let mut dump: File = options
            .create(true)
            .append(true)
            .open(self.dump())
            .expect("a file can be made");
        for piece in [4096, 1] {
            loop {
                match dump.write_all(&vec![b'x'; piece]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("the disk fails otherwise: {error}"),
                }
            }
        }
    }

    /// Gives the room back.
    ///
    /// # Panics
    /// When the file cannot be removed.
    pub fn free(&self) {
        fs::remove_file(self.dump()).expect("the file can be removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
        let _ = fs::remove_dir(&self.dir);
    }
}
