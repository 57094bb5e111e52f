//! A directory with a program to update, and releases for it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use support::process::{Finished, bin, command, finish};
use support::{LONG_TIMEOUT, TIMEOUT};

/// A directory that no other user may write to, with a copy of the program in `bin`.
pub(crate) struct Home {
    pub(crate) path: PathBuf,
}

impl Home {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        // Not in the build directory, whose rights are those of the checkout.
        let name = format!("update-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        let home = Self { path };
        for dir in [home.path.clone(), home.path.join("bin")] {
            std::fs::create_dir_all(&dir).unwrap();
            chmod(&dir, 0o755);
        }
        install(&bin("integration-bridge"), &home.program());
        home
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.path.join("bin/integration-bridge")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("bridge.toml")
    }

    /// Writes a config with this section `[update]`.
    pub(crate) fn configure(&self, relay: &str, update: &str) {
        let text = format!(
            "[relay]\nurl = \"{relay}\"\nproxy = \"none\"\n[bridge]\nname = \"b1\"\ndata_dir = \"data\"\n[update]\n{update}\n"
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut copy = Command::new(self.program());
        // Without a proxy from the surroundings, as for the programs of other tests.
        for (name, value) in command("integration-bridge").get_envs() {
            match value {
                Some(value) => copy.env(name, value),
                None => copy.env_remove(name),
            };
        }
        copy.args(args).arg("--config").arg(self.config());
        copy
    }

    pub(crate) async fn update(&self, args: &[&str]) -> Finished {
        let args = [&["update", "--in-container"][..], args].concat();
        finish("update", self.command(&args), LONG_TIMEOUT).await
    }

    /// Runs an update that must fail, and must change nothing. Returns its message.
    pub(crate) async fn refused(&self, args: &[&str]) -> String {
        let before = std::fs::read(self.program()).unwrap();
        let message = self.update(args).await.failure();
        assert!(
            std::fs::read(self.program()).unwrap() == before,
            "changed: {message}"
        );
        assert_eq!(self.left(), ["integration-bridge"], "{message}");
        message
    }

    /// Returns the names in the directory of the program.
    pub(crate) fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path.join("bin")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) async fn version(&self) -> String {
        let mut copy = Command::new(self.program());
        copy.arg("--version");
        finish("--version", copy, TIMEOUT).await.success()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Copies a program. Another process writes the copy: a process that this one starts meanwhile for another test would
/// inherit the open file, and the system starts no program that is open for writing.
pub(crate) fn install(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
    chmod(to, 0o755);
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

pub(crate) fn keys(trusted: &Ed25519KeyPair) -> String {
    format!("keys = [\"{}\"]", STANDARD.encode(trusted.public_key()))
}

/// Returns a program that reports a version, passes its trial, and does `run` as `run` says.
pub(crate) fn script(version: &str, doctor: &str, run: &str) -> Vec<u8> {
    format!(
        "#!/bin/sh\ncase \"$1\" in\n--version) echo \"integration-bridge {version}\" ;;\ndoctor) {doctor} ;;\n\
         run) {run} ;;\n*) exit 2 ;;\nesac\n"
    )
    .into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The manifest of a program for this machine.
pub(crate) fn manifest(program: &[u8], version: &str) -> Value {
    json!({
        "format": 1,
        "product": "integration-bridge",
        "version": version,
        // A static program, which every Linux of this architecture runs.
        "target": format!("{}-unknown-linux-musl", std::env::consts::ARCH),
        "sha256": hex(digest(&SHA256, program).as_ref()),
        "size": program.len(),
        "released": "2026-12-01T00:00:00Z",
    })
}

/// The three files of a release.
pub(crate) struct Release {
    pub(crate) program: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

impl Release {
    pub(crate) fn new(program: Vec<u8>, version: &str, by: &Ed25519KeyPair) -> Self {
        let manifest = manifest(&program, version);
        Self::with_manifest(program, &manifest, by)
    }

    pub(crate) fn with_manifest(program: Vec<u8>, manifest: &Value, by: &Ed25519KeyPair) -> Self {
        let manifest = serde_json::to_vec(manifest).unwrap();
        let signature = STANDARD.encode(by.sign(&manifest)).into_bytes();
        Self {
            program,
            manifest,
            signature,
        }
    }

    /// Writes the files, and returns the path of the program.
    pub(crate) fn write(&self, home: &Home) -> String {
        let path = home.path.join("release");
        std::fs::write(&path, &self.program).unwrap();
        std::fs::write(home.path.join("release.manifest"), &self.manifest).unwrap();
        std::fs::write(home.path.join("release.sig"), &self.signature).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
