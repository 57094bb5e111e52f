//! A connection to a target: TCP to an approved address, TLS by the URL's name, HTTP/1.1.

use super::body::RequestBody;
use super::pool::{Key, Pooled};
use super::tls::TlsConfigs;
use super::{HEAD_BUFFER_BYTES, RESPONSE_HEADERS_MAX};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use policy::Approved;
use protocol::{Code, Failure};
use rustls::pki_types::ServerName;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A live connection to a target. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<RequestBody>,
    task: JoinHandle<()>,
    key: Key,
    address: SocketAddr,
    is_reused: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Hands a request over. The future is the answer's head.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.sender.try_send_request(request)
    }

    /// Whether it has served a request before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Waits until it can take another request; false when it is closed.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

impl Pooled for Connection {
    fn key(&self) -> &Key {
        &self.key
    }

    fn address(&self) -> IpAddr {
        self.address.ip()
    }

    fn is_usable(&self) -> bool {
        self.sender.is_ready() && !self.sender.is_closed()
    }
}

impl Connection {
    /// It has served a request.
    pub(super) fn mark_reused(&mut self) {
        self.is_reused = true;
    }
}

/// Connects to the first address that answers, within `limit` for all of them together.
pub(super) async fn connect(
    approved: Vec<Approved>,
    key: &Key,
    tls: &TlsConfigs,
    limit: Duration,
) -> Result<(Approved, Connection), Failure> {
    let (approved, stream) = tcp(approved, limit).await?;
    let address = approved.socket_addr();
    let (sender, task) = if key.is_tls {
        let stream = secure(stream, key, tls, limit).await?;
        handshake(stream).await?
    } else {
        handshake(stream).await?
    };
    let connection = Connection {
        sender,
        task,
        key: key.clone(),
        address,
        is_reused: false,
    };
    Ok((approved, connection))
}

/// A plain TCP stream to the first address that answers, for raw streams.
///
/// # Errors
/// `target_refused`; nothing was dispatched.
pub(crate) async fn raw_stream(
    approved: Vec<Approved>,
    limit: Duration,
) -> Result<(Approved, TcpStream), Failure> {
    tcp(approved, limit).await
}

async fn tcp(approved: Vec<Approved>, limit: Duration) -> Result<(Approved, TcpStream), Failure> {
    let deadline = Instant::now() + limit;
    let count = approved.len();
    let mut last = String::from("it has no address that may be used");
    for (index, approved) in approved.into_iter().enumerate() {
        let address = approved.socket_addr();
        // What is left is shared evenly, so that one silent address does not use it all.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = u32::try_from(count - index).map_or(left, |rest| left / rest);
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%address, %error, "TCP_NODELAY");
                }
                return Ok((approved, stream));
            }
            Ok(Err(error)) => format!("{address}: {error}"),
            Err(_) => format!("{address}: no answer within {share:?}"),
        };
    }
    let detail = format!("the target did not take a connection: {last}");
    Err(Failure::not_dispatched(Code::TargetRefused, detail))
}

async fn secure(
    stream: TcpStream,
    key: &Key,
    tls: &TlsConfigs,
    limit: Duration,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let failed = |detail: String| {
        let detail = format!("TLS with {} failed: {detail}", key.authority());
        Failure::not_dispatched(Code::TargetTls, detail)
    };
    let config = tls
        .get(key.ca_file.as_ref())
        .await
        .map_err(|error| failed(error.to_string()))?;
    let name = match &key.host {
        policy::Host::Name(name) => ServerName::try_from(name.clone())
            .map_err(|_| failed("the host is no name that a certificate can have".into()))?,
        policy::Host::Addr(address) => ServerName::IpAddress((*address).into()),
    };
    let connecting = TlsConnector::from(config).connect(name, stream);
    match timeout(limit, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(transport::dial::explain_tls(&error))),
        Err(_) => Err(failed(format!("no handshake within {limit:?}"))),
    }
}

async fn handshake<S>(
    stream: S,
) -> Result<(http1::SendRequest<RequestBody>, JoinHandle<()>), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_headers(RESPONSE_HEADERS_MAX)
        .max_buf_size(HEAD_BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| {
            let error = io::Error::other(error);
            Failure::not_dispatched(Code::TargetRefused, error.to_string())
        })?;
    let task = tokio::spawn(async move {
        // Its exchange learns the same from the answer; an idle one has nobody to tell.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a target ended");
        }
    });
    Ok((sender, task))
}
