//! A simulated ALM (Quality Center): the part of its REST API that a synchronizer uses.
//!
//! ```text
//! /qcbin
//!   authentication-point/alm-authenticate, /logout         sign_in, sessions
//!   rest/oauth2/login, is-authenticated, site-session
//!   rest/domains/{D}/projects/{P}                          routes, room, project
//!     {defects|requirements|releases|release-cycles|release-folders}
//!       GET: query, fields, order-by, page-size, start-index   listing, filter
//!       POST, PUT, DELETE of one, or ;type=collection          write, rules, tree, bulk
//!       {id}/lock, versions/…, attachments/…                   locks, versions, attachment
//!     customization/…                                      customization, schema
//!   rest/…                                                 what was asked, as JSON
//! ```
//!
//! Bodies are read by `draft` and written by `envelope`, errors by `fault`. It behaves as ALM 26.1 was
//! observed to, or else as its vendor documents. That includes awkward behaviour, such as a response of 500
//! after a commit; see [`Alm::commit_then_fail`]. One project is there from the start:
//! [`Alm::DOMAIN`] and [`Alm::PROJECT`].
//!
//! Not simulated: tests and runs, relations and audits, filters on other entities' fields, sanitizing
//! of HTML, permissions.

mod attachment;
mod bulk;
mod call;
mod clock;
mod customization;
mod draft;
mod entity;
mod envelope;
mod fault;
mod filter;
mod listing;
mod locks;
mod look;
mod media;
mod multipart;
mod params;
mod project;
mod reply;
mod room;
mod routes;
mod rules;
mod schema;
mod sessions;
mod sign_in;
#[cfg(test)]
mod tests;
mod tree;
mod versions;
mod write;
mod xml;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::ca::ThrowawayCa;
use crate::tasks::AbortOnDrop;
use call::{Call, Received};
use clock::Clock;
use project::Project;
use reply::Reply;
use routes::State;
use sessions::{ApiKey, Sessions};

pub use look::AttachmentSeen;

/// The names that its certificate holds.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// A running ALM; it closes everything when dropped.
#[derive(Debug)]
pub struct Alm {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _serving: AbortOnDrop,
}

#[derive(Debug)]
struct Shared {
    scheme: &'static str,
    requests: AtomicU64,
    sign_in_delay_ms: AtomicU64,
    state: Mutex<State>,
}

impl Alm {
    /// The domain that is there from the start.
    pub const DOMAIN: &'static str = "DEFAULT";
    /// The project that is there from the start, without versions.
    pub const PROJECT: &'static str = "Demo";

    /// With one user, on plain HTTP.
    ///
    /// # Panics
    ///
    /// Where loopback has no free port.
    pub async fn start(user: &str, password: &str) -> Self {
        Self::serve(user, password, None).await
    }

    /// With one user, on HTTPS as `localhost` and `127.0.0.1`, with a certificate of `ca`.
    ///
    /// # Panics
    ///
    /// Where loopback has no free port.
    pub async fn start_tls(user: &str, password: &str, ca: &ThrowawayCa) -> Self {
        let config = ca.issue(&NAMES).server_config(&["http/1.1"]);
        Self::serve(user, password, Some(TlsAcceptor::from(config))).await
    }

    async fn serve(user: &str, password: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("loopback has a free port");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            scheme: if tls.is_some() { "https" } else { "http" },
            requests: AtomicU64::new(0),
            sign_in_delay_ms: AtomicU64::new(0),
            state: Mutex::new(State {
                sessions: Sessions::new(user, password),
                domains: BTreeMap::new(),
                clock: Clock::default(),
                commits_to_fail: 0,
            }),
        });
        let serving = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        let alm = Self {
            addr,
            shared,
            _serving: AbortOnDrop(serving),
        };
        alm.add_project(Self::DOMAIN, Self::PROJECT, false);
        alm
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("{}://{}/qcbin/", self.shared.scheme, self.addr)
    }

    /// The path of a collection of the first project, as in `/qcbin/rest/…/defects`.
    pub fn path(collection: &str) -> String {
        let (domain, project) = (Self::DOMAIN, Self::PROJECT);
        format!("/qcbin/rest/domains/{domain}/projects/{project}/{collection}")
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Tries to sign in so far, good and bad.
    pub fn sign_ins(&self) -> u64 {
        self.state().sessions.sign_ins
    }

    /// Ends every session, and with it what it had locked. Who is signed in stays so.
    pub fn expire(&self) {
        self.state().sessions.close_all();
    }

    /// Signs every user out: cookies of before are answered with 500 from now on.
    pub fn log_out_all(&self) {
        self.state().sessions.log_out_all();
    }

    /// Sessions that are open.
    pub fn open_sessions(&self) -> usize {
        self.state().sessions.count()
    }

    /// Answers every sign-in with 503 and this `Retry-After` in seconds, or takes them again.
    pub fn set_busy(&self, retry_after: Option<u32>) {
        self.state().sessions.busy = retry_after;
    }

    /// How long the response to a sign-in takes from now on.
    pub fn set_sign_in_delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.shared
            .sign_in_delay_ms
            .store(millis, Ordering::Relaxed);
    }

    /// Takes another password from now on, of every user. It may be written as XML has it.
    pub fn set_password(&self, password: &str) {
        for known in self.state().sessions.passwords.values_mut() {
            password.clone_into(known);
        }
    }

    /// Adds a user.
    pub fn add_user(&self, user: &str, password: &str) {
        let mut state = self.state();
        let passwords = &mut state.sessions.passwords;
        passwords.insert(user.to_owned(), password.to_owned());
    }

    /// Adds or replaces an API key of a user. An inactive one is rejected with 403.
    pub fn set_api_key(&self, client_id: &str, secret: &str, user: &str, is_active: bool) {
        let key = ApiKey {
            secret: secret.to_owned(),
            user: user.to_owned(),
            is_active,
        };
        let mut state = self.state();
        state.sessions.api_keys.insert(client_id.to_owned(), key);
    }

    /// Sets how long a session opened from now on lives unused. Defaults to 60 minutes.
    pub fn set_idle_max(&self, idle_max: Duration) {
        self.state().sessions.idle_max = idle_max;
    }

    /// Adds an empty project, or empties one.
    pub fn add_project(&self, domain: &str, project: &str, is_versioned: bool) {
        let mut new = Project::new();
        new.is_versioned = is_versioned;
        let mut state = self.state();
        let projects = state.domains.entry(domain.to_owned()).or_default();
        projects.insert(project.to_owned(), new);
    }

    /// Stops the clock of `last-modified` at a `yyyy-MM-dd HH:mm:ss`, or lets it run again.
    ///
    /// # Panics
    ///
    /// Where it is another text.
    pub fn stop_clock(&self, at: Option<&str>) {
        assert!(at.is_none_or(clock::is_date_time), "{at:?} is no time");
        self.state().clock.stop_at(at);
    }

    /// The next `writes` are committed, and answered with 500 all the same.
    pub fn commit_then_fail(&self, writes: u32) {
        self.state().commits_to_fail = writes;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((socket, _)) = accepted {
                connections.spawn(connection(socket, tls.clone(), Arc::clone(&shared)));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(socket: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let _ = socket.set_nodelay(true);
    match tls {
        None => serve_http(socket, shared).await,
        Some(tls) => {
            if let Ok(socket) = tls.accept(socket).await {
                serve_http(socket, shared).await;
            }
        }
    }
}

async fn serve_http(socket: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(request, Arc::clone(&shared)));
    // A client may leave at any time.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Reply, hyper::Error> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let (parts, body) = request.into_parts();
    let body = Received::all_of(body).await?;
    let call = Call::new(parts, body, shared.scheme);
    let reply = routes::answer(&mut shared.state(), &call);
    let is_sign_in = call.path.ends_with("/alm-authenticate") || call.path.ends_with("/login");
    let delay = shared.sign_in_delay_ms.load(Ordering::Relaxed);
    if is_sign_in && delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    Ok(reply)
}
