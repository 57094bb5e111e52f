//! Serves HTTP/1.1 or HTTP/2 on a connection until it ends, idles out, is evicted, or the relay drains.

use super::h2_header_timeout::{H2HeaderIo, HeaderTimeout};
use super::idle::{IdleClock, IdleLimits, StreamExecutor, current_stream};
use super::{ListenerContext, RequestHandler};
use crate::connection::Connection;
use crate::connection::bare_lf_guard::{BareLfGuard, BareLfIo};
use crate::connection::inspected_io::ResetIo;
use crate::connection::write_timeout::WriteTimeout;
use crate::data_plane::DataPlane;
use crate::sending::Progress;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// What a pending connection with HTTP/2 is charged. An incomplete header section is charged in addition.
pub(super) const HTTP2_BYTES: usize = 48 * 1024;

/// HTTP/1 buffer of a connection. Above every head that can pass (a head on the wire has 128 KiB).
const HTTP1_BUFFER_BYTES: usize = 144 * 1024;

/// HTTP/1 header fields for which hyper has room on the stack. More take two allocations of many KiB for each request.
const HTTP1_FIELDS_ON_STACK: usize = 100;

/// Concurrent HTTP/2 requests on one connection.
const HTTP2_STREAMS: u32 = 256;

/// HTTP/2 header section. Above `limits.header_bytes_max`, for the same reason.
pub(super) const HTTP2_HEADER_BYTES: u32 = 136 * 1024;

/// HTTP/2 request bodies in flight: one stream, and the whole connection.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Unsent bytes of a response in one HTTP/2 stream.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// HTTP/2 streams that a client may have reset before they were accepted (CVE-2023-44487).
const HTTP2_PENDING_RESETS: usize = 32;

/// After this time without a frame the relay sends a PING.
const HTTP2_PING: Duration = Duration::from_secs(30);

/// After this time without a request the relay sends GOAWAY.
const HTTP2_IDLE: Duration = Duration::from_secs(60);

/// Serves HTTP/1.1.
pub(super) async fn http1<IO, H: RequestHandler>(
    io: IO,
    connection: Connection,
    context: ListenerContext<H>,
) where
    IO: AsyncRead + AsyncWrite + ResetIo + Unpin + Send + 'static,
{
    let ListenerContext {
        handler,
        data,
        closing,
        alive,
    } = context;
    let limits = idle_limits(&data);
    let header_timeout = limits.without_permit;
    let connection = Arc::new(connection);
    let evicted = connection.clone();
    let timeout = WriteTimeout::new(limits.usual);
    // Above `limits.headers_max`, so that the relay itself rejects a request with too many, with a problem document.
    let fields_max = data.limits().headers_max as usize + 1;
    let fields_max = fields_max.max(HTTP1_FIELDS_ON_STACK);
    let guard = BareLfGuard::new(connection.clone(), fields_max);
    let io = BareLfIo::new(io, guard, timeout);
    let progress = Arc::<Progress>::default();
    let mut clock = IdleClock::new(progress.clone(), limits);
    let title_case = data.config.listen.title_case;
    let responding = hyper::service::service_fn(move |request| {
        let (handler, connection) = (handler.clone(), connection.clone());
        let progress = progress.clone();
        async move {
            let mut response = handler.respond(&connection, &progress, request).await;
            if title_case {
                let headers = std::mem::take(response.headers_mut());
                http_client::spell(&headers, response.extensions_mut());
                *response.headers_mut() = headers;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut serving = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .title_case_headers(title_case)
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(HTTP1_BUFFER_BYTES)
            .max_headers(fields_max)
            .serve_connection(TokioIo::new(io), responding)
            .with_upgrades()
    );
    // Biased: a connection that has ended is not reported as idle or evicted.
    let result = tokio::select! {
        biased;
        result = serving.as_mut() => Some(result),
        () = clock.over() => None,
        () = evicted.evicted() => {
            tracing::debug!(peer = %evicted.peer, "connection evicted before it authenticated");
            return;
        }
        () = is_closing(closing) => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                result = serving.as_mut() => Some(result),
                () = clock.over() => None,
            }
        }
    };
    log_end(result);
    // Dropped last: the relay waits for it when it drains.
    drop(alive);
}

/// Serves HTTP/2.
pub(super) async fn http2<IO, H: RequestHandler>(
    io: IO,
    connection: Connection,
    context: ListenerContext<H>,
) where
    IO: AsyncRead + AsyncWrite + ResetIo + Unpin + Send + 'static,
{
    let ListenerContext {
        handler,
        data,
        closing,
        alive,
    } = context;
    let limits = idle_limits(&data);
    let caller_idle = limits.usual;
    let connection = Arc::new(connection);
    let evicted = connection.clone();
    connection.charge(HTTP2_BYTES);
    let header_timeout = HeaderTimeout::new(limits.without_permit, Some(connection.clone()));
    let io = H2HeaderIo::new(io, header_timeout, WriteTimeout::new(caller_idle));
    let mut clock = IdleClock::new(connection.clone(), limits);
    let requests = Arc::new(AtomicU64::new(0));
    let counting = requests.clone();
    let responding = hyper::service::service_fn(move |request| {
        counting.fetch_add(1, Ordering::Relaxed);
        let (handler, connection) = (handler.clone(), connection.clone());
        async move {
            let progress = current_stream();
            Ok::<_, Infallible>(handler.respond(&connection, &progress, request).await)
        }
    });
    let mut serving = std::pin::pin!(
        hyper::server::conn::http2::Builder::new(StreamExecutor::new(limits))
            .timer(TokioTimer::new())
            // Some clients read the socket only while a request is in progress, so a PING may stay
            // unanswered for as long as a caller may be idle.
            .keep_alive_interval(HTTP2_PING)
            .keep_alive_timeout(caller_idle)
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_header_list_size(HTTP2_HEADER_BYTES)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS)
            .serve_connection(TokioIo::new(io), responding)
    );
    let result = tokio::select! {
        biased;
        result = serving.as_mut() => Some(result),
        () = clock.over() => None,
        () = evicted.evicted() => {
            tracing::debug!(peer = %evicted.peer, "connection evicted before it authenticated");
            return;
        }
        () = async { tokio::select! { () = is_closing(closing) => {}, () = is_idle(&requests) => {} } } => {
            // Requests in progress are finished.
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                result = serving.as_mut() => Some(result),
                () = clock.over() => None,
            }
        }
    };
    log_end(result);
    drop(alive);
}

/// Logs how a connection ended; `None` is a connection whose caller did not read its responses.
fn log_end(result: Option<hyper::Result<()>>) {
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "connection failed"),
        None => tracing::debug!("connection closed: its caller did not read the response"),
    }
}

/// Returns how long callers may read nothing.
fn idle_limits(data: &DataPlane) -> IdleLimits {
    let limits = data.limits();
    IdleLimits {
        usual: limits.caller_idle_timeout.0,
        without_permit: limits.header_read_timeout.0,
    }
}

/// Waits until no request came for [`HTTP2_IDLE`].
async fn is_idle(requests: &AtomicU64) {
    let mut before = 0;
    loop {
        tokio::time::sleep(HTTP2_IDLE).await;
        let now = requests.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

async fn is_closing(mut closing: watch::Receiver<bool>) {
    // An error means that the relay is gone, which closes the connection as well.
    let _ = closing.wait_for(|closing| *closing).await;
}
