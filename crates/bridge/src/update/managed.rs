//! Whether another party owns this program: a package manager, or the image of a container. It would undo an update, or
//! never learn of it.

use super::trial;
use runtime::files;
use std::ffi::OsStr;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

/// The file that our packages install: its first word is the package manager.
const MARKER: &str = "/usr/lib/integration-bridge/managed-by";

/// The same file of the package for Windows, next to the program.
const MARKER_OF_WINDOWS: &str = "managed-by";

/// Bytes of the marker that are read.
const MARKER_MAX_BYTES: u64 = 256;

/// Files that container engines create in a container.
const CONTAINER_FILES: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// Environment variables that container engines and Kubernetes set in a container.
const CONTAINER_VARIABLES: [&str; 2] = ["container", "KUBERNETES_SERVICE_HOST"];

/// Time for a question to a package manager.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);

/// The package.
const PACKAGE: &str = "integration-bridge";

/// The party that owns the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A package manager.
    Packages(PackageManager),
    /// The image of a container.
    Container,
}

/// A package manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PackageManager {
    /// Of Debian and its relatives.
    Dpkg,
    /// Of Red Hat, SUSE and their relatives.
    Rpm,
    /// The installer of Windows.
    Msi,
    /// Another one, which the marker names.
    Other(String),
}

impl PackageManager {
    fn of_marker(text: &str) -> Option<Self> {
        let name = text.split_whitespace().next()?;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        Some(match name {
            "dpkg" | "deb" | "apt" => Self::Dpkg,
            "rpm" | "dnf" | "yum" | "zypper" => Self::Rpm,
            "msi" => Self::Msi,
            // It is shown on a terminal.
            other => Self::Other(
                other
                    .bytes()
                    .filter(|byte| is_word(*byte))
                    .map(char::from)
                    .collect(),
            ),
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packages(PackageManager::Dpkg) => write!(
                f,
                "dpkg manages this program: update it with `apt-get install --only-upgrade {PACKAGE}`, or with `dpkg \
                 --install FILE.deb`"
            ),
            Self::Packages(PackageManager::Rpm) => write!(
                f,
                "rpm manages this program: update it with `dnf upgrade {PACKAGE}` (`yum update`, `zypper update`), or \
                 with `rpm --upgrade FILE.rpm`"
            ),
            Self::Packages(PackageManager::Msi) => f.write_str(
                "the Windows installer manages this program: install the .msi file of the newer version",
            ),
            Self::Packages(PackageManager::Other(name)) => {
                write!(f, "{name} manages this program: update the package {PACKAGE} with it")
            }
            Self::Container => f.write_str(
                "this program is part of a container's image: run the image of the newer version. If this container is \
                 kept like a machine, add --in-container",
            ),
        }
    }
}

/// Returns the owner of a program. `is_kept` says that a container is kept like a machine.
pub(crate) fn owner(program: &Path, is_kept: bool) -> Option<Owner> {
    let packages = if cfg!(windows) {
        let marker = program.with_file_name(MARKER_OF_WINDOWS);
        read_marker(&marker)
    } else {
        marked(program, Path::new(MARKER)).or_else(|| registered(program))
    };
    if let Some(packages) = packages {
        return Some(Owner::Packages(packages));
    }
    let has_file = CONTAINER_FILES.iter().any(|file| Path::new(file).exists());
    let has_variable = || {
        CONTAINER_VARIABLES
            .iter()
            .any(|name| std::env::var_os(name).is_some())
    };
    let is_container = has_file || has_variable();
    (is_container && !is_kept).then_some(Owner::Container)
}

/// Returns the package manager that the marker of our packages names. The packages install the program in `/usr/bin`;
/// another copy of it is not theirs.
fn marked(program: &Path, marker: &Path) -> Option<PackageManager> {
    if !program.starts_with("/usr") || program.starts_with("/usr/local") {
        return None;
    }
    read_marker(marker)
}

fn read_marker(marker: &Path) -> Option<PackageManager> {
    let mut text = String::new();
    let file = files::open(marker).ok()?;
    file.take(MARKER_MAX_BYTES).read_to_string(&mut text).ok()?;
    PackageManager::of_marker(&text)
}

/// Asks the package managers of this machine. By their paths: the PATH of the user may lead elsewhere.
fn registered(program: &Path) -> Option<PackageManager> {
    let dpkg = ["/usr/bin/dpkg-query", "/bin/dpkg-query"];
    if knows(&dpkg, "--search", program) {
        return Some(PackageManager::Dpkg);
    }
    let rpm = ["/usr/bin/rpm", "/bin/rpm"];
    knows(&rpm, "-qf", program).then_some(PackageManager::Rpm)
}

fn knows(managers: &[&str], option: &str, program: &Path) -> bool {
    let manager = managers.iter().map(Path::new).find(|path| path.exists());
    let args = [OsStr::new(option), program.as_os_str()];
    let asked = manager.map(|manager| trial::run(manager, &args, QUERY_TIMEOUT));
    matches!(asked, Some(Ok(ran)) if ran.is_success)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn marker_of_a_package_names_its_manager() {
        let dir = TempDir::new("managed");
        let marker = dir.path().join("managed-by");
        let packaged = Path::new("/usr/bin/integration-bridge");
        assert_eq!(marked(packaged, &marker), None);
        for (text, manager) in [
            ("dpkg\n", PackageManager::Dpkg),
            ("rpm 1.4.0\n", PackageManager::Rpm),
            ("msi", PackageManager::Msi),
            ("pac\u{1b}man", PackageManager::Other("pacman".to_owned())),
        ] {
            std::fs::write(&marker, text).unwrap();
            assert_eq!(marked(packaged, &marker), Some(manager), "{text}");
        }
        for own in [
            "/usr/local/bin/integration-bridge",
            "/opt/integration-bridge",
        ] {
            assert_eq!(marked(Path::new(own), &marker), None, "{own}");
        }
    }

    #[test]
    fn marker_of_windows_is_next_to_the_program() {
        let dir = TempDir::new("managed");
        let program = dir.path().join("integration-bridge.exe");
        let marker = program.with_file_name(MARKER_OF_WINDOWS);
        assert_eq!(read_marker(&marker), None);
        std::fs::write(&marker, "msi\n").unwrap();
        assert_eq!(read_marker(&marker), Some(PackageManager::Msi));
    }

    #[test]
    fn owner_is_named_with_its_command() {
        let dpkg = Owner::Packages(PackageManager::Dpkg).to_string();
        assert!(dpkg.contains("apt-get install --only-upgrade"), "{dpkg}");
        let rpm = Owner::Packages(PackageManager::Rpm).to_string();
        assert!(rpm.contains("dnf upgrade integration-bridge"), "{rpm}");
    }
}
