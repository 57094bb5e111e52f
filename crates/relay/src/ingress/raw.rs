//! Raw bytes between a caller and a stream: after CONNECT, and after a switch of protocols, such as to WebSocket.
//!
//! The exchange begins with a request body that has no bytes yet. When the target has accepted and hyper has
//! released the caller's connection, the body reads from that connection, and the response is written to it.
//! Each direction ends independently (half-close). A direction that is aborted ends in a reset.

use crate::capacity::ExchangePermit;
use crate::connection::Connection;
use crate::connection::bare_lf_guard::BareLfIo;
use crate::data_plane::DataPlane;
use crate::exchange::{self, ExchangeRequest, Outbound, TunnelBody, TunnelResponse};
use crate::progress::Progress;
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use protocol::{Code, Failure};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Extra time for the relay's limit, so that the bridge reports the timeout first.
const TIME_GRACE: Duration = Duration::from_secs(2);

/// The caller's direction of a connection that is raw.
struct RawReader {
    /// Bytes that hyper read together with the request.
    early: Bytes,
    io: Box<dyn AsyncRead + Send + Unpin>,
    /// Completed when the caller ends its direction; dropped when the connection breaks.
    ended: Option<oneshot::Sender<()>>,
}

/// The request's body: its own, pending until the caller's connection is raw, then what the caller sends.
pub(crate) struct RawBody {
    /// The body that the request had before it became raw.
    front: Bytes,
    connecting: Option<oneshot::Receiver<RawReader>>,
    reader: Option<RawReader>,
}

/// Hands the caller's connection to a [`RawBody`].
#[derive(Debug)]
pub(super) struct RawStream {
    reader: oneshot::Sender<RawReader>,
}

/// Sends a request whose body has no end before its response (but begins with `front`), and waits for the response's head. The caller's
/// bytes pass once [`RawStream::begin`] is called.
///
/// # Errors
/// The failure, with the execution status.
pub(super) async fn open(
    data: &DataPlane,
    request: ExchangeRequest<'_>,
    front: Bytes,
    permit: ExchangePermit,
    progress: &Progress,
) -> Result<(TunnelResponse, RawStream), Failure> {
    let (reader, connecting) = oneshot::channel();
    let body = RawBody {
        front,
        connecting: Some(connecting),
        reader: None,
    };
    let limit = data.limits().endpoint_head_timeout.0;
    // No idle timeout of the caller: silence is normal on a raw stream, and the bridge has its own limit.
    let body = Outbound::Streaming(body);
    let running = exchange::run(&data.exchange, request, body, permit, progress);
    // The exchange's own limit for the head starts at the end of the upload, which never comes here.
    match tokio::time::timeout(limit + TIME_GRACE, running).await {
        Ok(result) => result.map(|response| (response, RawStream { reader })),
        Err(_) => {
            let detail = format!("no response within {} s", limit.as_secs());
            Err(Failure::possibly_executed(Code::Timeout, detail))
        }
    }
}

impl std::fmt::Debug for RawReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawReader").finish_non_exhaustive()
    }
}

impl Body for RawBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if !this.front.is_empty() {
            let front = std::mem::take(&mut this.front);
            return Poll::Ready(Some(Ok(Frame::data(front))));
        }
        if let Some(connecting) = &mut this.connecting {
            let reader = std::task::ready!(Pin::new(connecting).poll(cx));
            this.connecting = None;
            this.reader = Some(reader.map_err(io::Error::other)?);
        }
        let Some(reader) = &mut this.reader else {
            return Poll::Ready(None);
        };
        if !reader.early.is_empty() {
            let early = std::mem::take(&mut reader.early);
            return Poll::Ready(Some(Ok(Frame::data(early))));
        }
        let piece = std::task::ready!(transport::raw::poll_piece(&mut reader.io, cx))?;
        if !piece.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(ended) = reader.ended.take() {
            // The receiver is gone if the response has ended as well.
            let _ = ended.send(());
        }
        this.reader = None;
        Poll::Ready(None)
    }
}

impl RawStream {
    /// Passes bytes as soon as the connection is raw, until both directions have ended. The connection keeps
    /// its slot meanwhile.
    pub(super) fn begin(self, upgrade: OnUpgrade, body: TunnelBody, connection: Arc<Connection>) {
        // Before the response is written: the bytes after it must not be inspected as HTTP.
        connection.turns_raw();
        tokio::spawn(async move {
            // Boxed: the memory for the upgrade is released before the stream runs, perhaps for hours.
            if let Ok(upgraded) = Box::pin(upgrade).await {
                match upgraded.downcast::<TokioIo<BareLfIo<TcpStream>>>() {
                    Ok(Parts { io, read_buf, .. }) => {
                        let (io, left) = io.into_inner().into_parts();
                        let read_buf = Bytes::from([read_buf, left].concat());
                        let (read, write) = io.into_split();
                        run(self, body, (read, read_buf), write, |write| {
                            // A FIN would look like an orderly end to the caller, so an aborted stream must
                            // end in a RST.
                            transport::tcp::will_reset(write.as_ref());
                            write.forget();
                        })
                        .await;
                    }
                    Err(upgraded) => {
                        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
                        // Dropping is enough: TLS without close_notify, and an HTTP/2 stream that is
                        // dropped, look aborted.
                        run(self, body, (read, Bytes::new()), write, drop).await;
                    }
                }
            }
            drop(connection);
        });
    }
}

/// Passes bytes in both directions. `abort` ends the caller's connection so that it does not look complete.
async fn run<R, W>(
    stream: RawStream,
    mut body: TunnelBody,
    (read, early): (R, Bytes),
    mut write: W,
    abort: impl FnOnce(W),
) where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin,
{
    let (ended, mut end) = oneshot::channel();
    let reader = RawReader {
        early,
        io: Box::new(read),
        ended: Some(ended),
    };
    if stream.reader.send(reader).is_err() {
        abort(write);
        return;
    }
    let mut has_caller_ended = false;
    while let Some(frame) = body.frame().await {
        let Some(data) = frame.ok().and_then(|frame| frame.into_data().ok()) else {
            abort(write);
            return;
        };
        let mut writing = std::pin::pin!(async {
            write.write_all(&data).await?;
            write.flush().await
        });
        let written = tokio::select! {
            written = writing.as_mut() => Some(written),
            // A stream that is lost drops its request body, and with it the sender: a write that blocks on
            // the caller must not hide that.
            caller = &mut end, if !has_caller_ended => match caller {
                Ok(()) => {
                    has_caller_ended = true;
                    Some(writing.await)
                }
                Err(_) => None,
            },
        };
        if !matches!(written, Some(Ok(()))) {
            abort(write);
            return;
        }
    }
    let _ = write.shutdown().await;
    // The caller's direction may continue after the response has ended; dropping the response now would cancel
    // the exchange.
    if has_caller_ended || end.await.is_ok() {
        body.detach();
    }
}
