//! `support-bundle`: what somebody needs who helps, and nothing that they must not have.

use super::{ConfigArg, DONE, Outcome, say, short_runtime};
use crate::config::{Config, FilePath};
use crate::control::message::{ControlRequest, ControlResponse};
use crate::control::socket;
use crate::credentials::Store;
use crate::data_dir::PrivateDir;
use crate::doctor::examine;
use crate::redact::Redactor;
use crate::stats::now_s;
use clap::Args;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// How much of a log's end is taken.
const LOG_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Variables whose value is a secret, or may hold one.
const SECRET_VARIABLES: [&str; 2] = ["BRIDGE_CLIENT_SECRET", "BRIDGE_CLIENT_ID"];

/// `support-bundle`.
#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The archive that is written; it must not be there yet
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// An archive that is being written.
struct Bundle {
    tar: tar::Builder<File>,
    redactor: Redactor,
    names: Vec<String>,
}

impl Bundle {
    fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        let text = self.redactor.clean(text);
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

pub(super) fn run(args: &BundleArgs) -> Outcome {
    let output = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("integration-bridge-support-{}.tar", now_s())));
    let mut options = std::fs::OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let file = options
        .open(&output)
        .map_err(|error| format!("{} cannot be written: {error}", output.display()))?;
    let config = args.config.load();
    let mut bundle = Bundle {
        tar: tar::Builder::new(file),
        redactor: known(config.as_ref().ok()),
        names: Vec::new(),
    };
    let version = format!(
        "{}\n{} {}\n",
        crate::identity::software(),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    bundle.add("version.txt", &version)?;
    let text = std::fs::read_to_string(&args.config.config)
        .unwrap_or_else(|error| format!("cannot be read: {error}\n"));
    bundle.add("bridge.toml", &text)?;
    let checked = match &config {
        Ok(config) => super::check::explain(config)
            .map_or_else(|error| error.to_string(), |lines| lines.join("\n")),
        Err(error) => crate::text::error_chain(error),
    };
    bundle.add("config-check.txt", &checked)?;
    bundle.add("environment.txt", &environment())?;
    say("looking at everything (doctor); this may take a minute");
    let report = short_runtime()?.block_on(examine(&args.config.config));
    bundle.add("doctor.txt", &report.to_string())?;
    bundle.add("doctor.json", &serde_json::to_string_pretty(&report)?)?;
    let data_dir = args.config.data_dir()?;
    match socket::send(&data_dir, &ControlRequest::Status) {
        Ok(ControlResponse::Status(status)) => {
            bundle.add("status.txt", &status.to_string())?;
            bundle.add("status.json", &serde_json::to_string_pretty(&status)?)?;
        }
        Ok(_) => bundle.add("status.txt", "the answer is not understood")?,
        Err(error) => bundle.add("status.txt", &crate::text::error_chain(&error))?,
    }
    bundle.add("data-directory.txt", &listing(&data_dir))?;
    if let Ok(config) = &config {
        let log = config.log.file.as_ref().map(FilePath::get);
        match log.map(end_of) {
            Some(Ok(text)) => bundle.add("bridge.log", &text)?,
            Some(Err(error)) => bundle.add("bridge.log", &format!("cannot be read: {error}"))?,
            None => bundle.add(
                "bridge.log",
                "the log goes to standard error; add the journal's part: journalctl -u integration-bridge",
            )?,
        }
    }
    let names = bundle.names.join(", ");
    bundle.tar.into_inner()?.sync_all()?;
    say(&format!("{}: {names}", output.display()));
    say("secrets were taken out; look through it before you send it");
    Ok(DONE)
}

/// Every secret that this program can know of.
fn known(config: Option<&Config>) -> Redactor {
    let mut redactor = Redactor::default();
    for name in SECRET_VARIABLES {
        if let Ok(value) = std::env::var(name) {
            redactor.know(&value);
        }
    }
    let secret_file = std::env::var_os("BRIDGE_CLIENT_SECRET_FILE");
    if let Some(Ok(text)) = secret_file.map(std::fs::read_to_string) {
        redactor.know(&text);
    }
    for (_, value) in std::env::vars() {
        // A proxy's user and password.
        if let Some((user, _)) = value
            .split_once("://")
            .and_then(|(_, rest)| rest.rsplit_once('@'))
        {
            user.split(':').for_each(|part| redactor.know(part));
        }
    }
    let Some(config) = config else {
        return redactor;
    };
    let data_dir = config.bridge.data_dir.get();
    let key_file = config.bridge.key_file.as_ref().map(FilePath::get);
    if let Ok(credentials) = Store::new(data_dir, key_file).and_then(|store| store.load()) {
        for credential in credentials.all() {
            for secret in credential.kind.secrets() {
                redactor.know(secret.expose());
            }
        }
    }
    let identity =
        PrivateDir::open(data_dir).and_then(|dir| dir.read_private(crate::identity::IDENTITY_FILE));
    if let Ok(Some(bytes)) = identity
        && let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes)
        && let Some(fields) = value.as_object()
    {
        // The private key among them.
        fields
            .values()
            .filter_map(|value| value.as_str())
            .filter(|text| text.len() > 40)
            .for_each(|text| redactor.know(text));
    }
    redactor
}

/// The names of our variables, and the values of those that hold no secret.
fn environment() -> String {
    let mut lines: Vec<String> = std::env::vars()
        .filter(|(name, _)| {
            let upper = name.to_ascii_uppercase();
            upper.starts_with("BRIDGE_") || upper.ends_with("_PROXY")
        })
        .map(
            |(name, value)| match SECRET_VARIABLES.contains(&name.as_str()) {
                true => format!("{name}=[removed]"),
                false => format!("{name}={value}"),
            },
        )
        .collect();
    lines.sort();
    lines.join("\n")
}

/// What is in the data directory: names, sizes, modes.
fn listing(dir: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return format!("{} cannot be read", dir.display());
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

fn end_of(path: &Path) -> io::Result<String> {
    // The bridge's own user could have put a link to a file of root there.
    let mut file = runtime::files::open(path)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_MAX_BYTES)))?;
    let mut text = Vec::new();
    file.take(LOG_MAX_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
