//! The config and the CA file that a pairing file needs.
//!
//! ```text
//! the config has another value  -> a conflict: nothing is written
//! it has the value              -> it stays
//! it lacks the key              -> the key is added, and nothing else changes
//! there is no config            -> a small one is written, which reaches no target
//! ```
//!
//! `run` writes no config if that or the environment names the data directory, as in a container: it keeps the values there
//! (`config::kept`). For a paired bridge, kept values count as those of the config.
//!
//! Values of the environment count as those of the config. The CA is stored in the data directory, as `relay-ca.pem`. A paired
//! bridge gets no other CA: if the pairing fails, it must go on to reach its relay, and to trust no one else.

use super::PairingFile;
use crate::config::{CA_FILE, Config, ConfigError, KEPT_FILE, Kept, check_name};
use crate::data_dir::{DataDirError, PrivateDir};
use crate::identity::{IDENTITY_FILE, Identity, IdentityError};
use runtime::pem;
use std::io;
use std::path::{Path, PathBuf};
use toml::{Table, Value};
use transport::dial::RelayUrl;

/// Where Linux packages have the config and the state.
const PACKAGE_CONFIG: &str = "/etc/integration-bridge";
const PACKAGE_STATE: &str = "/var/lib/integration-bridge";

/// Below a home directory: where an installation without root has the config and the state.
const USER_CONFIG: &str = ".config/integration-bridge";
const USER_STATE: &str = ".local/state/integration-bridge";

/// The beginning of a config that is written.
const HEADER: &str = "\
# The config of this bridge, written by `integration-bridge pair --bundle`.
#
# It reaches no target yet: add [[endpoint]] and [[allow]] sections, as the examples at the end. Then run
# `integration-bridge config check`.
";

/// The end of a config that is written.
const FOOTER: &str = "
# [[endpoint]]
# name = \"alm\"
# url = \"https://alm.corp.example:8443/qcbin/\"

# [[allow]]
# host = \"ci.corp.example\"
# methods = [\"POST\"]
";

/// Why a pairing file cannot be used with a config.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// The config has another value.
    #[error(
        "{key} of {} is {configured}, and the pairing file has {wanted}: {remedy}",
        .config.display()
    )]
    Conflict {
        /// The config file.
        config: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        configured: String,
        /// That of the pairing file.
        wanted: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Neither the file nor the config nor the command line names the bridge.
    #[error("the pairing file suggests no name for the bridge: give one with --name NAME")]
    NoName,
    /// The given name is none.
    #[error("--name: {0}")]
    Name(String),
    /// The config cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The config cannot be written.
    #[error("cannot write the config {}", .path.display())]
    Write {
        /// The config file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The config has a form to which nothing can be added safely.
    #[error("no key can be added to {}: write {lines}, and repeat the command", .path.display())]
    Form {
        /// The config file.
        path: PathBuf,
        /// What is missing.
        lines: String,
    },
}

impl PrepareError {
    /// Returns whether it stays until the administrator corrects something: a repetition would not help.
    pub(crate) fn needs_correction(&self) -> bool {
        match self {
            Self::Conflict { .. } | Self::NoName | Self::Name(_) | Self::Form { .. } => true,
            Self::Config(error) => error.needs_correction(),
            Self::DataDir(_) | Self::Write { .. } => false,
        }
    }
}

/// A key that the config needs.
struct Needed {
    section: &'static str,
    key: &'static str,
    value: String,
    comment: &'static str,
}

impl Needed {
    /// Returns the key with its value, quoted as TOML needs it.
    fn line(&self) -> String {
        format!("{} = {}", self.key, Value::String(self.value.clone()))
    }
}

/// The config of a pairing, and whether it was written.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The config, with the values of the pairing file.
    pub(crate) config: Config,
    /// Whether the config file is new or has new keys.
    pub(crate) is_changed: bool,
}

/// Where the values are written that a config lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Config,
    /// The data directory, if config or environment name it.
    DataDir,
}

/// Writes what a config lacks for a pairing file, and the CA. `name` overrides the suggested name. Repeating it changes
/// nothing.
///
/// # Errors
/// [`PrepareError`]. A conflict is found before anything is written.
pub(crate) fn prepare(
    file: &PairingFile,
    name: Option<&str>,
    path: &Path,
) -> Result<Prepared, PrepareError> {
    prepare_in(Place::Config, file, name, path)
}

/// The same for `run`, whose config may be read-only: the data directory gets the values, if config or environment name it.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn keep(file: &PairingFile, path: &Path) -> Result<Prepared, PrepareError> {
    prepare_in(Place::DataDir, file, None, path)
}

fn prepare_in(
    place: Place,
    file: &PairingFile,
    name: Option<&str>,
    path: &Path,
) -> Result<Prepared, PrepareError> {
    let text = match path.exists() {
        // A config that is not TOML has a better error than any that could be given here.
        true => runtime::config::text_of(path)
            .ok()
            .filter(|text| text.parse::<Table>().is_ok())
            .map_or_else(|| Config::load(path).map(|_| String::new()), Ok)?,
        false => String::new(),
    };
    let table: Table = text.parse().unwrap_or_default();
    let base = runtime::config::base_of(path);
    let configured_dir = Config::value_of(path, "bridge", "data_dir");
    let keeps = place == Place::DataDir && configured_dir.is_some();
    let data_dir = match configured_dir {
        Some(dir) => base.join(dir),
        None => default_data_dir(&base),
    };
    let has_identity = data_dir.join(IDENTITY_FILE).exists();
    let kept = match has_identity {
        true => Kept::of(path),
        // Of an earlier pairing file, which did not lead to a pairing.
        false => Kept::default(),
    };
    let value_of = |section: &str, key: &str| {
        let own = Config::value_of(path, section, key);
        own.or_else(|| kept.value(section, key).map(str::to_owned))
    };
    let conflict = |key: &'static str, configured: &str, wanted: &str, remedy| {
        let (section, name) = key.split_once('.').unwrap_or_default();
        let config = match kept.value(section, name) {
            Some(_) => kept.path.clone(),
            None => path.to_owned(),
        };
        PrepareError::Conflict {
            config,
            key,
            configured: configured.to_owned(),
            wanted: wanted.to_owned(),
            remedy,
        }
    };
    let cannot_write = |source| PrepareError::Write {
        path: path.to_owned(),
        source,
    };
    let url = file.relay.to_string();
    if let Some(configured) = value_of("relay", "url") {
        // One that is no URL is a mistake, which the config's own check names.
        if configured
            .parse::<RelayUrl>()
            .is_ok_and(|own| own != file.relay)
        {
            let remedy = "correct relay.url if it is wrong, or name another config with --config; a bridge has one relay";
            return Err(conflict("relay.url", &configured, &url, remedy));
        }
    }
    if let Some(name) = name {
        check_name(name).map_err(PrepareError::Name)?;
    }
    let configured = value_of("bridge", "name");
    let wanted = name.or(file.bridge.as_deref()).or(configured.as_deref());
    let wanted = wanted.ok_or(PrepareError::NoName)?;
    if let Some(configured) = &configured
        && configured != wanted
    {
        let remedy = "correct bridge.name, or give the config's name with --name";
        return Err(conflict("bridge.name", configured, wanted, remedy));
    }
    if !has_identity && data_dir.join(KEPT_FILE).exists() {
        let dir = PrivateDir::open_as(&data_dir, is_shared(&table, path))?;
        dir.remove(KEPT_FILE)?;
    }
    let own_ca = data_dir.join(CA_FILE);
    if let Some(ca) = &file.ca {
        let configured = value_of("relay", "ca_file").map(|given| base.join(given));
        let is_configured = configured.is_some();
        match configured {
            Some(given) if given != own_ca => {
                if !has_all(&given, ca) {
                    let (given, wanted) = (given.display().to_string(), "another CA");
                    let remedy = "remove relay.ca_file, and repeat the command, which stores the CA of the pairing file; \
                                  or append that CA to the file";
                    return Err(conflict("relay.ca_file", &given, wanted, remedy));
                }
            }
            // Before the config that names it: a config without its file would be a mistake.
            Some(_) | None => {
                // Otherwise the config's directory would be made for this user alone, with the data directory in it.
                if !keeps {
                    std::fs::create_dir_all(&base).map_err(cannot_write)?;
                }
                let is_shared = is_shared(&table, path);
                let dir = PrivateDir::open_as(&data_dir, is_shared)?;
                let before = dir.read_private(CA_FILE)?;
                let is_paired = || {
                    let identity = Identity::load(&dir);
                    !matches!(identity, Err(IdentityError::NotPaired { .. }))
                };
                let is_known = match &before {
                    Some(before) => before == ca.as_bytes(),
                    None => is_configured,
                };
                if !is_known && is_paired() {
                    let (given, remedy) = match &before {
                        Some(_) => (
                            own_ca.display().to_string(),
                            "this bridge is paired, and trusts its relay by that file; if the relay has a new CA, remove \
                             the file, and repeat the command",
                        ),
                        None => (
                            "not set".to_owned(),
                            "this bridge is paired, and trusts the system's roots; if the relay has a CA of its own now, \
                             name a file with it in relay.ca_file, and repeat the command",
                        ),
                    };
                    return Err(conflict("relay.ca_file", &given, "another CA", remedy));
                }
                dir.write_private(CA_FILE, ca.as_bytes())?;
            }
        }
    }
    let needed = [
        Some(("relay", "url", url, "Where the relay is.")),
        file.ca.is_some().then(|| {
            let comment =
                "The CA of the relay's certificate, trusted in addition to the system's roots.";
            ("relay", "ca_file", own_ca.display().to_string(), comment)
        }),
        Some((
            "bridge",
            "name",
            wanted.to_owned(),
            "The bridge's name in its tenant.",
        )),
        Some((
            "bridge",
            "data_dir",
            data_dir.display().to_string(),
            "Identity and state, for the bridge's user alone.",
        )),
    ];
    let is_missing = |needed: &Needed| {
        // A value of another type is a mistake, which the config's own check names.
        let in_file = table
            .get(needed.section)
            .and_then(|section| section.get(needed.key));
        in_file.is_none() && value_of(needed.section, needed.key).is_none()
    };
    let missing: Vec<Needed> = needed
        .into_iter()
        .flatten()
        .map(|(section, key, value, comment)| Needed {
            section,
            key,
            value,
            comment,
        })
        .filter(is_missing)
        .collect();
    if !missing.is_empty() && keeps {
        let more: Vec<(&str, &str, &str)> = missing
            .iter()
            .map(|one| (one.section, one.key, one.value.as_str()))
            .collect();
        let dir = PrivateDir::open_as(&data_dir, is_shared(&table, path))?;
        kept.write_with(&more, &dir)?;
    } else if !missing.is_empty() {
        let new = match path.exists() {
            true => added(&text, &table, &missing).ok_or_else(|| PrepareError::Form {
                path: path.to_owned(),
                lines: in_one_line(&missing),
            })?,
            false => format!("{HEADER}{}{FOOTER}", sections(&missing)),
        };
        let written = std::fs::create_dir_all(&base).and_then(|()| write(path, new.as_bytes()));
        written.map_err(cannot_write)?;
    }
    Ok(Prepared {
        config: Config::load(path)?,
        is_changed: !missing.is_empty(),
    })
}

/// Returns the data directory for a config in this directory, as the installations have it.
fn default_data_dir(base: &Path) -> PathBuf {
    if base == Path::new(PACKAGE_CONFIG) {
        return PathBuf::from(PACKAGE_STATE);
    }
    if base.ends_with(USER_CONFIG)
        && let Some(home) = base.ancestors().nth(2)
    {
        return home.join(USER_STATE);
    }
    base.join("data")
}

fn is_shared(table: &Table, path: &Path) -> bool {
    let in_file = table
        .get("bridge")
        .and_then(|bridge| bridge.get("data_dir_shared"));
    match Config::value_of(path, "bridge", "data_dir_shared") {
        Some(text) => text == "true",
        None => in_file.and_then(Value::as_bool).unwrap_or(false),
    }
}

/// Returns whether a file has all certificates of a text.
fn has_all(file: &Path, pem: &str) -> bool {
    let (Ok(own), Ok(wanted)) = (
        pem::certificates(file),
        pem::certificates_in(pem.as_bytes()),
    ) else {
        return false;
    };
    wanted
        .all
        .iter()
        .all(|one| own.all.iter().any(|known| known.der == one.der))
}

/// Returns the sections of keys, with what each is.
fn sections(needed: &[Needed]) -> String {
    let mut text = String::new();
    let mut last = "";
    for one in needed {
        if one.section != last {
            text.push_str(&format!("\n[{}]\n", one.section));
            last = one.section;
        }
        text.push_str(&format!("# {}\n{}\n", one.comment, one.line()));
    }
    text
}

/// Returns keys with their sections, for a message.
fn in_one_line(needed: &[Needed]) -> String {
    let keys = needed.iter();
    let keys: Vec<String> = keys
        .map(|one| format!("{} under [{}]", one.line(), one.section))
        .collect();
    keys.join(", ")
}

/// Returns a config with further keys, each in its section. `None` where that would change anything else: sections can
/// be written in forms that this does not read.
fn added(text: &str, before: &Table, missing: &[Needed]) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut expected = before.clone();
    for one in missing.iter().rev() {
        let is_header = |line: &String| {
            let line = line.split('#').next().unwrap_or_default().trim();
            let name = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            name.is_some_and(|name| name.trim() == one.section)
        };
        let at = match lines.iter().position(is_header) {
            Some(at) => at + 1,
            None => {
                lines.extend([String::new(), format!("[{}]", one.section)]);
                lines.len()
            }
        };
        lines.insert(at, one.line());
        let section = expected
            .entry(one.section)
            .or_insert_with(|| Value::Table(Table::new()));
        let value = Value::String(one.value.clone());
        section.as_table_mut()?.insert(one.key.to_owned(), value);
    }
    let new = lines.join("\n") + "\n";
    // A header inside a text of several lines, or a section in another form, would be seen here.
    let is_exact = new.parse::<Table>().is_ok_and(|table| table == expected);
    is_exact.then_some(new)
}

/// Writes the config. After a crash it is the old one or the new one. An existing file keeps its mode and owner: the
/// bridge's user may have a right to read it by its group alone.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => runtime::files::replace_like(path, bytes),
        // One that was made meanwhile stays: the file must be new.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = runtime::files::create_new(path, 0o644)?;
            // It has no secret, and the bridge's user must be able to read it, whatever the umask of root is.
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
            }
            drop(file);
            runtime::files::replace_like(path, bytes)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
