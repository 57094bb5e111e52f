//! The packages: made by `dist` of programs that exist, in a directory apart from those of a release.

use super::{BRIDGE, RELAY, joined};
use crate::step::{Failed, Step, this_program};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// Directories of the packages: those of this version, and those for Debian of an older one.
const RPM: &str = "rpm";
const OTHERS: &str = "others";
const OLDER: &str = "older";

/// The packages of this version.
#[derive(Debug)]
pub(super) struct Artefacts {
    /// The directory with those of the packages.
    directory: PathBuf,
}

impl Artefacts {
    /// Packs the programs in a directory.
    pub(super) fn make(programs: &Path, directory: &Path) -> Result<Self, Failed> {
        println!("== packages of the programs in {}", programs.display());
        let triple = format!("{}-unknown-linux-musl", env::consts::ARCH);
        let stripped = directory.join("programs").join(&triple);
        // Packages of another version may be in the others.
        for path in [
            stripped.clone(),
            directory.join(OTHERS),
            directory.join(RPM),
            directory.join(OLDER),
        ] {
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).map_err(|error| cannot("create", &path, &error))?;
        }
        for name in [RELAY, BRIDGE] {
            // What a debugger needs would only make the packages large.
            Step::program("strip")
                .args([Path::new("-o"), &stripped.join(name), &programs.join(name)])
                .run()?;
        }
        let artefacts = Self {
            directory: directory.to_owned(),
        };
        // At the same time, because each compresses on one core for most of its time.
        thread::scope(|threads| {
            let rpm = threads.spawn(|| artefacts.dist(&triple, RPM, "rpm"));
            let others = artefacts.dist(&triple, OTHERS, "deb,tar");
            others.and(joined(rpm.join()))
        })?;
        for name in [RELAY, BRIDGE] {
            artefacts.make_older(name)?;
        }
        Ok(artefacts)
    }

    /// Makes packages of these kinds in a directory. `dist` works next to its own program: another name of it leaves the
    /// artefacts of a release as they are. It is no copy, because a file that was just written cannot be run while another
    /// thread starts a process.
    fn dist(&self, triple: &str, part: &str, kinds: &str) -> Result<(), Failed> {
        let link = self.directory.join(part).join("debug").join("xtask");
        let this = this_program()?;
        fs::create_dir_all(link.parent().unwrap_or(&link))
            .and_then(|()| fs::hard_link(&this, &link))
            .map_err(|error| cannot("link", &this, &error))?;
        Step::program(&link.to_string_lossy())
            .args(["dist", "--only", kinds, "--target", triple])
            .args([Path::new("--programs"), &self.directory.join("programs")])
            .output()
            .map(drop)
    }

    /// Returns the package for Debian.
    pub(super) fn deb(&self, name: &str) -> Result<PathBuf, Failed> {
        find(&self.made(OTHERS), &format!("{name}_"), ".deb")
    }

    /// Returns the package of an older version, with another first config.
    pub(super) fn older_deb(&self, name: &str) -> Result<PathBuf, Failed> {
        find(&self.directory.join(OLDER), &format!("{name}_"), ".deb")
    }

    /// Returns the package for Red Hat and SUSE.
    pub(super) fn rpm(&self, name: &str) -> Result<PathBuf, Failed> {
        find(&self.made(RPM), &format!("{name}-"), ".rpm")
    }

    /// Returns the archive.
    pub(super) fn archive(&self, name: &str) -> Result<PathBuf, Failed> {
        find(&self.made(OTHERS), &format!("{name}-"), ".tar.gz")
    }

    fn made(&self, part: &str) -> PathBuf {
        self.directory.join(part).join("dist")
    }

    /// Makes the package of an older version: the same programs, and a first config with another text.
    fn make_older(&self, name: &str) -> Result<(), Failed> {
        let older = self.directory.join(OLDER);
        let tree = older.join(name);
        Step::program("dpkg-deb")
            .args(["--raw-extract"])
            .args([self.deb(name)?, tree.clone()])
            .output()?;
        let version = env!("CARGO_PKG_VERSION");
        edit(&tree.join("DEBIAN/control"), |text| {
            // The sign sorts before everything.
            text.replace(
                &format!("Version: {version}\n"),
                &format!("Version: {version}~older\n"),
            )
        })?;
        let edited = fs::read_to_string(tree.join("DEBIAN/conffiles"));
        let edited = edited.map_err(|error| cannot("read", &tree, &error))?;
        for config in edited.lines() {
            let name = config.trim_start_matches('/');
            edit(&tree.join(name), |text| {
                format!("# Of an older version.\n{text}")
            })?;
            // dpkg makes the sum of such a file itself.
            edit(&tree.join("DEBIAN/md5sums"), |sums| {
                let others = sums.lines().filter(|line| !line.ends_with(name));
                others.map(|line| format!("{line}\n")).collect()
            })?;
        }
        Step::program("dpkg-deb")
            // Without effort: it is installed once.
            .args(["--root-owner-group", "-Zgzip", "-z1", "--build"])
            .args([tree, older.join(format!("{name}_older.deb"))])
            .output()
            .map(drop)
    }
}

/// Returns the only file with this beginning and end.
fn find(directory: &Path, start: &str, end: &str) -> Result<PathBuf, Failed> {
    let listed = fs::read_dir(directory).map_err(|error| cannot("read", directory, &error))?;
    let found: Vec<_> = listed
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(start) && name.ends_with(end)
        })
        .collect();
    match found.as_slice() {
        [file] => Ok(file.clone()),
        _ => Err(Failed::new(format!(
            "{} has {} files {start}*{end}",
            directory.display(),
            found.len()
        ))),
    }
}

/// Changes the text of a file.
fn edit(path: &Path, change: impl Fn(&str) -> String) -> Result<(), Failed> {
    let text = fs::read_to_string(path).map_err(|error| cannot("read", path, &error))?;
    fs::write(path, change(&text)).map_err(|error| cannot("write", path, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failed {
    Failed::new(format!("cannot {what} {}: {error}", path.display()))
}
