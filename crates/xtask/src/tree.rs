//! Checks the tree: no large files, and no crates that `deny.toml` bans.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::step::{Failed, root};

/// Largest file in bytes. A command generates anything larger.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Checks the files that git would commit, and `Cargo.lock`.
pub(crate) fn check() -> Result<(), Failed> {
    println!("== the tree: no file over 1 MiB, no crate that deny.toml bans");
    let began = Instant::now();
    let mut found = large_files()?;
    found.extend(banned_crates()?);
    if found.is_empty() {
        println!("   done in {:.1} s", began.elapsed().as_secs_f64());
        return Ok(());
    }
    for finding in &found {
        eprintln!("   {finding}");
    }
    Err(Failed::new(format!("the tree: {} findings", found.len())))
}

/// Returns the files that git would commit, by their paths from the root. Empty outside a git checkout.
///
/// # Errors
/// A name that is not UTF-8.
pub(crate) fn tracked_files() -> Result<Vec<String>, Failed> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output();
    let names = match listed {
        Ok(output) if output.status.success() => output.stdout,
        Ok(_) | Err(_) => {
            println!("   (not a git checkout: its files are not checked)");
            return Ok(Vec::new());
        }
    };
    let names = String::from_utf8(names)
        .map_err(|_| Failed::new("a file's name in the tree is not UTF-8"))?;
    Ok(names.split_terminator('\0').map(str::to_owned).collect())
}

fn large_files() -> Result<Vec<String>, Failed> {
    let mut large = Vec::new();
    for name in tracked_files()? {
        // A file that was deleted and not yet committed is listed as well.
        let Ok(metadata) = fs::symlink_metadata(root().join(&name)) else {
            continue;
        };
        if metadata.len() > FILE_BYTES_MAX {
            large.push(format!(
                "{name}: {} bytes, at most {FILE_BYTES_MAX}",
                metadata.len()
            ));
        }
    }
    Ok(large)
}

fn banned_crates() -> Result<Vec<String>, Failed> {
    let banned = banned_in(&read("deny.toml")?);
    if banned.is_empty() {
        return Err(Failed::new("deny.toml: no bans found in it"));
    }
    let locked = locked_in(&read("Cargo.lock")?);
    Ok(banned
        .intersection(&locked)
        .map(|name| format!("Cargo.lock: {name} is banned"))
        .collect())
}

fn read(name: &str) -> Result<String, Failed> {
    fs::read_to_string(root().join(name)).map_err(|error| Failed::new(format!("{name}: {error}")))
}

/// Returns the crates named under `[bans]`, each as `{ crate = "NAME", … }`.
fn banned_in(deny: &str) -> BTreeSet<String> {
    let bans = deny.split("\n[bans]").nth(1).unwrap_or_default();
    let bans = bans.split("\n[").next().unwrap_or_default();
    bans.split("crate = \"")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
        .collect()
}

/// Returns the crates that a lock file names.
fn locked_in(lock: &str) -> BTreeSet<String> {
    let names = lock
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{banned_in, locked_in};

    #[test]
    fn banned_crates_match_whole_names() {
        let deny = "[licenses]\nx = 1\n[bans]\ndeny = [\n    { crate = \"openssl\", reason = \"r\" },\n\
                    \x20   { crate = \"native-tls\", reason = \"r\" },\n]\n[sources]\ny = \"crate = \"\n";
        let banned = banned_in(deny);
        assert_eq!(banned.len(), 2);
        let lock = "[[package]]\nname = \"openssl-probe\"\nversion = \"1\"\n\n\
                    [[package]]\nname = \"native-tls\"\n";
        let found: Vec<_> = banned.intersection(&locked_in(lock)).cloned().collect();
        assert_eq!(found, ["native-tls"]);
    }

    #[test]
    fn deny_toml_bans_openssl() {
        let banned = banned_in(include_str!("../../../deny.toml"));
        for name in ["openssl", "openssl-sys", "native-tls"] {
            assert!(banned.contains(name), "{name} is missing among {banned:?}");
        }
    }
}
