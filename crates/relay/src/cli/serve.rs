//! `serve` and `config check`.

use super::{CliError, log};
use crate::config::{Config, Tls};
use crate::running::{Relay, RunningRelay};
use std::path::Path;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long standard output may take for the first key.
const SHOW_WITHIN: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or Ctrl-C, then drains.
pub(super) async fn run(config: Config, path: &Path) -> Result<(), CliError> {
    log::start(&config.log);
    let running = Relay::start(config).await?;
    if let Some(ca) = running.ca_path() {
        tracing::info!(ca = %ca.display(), "the certificate is self-signed; give its CA to bridges and callers");
    }
    // A relay that stands by makes no key: the active one does.
    let first_key = async {
        running.active().await;
        first_key(&running).await?;
        std::future::pending().await
    };
    let result = tokio::select! {
        () = asked_to_end() => Ok(()),
        () = follow(&running, path) => Ok(()),
        result = first_key => result,
    };
    running.shutdown().await;
    result
}

/// A relay that nobody can administer gets a key for that, shown this one time on standard output.
async fn first_key(running: &RunningRelay) -> Result<(), CliError> {
    let storage = running.storage();
    if storage.has_site_admin().await? {
        return Ok(());
    }
    let (key, secret) = super::site::new_key(storage).await?;
    running.state().directory.refresh().await?;
    // On a thread of its own: what standard output leads to may be stuck or gone, and the relay serves.
    let (tell, told) = oneshot::channel();
    let showing = std::thread::Builder::new().name("first key".to_owned());
    let spawned = showing.spawn(move || {
        let whose = "The first key of a site administrator, who manages tenants over the API:";
        let _ = tell.send(super::key::shown(&key, &secret, "", whose.into(), false));
    });
    let shown = match spawned {
        Ok(_) => tokio::time::timeout(SHOW_WITHIN, told).await,
        Err(error) => Ok(Ok(Err(CliError::Output(error)))),
    };
    if !matches!(shown, Ok(Ok(Ok(())))) {
        tracing::warn!(
            "the first key of a site administrator could not be shown on standard output; \
             `integration-relay key create --role site-admin` makes another"
        );
    }
    Ok(())
}

/// SIGHUP: the file is read again.
#[cfg(unix)]
async fn follow(running: &RunningRelay, path: &Path) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return std::future::pending().await;
    };
    while hangup.recv().await.is_some() {
        let taken = Config::load(path)
            .map_err(|error| error.to_string())
            .and_then(|config| running.reload(&config).map_err(|error| error.to_string()));
        match taken {
            Ok(()) => {
                tracing::info!(config = %path.display(), "the configuration was read again, and is in force");
            }
            Err(error) => {
                tracing::error!(
                    error,
                    "the configuration was not taken; the one before is in force"
                );
            }
        }
    }
    std::future::pending::<()>().await;
}

#[cfg(not(unix))]
async fn follow(_: &RunningRelay, _: &Path) {
    std::future::pending().await
}

#[cfg(unix)]
async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

#[cfg(not(unix))]
async fn asked_to_end() {
    let _ = tokio::signal::ctrl_c().await;
}

/// What a configuration means, in words.
pub(super) fn explain(config: &Config, path: &Path) -> Vec<String> {
    let mut lines = vec![format!("{} is right.", path.display())];
    let listen = &config.listen;
    if let Some(address) = listen.public {
        let how = match &config.tls {
            Some(Tls::Files { cert_file, .. }) => {
                format!("HTTPS with the certificate {}", cert_file.display())
            }
            Some(Tls::SelfSigned { dir, .. }) => format!(
                "HTTPS with a self-signed certificate; bridges and callers trust {}",
                dir.join("relay-ca.pem").display()
            ),
            None => "plain HTTP".to_owned(),
        };
        lines.push(format!("  public    {address}: tunnels and API, {how}"));
    }
    if let Some(address) = listen.internal {
        lines.push(format!("  internal  {address}: the API without TLS"));
    }
    if let Some(address) = listen.admin {
        lines.push(format!(
            "  admin     {address}: /healthz, /readyz, /metrics"
        ));
    }
    let names = match listen.authorities.as_slice() {
        [] => "any name".to_owned(),
        names => names.join(", "),
    };
    lines.push(format!("  bridges   may dial {names}"));
    if listen.behind_balancer {
        lines.push("  tunnels   may come without TLS: a balancer in front ends it".to_owned());
    }
    lines.push(format!("  database  {}", config.database));
    let limits = &config.limits;
    lines.push(format!(
        "  calls     up to {} each way, {} unless they say otherwise, at most {}",
        limits.call_request_max, limits.call_timeout, limits.call_timeout_max
    ));
    lines
}
