//! The crates that are part of a program: the graph of cargo for one target, without macros and build scripts, which run only
//! while it is compiled.

use super::target::{Program, Target};
use super::tree;
use crate::step::{Failed, Step, root};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Name and version.
pub(super) type Id = (String, String);

/// The crates of all programs of a target.
#[derive(Debug, Default)]
pub(super) struct Crates {
    crates: BTreeMap<Id, Crate>,
}

/// A crate.
#[derive(Debug, Default)]
pub(super) struct Crate {
    /// An SPDX expression.
    pub(super) licence: String,
    /// SHA-256 of the archive from the registry. The workspace's own crates have none.
    pub(super) checksum: Option<String>,
    /// Where its sources are.
    pub(super) directory: PathBuf,
    /// What it links.
    pub(super) dependencies: BTreeSet<Id>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: PathBuf,
}

impl Crates {
    /// Asks cargo for the crates of a target's programs, with the features that these are built with.
    pub(super) fn of_target(target: Target) -> Result<Self, Failed> {
        let packages = target
            .programs()
            .flat_map(|program| ["--package", program.name]);
        let listed = Step::cargo(["tree", "--locked", "--target", target.triple()])
            .args(["--edges", "normal,no-proc-macro"])
            .args(["--prefix", "depth", "--format", "{p}\t{l}"])
            .args(packages)
            .output()?;
        let mut crates = Self::parse(&listed)
            .ok_or_else(|| Failed::new("cannot parse the output of `cargo tree`"))?;
        let lock = tree::read_text(&root().join("Cargo.lock"))?;
        let lock: Lock = toml::from_str(&lock)
            .map_err(|error| Failed::new(format!("cannot parse Cargo.lock: {error}")))?;
        for package in lock.package {
            if let Some(known) = crates.crates.get_mut(&(package.name, package.version)) {
                known.checksum = package.checksum;
            }
        }
        let metadata = Step::cargo(["metadata", "--locked", "--format-version=1"])
            .args(["--filter-platform", target.triple()])
            .output()?;
        let metadata: Metadata = serde_json::from_str(&metadata)
            .map_err(|error| Failed::new(format!("cannot parse `cargo metadata`: {error}")))?;
        for package in metadata.packages {
            if let Some(known) = crates.crates.get_mut(&(package.name, package.version)) {
                let directory = package.manifest_path.parent();
                directory
                    .unwrap_or(Path::new(""))
                    .clone_into(&mut known.directory);
            }
        }
        Ok(crates)
    }

    /// Reads lines such as `1bytes v1.2.0<tab>MIT`: depth, crate, licence. A crate's dependencies are listed where it comes
    /// first; further places have `(*)` at their end.
    fn parse(listed: &str) -> Option<Self> {
        let mut crates = Self::default();
        let mut above: Vec<Id> = Vec::new();
        for line in listed.lines().filter(|line| !line.is_empty()) {
            let digits = line.find(|char: char| !char.is_ascii_digit())?;
            let depth: usize = line[..digits].parse().ok()?;
            let (package, licence) = line[digits..].split_once('\t')?;
            let mut words = package.split(' ');
            let name = words.next()?.to_owned();
            let id = (name, words.next()?.strip_prefix('v')?.to_owned());
            let licence = licence.trim_end_matches("(*)").trim();
            let known = crates.crates.entry(id.clone()).or_default();
            // The older way to write it.
            known.licence = licence.replace('/', " OR ");
            above.truncate(depth);
            if let Some(parent) = above.last().and_then(|id| crates.crates.get_mut(id)) {
                parent.dependencies.insert(id.clone());
            }
            above.push(id);
        }
        Some(crates)
    }

    /// Returns the crates of a program, without the program itself.
    pub(super) fn linked(&self, program: &Program) -> BTreeMap<&Id, &Crate> {
        let mut linked = BTreeMap::new();
        let mut open: Vec<&Id> = self
            .crates
            .keys()
            .filter(|(name, _)| name == program.name)
            .collect();
        let roots = open.clone();
        while let Some(id) = open.pop() {
            if let Some(found) = self.crates.get(id)
                && linked.insert(id, found).is_none()
            {
                open.extend(&found.dependencies);
            }
        }
        linked.retain(|id, _| !roots.contains(id));
        linked
    }

    /// Returns what the program itself links.
    pub(super) fn direct(&self, program: &Program) -> BTreeSet<&Id> {
        let of_program = self
            .crates
            .iter()
            .find(|((name, _), _)| name == program.name);
        of_program.map_or_else(BTreeSet::new, |(_, found)| {
            found.dependencies.iter().collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::PROGRAMS;
    use super::*;

    #[test]
    fn program_has_only_the_crates_that_it_links() {
        let listed = "0integration-bridge v0.1.0 (/sources/crates/bridge)\tApache-2.0\n\
                      1bytes v1.2.0\tMIT\n\
                      1ring v0.17.0\tApache-2.0 AND ISC\n\
                      2cfg-if v1.0.0\tMIT/Apache-2.0\n\
                      \n\
                      0integration-relay v0.1.0 (/sources/crates/relay)\tApache-2.0\n\
                      1h2 v0.4.0\tMIT\n\
                      2bytes v1.2.0\tMIT\n\
                      1ring v0.17.0\tApache-2.0 AND ISC (*)\n";
        let crates = Crates::parse(listed).unwrap();
        let names = |part: &str| -> Vec<String> {
            let program = PROGRAMS
                .iter()
                .find(|program| program.part == part)
                .unwrap();
            let linked = crates.linked(program);
            linked.keys().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names("bridge"), ["bytes", "cfg-if", "ring"]);
        assert_eq!(names("relay"), ["bytes", "cfg-if", "h2", "ring"]);
        let cfg_if = &crates.crates[&("cfg-if".to_owned(), "1.0.0".to_owned())];
        assert_eq!(cfg_if.licence, "MIT OR Apache-2.0");
        assert!(Crates::parse("0bytes\n").is_none());
    }
}
