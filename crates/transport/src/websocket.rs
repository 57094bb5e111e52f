//! The WebSocket that carries a tunnel: its limits, and the upgrade on the relay's side.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};
use protocol::limits::{FRAME_MAX_BYTES, WRITE_BATCH_BYTES};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// The subprotocol of the tunnel (W-1).
pub(crate) const SUBPROTOCOL: &str = "integration-bridge.v1";

/// The path of tunnels on the relay (W-1).
pub const TUNNEL_PATH: &str = "/v1/tunnel";

/// The size of a WebSocket's read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buffers {
    /// For an idle session, and for small frames.
    Small,
    /// For long bodies: two full DATA frames.
    Large,
}

impl Buffers {
    fn read_bytes(self) -> usize {
        match self {
            Self::Small => 2 * 1024,
            Self::Large => 32 * 1024,
        }
    }
}

/// Returns the limits of a tunnel's WebSocket. A message that exceeds the largest frame is rejected by
/// its header, before any of it is buffered.
pub(crate) fn config(buffers: Buffers) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(buffers.read_bytes())
        // Larger than a batch, so that a batch is written when it is flushed, in one system call.
        .write_buffer_size(2 * WRITE_BATCH_BYTES)
        .max_write_buffer_size(4 * WRITE_BATCH_BYTES)
        .max_message_size(Some(FRAME_MAX_BYTES))
        .max_frame_size(Some(FRAME_MAX_BYTES))
}

/// Why a request is not an upgrade to a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// It is not an HTTP/1.1 GET with `Upgrade: websocket`.
    #[error("this path accepts only WebSocket upgrades (HTTP/1.1, RFC 6455)")]
    NotWebSocket,
    /// The version is not 13, or the key is missing.
    #[error("WebSocket version 13 and a key are required (RFC 6455, 4.2.1)")]
    Handshake,
    /// The subprotocol is not offered.
    #[error("the subprotocol integration-bridge.v1 is required")]
    Subprotocol,
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Checks an upgrade request and returns its `101` response (RFC 6455, 4.2).
///
/// # Errors
/// [`UpgradeError`]: reject the request with 400 (or 426).
pub fn accept_upgrade<B>(request: &http::Request<B>) -> Result<Response<()>, UpgradeError> {
    let headers = request.headers();
    if request.method() != Method::GET
        || request.version() != Version::HTTP_11
        || !has_token(headers, header::CONNECTION, "upgrade")
        || !has_token(headers, header::UPGRADE, "websocket")
    {
        return Err(UpgradeError::NotWebSocket);
    }
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    // 16 random bytes in base64 have 24 characters (RFC 6455, 4.1).
    let Some(key) = key.filter(|key| key.len() == 24 && version.is_some_and(|v| v == "13")) else {
        return Err(UpgradeError::Handshake);
    };
    if !has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(UpgradeError::Subprotocol);
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| UpgradeError::Handshake)?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    out.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL),
    );
    Ok(response)
}
