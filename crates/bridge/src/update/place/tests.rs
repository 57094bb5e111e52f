//! The exchange of a program, and the directories in which it is refused.

use super::*;
use crate::testing::TempDir;
use std::os::unix::fs::{PermissionsExt as _, symlink};

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns a directory with an old program.
fn old_program(name: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new(name);
    chmod(dir.path(), 0o755);
    let program = dir.path().canonicalize().unwrap().join("bridge");
    std::fs::write(&program, "old").unwrap();
    chmod(&program, 0o755);
    (dir, program)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn staged<'a>(place: &'a Place, text: &str) -> Staged<'a> {
    let mut staged = place.stage().unwrap();
    staged.write(text.as_bytes()).unwrap();
    let mut back = Vec::new();
    let complete = staged.complete(|piece| back.extend_from_slice(piece));
    complete.unwrap();
    assert_eq!(back, text.as_bytes());
    staged
}

#[test]
fn new_program_replaces_the_old_one_and_back() {
    let (dir, program) = old_program("place");
    let place = Place::of(program.clone()).unwrap();
    let new = staged(&place, "new");
    assert_eq!(read(&program), "old");
    let installed = place.install(new).unwrap();
    assert_eq!(read(&program), "new");
    assert_eq!(read(&installed.previous()), "old");
    let mode = std::fs::metadata(&program).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    installed.roll_back().unwrap();
    assert_eq!(read(&program), "old");
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "only the program");
}

#[test]
fn abandoned_update_leaves_the_old_program() {
    let (dir, program) = old_program("place-abandoned");
    // What a killed update left: a part of the file, and links that an attacker could have made before the
    // directory was safe.
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    symlink(&victim, program.with_file_name("bridge.new")).unwrap();
    symlink(&victim, program.with_file_name("bridge.previous")).unwrap();
    let place = Place::of(program.clone()).unwrap();
    drop(staged(&place, "new"));
    assert_eq!(read(&program), "old");
    assert!(!program.with_file_name("bridge.new").exists());
    let installed = place.install(staged(&place, "newer")).unwrap();
    assert_eq!(
        (read(&program), read(&victim)),
        ("newer".into(), "precious".into())
    );
    assert_eq!(read(&installed.previous()), "old");
}

#[test]
fn one_update_runs_at_a_time() {
    let (_dir, program) = old_program("place-busy");
    let first = Place::of(program.clone()).unwrap();
    let second = Place::of(program.clone());
    assert!(matches!(second, Err(PlaceError::Busy)), "{second:?}");
    drop(first);
    assert!(Place::of(program).is_ok());
}

#[test]
fn failed_rollback_leaves_the_new_program() {
    let (dir, program) = old_program("place-no-way-back");
    let place = Place::of(program.clone()).unwrap();
    let installed = place.install(staged(&place, "new")).unwrap();
    std::fs::remove_file(dir.path().join("bridge.previous")).unwrap();
    let failed = installed.roll_back();
    assert!(matches!(failed, Err(PlaceError::Step { .. })), "{failed:?}");
    assert_eq!(read(&program), "new");
}

#[test]
fn program_of_another_user_is_refused() {
    // Only root can give a file away.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (dir, program) = old_program("place-owner");
    for path in [program.as_path(), dir.path()] {
        std::os::unix::fs::chown(path, Some(12_345), None).unwrap();
        let refused = Place::of(program.clone());
        assert!(
            matches!(refused, Err(PlaceError::Unsafe { .. })),
            "{refused:?}"
        );
        std::os::unix::fs::chown(path, Some(0), None).unwrap();
    }
    assert!(Place::of(program).is_ok());
}

#[test]
fn directory_that_others_may_write_is_refused() {
    let (dir, program) = old_program("place-unsafe");
    for (path, mode, safe) in [
        (dir.path(), 0o777, 0o755),
        (dir.path(), 0o775, 0o755),
        // Others could take the fixed names.
        (dir.path(), 0o1777, 0o755),
        (program.as_path(), 0o757, 0o755),
    ] {
        chmod(path, mode);
        let refused = Place::of(program.clone());
        assert!(
            matches!(refused, Err(PlaceError::Unsafe { .. })),
            "{mode:o}: {refused:?}"
        );
        chmod(path, safe);
    }
    assert!(Place::of(program).is_ok());
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk_leaves_the_old_program() {
    let Some(disk) = crate::testing::SmallDisk::new("place-full", 1024) else {
        return;
    };
    let program = disk.path().join("bridge");
    std::fs::write(&program, "old").unwrap();
    chmod(disk.path(), 0o755);
    chmod(&program, 0o755);
    let place = Place::of(program.clone()).unwrap();
    let mut staged = place.stage().unwrap();
    let piece = vec![7; 1 << 20];
    let failed = (0..64).find_map(|_| staged.write(&piece).err());
    assert_eq!(failed.unwrap().kind(), io::ErrorKind::StorageFull);
    drop(staged);
    assert_eq!(read(&program), "old");
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 1);
}
