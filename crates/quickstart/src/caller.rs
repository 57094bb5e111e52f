//! A caller: one HTTPS request to the relay, as a program in the cloud sends it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use transport::dial::{Dialer, Proxy, RelayUrl};

/// Anything that keeps the quickstart from starting. Printed once, as it is.
pub(crate) type SetupError = Box<dyn std::error::Error + Send + Sync>;

/// An API key.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
}

/// The outcome of a call.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The relay's response.
    pub(crate) document: Value,
    /// From before the connection to after the response.
    pub(crate) took: Duration,
}

impl Outcome {
    /// Whether the target responded.
    pub(crate) fn executed(&self) -> bool {
        self.document["execution"] == "executed" && self.document["response"].is_object()
    }
}

/// Sends `POST /v1/calls`.
///
/// # Errors
/// [`SetupError`] when the relay cannot be reached or does not respond with JSON.
pub(crate) async fn call(
    relay: &RelayUrl,
    ca_file: &Path,
    key: &Key,
    call: &Value,
) -> Result<Outcome, SetupError> {
    let tls = transport::tls::client_config(&[ca_file.to_owned()], &[])?;
    let dialer = Dialer::new(relay.clone(), &tls, Proxy::Direct);
    let start = Instant::now();
    let stream = dialer.connect().await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let pair = format!("{}:{}", key.client_id, key.client_secret);
    let request = Request::post("/v1/calls")
        .header(header::HOST, relay.authority())
        .header(header::CONTENT_TYPE, "application/json")
        .header(
            header::AUTHORIZATION,
            format!("Basic {}", STANDARD.encode(pair)),
        )
        .body(Full::new(Bytes::from(call.to_string())))?;
    let response = sender.send_request(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    let took = start.elapsed();
    drop(sender);
    connection.abort();
    Ok(Outcome {
        document: serde_json::from_slice(&body)?,
        took,
    })
}
