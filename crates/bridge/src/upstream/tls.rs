//! TLS towards targets: read when the first HTTPS target needs it, kept for the next.

use rustls::ClientConfig;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use transport::tls::TlsSetupError;

/// One configuration for each CA file that an endpoint brings, and one without.
#[derive(Debug)]
pub(super) struct TlsConfigs {
    ca_file: Option<PathBuf>,
    made: Mutex<HashMap<Option<Arc<Path>>, Arc<ClientConfig>>>,
}

impl TlsConfigs {
    /// With the CA file of all targets, beside the system's roots.
    pub(super) fn new(ca_file: Option<PathBuf>) -> Self {
        Self {
            ca_file,
            made: Mutex::default(),
        }
    }

    /// The configuration for targets that also trust `extra`. The first time it reads files.
    pub(super) async fn get(
        &self,
        extra: Option<&Arc<Path>>,
    ) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let key = extra.cloned();
        if let Some(config) = self.known(&key) {
            return Ok(config);
        }
        let files: Vec<PathBuf> = self
            .ca_file
            .iter()
            .cloned()
            .chain(extra.map(|path| path.to_path_buf()))
            .collect();
        let config = tokio::task::spawn_blocking(move || {
            transport::tls::client_config(&files, &[b"http/1.1"])
        })
        .await
        .unwrap_or_else(|_| {
            Err(rustls::Error::General("reading certificates failed".into()).into())
        })?;
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, config.clone());
        Ok(config)
    }

    fn known(&self, key: &Option<Arc<Path>>) -> Option<Arc<ClientConfig>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(key).cloned()
    }
}
