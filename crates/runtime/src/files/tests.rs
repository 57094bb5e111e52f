//! What is put in a file's place by another user.

use super::*;
use crate::testing::TempDir;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

/// Puts something of a kind in a file's place; a link leads to `theirs`.
fn put(kind: &str, at: &Path, theirs: &Path) {
    match kind {
        "symbolic link" => symlink(theirs, at).unwrap(),
        "hard link" => std::fs::hard_link(theirs, at).unwrap(),
        "pipe" => rustix::fs::mkfifoat(rustix::fs::CWD, at, 0o600.into()).unwrap(),
        "directory" => std::fs::create_dir(at).unwrap(),
        other => panic!("{other}"),
    }
}

#[test]
fn only_regular_files_with_one_link_are_used() {
    for kind in ["symbolic link", "hard link", "pipe", "directory"] {
        let temp = TempDir::new("files");
        let theirs = temp.path().join("theirs");
        std::fs::write(&theirs, "secret").unwrap();
        std::fs::set_permissions(&theirs, std::fs::Permissions::from_mode(0o640)).unwrap();
        let own = temp.path().join("own");
        std::fs::create_dir(&own).unwrap();
        put(kind, &own.join("file"), &theirs);
        let dir = Dir::open(&own).unwrap();
        let errors = [
            dir.read("file", 10).map(drop).unwrap_err(),
            dir.open_rw("file").map(drop).unwrap_err(),
            dir.open_or_create("file", Owner::Directory)
                .map(drop)
                .unwrap_err(),
            dir.open_append("file", 0o600, Owner::Directory)
                .map(drop)
                .unwrap_err(),
            dir.replace("file", b"new", 0o600, Owner::Directory)
                .unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains(kind), "{kind}: {error}");
        }
        assert_eq!(
            std::fs::read_to_string(&theirs).unwrap(),
            "secret",
            "{kind}"
        );
        let mode = std::fs::metadata(&theirs).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o640, "{kind}");
    }
}

#[test]
fn named_pipe_of_an_administrator_is_rejected() {
    let temp = TempDir::new("given");
    let (theirs, given) = (temp.path().join("theirs"), temp.path().join("given"));
    std::fs::write(&theirs, "secret").unwrap();
    put("pipe", &given, &theirs);
    // It does not wait for a program that writes.
    let error = open_given(&given).unwrap_err().to_string();
    assert_eq!(error, "it is not a regular file");
    std::fs::remove_file(&given).unwrap();
    put("symbolic link", &given, &theirs);
    let content = read_up_to(open_given(&given).unwrap(), 10).unwrap();
    assert_eq!(content, b"secret");
    let directory = open_given(temp.path()).and_then(|file| read_up_to(file, 10));
    let kind = directory.unwrap_err().kind();
    assert_eq!(kind, io::ErrorKind::IsADirectory);
}

#[test]
fn leftover_of_any_kind_does_not_redirect_a_write() {
    for kind in ["symbolic link", "hard link", "pipe"] {
        let temp = TempDir::new("leftover");
        let theirs = temp.path().join("theirs");
        std::fs::write(&theirs, "secret").unwrap();
        let own = temp.path().join("own");
        std::fs::create_dir(&own).unwrap();
        put(kind, &own.join("file.new"), &theirs);
        let dir = Dir::open(&own).unwrap();
        dir.replace("file", b"new", 0o600, Owner::Directory)
            .unwrap();
        assert_eq!(dir.read("file", 10).unwrap().unwrap(), b"new");
        assert_eq!(
            std::fs::read_to_string(&theirs).unwrap(),
            "secret",
            "{kind}"
        );
    }
}

#[test]
fn link_of_another_user_is_not_followed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let temp = TempDir::new("links");
    let real = temp.path().join("real");
    std::fs::create_dir(&real).unwrap();
    let link = temp.path().join("link");
    symlink("real", &link).unwrap();
    Dir::open(&link).unwrap();
    Dir::open(&temp.path().join("link/")).unwrap();
    std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
    for path in ["link", "link/", "link/."] {
        let error = Dir::open(&temp.path().join(path)).unwrap_err();
        assert!(
            error.to_string().contains("another user"),
            "{path}: {error}"
        );
    }
    // Only the last component is checked: the author of the path vouches for the others.
    assert!(Dir::open(&temp.path().join("real")).is_ok());
}

#[test]
fn new_file_gets_the_directory_owner() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let temp = TempDir::new("owner");
    let dir = Dir::open(temp.path()).unwrap();
    std::os::unix::fs::chown(temp.path(), Some(12345), Some(54321)).unwrap();
    dir.replace("new", b"1", 0o600, Owner::Directory).unwrap();
    dir.replace("own", b"1", 0o600, Owner::Process).unwrap();
    dir.open_or_create("own", Owner::Directory).unwrap();
    let owner = |name: &str| {
        let found = std::fs::metadata(temp.path().join(name)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(owner("new"), (12345, 54321));
    assert_eq!(owner("own").0, 0);
}

#[test]
fn path_is_not_a_name() {
    let temp = TempDir::new("names");
    let dir = Dir::open(temp.path()).unwrap();
    for name in ["", ".", "..", "a/b", "/etc/passwd", "../x"] {
        assert!(dir.open_file(name).is_err(), "{name}");
        assert!(
            dir.replace(name, b"", 0o600, Owner::Process).is_err(),
            "{name}"
        );
    }
}

#[test]
fn new_file_replaces_nothing_and_follows_no_link() {
    let temp = TempDir::new("create-new");
    let theirs = temp.path().join("theirs");
    for kind in ["symbolic link", "hard link", "pipe", "directory"] {
        std::fs::write(&theirs, b"theirs").unwrap();
        let at = temp.path().join(kind);
        put(kind, &at, &theirs);
        let error = create_new(&at, 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{kind}");
        assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
    }
    // A link to nothing would make a file elsewhere.
    let (at, elsewhere) = (temp.path().join("dangling"), temp.path().join("elsewhere"));
    symlink(&elsewhere, &at).unwrap();
    assert!(create_new(&at, 0o600).is_err() && !elsewhere.exists());
    let new = temp.path().join("new");
    let mut file = create_new(&new, 0o600).unwrap();
    file.write_all(b"1").unwrap();
    let mode = std::fs::metadata(&new).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn destroyed_file_is_gone_and_links_are_kept() {
    let temp = TempDir::new("destroy");
    let (secret, kept) = (temp.path().join("secret"), temp.path().join("kept"));
    for (kind, is_destroyed) in [
        ("file", true),
        ("symbolic link", false),
        ("hard link", false),
    ] {
        std::fs::write(&kept, b"content").unwrap();
        match kind {
            "file" => std::fs::write(&secret, b"content").unwrap(),
            kind => put(kind, &secret, &kept),
        }
        assert_eq!(destroy(&secret).is_ok(), is_destroyed, "{kind}");
        assert_eq!(secret.exists(), !is_destroyed, "{kind}");
        assert_eq!(std::fs::read(&kept).unwrap(), b"content", "{kind}");
        let _ = std::fs::remove_file(&secret);
    }
}
