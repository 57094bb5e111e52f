//! The client: its connections, and what it needs to make them.

use crate::client_cert::ClientCert;
use crate::connect;
use crate::connection::Connection;
use crate::http2::Refused;
use crate::pool::{Pool, Reuse};
use crate::proxied::TargetProxy;
use crate::reuse::PoolKey;
use crate::tls::TlsConfigs;
use policy::{Approved, Candidate, Target};
use protocol::Failure;
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use transport::dial::Proxy;
use transport::tls::{Oldest, TlsSetupError};

/// Targets that are remembered to require HTTP/1.1.
const REQUIRES_HTTP1_MAX: usize = 256;

/// How many idle connections a client keeps, and for how long. Zero connections: none is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolLimits {
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// The age from which a connection takes no further request. What runs on it goes on. Without this, a busy
    /// connection would stay with an address that the target's name no longer has.
    pub age_max: Duration,
    /// Idle connections to one target.
    pub per_target_max: u32,
    /// Idle connections in all.
    pub total_max: u32,
}

/// How a client connects.
#[derive(Debug)]
pub struct ClientOptions {
    /// PEM certificates that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// The oldest TLS version that is accepted.
    pub tls_oldest: Oldest,
    /// The proxy for all connections. It gets an address that the policy approved, and a name only with
    /// `proxy_names`.
    pub proxy: Proxy,
    /// Whether the proxy gets the names of http targets, and resolves them again.
    pub proxy_names: bool,
    /// For a TCP connection, all addresses together, and again for its TLS handshake.
    pub connect_timeout: Duration,
    /// Whether HTTPS targets may choose HTTP/2.
    pub http2: bool,
    /// Whether HTTP/1.1 targets get field names in their usual spelling (`SOAPAction`), or in lower case.
    pub title_case: bool,
    /// Idle connections.
    pub pool: PoolLimits,
}

/// Makes, keeps and reuses connections to targets.
#[derive(Debug)]
pub struct Client {
    pool: Arc<Pool>,
    tls: TlsConfigs,
    proxy: TargetProxy,
    connect_timeout: Duration,
    http2: bool,
    title_case: bool,
    /// Targets that chose HTTP/2 and then required HTTP/1.1, [`REQUIRES_HTTP1_MAX`] at most.
    requires_http1: Mutex<HashSet<PoolKey>>,
}

impl Client {
    /// Returns a client without any connection. Certificates are read when the first HTTPS target needs
    /// them.
    pub fn new(options: ClientOptions) -> Self {
        let limits = options.pool;
        Self {
            pool: Pool::new(
                (limits.idle_timeout, limits.age_max),
                limits.per_target_max,
                limits.total_max,
            ),
            tls: TlsConfigs::new(options.ca_file, options.tls_oldest),
            proxy: TargetProxy::new(options.proxy, options.proxy_names),
            connect_timeout: options.connect_timeout,
            http2: options.http2,
            title_case: options.title_case,
            requires_http1: Mutex::default(),
        }
    }

    /// Reads the certificates now, so that a wrong file is found when the program starts. Blocks.
    ///
    /// # Errors
    /// [`TlsSetupError`] names the file.
    pub fn load_certificates(&self) -> Result<(), TlsSetupError> {
        self.tls.load(self.http2)
    }

    /// Returns the pool's key for a target.
    pub fn pool_key(
        target: &Target,
        ca_file: Option<&Path>,
        client_cert: Option<&Arc<ClientCert>>,
    ) -> PoolKey {
        PoolKey::new(target, ca_file, client_cert)
    }

    /// Takes an idle connection that fits the request and whose address the policy still approves.
    pub(crate) fn take_idle(
        &self,
        key: &PoolKey,
        reuse: Reuse,
        candidate: &Candidate,
    ) -> Option<(Approved, Connection)> {
        // The config may have changed since the connection was made: its address is approved again.
        let approve = |address: IpAddr| candidate.approve(address).ok();
        self.pool.take(key, reuse, approve)
    }

    /// Connects to the first address that accepts, within `timeout` or the client's own.
    pub(crate) async fn connect(
        &self,
        approved: Vec<Approved>,
        key: &PoolKey,
        (timeout, is_upgrade): (Option<Duration>, bool),
    ) -> Result<(Approved, Connection), Failure> {
        let timeout = timeout.unwrap_or(self.connect_timeout);
        // Looked up before the connection: the choice of protocol is made in the TLS handshake (ALPN).
        let http2 = self.http2 && key.http2 && !self.requires_http1().contains(key);
        let proxy = (&self.proxy, is_upgrade);
        connect::connect(
            approved,
            (key, http2, self.title_case),
            &self.tls,
            proxy,
            timeout,
        )
        .await
    }

    fn requires_http1(&self) -> MutexGuard<'_, HashSet<PoolKey>> {
        let targets = self.requires_http1.lock();
        targets.unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that a target requires HTTP/1.1: its next connections offer nothing else.
    pub(crate) fn note(&self, key: &PoolKey, refused: Refused) {
        if refused == Refused::RequiresHttp1 {
            let mut targets = self.requires_http1();
            // A full set is cleared rather than aged: a forgotten target costs one refused request.
            if targets.len() >= REQUIRES_HTTP1_MAX {
                targets.clear();
            }
            targets.insert(key.clone());
        }
    }

    /// Connects a plain TCP stream to the first address that accepts, for raw streams.
    ///
    /// # Errors
    /// `target_refused`, `overloaded`; nothing was dispatched.
    pub async fn connect_raw(
        &self,
        approved: Vec<Approved>,
        timeout: Option<Duration>,
    ) -> Result<TcpStream, Failure> {
        let timeout = timeout.unwrap_or(self.connect_timeout);
        connect::raw_stream(approved, &self.proxy, timeout).await
    }

    /// Returns a connection whose exchange is complete to the pool, once it can take another request.
    pub async fn return_to_pool(&self, connection: Connection) {
        self.pool.put(connection).await;
    }
}
