//! HTTP/2, with a target that chose it (ALPN).
//!
//! A connection serves one exchange at a time, as with HTTP/1.1: a target that takes nothing of one
//! request then holds up no other, what a connection may buffer stays small, and letting go of an
//! exchange closes its connection. Its bytes move in tasks, which end with the connection.

use super::HEAD_BUFFER_BYTES;
use super::body::RequestBody;
use super::stream::Stream;
use http::uri::{Authority, Scheme};
use http::{Request, Uri, header};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::AbortHandle;

/// What a target may send before the relay has taken it.
const WINDOW_BYTES: u32 = 256 * 1024;

/// The same for the connection. The library ends one whose unread frames take more than half of this in
/// memory beyond their bytes, as many small ones do.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// What is buffered of a request for a target that does not take it yet.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// The name by which the protocol is chosen (RFC 9113, 3.2).
pub(super) const ALPN: &[u8] = b"h2";

/// The tasks of one connection. Dropping it ends them, and with them the connection.
#[derive(Debug)]
pub(super) struct Running(Tasks);

impl Drop for Running {
    fn drop(&mut self) {
        let tasks = {
            let mut tasks = self.0.lock();
            tasks.is_over = true;
            std::mem::take(&mut tasks.running)
        };
        for task in tasks {
            task.abort();
        }
    }
}

#[derive(Debug, Default)]
struct Started {
    running: Vec<AbortHandle>,
    is_over: bool,
}

/// Starts tasks, until the connection is over.
#[derive(Debug, Clone, Default)]
struct Tasks(Arc<Mutex<Started>>);

impl Tasks {
    fn lock(&self) -> std::sync::MutexGuard<'_, Started> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut tasks = self.lock();
        if tasks.is_over {
            return;
        }
        tasks.running.retain(|task| !task.is_finished());
        tasks.running.push(tokio::spawn(future).abort_handle());
    }
}

/// Begins to speak HTTP/2.
pub(super) async fn handshake(
    stream: Stream,
) -> hyper::Result<(SendRequest<RequestBody>, Running)> {
    let tasks = Tasks::default();
    let running = Running(tasks.clone());
    let header_list_max = u32::try_from(HEAD_BUFFER_BYTES).unwrap_or(u32::MAX);
    let (sender, connection) = Builder::new(tasks.clone())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(header_list_max)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    tasks.execute(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a target ended");
        }
    });
    Ok((sender, running))
}

/// Puts what HTTP/1.1 says in fields of the connection into the places that HTTP/2 has for it
/// (RFC 9113, 8.2.2 and 8.3.1).
pub(super) fn in_its_form(mut request: Request<RequestBody>) -> Request<RequestBody> {
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

/// What a target that speaks HTTP/2 says of a request that it did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It did nothing with it (RFC 9113, 8.7).
    Untouched,
    /// It wants to be asked by HTTP/1.1 (RFC 9113, 7). That it did nothing yet is what clients take this
    /// for; servers say it where they need a client certificate or a sign-in of the connection.
    WantsHttp1,
}

/// Whether the target says that it did nothing with the request. GOAWAY is not taken for that: the
/// library tells of it also to a request that has left a moment before.
pub(crate) fn refused(error: &hyper::Error) -> Option<Refused> {
    let error = cause(error)?;
    if !error.is_remote() || !error.is_reset() {
        return None;
    }
    match error.reason()? {
        h2::Reason::HTTP_1_1_REQUIRED => Some(Refused::WantsHttp1),
        h2::Reason::REFUSED_STREAM => Some(Refused::Untouched),
        _ => None,
    }
}

/// What HTTP/2 itself says of an error.
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
    fn a_request_takes_the_form_of_http2() {
        let body = RequestBody::of_whole(Bytes::new(), BodyLength::None);
        let request = Request::builder()
            .uri("/a%2Fb;c?x=%20")
            .header("host", "alm.corp.example:8443")
            .header("transfer-encoding", "chunked")
            .header("x-other", "1")
            .body(body)
            .unwrap();
        let request = in_its_form(request);
        let uri = request.uri().to_string();
        assert_eq!(uri, "https://alm.corp.example:8443/a%2Fb;c?x=%20");
        let names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["x-other"]);
    }

    #[tokio::test]
    async fn the_tasks_of_a_connection_end_with_it_and_none_begins_after() {
        struct Held(#[allow(dead_code)] tokio::sync::oneshot::Sender<()>);
        let tasks = Tasks::default();
        let running = Running(tasks.clone());
        let begin = |tasks: &Tasks| {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let held = Held(sender);
            tasks.execute(async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
            receiver
        };
        let first = begin(&tasks);
        drop(running);
        assert!(first.await.is_err());
        assert!(begin(&tasks).await.is_err());
    }
}
