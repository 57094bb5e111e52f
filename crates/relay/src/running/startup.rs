//! Starts a relay.

use super::keeper::{GatedListener, Holder, Keeper};
use super::{RunningRelay, StartError, background};
use crate::admission::ListenerConnections;
use crate::config::Config;
use crate::connection::ListenerKind;
use crate::control_plane::ControlPlane;
use crate::deliveries::Deliveries;
use crate::directory::Directory;
use crate::generation;
use crate::listener::tls::Acceptor;
use crate::listener::{self, ListenerContext, tls};
use crate::metrics::Metrics;
use crate::reload;
use crate::service::Service;
use crate::storage::{self, Storage, StorageError};
use crate::telemetry::Spans;
use crate::vault::{self, Vault};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// Opens the database and the sockets, and serves.
pub(super) async fn start(config: Config) -> Result<RunningRelay, StartError> {
    // The lock first: everything after it may assume that no other process writes to an SQLite file.
    let lock = storage::lock(&config.database).map_err(StorageError::from)?;
    let storage = Storage::open(&config.database).await?.fenced();
    // Before the first delivery is read: an older copy of the database pauses deliveries.
    let generation = generation::begin(&storage, &config.key_file).await?;
    let master = vault::master_key(&storage, &config.key_file).await?;
    let audit_key = master.audit_key();
    let vault = Vault::new(storage.clone(), master).await?;
    let deliveries = Deliveries::new(storage.clone(), vault, config.deliveries.clone());
    let directory = Directory::load(storage, config.directory.stale_max.0).await?;
    let tls = config.tls.as_ref().map(tls::prepare).transpose()?;
    let ca_path = tls.as_ref().and_then(|ready| ready.ca_path.clone());
    let metrics = Metrics::new();
    metrics.certificate_expires(tls.as_ref().and_then(|ready| ready.expires));
    let acceptor = tls.map(Acceptor::new);
    let public_kind = match acceptor {
        Some(_) => ListenerKind::Tls,
        None => ListenerKind::Plain,
    };
    let reserve = |name: &'static str, address: Option<SocketAddr>, kind, tls: Option<Acceptor>| {
        let reserved = address.map(|address| GatedListener::reserve(name, address, kind, tls));
        let of_key = |error| listener::of_key(&format!("listen.{name}"), &error);
        reserved.transpose().map_err(of_key)
    };
    let listen = &config.listen;
    let proxy_tls = acceptor.clone().filter(|_| listen.proxy_tls);
    let public = reserve("public", listen.public, public_kind, acceptor.clone())?;
    let proxy = reserve("proxy", listen.proxy, ListenerKind::Proxy, proxy_tls)?;
    let bind = |name: &str, address: Option<SocketAddr>| {
        let of_key = |error| listener::of_key(&format!("listen.{name}"), &error);
        address.map(listener::bind).transpose().map_err(of_key)
    };
    let internal = bind("internal", listen.internal)?;
    let admin = bind("admin", listen.admin)?;
    let holder = Holder::of(&config.key_file.with_extension("node"))?;

    let node = node_name();
    let (spans, exporting) = Spans::start(&config.telemetry, &node)?.unzip();
    let state = Arc::new(ControlPlane::new(
        config,
        node,
        directory,
        Arc::new(deliveries),
        metrics,
        spans.map(Arc::new),
    ));
    let service = Arc::new(Service {
        control: state.clone(),
    });
    let (closing, closing_seen) = watch::channel(false);
    let (stop, stop_seen) = watch::channel(false);
    let (admin_closing, admin_closing_seen) = watch::channel(false);
    // Each connection holds a sender; the receiver ends when the last one is dropped.
    let (connection_alive, connections_ended) = mpsc::channel(1);
    // The shutdown does not wait for connections of the admin listener: nothing receives from this channel.
    let (admin_alive, _) = mpsc::channel(1);
    let context = ListenerContext {
        handler: service.clone(),
        data: state.data.clone(),
        closing: closing_seen,
        alive: connection_alive,
    };
    let admin_context = ListenerContext {
        handler: service,
        data: state.data.clone(),
        closing: admin_closing_seen,
        alive: admin_alive,
    };
    let mut running = RunningRelay {
        public: public.as_ref().map(GatedListener::address),
        internal: address(internal.as_ref())?,
        proxy: proxy.as_ref().map(GatedListener::address),
        admin: address(admin.as_ref())?,
        ca_path,
        state: state.clone(),
        stop,
        keeper: None,
        closing,
        admin_closing,
        connections_ended,
        tasks: Vec::new(),
        acceptor: acceptor.clone(),
        generation: generation.clone(),
        _lock: lock,
    };
    let connections = &state.data.connections;
    // Open in standby, too: they report why this process does not serve.
    running.accept(
        "internal",
        internal,
        ListenerKind::Plain,
        connections.internal.clone(),
        context.clone(),
    );
    running.accept(
        "admin",
        admin,
        ListenerKind::Admin,
        connections.admin.clone(),
        admin_context,
    );
    let gated = public.into_iter().chain(proxy).collect();
    let mut keeper = Keeper::new(state.clone(), holder, gated, context);
    // The first try is awaited, so that an operator sees a mistake at once; later ones are retried.
    keeper.try_acquire().await?;
    let keeping = state.liveness.guard("keeper", keeper.run(stop_seen));
    running.keeper = Some(tokio::spawn(keeping));
    running.tasks.extend(exporting);
    if let Some(acceptor) = acceptor {
        let following = reload::follow(state.clone(), acceptor);
        running.tasks.push(tokio::spawn(following));
    }
    running.tasks.push(tokio::spawn(generation.follow()));
    running.tasks.extend(background::spawn(&state, audit_key));
    Ok(running)
}

impl RunningRelay {
    fn accept(
        &mut self,
        name: &str,
        listener: Option<TcpListener>,
        kind: ListenerKind,
        connections: Arc<ListenerConnections>,
        context: ListenerContext<Service>,
    ) {
        let Some(listener) = listener else { return };
        if let Ok(address) = listener.local_addr() {
            tracing::info!(listener = name, %address, tls = false, "listening");
        }
        let accepting = listener::accept(listener, kind, connections, None, context);
        let accepting = self.state.liveness.guard(name, accepting);
        self.tasks.push(tokio::spawn(accepting));
    }
}

fn address(listener: Option<&TcpListener>) -> io::Result<Option<SocketAddr>> {
    listener.map(TcpListener::local_addr).transpose()
}

/// Returns this machine's name, for people.
fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok());
    let name = name.map(|name| name.trim().to_owned());
    name.filter(|name| !name.is_empty() && name.len() <= 255)
        .unwrap_or_else(|| "relay".to_owned())
}
