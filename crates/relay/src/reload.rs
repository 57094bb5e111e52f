//! Reloads config and certificate of a running relay: all of them or nothing.
//!
//! Limits that each request reads, and certificates, change at once. Keys that size something built once
//! (sockets, database, permits) need a restart; the first changed one is named. Running exchanges continue.

use crate::config::{Config, Tls};
use crate::control_plane::ControlPlane;
use crate::listener::tls::{self, Acceptor, TlsError};
use runtime::files::Stamp;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often the certificate's files are checked.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Why a config was rejected. The previous one is still active.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A key has changed that is read only at the start.
    #[error("{0} has changed, which needs a restart; the whole config was rejected")]
    NeedsRestart(String),
    /// Its certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Applies a config.
///
/// # Errors
/// [`ReloadError`]; nothing has changed.
pub(crate) fn take(
    state: &ControlPlane,
    acceptor: Option<&Acceptor>,
    config: &Config,
) -> Result<(), ReloadError> {
    let applied = try_apply(state, acceptor, config);
    state.metrics.reloaded(applied.is_ok());
    applied
}

fn try_apply(
    state: &ControlPlane,
    acceptor: Option<&Acceptor>,
    config: &Config,
) -> Result<(), ReloadError> {
    if let Some(key) = runtime::config::first_change(&*state.config, config) {
        return Err(ReloadError::NeedsRestart(key));
    }
    // Everything that can fail comes before the first change.
    let ready = config.tls.as_ref().map(tls::prepare).transpose()?;
    if let (Some(acceptor), Some(ready)) = (acceptor, ready) {
        state.metrics.certificate_expires(ready.expires);
        acceptor.replace(ready);
    }
    state.data.set_limits(config.limits.clone());
    state
        .bridge_versions
        .replace(config.bridges.accepted(), &state.data.registry);
    Ok(())
}

/// Follows the certificate's files: a new pair is used from the next handshake on. A broken pair is reported once
/// and not used.
pub(crate) async fn follow(state: Arc<ControlPlane>, acceptor: Acceptor) {
    let mut known = stamps(&acceptor.source());
    loop {
        tokio::time::sleep(CHECK_EVERY).await;
        // A reload may have named other files since.
        let tls = acceptor.source();
        let now = stamps(&tls);
        if now == known {
            continue;
        }
        // The key and the chain are replaced one after the other. A pair that does not match yet is rejected
        // here, and read again when the second file has changed.
        known = now;
        match tls::prepare(&tls) {
            Ok(ready) => {
                state.metrics.certificate_expires(ready.expires);
                acceptor.replace(ready);
                state.metrics.reloaded(true);
                tracing::info!("certificate reloaded");
            }
            Err(error) => {
                state.metrics.reloaded(false);
                tracing::error!(%error, "certificate rejected; keeping the previous one");
            }
        }
    }
}

fn stamps(tls: &Tls) -> Vec<(PathBuf, Option<Stamp>)> {
    let stamp = |file: &PathBuf| (file.clone(), Stamp::of(file));
    match tls {
        Tls::Files {
            cert_file,
            key_file,
        } => [cert_file, key_file].map(stamp).into(),
        // Only the relay itself renews it.
        Tls::SelfSigned { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_that_needs_a_restart_is_named() {
        let old = Config::local(std::path::Path::new("data"));
        let change = |new: &Config| runtime::config::first_change(&old, new);
        assert_eq!(change(&old.clone()), None);
        let mut new = old.clone();
        new.limits.call_timeout = crate::config::ConfigDuration::secs(7);
        new.bridges.version_newest = "1.4.0".parse().ok();
        new.tls = Some(Tls::Files {
            cert_file: "cert".into(),
            key_file: "key".into(),
        });
        assert_eq!(change(&new), None);
        new.limits.connections_max += 1;
        assert_eq!(change(&new).as_deref(), Some("limits.connections_max"));
        type Change = (&'static str, fn(&mut Config));
        let changes: [Change; 6] = [
            ("listen.admin", |new| {
                new.listen.admin = Some(([127, 0, 0, 1], 1).into());
            }),
            ("tls", |new| new.tls = None),
            ("storage.url", |new| {
                let url = crate::config::PostgresUrl::new("postgres://u:p@h/d");
                new.database = crate::config::Database::Postgres(url);
            }),
            ("storage.key_file", |new| new.key_file = "other".into()),
            ("hop_headers.via", |new| new.hops.via = true),
            ("log.files", |new| {
                new.log.files = runtime::config::BoundedInt::known(9);
            }),
        ];
        for (key, apply) in changes {
            let mut new = old.clone();
            apply(&mut new);
            assert_eq!(change(&new).as_deref(), Some(key));
        }
    }
}
