//! `serve` and `config check`.

use super::{CliError, control, log};
use crate::config::{Config, Tls};
use crate::running::{Relay, RunningRelay};
use runtime::logging::LogFormat;
use runtime::service_manager::ServiceManager;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Time limit for showing the first key.
const PRINT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a stop may take in addition to `limits.drain_timeout`: closing tunnels, releasing the lease, and the audit record.
const STOP_MARGIN: Duration = Duration::from_secs(20);

/// Serves until SIGTERM or Ctrl-C, then drains.
pub(super) async fn run(config: Config, path: &Path) -> Result<(), CliError> {
    // Before the log is opened: in the place of another file it would destroy it.
    if let Some(collision) = config.colliding_files(path).first() {
        return Err(CliError::Collision(collision.to_string()));
    }
    log::start(&config).map_err(CliError::Environment)?;
    let started_with = config.clone();
    let key_file = config.key_file.clone();
    let log_format = config.log.format;
    let manager = ServiceManager::of_environment();
    // A new version may change a large database, for longer than any time limit of a unit.
    let mut starting = JoinSet::new();
    starting.spawn(manager.clone().starting());
    let running = Relay::start(config).await?;
    drop(starting);
    // Also in standby, which may last for as long as another relay serves.
    manager.ready("started");
    let _reporting = running.report_to(&manager);
    if let Some(ca) = running.ca_path() {
        tracing::info!(ca = %ca.display(), "self-signed certificate in use; bridges and callers must trust its CA");
    }
    // Only the active relay creates the key; one in standby must not.
    let first_key = async {
        running.active().await;
        first_key(&running, key_file, log_format).await?;
        std::future::pending().await
    };
    let result = tokio::select! {
        () = stop_signal() => Ok(()),
        () = reload_on_hangup(&running, path, &manager) => Ok(()),
        () = control::serve(&running, &started_with, path) => Ok(()),
        // It ends only with an error: the database failed while the first key was created.
        result = first_key => result,
    };
    let drain = running.state().data.limits().drain_timeout.0;
    manager.stopping(drain.saturating_add(STOP_MARGIN));
    running.shutdown().await;
    result
}

/// Creates the first site administrator's key, which is shown only once: on a terminal or in a file.
async fn first_key(
    running: &RunningRelay,
    key_file: PathBuf,
    log_format: LogFormat,
) -> Result<(), CliError> {
    let storage = running.storage();
    if storage.has_site_admin().await? {
        return Ok(());
    }
    let (key, secret) = super::site::new_key(storage).await?;
    running.state().directory.refresh().await?;
    // On a thread of its own: standard output may lead to a process that does not read, and the relay must
    // serve.
    let (done, printed) = oneshot::channel();
    let showing = std::thread::Builder::new().name("first key".to_owned());
    let spawned = showing.spawn(move || {
        let whose = "The first key of a site administrator, to manage tenants over the API:";
        let made = (&key, &secret);
        let _ = done.send(match log_format {
            LogFormat::Text => super::first_key::show(made, whose, &key_file),
            LogFormat::Json => super::first_key::log(made, &key_file),
        });
    });
    let shown = match spawned {
        Ok(_) => tokio::time::timeout(PRINT_TIMEOUT, printed).await,
        Err(error) => Ok(Ok(Err(CliError::Output(error)))),
    };
    if !matches!(shown, Ok(Ok(Ok(())))) {
        tracing::warn!(
            "cannot show the first site administrator's key; create another with `integration-relay key create \
             --role site-admin`"
        );
    }
    Ok(())
}

/// Reloads the config on SIGHUP.
#[cfg(unix)]
async fn reload_on_hangup(running: &RunningRelay, path: &Path, manager: &ServiceManager) {
    use tokio::signal::unix::{SignalKind, signal};
    // Without the handler a SIGHUP would end the process.
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return std::future::pending().await;
    };
    while hangup.recv().await.is_some() {
        let _reloading = manager.reloading();
        // The log has the result.
        let _ = control::reload(running, path);
    }
    std::future::pending::<()>().await;
}

#[cfg(not(unix))]
async fn reload_on_hangup(_: &RunningRelay, _: &Path, _: &ServiceManager) {
    std::future::pending().await
}

#[cfg(unix)]
async fn stop_signal() {
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
async fn stop_signal() {
    let _ = tokio::signal::ctrl_c().await;
}

/// Returns a summary of a config, for people.
pub(super) fn explain(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let listen = &config.listen;
    if let Some(address) = listen.public {
        let how = match &config.tls {
            Some(Tls::Files {
                cert_file,
                key_file,
            }) => {
                // What is wrong with the files is reported by itself.
                let pair = transport::tls::read_pair(cert_file, key_file).ok();
                let names = pair.map(|pair| pair.leaf().names()).unwrap_or_default();
                let names = match names.as_slice() {
                    [] => String::new(),
                    names => format!(" for {}", names.join(", ")),
                };
                format!("HTTPS with the certificate {}{names}", cert_file.display())
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
        names => format!("the names {}", names.join(", ")),
    };
    lines.push(format!("  bridges   connect by {names}"));
    if listen.behind_balancer {
        lines.push(
            "  tunnels   may arrive without TLS, which a load balancer terminates".to_owned(),
        );
    }
    lines.push(format!("  database  {}", config.database));
    let limits = &config.limits;
    lines.push(format!(
        "  calls     bodies up to {}, timeout {} by default and {} at most",
        limits.call_request_max, limits.call_timeout, limits.call_timeout_max
    ));
    lines
}
