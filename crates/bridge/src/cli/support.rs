//! `doctor` and `support-bundle`: finds the fault, and collects what support needs, without secrets.

use super::check::explain;
use super::common::{ConfigArg, DONE, FAILED, Outcome, print, short_runtime};
use super::secret_input::SECRET_ENV;
use crate::config::{Config, FilePath};
use crate::control::message::{ControlRequest, ControlResponse};
use crate::control::socket;
use crate::credentials::Store;
use crate::doctor::{State, examine};
use crate::redact::Redactor;
use crate::stats::now_s;
use crate::text::error_chain;
use clap::Args;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes from the end of the log that are included.
const LOG_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Variables whose value is a secret or identifies one.
const SECRET_VARIABLES: [&str; 2] = [SECRET_ENV, "BRIDGE_CLIENT_ID"];

/// `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArg,
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
    let report = short_runtime()?.block_on(examine(&args.config.config));
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
    let file = options
        .open(&output)
        .map_err(|error| format!("cannot write {}: {error}", output.display()))?;
    // A broken config is a reason to write a bundle, not to fail.
    let config = args.config.load();
    let mut bundle = Bundle {
        tar: tar::Builder::new(file),
        redactor: known_secrets(config.as_ref().ok()),
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
        .unwrap_or_else(|error| format!("cannot read it: {error}\n"));
    // The text as well as its parsed form: comments and order often explain a mistake.
    bundle.add("bridge.toml", &text)?;
    let checked = match &config {
        Ok(config) => {
            explain(config).map_or_else(|error| error.to_string(), |lines| lines.join("\n"))
        }
        Err(error) => error_chain(error),
    };
    bundle.add("config-check.txt", &checked)?;
    bundle.add("environment.txt", &environment())?;
    print("running doctor; this may take a minute");
    let report = short_runtime()?.block_on(examine(&args.config.config));
    bundle.add("doctor.txt", &report.to_string())?;
    bundle.add("doctor.json", &serde_json::to_string_pretty(&report)?)?;
    let data_dir = args.config.data_dir()?;
    match socket::send(&data_dir, &ControlRequest::Status) {
        Ok(ControlResponse::Status(status)) => {
            bundle.add("status.txt", &status.to_string())?;
            bundle.add("status.json", &serde_json::to_string_pretty(&status)?)?;
        }
        Ok(_) => bundle.add(
            "status.txt",
            "the running bridge sent an unexpected response",
        )?,
        Err(error) => bundle.add("status.txt", &error_chain(&error))?,
    }
    bundle.add("data-directory.txt", &listing(&data_dir))?;
    if let Ok(config) = &config {
        let log = config.log.file.as_ref().map(FilePath::get);
        match log.map(tail_of) {
            Some(Ok(text)) => bundle.add("bridge.log", &text)?,
            Some(Err(error)) => bundle.add("bridge.log", &format!("cannot read it: {error}"))?,
            None => bundle.add(
                "bridge.log",
                "the log goes to standard error; add the output of: journalctl -u integration-bridge",
            )?,
        }
    }
    let names = bundle.names.join(", ");
    bundle.tar.into_inner()?.sync_all()?;
    print(&format!("{}: {names}", output.display()));
    print("secrets were removed; review the archive before you send it");
    Ok(DONE)
}

/// Returns a redactor with every secret that this program can know.
fn known_secrets(config: Option<&Config>) -> Redactor {
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
        // User and password of a proxy, in whatever variable the proxy is configured.
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
    let key_file = config.bridge.key_file.as_ref().map(FilePath::get);
    if let Ok(credentials) =
        Store::of_bridge(&config.bridge, key_file).and_then(|store| store.load())
    {
        for credential in credentials.all() {
            for secret in credential.kind.secrets() {
                redactor.know(secret.expose());
            }
        }
    }
    let identity = config
        .bridge
        .open_data_dir()
        .and_then(|dir| dir.read_private(crate::identity::IDENTITY_FILE));
    if let Ok(Some(bytes)) = identity
        && let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes)
        && let Some(fields) = value.as_object()
    {
        // The private key is among them. A longer list is safer than one of field names, which may change.
        fields
            .values()
            .filter_map(|value| value.as_str())
            .filter(|text| text.len() > 40)
            .for_each(|text| redactor.know(text));
    }
    redactor
}

/// Returns the bridge's variables and the proxy variables, with the values of those that hold no secret.
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

/// Returns the end of a log file.
fn tail_of(path: &Path) -> io::Result<String> {
    // Without following links: the bridge's own user could have linked to a file that only root can read.
    let mut file = runtime::files::open(path)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_MAX_BYTES)))?;
    let mut text = Vec::new();
    file.take(LOG_MAX_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
