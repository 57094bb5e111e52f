//! Calls that the relay makes itself, to public URLs that a site administrator has enabled for the
//! tenant.
//!
//! ```text
//! policy (the tenant's patterns, public addresses alone) -> resolve -> every address approved
//!   -> TCP, TLS to one of them -> request -> the answer, bounded
//! ```
//!
//! A name with one address that is not public is refused as a whole: who controls a name's
//! addresses could otherwise choose which is tried. The connection goes to an address that was
//! checked, and is not used again. Redirects are passed back, not followed.

pub mod pattern;

use crate::admission::may_have;
use crate::capacity::{Reservation, Unread, collect_response};
use crate::config;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use policy::{Approved, Host, Policy, Scheme, Target};
use protocol::{Code, Execution, Failure};
use runtime::shortage::is_connect_shortage;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use transport::lookup::{Lookups, Owner};
use transport::tls::TlsSetupError;

/// How long a connection may take, and then its TLS.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long a name may take to be resolved.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// Header fields of an answer, and its largest header section.
const ANSWER_HEADERS_MAX: usize = 100;
const ANSWER_HEAD_MAX_BYTES: usize = 64 * 1024;

/// How much is read of a response's body that the caller does not want, and for how long, so that the target is not
/// cut off while it writes.
const DISCARDED_MAX_BYTES: usize = 256 * 1024;
const DISCARD_WITHIN: Duration = Duration::from_secs(10);

/// A request that the relay makes itself.
#[derive(Debug)]
pub struct DirectRequest {
    /// Whose request it is.
    pub tenant: Arc<str>,
    /// Which of the tenant's callers it is for.
    pub caller: Arc<str>,
    /// Where it goes.
    pub url: String,
    /// Its method.
    pub method: String,
    /// Its header fields, without those of the connection.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Until when all of it may take.
    pub deadline: Instant,
    /// Bytes of the answer's body. Beyond, it is an error.
    pub answer_max: u64,
    /// Memory for the answer's body.
    pub memory: Reservation,
    /// The caller wants the status and the header fields alone: whatever becomes of the response's body,
    /// the request was executed with that status.
    pub is_status_enough: bool,
}

/// The answer.
#[derive(Debug)]
pub struct DirectAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The memory that the body takes.
    pub memory: Reservation,
}

/// Makes direct calls.
#[derive(Debug)]
pub struct Direct {
    config: config::Direct,
    running: Arc<Mutex<Running>>,
    lookups: Arc<Lookups>,
    tls: OnceLock<Arc<ClientConfig>>,
}

/// The direct calls that run, by tenant.
#[derive(Debug, Default)]
struct Running {
    all: u32,
    of_tenant: HashMap<Arc<str>, u32>,
}

/// A running call's permit; given back when dropped.
struct Permit {
    running: Arc<Mutex<Running>>,
    tenant: Arc<str>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.all -= 1;
        if let Some(count) = running.of_tenant.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                running.of_tenant.remove(&self.tenant);
            }
        }
    }
}

impl Direct {
    /// As configured.
    pub fn new(config: config::Direct) -> Self {
        Self {
            running: Arc::default(),
            lookups: Lookups::new(config.lookups_max as usize),
            tls: OnceLock::new(),
            config,
        }
    }

    /// A permit for a call of this tenant, which may have as many as it leaves for others.
    fn permit(&self, tenant: &Arc<str>) -> Result<Permit, Failure> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, max) = (running.all, self.config.concurrent_max);
        let own = running.of_tenant.get(tenant).copied().unwrap_or(0);
        let full = |limits: &str| {
            let detail = format!(
                "the tenant has {own} direct calls running, as many as it may have now ({limits})"
            );
            Err(Failure::not_sent(Code::Overloaded, detail))
        };
        if own >= self.config.concurrent_per_tenant {
            return full("direct.concurrent_per_tenant");
        }
        if !may_have(own, all, max) {
            return full("its share of direct.concurrent_max");
        }
        running.all += 1;
        *running.of_tenant.entry(tenant.clone()).or_default() += 1;
        Ok(Permit {
            running: self.running.clone(),
            tenant: tenant.clone(),
        })
    }

    /// Every address of a host, looked up for this tenant's `caller`.
    ///
    /// # Errors
    /// `overloaded` where the relay or the tenant cannot look up one more name now, else `target_dns`.
    pub async fn resolve(
        &self,
        tenant: &Arc<str>,
        caller: &Arc<str>,
        host: &Host,
    ) -> Result<Vec<IpAddr>, Failure> {
        let name = match host {
            Host::Addr(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        let owner = Owner {
            group: tenant.clone(),
            member: caller.clone(),
        };
        let found = self.lookups.resolve(&owner, name, RESOLVE_WITHIN).await;
        let mut found = found.map_err(|error| {
            let code = match error.is_shortage() {
                true => Code::Overloaded,
                false => Code::TargetDns,
            };
            let detail = format!("the name {host} could not be resolved: {error}");
            Failure::not_dispatched(code, detail)
        })?;
        found.sort_unstable();
        Ok(found)
    }

    /// Every address of a host. What cannot be looked up is not an error: an empty list.
    pub async fn addresses(&self, tenant: &Arc<str>, host: &Host) -> Vec<IpAddr> {
        let caller = Arc::from("");
        self.resolve(tenant, &caller, host)
            .await
            .unwrap_or_default()
    }

    /// Whether every one of the addresses is on the public internet, and there is one.
    pub fn are_public(addresses: &[IpAddr]) -> bool {
        !addresses.is_empty() && addresses.iter().all(|a| policy::address::is_public(*a))
    }

    /// Makes a call that the tenant's policy allows.
    ///
    /// # Errors
    /// The failure, with how far the call came.
    pub async fn call(
        &self,
        policy: &Policy,
        request: DirectRequest,
    ) -> Result<DirectAnswer, Failure> {
        let refused = |why: &dyn std::fmt::Display| {
            Failure::not_dispatched(Code::RefusedByPolicy, why.to_string())
        };
        let candidate = policy
            .decide_url(&request.method, &request.url)
            .map_err(|refusal| refused(&refusal))?;
        let _permit = self.permit(&request.tenant)?;
        let deadline = request.deadline;
        let late = |execution| {
            let detail = "the time for the call was over before the target had answered";
            Failure::new(Code::TargetTimeout, execution, detail)
        };
        let host = candidate.target().host().clone();
        let resolving = self.resolve(&request.tenant, &request.caller, &host);
        let addresses = timeout_at(deadline, resolving).await;
        let addresses = addresses.map_err(|_| late(Execution::NotDispatched))??;
        let mut approved: Vec<Approved> = Vec::new();
        for address in addresses {
            match candidate.approve(address) {
                Ok(address) => approved.push(address),
                Err(refusal) => return Err(refused(&refusal)),
            }
        }
        let connecting = self.connect(candidate.target(), approved);
        let stream = timeout_at(deadline, connecting).await;
        let stream = stream.map_err(|_| late(Execution::NotDispatched))??;
        let exchange = exchange(stream, candidate.target(), request);
        // Its first byte may have left from here on.
        timeout_at(deadline, exchange)
            .await
            .unwrap_or_else(|_| Err(late(Execution::PossiblyExecuted)))
    }

    async fn connect(&self, target: &Target, approved: Vec<Approved>) -> Result<Stream, Failure> {
        let stream = tcp(approved).await?;
        let _ = stream.set_nodelay(true);
        if target.scheme() == Scheme::Http {
            return Ok(Stream(Box::new(stream)));
        }
        let failed = |detail: String| {
            let detail = format!("TLS with {} failed: {detail}", target.authority());
            Failure::not_dispatched(Code::TargetTls, detail)
        };
        let config = self.tls_config().map_err(|error| match error {
            TlsSetupError::Shortage(_) => {
                let detail = format!("the relay cannot speak TLS now: {error}");
                Failure::not_dispatched(Code::Overloaded, detail)
            }
            error => failed(error.to_string()),
        })?;
        let name = match target.host() {
            Host::Name(name) => ServerName::try_from(name.clone())
                .map_err(|_| failed("the host is no name that a certificate can have".into()))?,
            Host::Addr(address) => ServerName::IpAddress((*address).into()),
        };
        let connecting = TlsConnector::from(config).connect(name, stream);
        match timeout(CONNECT_WITHIN, connecting).await {
            Ok(Ok(stream)) => Ok(Stream(Box::new(stream))),
            Ok(Err(error)) => Err(failed(transport::dial::explain_tls(&error))),
            Err(_) => Err(failed(format!("no handshake within {CONNECT_WITHIN:?}"))),
        }
    }

    fn tls_config(&self) -> Result<Arc<ClientConfig>, TlsSetupError> {
        if let Some(config) = self.tls.get() {
            return Ok(config.clone());
        }
        let extra: Vec<_> = self.config.ca_file.iter().cloned().collect();
        let config = transport::tls::client_config(&extra, &[b"http/1.1"])?;
        Ok(self.tls.get_or_init(|| config).clone())
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

struct Stream(Box<dyn Io>);

async fn tcp(approved: Vec<Approved>) -> Result<TcpStream, Failure> {
    let deadline = Instant::now() + CONNECT_WITHIN;
    let count = approved.len();
    let mut last = String::from("it has no address");
    let mut shortage = None;
    for (index, approved) in approved.into_iter().enumerate() {
        let address = approved.socket_addr();
        let left = deadline.saturating_duration_since(Instant::now());
        let share = u32::try_from(count - index).map_or(left, |rest| left / rest);
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if is_connect_shortage(&error, || true) => {
                shortage = Some(error);
                continue;
            }
            Ok(Err(error)) => format!("{address}: {error}"),
            Err(_) => format!("{address}: no answer within {share:?}"),
        };
    }
    // Another address may have been tried in vain, but the relay has not tried all that it could.
    if let Some(error) = shortage {
        let detail =
            format!("the relay lacks file descriptors, memory or ports for a connection: {error}");
        return Err(Failure::not_dispatched(Code::Overloaded, detail));
    }
    let detail = format!("the target did not take a connection: {last}");
    Err(Failure::not_dispatched(Code::TargetRefused, detail))
}

async fn exchange(
    stream: Stream,
    target: &Target,
    request: DirectRequest,
) -> Result<DirectAnswer, Failure> {
    let invalid = |what: &str| Failure::not_dispatched(Code::InvalidRequest, what);
    let method = Method::from_bytes(request.method.as_bytes());
    let method = method.map_err(|_| invalid("the method is not valid HTTP"))?;
    let uri = Uri::try_from(target.path_and_query());
    let uri = uri.map_err(|_| invalid("the path cannot be put on a request line"))?;
    let host = HeaderValue::try_from(target.authority());
    let host = host.map_err(|_| invalid("the host cannot be put into a header field"))?;
    let mut outgoing = Request::new(Full::new(request.body));
    *outgoing.method_mut() = method;
    *outgoing.uri_mut() = uri;
    outgoing.headers_mut().insert(header::HOST, host);
    for (name, value) in &request.headers {
        if *name != header::HOST && !transport::http::is_hop_by_hop(name) {
            outgoing.headers_mut().append(name.clone(), value.clone());
        }
    }
    let shaken = http1::Builder::new()
        .max_headers(ANSWER_HEADERS_MAX)
        .max_buf_size(ANSWER_HEAD_MAX_BYTES)
        .handshake(TokioIo::new(stream.0))
        .await;
    let (mut sender, connection) = shaken.map_err(|error| {
        let error = io::Error::other(error);
        Failure::not_dispatched(Code::TargetRefused, error.to_string())
    })?;
    let moving = AbortOnDrop(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a direct connection ended");
        }
    }));
    let response = sender.send_request(outgoing).await;
    let response = response.map_err(|error| {
        if error.is_parse() {
            let detail = format!("the target's answer is not HTTP/1.1: {error}");
            return Failure::possibly_executed(Code::TargetProtocol, detail);
        }
        let detail = format!("the target closed the connection before it answered: {error}");
        Failure::possibly_executed(Code::TargetClosed, detail)
    })?;
    let (parts, body) = response.into_parts();
    let mut memory = request.memory;
    if request.is_status_enough {
        let max = usize::try_from(request.answer_max).unwrap_or(usize::MAX);
        let reading = Limited::new(body, max.min(DISCARDED_MAX_BYTES)).collect();
        // Not beyond the call's deadline, which would take the status away again.
        let until = request.deadline.min(Instant::now() + DISCARD_WITHIN);
        let _ = timeout_at(until, reading).await;
        drop(moving);
        return Ok(DirectAnswer {
            status: parts.status,
            headers: parts.headers,
            body: Bytes::new(),
            memory,
        });
    }
    let body = match collect_response(body, request.answer_max, &mut memory).await {
        Ok(body) => body,
        Err(Unread::TooLarge) => {
            let detail = format!(
                "the target's answer is larger than {} bytes, the limit for calls",
                request.answer_max
            );
            return Err(Failure::new(
                Code::ResponseTooLarge,
                Execution::Executed,
                detail,
            ));
        }
        Err(Unread::Broken(_)) => {
            let detail = "the target closed the connection before its answer was whole";
            return Err(Failure::new(
                Code::TargetClosed,
                Execution::Executed,
                detail,
            ));
        }
    };
    drop(moving);
    Ok(DirectAnswer {
        status: parts.status,
        headers: parts.headers,
        body,
        memory,
    })
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
