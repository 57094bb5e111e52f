//! What callers notice: small requests all the time, each on a new connection.

use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use support::{ApiKey, Ask, Origin, TestEnv};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::ENDPOINT;

/// Between two requests of one probe.
const PAUSE: Duration = Duration::from_millis(20);

/// A caller that waits longer has given up.
const WITHIN: Duration = Duration::from_secs(30);

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    pub(crate) took: Duration,
    /// What came instead of the wanted answer.
    pub(crate) failure: Option<String>,
}

/// Probes that run.
pub(crate) struct Probes {
    running: Vec<Probe>,
}

struct Probe {
    name: &'static str,
    task: JoinHandle<()>,
    seen: Arc<Mutex<Vec<Asked>>>,
}

/// What each probe saw.
pub(crate) type Probed = Vec<(&'static str, Vec<Asked>)>;

impl Probes {
    pub(crate) fn start(site: &TestEnv) -> Self {
        let mut probes = Self {
            running: Vec::new(),
        };
        let internal = site.relay.internal();
        let origin = internal.clone();
        probes.run("health, internal listener", move || health(origin.clone()));
        let key = site.caller.clone();
        probes.run("call, internal listener", move || {
            call(internal.clone(), key.clone())
        });
        let public = site.relay.public();
        let mut tls = (*site.ca.client_config()).clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = Arc::new(tls);
        probes.run("new TLS connection with HTTP/2", move || {
            over_http2(public.clone(), Arc::clone(&tls))
        });
        let public = site.relay.public();
        probes.run("new TLS connection with HTTP/1.1", move || {
            health(public.clone())
        });
        probes
    }

    fn run<F>(&mut self, name: &'static str, ask: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let seeing = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let at = Instant::now();
                let result = tokio::time::timeout(WITHIN, ask()).await;
                let failure = match result {
                    Ok(result) => result.err(),
                    Err(_) => Some(format!("no answer within {WITHIN:?}")),
                };
                let took = at.elapsed();
                let asked = Asked { at, took, failure };
                push(&seeing, asked);
                tokio::time::sleep(PAUSE).await;
            }
        });
        self.running.push(Probe { name, task, seen });
    }

    /// Ends them. What was under way is not counted.
    pub(crate) async fn stop(self) -> Probed {
        let mut probed = Vec::new();
        for Probe { name, task, seen } in self.running {
            task.abort();
            let _ = task.await;
            let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
            probed.push((name, seen));
        }
        probed
    }
}

fn push(seen: &Mutex<Vec<Asked>>, asked: Asked) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.push(asked);
}

async fn health(origin: Origin) -> Result<(), String> {
    status(origin, Ask::get("/healthz")).await
}

async fn call(origin: Origin, key: ApiKey) -> Result<(), String> {
    let ask = Ask::get(format!("/v1/endpoints/{ENDPOINT}/small")).key(&key);
    status(origin, ask).await
}

async fn status(origin: Origin, ask: Ask) -> Result<(), String> {
    let answer = origin.try_send(ask).await.map_err(|e| e.to_string())?;
    match answer.header("bridge-error") {
        Some(code) => Err(code.to_owned()),
        None if answer.status != 200 => Err(answer.status.to_string()),
        None => Ok(()),
    }
}

async fn over_http2(origin: Origin, tls: Arc<ClientConfig>) -> Result<(), String> {
    get_http2(origin, tls)
        .await
        .map_err(|error| error.to_string())
}

async fn get_http2(
    origin: Origin,
    tls: Arc<ClientConfig>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let tcp = TcpStream::connect(origin.addr()).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(origin.url("/healthz")).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await;
    connection.abort();
    match answer?.status() {
        StatusCode::OK => Ok(()),
        other => Err(other.to_string().into()),
    }
}
