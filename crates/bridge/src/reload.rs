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
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

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

/// The state of the files that a config depends on. Files of targets are read when they are used.
#[derive(Debug, PartialEq, Eq)]
struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

impl Stamps {
    fn now(config: &Config) -> Self {
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
        let stamp = |path: PathBuf| {
            let found = Stamp::of(&path);
            (path, found)
        };
        Self(own.into_iter().chain(files).map(stamp).collect())
    }
}

/// Reloads when a file has changed, once it has stopped changing.
pub(crate) async fn watch_files(shared: Arc<BridgeState>) {
    let stamps = || Stamps::now(&shared.dispatcher.active().config);
    let mut loaded = stamps();
    let mut last = None;
    loop {
        tokio::time::sleep(CHECK_EVERY).await;
        let now = stamps();
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
        let _ = tokio::task::spawn_blocking(move || reload(&reloading)).await;
        // Also after a rejection: the same mistake is reported once.
        loaded = now;
        last = None;
    }
}
