//! A new config, new credentials, new certificates for a bridge that runs: all of it or nothing.
//!
//! Files are looked at every few seconds; `SIGHUP` and `integration-bridge reload` do it at once. What runs
//! is left alone: an exchange keeps what it began with. A file with a mistake changes nothing: the one
//! before stays in force, the log, `status` and the relay say so.

use crate::config::{Config, ConfigError};
use crate::credentials::{self, StoreError, alm};
use crate::dispatcher::{Active, ActiveError, own_addresses};
use crate::health::Refused;
use crate::pairing::{PairError, dialer};
use crate::redact::Redactor;
use crate::state::BridgeState;
use crate::stats::now_s;
use crate::text::error_chain;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a config was not taken; the one before is still in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What it says about exchanges cannot be.
    #[error(transparent)]
    Active(#[from] ActiveError),
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] StoreError),
    /// Proxy or certificates for the relay cannot be used.
    #[error(transparent)]
    Dial(#[from] PairError),
    /// It cannot be taken without a restart.
    #[error("{key} has changed, which takes a restart; the rest of the file was not taken either")]
    NeedsRestart {
        /// The key.
        key: &'static str,
    },
}

impl ReloadError {
    /// What the relay, and with it every caller, learns of it: never a text of the file, which may hold a
    /// secret.
    fn for_relay(&self) -> String {
        let what = match self {
            Self::Config(error) => error.place(),
            Self::NeedsRestart { key } => format!("{key} has changed, which takes a restart"),
            Self::Active(_) => "the config was refused".into(),
            Self::Credentials(_) => "the credentials cannot be read".into(),
            Self::Dial(_) => "proxy or certificates for the relay cannot be used".into(),
        };
        format!("{what}; the bridge's log and `integration-bridge status` say why")
    }
}

/// Reads the config and all that belongs to it again, and puts it in force for exchanges and
/// connections that begin from now on. Blocks shortly.
///
/// # Errors
/// [`ReloadError`]; what was in force still is.
pub(crate) fn reload(shared: &BridgeState) -> Result<(), ReloadError> {
    let path = shared.dispatcher.active().config.path.clone();
    let taken = Config::load(&path)
        .map_err(ReloadError::from)
        .and_then(|config| take(shared, config));
    let refused = taken.as_ref().err().map(|error| Refused {
        detail: Redactor::default()
            .redact(&error_chain(error))
            .trim_end()
            .to_owned(),
        for_relay: error.for_relay(),
    });
    match &refused {
        None => {
            shared.config_loaded_at.store(now_s(), Ordering::Relaxed);
            tracing::info!("the config was read again and is in force");
        }
        Some(refused) => tracing::error!(
            error = refused.detail,
            "the config was not taken; the one before stays in force"
        ),
    }
    shared.health.set_config_refused(refused);
    shared.report();
    shared.health.request_probes();
    taken
}

fn take(shared: &BridgeState, config: Config) -> Result<(), ReloadError> {
    let before = shared.dispatcher.active();
    let (old, new) = (&before.config, &config);
    let settled = [
        ("relay.url", old.relay.url == new.relay.url),
        (
            "relay.connections",
            old.relay.connections == new.relay.connections,
        ),
        ("bridge.name", old.bridge.name == new.bridge.name),
        (
            "bridge.data_dir",
            old.bridge.data_dir == new.bridge.data_dir,
        ),
        (
            "limits.streams_max",
            old.limits.streams_max == new.limits.streams_max,
        ),
        ("deliveries", old.deliveries == new.deliveries),
        (
            "limits.window_budget",
            old.limits.window_budget == new.limits.window_budget,
        ),
        ("metrics", old.metrics == new.metrics),
        ("audit", old.audit == new.audit),
    ];
    if let Some((key, _)) = settled.iter().find(|(_, is_same)| !is_same) {
        return Err(ReloadError::NeedsRestart { key });
    }
    let credentials = credentials::load(&config)?;
    let credentials = Arc::new(credentials.adopting(&before.credentials));
    let dialer = dialer(&config, &credentials)?;
    let active = Active::new(config, own_addresses(), credentials)?;
    let serves = active.serves();
    shared.relay.set_dialer(dialer);
    shared.dispatcher.replace(active);
    let now = shared.dispatcher.active();
    shared.runtime.spawn(async move {
        alm::sign_out_of_replaced(&before.access, &before.credentials, &now, &now.credentials);
    });
    shared.sessions.set_serves(&serves);
    Ok(())
}

/// How the files looked that a config depends on. Those of targets are looked at when they are used.
#[derive(Debug, PartialEq, Eq)]
struct Seen(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

impl Seen {
    fn now(config: &Config) -> Self {
        let own = [
            config.path.clone(),
            config.bridge.data_dir.get().join(credentials::store::FILE),
        ];
        let files = [&config.relay.ca_file, &config.bridge.key_file];
        let files = files
            .into_iter()
            .flatten()
            .map(|file| file.get().to_owned());
        let look = |path: PathBuf| {
            let found = stamp(&path);
            (path, found)
        };
        Self(own.into_iter().chain(files).map(look).collect())
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

/// Reads everything again when a file has changed, once it has stopped changing.
pub(crate) async fn watch_files(shared: Arc<BridgeState>) {
    let look = || Seen::now(&shared.dispatcher.active().config);
    let mut taken = look();
    let mut last = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = look();
        if now == taken {
            last = None;
            continue;
        }
        // Somebody may be writing it at this moment.
        if last.as_ref() != Some(&now) {
            last = Some(now);
            continue;
        }
        let reloading = shared.clone();
        let _ = tokio::task::spawn_blocking(move || reload(&reloading)).await;
        taken = now;
        last = None;
    }
}
