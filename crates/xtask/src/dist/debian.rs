//! Packages of a newer Debian, unpacked into a directory and not installed.
//!
//! The base is the one that this machine's apt has for Debian, with the machine's keyring. apt works with lists and a state of
//! its own, so nothing about the machine's packages changes, and root is not needed.

use super::{cannot, tree};
use crate::step::{Failed, Step};
use std::fs;
use std::path::{Path, PathBuf};

/// Where packages come from: the compiler's sources for a fixed version, and musl's newest version.
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];

/// Signs the lists of packages.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const SOURCES: &str = "/etc/apt/sources.list";
const SOURCES_DIRECTORY: &str = "/etc/apt/sources.list.d";

/// apt with a state of its own.
#[derive(Debug)]
pub(super) struct Debian {
    directory: PathBuf,
}

impl Debian {
    /// Reads the lists of packages.
    ///
    /// # Errors
    /// The machine's apt has no base for Debian, or the lists cannot be read.
    pub(super) fn open(directory: &Path) -> Result<Self, Failed> {
        let sources = SUITES.map(source);
        let sources: String = sources.into_iter().collect::<Result<_, _>>()?;
        let debian = Self {
            directory: directory.to_owned(),
        };
        for part in ["lists/partial", "cache/archives/partial", "state"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).map_err(|error| cannot("create", &path, &error))?;
        }
        debian.write("sources.list", &sources)?;
        // No package is installed.
        debian.write("status", "")?;
        let directory = directory.display();
        debian.write(
            "apt.conf",
            &format!(
                "Dir::Etc::sourcelist \"{directory}/sources.list\";\n\
                 Dir::Etc::sourceparts \"-\";\n\
                 Dir::State \"{directory}/state\";\n\
                 Dir::State::lists \"{directory}/lists\";\n\
                 Dir::State::status \"{directory}/status\";\n\
                 Dir::Cache \"{directory}/cache\";\n\
                 APT::Architectures {{ \"amd64\"; \"arm64\"; }};\n\
                 APT::Sandbox::User \"root\";\n\
                 Acquire::Languages \"none\";\n"
            ),
        )?;
        debian.apt("apt-get", &["update", "--quiet"]).run()?;
        Ok(debian)
    }

    /// Returns the first version of a package that begins so.
    pub(super) fn version(&self, package: &str, start: &str) -> Result<Option<String>, Failed> {
        let listed = self.apt("apt-cache", &["madison", package]).output()?;
        let mut versions = listed.lines().filter_map(|line| line.split('|').nth(1));
        Ok(versions
            .find(|version| version.trim().starts_with(start))
            .map(|version| version.trim().to_owned()))
    }

    /// Downloads a package and unpacks it into a directory, which is empty or does not exist.
    pub(super) fn unpack(&self, package: &str, version: &str, to: &Path) -> Result<(), Failed> {
        let downloads = self.directory.join("downloads");
        let _ = fs::remove_dir_all(&downloads);
        fs::create_dir_all(&downloads).map_err(|error| cannot("create", &downloads, &error))?;
        self.apt("apt-get", &["download", &format!("{package}={version}")])
            .directory(&downloads)
            .run()?;
        let files = tree::files_below(&downloads)?;
        let [file] = files.as_slice() else {
            return Err(Failed::new(format!("apt-get downloaded {files:?}")));
        };
        // Complete, or not there.
        let unfinished = to.with_extension("unfinished");
        let _ = fs::remove_dir_all(&unfinished);
        Step::program("dpkg-deb")
            .args(["--extract"])
            .args([&downloads.join(file), &unfinished])
            .run()?;
        let _ = fs::remove_dir_all(&downloads);
        fs::rename(&unfinished, to).map_err(|error| cannot("rename", &unfinished, &error))
    }

    fn apt(&self, program: &str, args: &[&str]) -> Step {
        let config = self.directory.join("apt.conf");
        Step::program(program)
            .args(args)
            .env("APT_CONFIG", &config.to_string_lossy())
    }

    fn write(&self, name: &str, content: &str) -> Result<(), Failed> {
        let path = self.directory.join(name);
        fs::write(&path, content).map_err(|error| cannot("write", &path, &error))
    }
}

/// Returns the line by which apt finds a suite of Debian.
///
/// # Errors
/// The machine's apt has no base for Debian, or no key.
pub(crate) fn source(suite: &str) -> Result<String, Failed> {
    let Some(base) = base() else {
        return Err(Failed::new(format!(
            "apt on this machine has no Debian: {SOURCES} and {SOURCES_DIRECTORY} name none"
        )));
    };
    if !Path::new(KEYRING).exists() {
        return Err(Failed::new(format!(
            "no {KEYRING}: apt-get install debian-archive-keyring"
        )));
    }
    Ok(format!("deb [signed-by={KEYRING}] {base} {suite} main\n"))
}

/// Returns the base of Debian that the machine's apt has.
fn base() -> Option<String> {
    let mut files: Vec<_> = fs::read_dir(SOURCES_DIRECTORY)
        .map(|listed| {
            listed
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        })
        .unwrap_or_default();
    files.sort_unstable();
    files.push(SOURCES.into());
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension().is_some_and(|end| end == "sources") {
            true => base_in_stanzas(&text),
            false => base_in_lines(&text),
        }
    })
}

/// Finds the base in a file of stanzas. Those of other publishers have other keyrings.
fn base_in_stanzas(text: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let value = |name: &str| {
            let mut lines = stanza.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let is_debian = value("Signed-By")?.contains("debian-archive");
        let is_security = value("Suites")?.contains("-security");
        let base = value("URIs")?.split_whitespace().next()?;
        (is_debian && !is_security).then(|| base.to_owned())
    })
}

/// Finds the base in a file of lines: `deb [options] BASE SUITE COMPONENTS`. Those of other publishers have other
/// components.
fn base_in_lines(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let (base, suite) = (words.next()?, words.next()?);
        let is_debian =
            words.any(|word| word == "main") && base.trim_end_matches('/').ends_with("/debian");
        (is_debian && !suite.contains("-security")).then(|| base.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_is_that_of_the_distribution() {
        let text = "Types: deb\nURIs: https://other.example/debian\nSuites: stable\nSigned-By: /other.gpg\n\n\
                    Types: deb\n# mirrored\nURIs: https://mirror.example/debian-security\nSuites: a-security\n\
                    Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                    Types: deb\nURIs: https://mirror.example/debian\nSuites: a a-updates\n\
                    Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
        assert_eq!(
            base_in_stanzas(text).unwrap(),
            "https://mirror.example/debian"
        );
        let text = "# a comment\ndeb https://other.example/apt stable main\n\
                    deb https://mirror.example/debian a-security main\n\
                    deb [arch=amd64] https://mirror.example/debian a main contrib\n";
        assert_eq!(
            base_in_lines(text).unwrap(),
            "https://mirror.example/debian"
        );
        assert_eq!(base_in_lines(""), None);
    }
}
