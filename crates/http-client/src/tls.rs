//! TLS configs for targets: made when the first HTTPS target needs one, kept until a file changes.

use crate::client_cert::ClientCert;
use crate::http2;
use runtime::files::Stamp;
use rustls::ClientConfig;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use transport::tls::{ClientTls, Oldest, TlsSetupError};

/// TLS configs that are cached: one for each CA file and each client certificate in use. Those of replaced
/// certificates go when the cache is full and cleared.
const CACHED_MAX: usize = 256;

/// The protocols that are offered (ALPN).
const HTTP2_OR_1: &[&[u8]] = &[http2::ALPN, b"http/1.1"];
const HTTP1: &[&[u8]] = &[b"http/1.1"];

/// What a TLS config is for: the additional CA file, the client certificate, and whether HTTP/2 is offered.
type CacheKey = (Option<Arc<Path>>, Option<Arc<ClientCert>>, bool);

/// A TLS config, and the stamps of the files that it was made from.
#[derive(Debug)]
struct Cached {
    config: Arc<ClientConfig>,
    files: Files,
}

/// The TLS configs of one client.
#[derive(Debug)]
pub(crate) struct TlsConfigs {
    ca_file: Option<PathBuf>,
    oldest: Oldest,
    cached: Mutex<HashMap<CacheKey, Cached>>,
}

/// Reads the files and makes a TLS config.
fn make(
    files: &[PathBuf],
    client_cert: Option<&ClientCert>,
    oldest: Oldest,
    http2: bool,
) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let own = client_cert.map(ClientCert::parts).transpose();
    ClientTls {
        ca_files: files,
        alpn: if http2 { HTTP2_OR_1 } else { HTTP1 },
        oldest,
        own: own.map_err(TlsSetupError::Pair)?,
    }
    .config()
}

impl TlsConfigs {
    /// Trusts the CA file for all targets, in addition to the system's roots.
    pub(crate) fn new(ca_file: Option<PathBuf>, oldest: Oldest) -> Self {
        Self {
            ca_file,
            oldest,
            cached: Mutex::default(),
        }
    }

    /// Makes the config without an additional CA file and client certificate now. Blocks.
    pub(crate) fn load(&self, http2: bool) -> Result<(), TlsSetupError> {
        let files: Vec<PathBuf> = self.ca_file.iter().cloned().collect();
        let stamped = stamp(&files);
        // After the stamps, as in `get`.
        let config = make(&files, None, self.oldest, http2)?;
        self.keep((None, None, http2), config, stamped);
        Ok(())
    }

    /// Returns the config for targets that also trust `extra`, that get `client_cert`, and that may choose
    /// HTTP/2. Reads files the first time, and when they have changed since.
    pub(crate) async fn get(
        &self,
        extra: Option<&Arc<Path>>,
        client_cert: Option<&Arc<ClientCert>>,
        http2: bool,
    ) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let key = (extra.cloned(), client_cert.cloned(), http2);
        if let Some(config) = self.cached(&key) {
            return Ok(config);
        }
        let own = self.ca_file.iter().cloned();
        let files: Vec<PathBuf> = own.chain(extra.map(|path| path.to_path_buf())).collect();
        // Before the files are read: a change while they are read is then noticed by the next request.
        let stamped = stamp(&files);
        let (oldest, client_cert) = (self.oldest, client_cert.cloned());
        let making = move || make(&files, client_cert.as_deref(), oldest, http2);
        // Reading the system's roots takes milliseconds, and must not block the other exchanges of this worker.
        let config = tokio::task::spawn_blocking(making)
            .await
            .unwrap_or_else(|_| {
                Err(rustls::Error::General("reading certificates failed".into()).into())
            })?;
        self.keep(key, config.clone(), stamped);
        Ok(config)
    }

    fn keep(&self, key: CacheKey, config: Arc<ClientConfig>, files: Files) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() >= CACHED_MAX {
            cached.clear();
        }
        cached.insert(key, Cached { config, files });
    }

    /// Returns the cached config, unless a file has changed since. A file that cannot be read any more does
    /// not count as changed: its certificates stay trusted.
    fn cached(&self, key: &CacheKey) -> Option<Arc<ClientConfig>> {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cached.get(key)?;
        let is_same = |(path, then): &(PathBuf, Option<Stamp>)| {
            Stamp::of(path).is_none_or(|now| Some(now) == *then)
        };
        let is_fresh = cached.files.iter().all(is_same);
        is_fresh.then(|| cached.config.clone())
    }
}

/// Files with their stamps.
type Files = Vec<(PathBuf, Option<Stamp>)>;

fn stamp(files: &[PathBuf]) -> Files {
    let stamped = files.iter().map(|file| (file.clone(), Stamp::of(file)));
    stamped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn swapped_file_of_same_length_and_time_is_noticed() {
        let dir = runtime::testing::TempDir::new("tls-configs");
        let (path, next) = (dir.path().join("ca.pem"), dir.path().join("next"));
        let write = |path: &Path, text: &str| {
            fs::write(path, text).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        };
        write(&path, "one");
        let configs = TlsConfigs::new(Some(path.clone()), Oldest::default());
        let stamped = stamp(std::slice::from_ref(&path));
        let config = ClientConfig::builder_with_provider(transport::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let key = (None, None, false);
        configs.keep(key.clone(), Arc::new(config), stamped);
        assert!(configs.cached(&key).is_some());
        write(&next, "two");
        fs::rename(&next, &path).unwrap();
        assert!(configs.cached(&key).is_none(), "the old file is still used");
        // A file that is gone changes nothing.
        let stamped = stamp(std::slice::from_ref(&path));
        let again = configs.cached.lock().unwrap().remove(&key).unwrap().config;
        configs.keep(key.clone(), again, stamped);
        fs::remove_file(&path).unwrap();
        assert!(configs.cached(&key).is_some());
    }
}
