//! One request and its response over a connection: a line of JSON each.

use crate::control::message::{ControlError, ControlRequest, ControlResponse, REQUEST_MAX_BYTES};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

/// Requests at the same time.
pub(super) const REQUESTS_MAX: usize = 8;

/// How long a request may take, including its response.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a connection that could not be accepted, usually for want of descriptors.
pub(super) const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Carries out a request. May block for a moment.
pub(super) type Handler = dyn Fn(ControlRequest) -> ControlResponse + Send + Sync;

/// Reads a request, carries it out, and writes the response. Cancelling it ends the connection.
pub(super) async fn respond(
    read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    handler: Arc<Handler>,
) -> io::Result<()> {
    let mut line = String::new();
    let mut read = BufReader::new(read.take(REQUEST_MAX_BYTES));
    read.read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        // A reload reads files, which must not block the runtime's workers.
        Ok(request) => tokio::task::spawn_blocking(move || handler(request))
            .await
            .unwrap_or_else(|_| {
                ControlResponse::Failed("the request failed inside the bridge; see its log".into())
            }),
        Err(error) => ControlResponse::Failed(format!("invalid control request: {error}")),
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.shutdown().await
}

/// Returns a request as it is sent.
pub(super) fn request_line(request: &ControlRequest) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    Ok(text)
}

/// Returns the response that a line holds.
pub(super) fn parse_response(line: &str) -> Result<ControlResponse, ControlError> {
    serde_json::from_str(line).map_err(|_| {
        ControlError::NoResponse(
            "its response is not complete, or is of another version".to_owned(),
        )
    })
}
