//! `doctor` and `support-bundle`: finds the fault, and collects what support needs, without secrets.
//! `collect` reads logs, the journal and metrics; `environment` reads the variables.

mod collect;
mod environment;

use super::check::examine as check_config;
use super::common::{ConfigArg, DONE, FAILED, Outcome, print, short_runtime};
use super::service;
use crate::config::{Config, FilePath};
use crate::control::message::{ControlRequest, ControlResponse};
use crate::control::socket;
use crate::credentials::{OWN_KEY_FILE, Store};
use crate::data_dir::PrivateDir;
use crate::doctor::{State, examine, examine_machine, examine_route};
use crate::identity::Identity;
use crate::redact::{Redactor, logins, settings_in, without_comments};
use crate::stats::now_s;
use crate::text::{error_chain, unhex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use runtime::pem::read_file;
use runtime::shortage::in_words;
use serde::Serialize;
use std::error::Error;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Only compare this machine with the system requirements. Needs no config and no network.
    #[arg(long)]
    system: bool,
    /// Only check config, identity and the route to the relay. `update` runs this with a new program.
    #[arg(long, conflicts_with = "system")]
    route: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// `support-bundle`.
#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The archive to write (tar). It must not exist. Defaults to integration-bridge-support-TIME.tar in the
    /// current directory.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn doctor(args: &DoctorArgs) -> Outcome {
    if args.system {
        let table = examine_machine(&args.config.config);
        match args.json {
            true => print(&serde_json::to_string_pretty(&table)?),
            false => print(&table.to_string()),
        }
        return Ok(match table.state {
            State::Fail => FAILED,
            State::Ok | State::Skipped | State::Warn => DONE,
        });
    }
    let config = &args.config.config;
    let report = short_runtime()?.block_on(async {
        match args.route {
            true => examine_route(config).await,
            false => examine(config).await,
        }
    });
    match args.json {
        true => print(&serde_json::to_string_pretty(&report)?),
        false => print(&report.to_string()),
    }
    Ok(if report.state == State::Fail {
        FAILED
    } else {
        DONE
    })
}

/// An archive that is being written.
struct Bundle {
    tar: tar::Builder<File>,
    redactor: Redactor,
    names: Vec<String>,
}

impl Bundle {
    /// Adds a file, after its secrets were removed.
    fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        let text = self.redactor.redact(text);
        self.append(name, &text)
    }

    /// Adds a document as JSON, after its secrets were removed from its values: it stays valid JSON.
    fn add_json(&mut self, name: &str, document: &impl Serialize) -> Result<(), Box<dyn Error>> {
        let document = self.redactor.redact_json(&serde_json::to_value(document)?);
        Ok(self.append(name, &format!("{document:#}\n"))?)
    }

    /// Adds lines of text or JSON, or why there are none.
    fn add_lines(&mut self, name: &str, lines: Result<String, String>) -> io::Result<()> {
        let text = lines.unwrap_or_else(|why| format!("not included: {why}"));
        let text = self.redactor.redact_json_lines(&text);
        self.append(name, &text)
    }

    /// Adds a file as it is.
    fn append(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now_s());
        header.set_cksum();
        let path = format!("support-bundle/{name}");
        self.tar.append_data(&mut header, path, text.as_bytes())?;
        self.names.push(name.to_owned());
        Ok(())
    }
}

pub(super) fn bundle(args: &BundleArgs) -> Outcome {
    let output = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("integration-bridge-support-{}.tar", now_s())));
    let mut options = std::fs::OpenOptions::new();
    // A new file: root may run this in a directory where another user has prepared a link.
    options.create_new(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let file = options.open(&output).map_err(|error| {
        let output = output.display();
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("cannot write {output}: it exists already; name another file with --output")
            }
            _ => format!("cannot write {output}: {}", in_words(&error)),
        }
    })?;
    let names = match write(args, file) {
        Ok(names) => names.join(", "),
        Err(error) => {
            // A part of an archive is of no use, and its name would be in the way of the next attempt.
            let _ = std::fs::remove_file(&output);
            return Err(error);
        }
    };
    print(&format!("{}: {names}", output.display()));
    print("secrets were removed; review the archive before you send it");
    Ok(DONE)
}

/// Writes the archive, and returns the names of its files.
fn write(args: &BundleArgs, file: File) -> Result<Vec<String>, Box<dyn Error>> {
    // A broken config is a reason to write a bundle, not to fail.
    let config = args.config.load();
    let data_dir = args.config.data_dir();
    let text = runtime::config::text_of(&args.config.config);
    let variables = environment::variables();
    let mut bundle = Bundle {
        tar: tar::Builder::new(file),
        redactor: known_secrets(
            config.as_ref().ok(),
            data_dir.as_deref().ok(),
            text.as_deref().unwrap_or_default(),
            &variables,
        ),
        names: Vec::new(),
    };
    let version = format!(
        "{}\n{} {}\n",
        crate::identity::software(),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    bundle.add("version.txt", &version)?;
    let text = text.unwrap_or_else(|why| format!("cannot read it: {why}\n"));
    // The text as well as its parsed form: its order often explains a mistake.
    bundle.add("bridge.toml", &without_comments(&text))?;
    let checked = match &config {
        Ok(config) => check_config(config).map_or_else(
            |error| error_chain(error.as_ref()),
            |found| [found.lines, found.mistakes].concat().join("\n"),
        ),
        Err(error) => error_chain(error),
    };
    bundle.add("config-check.txt", &checked)?;
    bundle.add("environment.txt", &environment::shown(&variables))?;
    print("running doctor; this may take a minute");
    let report = short_runtime()?.block_on(examine(&args.config.config));
    bundle.add("doctor.txt", &report.to_string())?;
    bundle.add_json("doctor.json", &report)?;
    let machine = examine_machine(&args.config.config);
    bundle.add("system.txt", &machine.to_string())?;
    match &data_dir {
        Ok(data_dir) => {
            match socket::send(data_dir, &ControlRequest::Status) {
                Ok(ControlResponse::Status(status)) => {
                    bundle.add("status.txt", &status.to_string())?;
                    bundle.add_json("status.json", &status)?;
                }
                Ok(_) => bundle.add(
                    "status.txt",
                    "the running bridge sent an unexpected response",
                )?,
                Err(error) => bundle.add("status.txt", &error_chain(&error))?,
            }
            bundle.add("data-directory.txt", &listing(data_dir))?;
        }
        Err(error) => bundle.add("status.txt", &error_chain(error))?,
    }
    let log = config
        .as_ref()
        .ok()
        .and_then(|config| config.log.file.as_ref());
    if let (Some(file), Ok(data_dir)) = (log, &data_dir) {
        bundle.add_lines("bridge.log", collect::tail(&file.in_dir(data_dir)))?;
    }
    // Also with a log file: a bridge that did not start has logged to standard error only.
    bundle.add_lines("journal.txt", collect::journal(service::NAME))?;
    if let Ok(config) = &config {
        if config.audit.enabled {
            let file = config.audit.path(config.bridge.data_dir.get());
            bundle.add_lines("audit.jsonl", collect::tail(&file))?;
        }
        let metrics = match config.metrics.listen {
            Some(address) => collect::metrics(address),
            None => Err("the config has no metrics.listen".to_owned()),
        };
        bundle.add_lines("metrics.txt", metrics)?;
    }
    bundle.tar.into_inner()?.sync_all()?;
    Ok(bundle.names)
}

/// Returns a redactor with every secret that this program can know, also if the config cannot be used.
fn known_secrets(
    config: Option<&Config>,
    data_dir: Option<&Path>,
    text: &str,
    variables: &[(String, String)],
) -> Redactor {
    let mut redactor = Redactor::default();
    for (name, value) in variables {
        if environment::is_secret(name) {
            redactor.know(value);
            if name.ends_with("_FILE")
                && let Ok(text) = read_file(Path::new(value))
            {
                redactor.know(&String::from_utf8_lossy(&text));
            }
        }
        // User and password of a proxy, in whatever variable the proxy is configured.
        users_in(value, &mut redactor);
        if environment::is_proxy(name) {
            know_logins(value, &mut redactor);
        }
    }
    users_in(text, &mut redactor);
    for setting in settings_in(text) {
        know_logins(setting, &mut redactor);
    }
    let Some(data_dir) = data_dir else {
        return redactor;
    };
    let key_file = config.and_then(|config| config.bridge.key_file.as_ref());
    let key_file = key_file.map(FilePath::get);
    let is_shared = config.is_some_and(|config| config.bridge.data_dir_shared);
    let Ok(dir) = PrivateDir::open_as(data_dir, is_shared) else {
        return redactor;
    };
    if let Ok(credentials) = Store::of(dir.clone(), key_file).load() {
        for credential in credentials.all() {
            for secret in credential.kind.secrets() {
                redactor.know(secret.expose());
            }
        }
    }
    // Signed calls need it, and it looks like a secret.
    if let Ok(identity) = Identity::load(&dir) {
        redactor.publish(&crate::signed::fingerprint(identity.key.public()));
    }
    if let Ok(Some(bytes)) = dir.read_private(crate::identity::IDENTITY_FILE)
        && let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes)
        && let Some(fields) = value.as_object()
    {
        // The private key is among them. A longer list is safer than one of field names, which may change.
        for text in fields.values().filter_map(|value| value.as_str()) {
            // The URL of the relay may be as long.
            if text.len() > 40 && !text.starts_with("https://") {
                redactor.know(text);
                if let Ok(bytes) = STANDARD.decode(text) {
                    redactor.know_bytes(&bytes);
                }
            }
        }
    }
    for key in [
        key_file.map(read_file),
        Some(read_file(&data_dir.join(OWN_KEY_FILE))),
    ] {
        if let Some(Ok(key)) = key {
            redactor.know_bytes(&key);
        }
    }
    redactor
}

/// Adds users and passwords of the URLs in a text, as they are and decoded.
fn users_in(text: &str, redactor: &mut Redactor) {
    for (at, _) in text.match_indices("://") {
        let rest = &text[at + 3..];
        let end = rest.find(|c: char| c.is_whitespace() || c == '"');
        let url = &rest[..end.unwrap_or(rest.len())];
        let end = url.find(['/', '\'', '?', '#']);
        // As a parser reads it, and up to the last `@`: a password may have characters that end the authority.
        for part in [&url[..end.unwrap_or(url.len())], url] {
            if let Some((login, _)) = part.rsplit_once('@') {
                know_login(login, redactor);
            }
        }
    }
}

/// Adds user and password of a setting of a proxy, however it is written.
fn know_logins(setting: &str, redactor: &mut Redactor) {
    for secret in logins(setting) {
        redactor.know(secret);
        redactor.know(&percent_decoded(secret));
    }
}

/// Adds `user:password`. A user alone is a token of some services.
fn know_login(login: &str, redactor: &mut Redactor) {
    for part in login.splitn(2, ':') {
        redactor.know(part);
        redactor.know(&percent_decoded(part));
    }
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..2).filter(|_| *first == b'%');
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(unhex);
        match byte.as_deref() {
            Some([byte]) => {
                out.push(*byte);
                rest = &more[2..];
            }
            _ => {
                out.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Returns names, sizes and modes of the files in the data directory.
fn listing(dir: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return format!("cannot read {}", dir.display());
    };
    let mut lines: Vec<String> = entries
        .flatten()
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(metadata) = entry.metadata() else {
                return name;
            };
            #[cfg(unix)]
            let mode = {
                use std::os::unix::fs::PermissionsExt as _;
                format!("{:04o}", metadata.permissions().mode() & 0o7777)
            };
            #[cfg(not(unix))]
            let mode = "";
            format!("{mode} {:>12} {name}", metadata.len())
        })
        .collect();
    lines.sort();
    lines.join("\n")
}
