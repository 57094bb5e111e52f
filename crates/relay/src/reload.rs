//! A new configuration or certificate for a relay that runs: all of it or nothing.
//!
//! Limits that are looked at for each request, and certificates, change at once; what is built once
//! (sockets, database, places) needs a restart, and is named. What runs is left alone.

use crate::config::{Config, Tls};
use crate::control_plane::ControlPlane;
use crate::listener::tls::{self, Acceptor, TlsError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How often the certificate's files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why a configuration was not taken. The one before is in force as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It asks for something that needs a restart.
    #[error("{0} has changed, which takes a restart; the rest of the file was not taken either")]
    NeedsRestart(&'static str),
    /// Its certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What of a configuration cannot change while the relay runs.
fn settled(old: &Config, new: &Config) -> Option<&'static str> {
    let is = |old: &dyn std::fmt::Debug, new: &dyn std::fmt::Debug| {
        format!("{old:?}") == format!("{new:?}")
    };
    let (was, now) = (&old.limits, &new.limits);
    let all = [
        ("[listen]", is(&old.listen, &new.listen)),
        ("[tls]", old.tls.is_some() == new.tls.is_some()),
        (
            "[storage]",
            old.database == new.database && old.key_file == new.key_file,
        ),
        ("[deliveries]", is(&old.deliveries, &new.deliveries)),
        ("[direct]", old.direct == new.direct),
        ("[directory]", old.directory == new.directory),
        ("[audit]", old.audit == new.audit),
        ("[notices]", old.notices == new.notices),
        ("[weights]", old.weights == new.weights),
        ("[hops]", old.hops == new.hops),
        ("[tunnel]", is(&old.tunnel, &new.tunnel)),
        ("[log]", old.log == new.log),
        ("[telemetry]", old.telemetry == new.telemetry),
        ("limits.sessions_max", was.sessions_max == now.sessions_max),
        (
            "limits.sessions_per_tenant",
            was.sessions_per_tenant == now.sessions_per_tenant,
        ),
        (
            "limits.handshakes_max",
            was.handshakes_max == now.handshakes_max,
        ),
        (
            "limits.handshakes_per_address",
            was.handshakes_per_address == now.handshakes_per_address,
        ),
        (
            "limits.unproven_tunnels_max",
            was.unproven_tunnels_max == now.unproven_tunnels_max,
        ),
        (
            "limits.unproven_per_address",
            was.unproven_per_address == now.unproven_per_address,
        ),
        (
            "limits.pending_connections_max",
            was.pending_connections_max == now.pending_connections_max,
        ),
        (
            "limits.pending_memory_max",
            was.pending_memory_max == now.pending_memory_max,
        ),
        (
            "limits.internal_connections_max",
            was.internal_connections_max == now.internal_connections_max,
        ),
        (
            "limits.proxy_connections_max",
            was.proxy_connections_max == now.proxy_connections_max,
        ),
        (
            "limits.admin_connections_max",
            was.admin_connections_max == now.admin_connections_max,
        ),
        (
            "limits.connections_max",
            was.connections_max == now.connections_max,
        ),
        (
            "limits.connections_per_address",
            was.connections_per_address == now.connections_per_address,
        ),
        ("limits.streams_max", was.streams_max == now.streams_max),
        (
            "limits.streams_per_tenant",
            was.streams_per_tenant == now.streams_per_tenant,
        ),
        (
            "limits.streams_per_key",
            was.streams_per_key == now.streams_per_key,
        ),
        (
            "limits.call_memory_max",
            was.call_memory_max == now.call_memory_max,
        ),
        (
            "limits.operations_max",
            was.operations_max == now.operations_max,
        ),
        (
            "limits.auth_failures_per_minute",
            was.auth_failures_per_minute == now.auth_failures_per_minute,
        ),
    ];
    let changed = all.iter().find(|(_, is_same)| !is_same);
    changed.map(|(key, _)| *key)
}

/// Puts a configuration in force.
///
/// # Errors
/// [`ReloadError`]; nothing was changed.
pub fn take(
    state: &ControlPlane,
    acceptor: Option<&Acceptor>,
    config: &Config,
) -> Result<(), ReloadError> {
    let taken = try_take(state, acceptor, config);
    state.metrics.reloaded(taken.is_ok());
    taken
}

fn try_take(
    state: &ControlPlane,
    acceptor: Option<&Acceptor>,
    config: &Config,
) -> Result<(), ReloadError> {
    if let Some(key) = settled(&state.config, config) {
        return Err(ReloadError::NeedsRestart(key));
    }
    let ready = config.tls.as_ref().map(tls::prepare).transpose()?;
    if let (Some(acceptor), Some(ready)) = (acceptor, ready) {
        acceptor.replace(ready.acceptor);
    }
    state.data.set_limits(config.limits.clone());
    Ok(())
}

/// Follows the certificate's files: a new pair is used for the next handshake, a broken one is said
/// once and not used.
pub async fn follow(state: Arc<ControlPlane>, acceptor: Acceptor) {
    let Some(tls) = state.config.tls.clone() else {
        return;
    };
    let mut known = stamps(&tls);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = stamps(&tls);
        if now == known {
            continue;
        }
        known = now;
        match tls::prepare(&tls) {
            Ok(ready) => {
                acceptor.replace(ready.acceptor);
                state.metrics.reloaded(true);
                tracing::info!("the certificate has changed, and is used from now on");
            }
            Err(error) => {
                state.metrics.reloaded(false);
                tracing::error!(%error, "the new certificate is not used; the one before is");
            }
        }
    }
}

/// What tells that a file is another.
fn stamps(tls: &Tls) -> Vec<Option<(SystemTime, u64)>> {
    let files: Vec<&PathBuf> = match tls {
        Tls::Files {
            cert_file,
            key_file,
        } => vec![cert_file, key_file],
        // It is our own, and made anew by us alone.
        Tls::SelfSigned { .. } => Vec::new(),
    };
    files
        .into_iter()
        .map(|file| {
            let meta = std::fs::metadata(file).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = Config::local(std::path::Path::new("data"));
        assert_eq!(settled(&old, &old.clone()), None);
        let mut new = old.clone();
        new.limits.call_timeout = crate::config::Span::secs(7);
        assert_eq!(settled(&old, &new), None);
        new.limits.connections_max += 1;
        assert_eq!(settled(&old, &new), Some("limits.connections_max"));
        let mut new = old.clone();
        new.listen.admin = Some(([127, 0, 0, 1], 1).into());
        assert_eq!(settled(&old, &new), Some("[listen]"));
    }
}
