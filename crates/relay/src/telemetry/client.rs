//! One request to the collector, on a connection of its own: there is one every few seconds.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use transport::tls::TlsSetupError;

/// Bytes of a collector's answer that are read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// Makes requests to the collector.
pub(super) struct Client {
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Trusts these beside the system's roots.
    pub(super) fn new(ca_files: &[PathBuf]) -> Result<Self, TlsSetupError> {
        Ok(Self {
            tls: transport::tls::client_config(ca_files, &[b"http/1.1"])?,
        })
    }
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Sending<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(send(self.tls.clone(), request))
    }
}

async fn send(
    tls: Arc<ClientConfig>,
    mut request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let uri = request.uri().clone();
    let host = uri.host().ok_or("the collector's URL has no host")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let host_field = HeaderValue::from_str(authority)?;
    request.headers_mut().insert(header::HOST, host_field);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>()?;
    let stream = TcpStream::connect((bare, port)).await?;
    if is_tls {
        let name = ServerName::try_from(bare.to_owned())?;
        let stream = TlsConnector::from(tls).connect(name, stream).await?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let moving = tokio::spawn(connection);
    let exchanged = async {
        let answer = sender.send_request(request.map(Full::new)).await?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    let result = exchanged.await;
    moving.abort();
    result
}
