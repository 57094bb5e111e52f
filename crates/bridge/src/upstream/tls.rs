//! TLS towards targets: read when the first HTTPS target needs it, kept until a file changes.

use super::client_cert::ClientCert;
use super::http2;
use rustls::ClientConfig;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use transport::tls::{ClientTls, Oldest, TlsSetupError};

/// Configurations that are kept. There is one for each CA file and each client certificate in use; where
/// certificates are set anew, the old ones go with the next clearing.
const KEPT_MAX: usize = 256;

/// The protocols that are offered.
const BOTH: &[&[u8]] = &[http2::ALPN, b"http/1.1"];
const HTTP1: &[&[u8]] = &[b"http/1.1"];

/// What a configuration is for; with HTTP/2 or without.
type For = (Option<Arc<Path>>, Option<Arc<ClientCert>>, bool);

/// A configuration, and the files that it was made from as they were.
#[derive(Debug)]
struct Made {
    config: Arc<ClientConfig>,
    files: Vec<(PathBuf, Option<SystemTime>)>,
}

/// One configuration for each CA file that an endpoint brings and each certificate that a credential
/// is, and one without.
#[derive(Debug)]
pub(super) struct TlsConfigs {
    ca_file: Option<PathBuf>,
    oldest: Oldest,
    made: Mutex<HashMap<For, Made>>,
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|file| file.modified())
        .ok()
}

impl TlsConfigs {
    /// With the CA file of all targets, beside the system's roots.
    pub(super) fn new(ca_file: Option<PathBuf>, oldest: Oldest) -> Self {
        Self {
            ca_file,
            oldest,
            made: Mutex::default(),
        }
    }

    /// The configuration for targets that also trust `extra`, to which `own` is shown, and which may choose
    /// HTTP/2. Reads files the first time, and when they have changed since.
    pub(super) async fn get(
        &self,
        extra: Option<&Arc<Path>>,
        own: Option<&Arc<ClientCert>>,
        http2: bool,
    ) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let key = (extra.cloned(), own.cloned(), http2);
        if let Some(config) = self.known(&key) {
            return Ok(config);
        }
        let files: Vec<PathBuf> = self
            .ca_file
            .iter()
            .cloned()
            .chain(extra.map(|path| path.to_path_buf()))
            .collect();
        let stamped = files.iter().map(|file| (file.clone(), changed(file)));
        let stamped = stamped.collect();
        let (oldest, own) = (self.oldest, own.cloned());
        let making = move || {
            let wrong = |detail| TlsSetupError::from(rustls::Error::General(detail));
            let own = own.map(|own| own.parts()).transpose().map_err(wrong)?;
            ClientTls {
                ca_files: &files,
                alpn: if http2 { BOTH } else { HTTP1 },
                oldest,
                own,
            }
            .config()
        };
        let config = tokio::task::spawn_blocking(making)
            .await
            .unwrap_or_else(|_| {
                Err(rustls::Error::General("reading certificates failed".into()).into())
            })?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= KEPT_MAX {
            made.clear();
        }
        let kept = Made {
            config: config.clone(),
            files: stamped,
        };
        made.insert(key, kept);
        Ok(config)
    }

    /// The one that was made, unless a file has changed since; a file that cannot be read any more is no
    /// reason to forget what was in it.
    fn known(&self, key: &For) -> Option<Arc<ClientConfig>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let made = made.get(key)?;
        let is_same = |(path, then): &(PathBuf, Option<SystemTime>)| {
            changed(path).is_none_or(|now| Some(now) == *then)
        };
        made.files.iter().all(is_same).then(|| made.config.clone())
    }
}
