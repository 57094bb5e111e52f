//! Reloads config, credentials and certificates of a running bridge: all of them or nothing.
//!
//! ```text
//! every 2 s: did a file change? --yes, and it has settled--> reload
//! SIGHUP, `integration-bridge reload` ----------------------> reload
//!                       mistake, or a key that needs a restart --> keep the previous config, report it
//! ```
//!
//! Running exchanges keep what they started with. A rejected config is reported in the log, in `status` and to
//! the relay.

use crate::config::{Config, ConfigError};
use crate::credentials::{self, StoreError, alm};
use crate::dispatcher::{Active, ActiveError, own_addresses};
use crate::health::Refused;
use crate::pairing::{PairError, dialer};
use crate::redact::Redactor;
use crate::state::BridgeState;
use crate::stats::now_s;
use crate::text::error_chain;
use runtime::files::Stamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use transport::tls::{TlsSetupError, inspect_ca_file};

/// How often files are checked.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// Why a config was rejected; the previous one is still active.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its rules cannot be applied.
    #[error(transparent)]
    Active(#[from] ActiveError),
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] StoreError),
    /// Proxy or certificates for the relay cannot be used.
    #[error(transparent)]
    Dial(#[from] PairError),
    /// A CA file cannot be used. Requests that trust it would fail, where those of the previous config do not.
    #[error("{key}: {source}; the whole config was rejected")]
    CaFile {
        /// The key that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TlsSetupError,
    },
    /// A key has changed that is read only at the start.
    #[error("{key} has changed, which needs {}; the whole config was rejected", needed(.key))]
    NeedsRestart {
        /// The key.
        key: String,
    },
}

/// Returns what makes a key effective that is read only at the start.
fn needed(key: &str) -> &'static str {
    match key {
        // A restart alone would end with an error.
        "bridge.name" | "relay.url" => {
            "a restart after the bridge was paired again (`integration-bridge pair`)"
        }
        _ => "a restart",
    }
}

impl ReloadError {
    /// Returns what the relay, and with it every caller, may read: no text of the file, which may hold a
    /// secret.
    fn for_relay(&self) -> String {
        let what = match self {
            Self::Config(error) => error.place(),
            Self::NeedsRestart { key } => format!("{key} has changed, which needs a restart"),
            Self::CaFile { key, .. } => format!("cannot use the file of {key}"),
            Self::Active(_) => "config rejected".into(),
            Self::Credentials(_) => "cannot read the credentials".into(),
            Self::Dial(_) => "cannot use the proxy or the certificates for the relay".into(),
        };
        format!("{what}; see the bridge's log or `integration-bridge status`")
    }
}

/// Reads the config and everything it names again, and applies it to exchanges and connections that begin from
/// now on. Blocks briefly.
///
/// # Errors
/// [`ReloadError`]; the previous config is still active.
pub(crate) fn reload(shared: &BridgeState) -> Result<(), ReloadError> {
    let path = shared.dispatcher.active().config.path.clone();
    let applied = Config::load(&path)
        .map_err(ReloadError::from)
        .and_then(|config| apply(shared, config));
    let refused = applied.as_ref().err().map(|error| Refused {
        detail: Redactor::default()
            .redact(&error_chain(error))
            .trim_end()
            .to_owned(),
        for_relay: error.for_relay(),
    });
    match &refused {
        None => {
            shared.config_loaded_at.store(now_s(), Ordering::Relaxed);
            tracing::info!("config reloaded");
        }
        Some(refused) => tracing::error!(
            error = refused.detail,
            "config rejected; keeping the previous one"
        ),
    }
    shared.health.set_config_refused(refused);
    shared.report();
    shared.health.request_probes();
    applied
}

fn apply(shared: &BridgeState, config: Config) -> Result<(), ReloadError> {
    let before = shared.dispatcher.active();
    if let Some(key) = runtime::config::first_change(&before.config, &config) {
        return Err(ReloadError::NeedsRestart { key });
    }
    check_ca_files(&config)?;
    let credentials = credentials::load(&config)?;
    let credentials = Arc::new(credentials.adopting(&before.credentials));
    // Everything that can fail comes before `set_dialer`, the first change.
    let dialer = dialer(&config, &credentials)?;
    let active = Active::new(config, own_addresses(), credentials)?;
    let serves = active.serves();
    shared.relay.set_dialer(dialer);
    shared.dispatcher.replace(active);
    let now = shared.dispatcher.active();
    // In the background: an ALM server that is down must not delay the reload.
    shared.runtime.spawn(async move {
        alm::sign_out_of_replaced(&before.access, &before.credentials, &now, &now.credentials);
    });
    // Open sessions learn the new endpoints at once; otherwise the relay would route by the old ones.
    shared.sessions.set_serves(&serves);
    Ok(())
}

/// Reads the CA files as `config check` does. The client for targets reads them when they are used, which is too late
/// to keep the previous config.
fn check_ca_files(config: &Config) -> Result<(), ReloadError> {
    for (key, path) in config.ca_files() {
        if let Err(source) = inspect_ca_file(path) {
            let path = path.to_owned();
            return Err(ReloadError::CaFile { key, path, source });
        }
    }
    Ok(())
}

/// The state of the files that a config depends on. Files of targets are read when they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamps {
    own: Vec<(PathBuf, Option<Stamp>)>,
    /// The CA file for which a config was rejected. An administrator may copy it after the config.
    awaited: Option<(PathBuf, Option<Stamp>)>,
}

fn stamped(path: PathBuf) -> (PathBuf, Option<Stamp>) {
    let found = Stamp::of(&path);
    (path, found)
}

impl Stamps {
    fn now(config: &Config, awaited: Option<&Path>) -> Self {
        // The credentials' file belongs to it: the command line changes it while the bridge runs.
        let own = [
            config.path.clone(),
            config.bridge.data_dir.get().join(credentials::store::FILE),
        ];
        let files = [
            &config.relay.ca_file,
            &config.bridge.key_file,
            &config.signed_calls.public_key_file,
        ];
        let files = files
            .into_iter()
            .flatten()
            .map(|file| file.get().to_owned());
        Self {
            own: own.into_iter().chain(files).map(stamped).collect(),
            awaited: awaited.map(|path| stamped(path.to_owned())),
        }
    }
}

/// Reloads when a file has changed, once it has stopped changing.
pub(crate) async fn watch_files(shared: Arc<BridgeState>) {
    let stamps = |awaited: Option<&Path>| Stamps::now(&shared.dispatcher.active().config, awaited);
    let mut loaded = stamps(None);
    let mut last = None;
    loop {
        tokio::time::sleep(CHECK_EVERY).await;
        let awaited = loaded.awaited.as_ref().map(|(path, _)| path.as_path());
        let now = stamps(awaited);
        if now == loaded {
            last = None;
            continue;
        }
        // An editor or a copy may be halfway through: two checks must agree.
        if last.as_ref() != Some(&now) {
            last = Some(now);
            continue;
        }
        let reloading = shared.clone();
        let reloaded = tokio::task::spawn_blocking(move || reload(&reloading)).await;
        // Also after a rejection: the same mistake is reported once.
        loaded = Stamps {
            awaited: match reloaded {
                Ok(Err(ReloadError::CaFile { path, .. })) => Some(stamped(path)),
                Ok(Ok(()) | Err(_)) | Err(_) => None,
            },
            ..now
        };
        last = None;
    }
}
