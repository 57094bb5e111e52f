//! Commands that root runs on the data directory of another user, which contains traps.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{TempDir, TestEnv, process};

/// The service's user.
const OWNER: u32 = 12_345;

/// Everything that the bridge keeps in its data directory.
const NAMES: [&str; 11] = [
    "lock",
    "identity.json",
    "identity.json.new",
    "credentials.json",
    "credentials.json.new",
    "credentials.key",
    "credentials.key.new",
    "credentials.lock",
    "epoch-0",
    "audit.jsonl",
    "audit.head.json",
];

const KINDS: [&str; 5] = ["link", "link to nothing", "hard link", "pipe", "directory"];

/// Puts a trap of this kind at `at`.
fn trap(kind: &str, at: &Path, theirs: &Path) {
    match kind {
        "link" => symlink(theirs, at).unwrap(),
        "link to nothing" => symlink(theirs.with_file_name("nothing"), at).unwrap(),
        "hard link" => fs::hard_link(theirs, at).unwrap(),
        "pipe" => {
            let made = Command::new("mkfifo").arg(at).status().unwrap();
            assert!(made.success());
        }
        "directory" => fs::create_dir(at).unwrap(),
        other => panic!("{other}"),
    }
}

/// A file of root's that no other account may read.
struct Theirs(PathBuf);

impl Theirs {
    fn write(path: PathBuf) -> Self {
        fs::write(&path, "root's own words\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Self(path)
    }

    fn check(&self, what: &str) {
        let found = fs::metadata(&self.0).unwrap();
        let about = (found.uid(), found.mode() & 0o7777);
        assert_eq!(about, (0, 0o600), "{what}");
        assert_eq!(
            fs::read_to_string(&self.0).unwrap(),
            "root's own words\n",
            "{what}"
        );
        let nothing = self.0.with_file_name("nothing");
        assert!(!nothing.exists(), "{what}: a link was followed");
    }
}

async fn run(config: &Path, args: &[&str]) -> process::Finished {
    let mut command = process::command("integration-bridge");
    command.args(args).arg("--config").arg(config);
    process::finish(&args.join(" "), command, Duration::from_secs(60)).await
}

#[tokio::test]
async fn root_follows_no_link_in_a_foreign_data_dir() {
    let world = TestEnv::start().await;
    let key = world.key("bridge", &[]).await;
    let config = fs::read_to_string(world.bridge_config()).unwrap();
    let old = world.bridge_data_dir();
    let temp = TempDir::new("links");
    let secret = temp.write("secret", &key.client_secret);
    let secret = secret.to_str().unwrap();
    for (number, name) in NAMES.into_iter().enumerate() {
        for (kind_number, kind) in KINDS.into_iter().enumerate() {
            let what = format!("{kind} at {name}");
            let home = temp.join(format!("{number}-{kind_number}"));
            let data = home.join("data");
            fs::create_dir_all(&data).unwrap();
            fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
            chown(&data, Some(OWNER), Some(OWNER)).unwrap();
            let theirs = Theirs::write(home.join("theirs"));
            trap(kind, &data.join(name), &theirs.0);
            let own = home.join("bridge.toml");
            let text = config.replace(old.to_str().unwrap(), data.to_str().unwrap());
            fs::write(&own, text).unwrap();
            let bridge = format!("trap-{number}-{kind_number}");
            let origin = ["--origin", "https://a.example"];
            let set = [
                "credential",
                "set",
                "a",
                "--kind",
                "bearer",
                "--secret-file",
                secret,
            ];
            let pair = ["pair", "--name", &bridge, "--client-id", &key.client_id];
            let commands: [Vec<&str>; 4] = [
                set.into_iter().chain(origin).collect(),
                pair.into_iter()
                    .chain(["--client-secret-file", secret])
                    .collect(),
                vec!["audit", "verify"],
                vec!["status"],
            ];
            for args in &commands {
                let finished = run(&own, args).await;
                let output = finished.stdout + &finished.stderr;
                assert!(!output.contains("root's own"), "{what}: {output}");
                assert!(!output.contains("panicked"), "{what}: {output}");
                theirs.check(&format!("{what}, {args:?}"));
            }
            // What was made belongs to the user whose directory it is.
            for entry in fs::read_dir(&data).unwrap() {
                let entry = entry.unwrap();
                let found = entry.metadata().unwrap();
                if found.is_file() && found.nlink() == 1 {
                    assert_eq!(found.uid(), OWNER, "{what}: {:?}", entry.file_name());
                }
            }
        }
    }
}

#[tokio::test]
async fn support_bundle_follows_no_link() {
    let world = TestEnv::start().await;
    let temp = TempDir::new("bundle");
    let theirs = Theirs::write(temp.join("theirs"));
    let log = temp.join("bridge.log");
    symlink(&theirs.0, &log).unwrap();
    let config = fs::read_to_string(world.bridge_config()).unwrap();
    let own = temp.write(
        "bridge.toml",
        format!("{config}\n[log]\nfile = {:?}\n", log.to_str().unwrap()),
    );
    let bundle = temp.join("bundle.tar");
    run(
        &own,
        &["support-bundle", "--output", bundle.to_str().unwrap()],
    )
    .await
    .success();
    let text = String::from_utf8_lossy(&fs::read(&bundle).unwrap()).into_owned();
    assert!(!text.contains("root's own words"));
    theirs.check("support-bundle");
}
