//! HTTP/2, with a target that chose it (ALPN).
//!
//! A connection serves one exchange at a time, as with HTTP/1.1. A target that does not read one request
//! then blocks no other, a connection buffers little, and dropping an exchange closes its connection. Its
//! bytes move in tasks, which end with the connection.

use crate::HEAD_BUFFER_BYTES;
use crate::request_body::RequestBody;
use crate::stream::Stream;
use http::uri::{Authority, Scheme};
use http::{Request, Uri, header};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::AbortHandle;

/// Bytes that a target may send before the relay has read them.
const WINDOW_BYTES: u32 = 256 * 1024;

/// The same for the connection. h2 closes a connection whose unread frames need more than half of this as
/// overhead in memory, as many small frames do.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Bytes of a request that are buffered while its target does not read them.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// The protocol's name in ALPN (RFC 9113, 3.2).
pub(super) const ALPN: &[u8] = b"h2";

/// The tasks of one connection. Dropping it aborts them, and with them the connection.
#[derive(Debug)]
pub(super) struct Tasks(Spawner);

impl Drop for Tasks {
    fn drop(&mut self) {
        // The lock is released before a task is aborted: dropping what the task holds may spawn again.
        let tasks = {
            let mut tasks = self.0.lock();
            tasks.is_closed = true;
            std::mem::take(&mut tasks.running)
        };
        for task in tasks {
            task.abort();
        }
    }
}

#[derive(Debug, Default)]
struct Spawned {
    running: Vec<AbortHandle>,
    is_closed: bool,
}

/// Spawns tasks, until the connection is closed.
#[derive(Debug, Clone, Default)]
struct Spawner(Arc<Mutex<Spawned>>);

impl Spawner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Spawned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut tasks = self.lock();
        // hyper may spawn while the connection is being dropped; that task would outlive it.
        if tasks.is_closed {
            return;
        }
        // hyper spawns a task for each request body; finished ones must not add up on a reused connection.
        tasks.running.retain(|task| !task.is_finished());
        tasks.running.push(tokio::spawn(future).abort_handle());
    }
}

/// Begins HTTP/2 on a stream.
pub(super) async fn handshake(stream: Stream) -> hyper::Result<(SendRequest<RequestBody>, Tasks)> {
    let spawner = Spawner::default();
    let tasks = Tasks(spawner.clone());
    let header_list_max = u32::try_from(HEAD_BUFFER_BYTES).unwrap_or(u32::MAX);
    let (sender, connection) = Builder::new(spawner.clone())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(header_list_max)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    spawner.execute(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a target ended");
        }
    });
    Ok((sender, tasks))
}

/// Moves the connection's header fields of HTTP/1.1 to where HTTP/2 has them (RFC 9113, 8.2.2 and 8.3.1).
pub(super) fn to_http2(mut request: Request<RequestBody>) -> Request<RequestBody> {
    let headers = request.headers_mut();
    headers.remove(header::TRANSFER_ENCODING);
    let host = headers.remove(header::HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = authority;
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// Why an HTTP/2 target refused a request without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It did nothing with the request (RFC 9113, 8.7).
    Untouched,
    /// It requires HTTP/1.1 (RFC 9113, 7). Clients conclude that it did nothing yet; servers send this where
    /// they need a client certificate or a sign-in of the connection.
    RequiresHttp1,
}

/// Returns why the target refused the request, if its reset states that it did nothing with it.
///
/// GOAWAY does not count: h2 reports it also to a request that was sent a moment before, whose fate is
/// unknown.
pub(crate) fn refused(error: &hyper::Error) -> Option<Refused> {
    let error = cause(error)?;
    if !error.is_remote() || !error.is_reset() {
        return None;
    }
    match error.reason()? {
        h2::Reason::HTTP_1_1_REQUIRED => Some(Refused::RequiresHttp1),
        h2::Reason::REFUSED_STREAM => Some(Refused::Untouched),
        _ => None,
    }
}

/// Returns the HTTP/2 error inside an error of hyper.
pub(super) fn cause(error: &hyper::Error) -> Option<&h2::Error> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<h2::Error>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use protocol::frame::BodyLength;

    #[test]
    fn http2_request_has_authority_and_no_framing() {
        let body = RequestBody::from_bytes(Bytes::new(), BodyLength::None);
        let request = Request::builder()
            .uri("/a%2Fb;c?x=%20")
            .header("host", "alm.corp.example:8443")
            .header("transfer-encoding", "chunked")
            .header("x-other", "1")
            .body(body)
            .unwrap();
        let request = to_http2(request);
        let uri = request.uri().to_string();
        assert_eq!(uri, "https://alm.corp.example:8443/a%2Fb;c?x=%20");
        let names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["x-other"]);
    }

    #[tokio::test]
    async fn connection_tasks_end_with_it() {
        struct Held(#[allow(dead_code)] tokio::sync::oneshot::Sender<()>);
        let spawner = Spawner::default();
        let tasks = Tasks(spawner.clone());
        let begin = |spawner: &Spawner| {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let held = Held(sender);
            spawner.execute(async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
            receiver
        };
        let first = begin(&spawner);
        drop(tasks);
        assert!(first.await.is_err());
        assert!(begin(&spawner).await.is_err());
    }
}
