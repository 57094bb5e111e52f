//! Raw bytes between a caller and a stream: behind CONNECT, and behind a WebSocket's handshake.
//!
//! The exchange begins with a body that has nothing to say yet. When the target agreed and the caller's
//! connection was let go of, the body reads from it, and the answer is written to it. Each direction
//! has its own end; what is broken off ends in a reset.

use crate::exchange::{
    self, ExchangePermit, ExchangeRequest, Outbound, TunnelBody, TunnelResponse,
};
use crate::listener::bare_lf_guard::BareLfIo;
use crate::listener::connection::Connection;
use crate::state::State;
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

/// The bridge's word on the time being over shall be heard first.
const TIME_GRACE: Duration = Duration::from_secs(2);

/// What the caller sends.
struct Reader {
    /// What came with the request, already read.
    early: Bytes,
    io: Box<dyn AsyncRead + Send + Unpin>,
    /// Told when the caller ended its direction; dropped without a word when it broke.
    ended: Option<oneshot::Sender<()>>,
}

/// The caller's direction: silent until its connection is raw.
pub struct RawBody {
    coming: Option<oneshot::Receiver<Reader>>,
    reader: Option<Reader>,
}

/// The other end of a [`RawBody`].
#[derive(Debug)]
pub struct Raw {
    give: oneshot::Sender<Reader>,
}

/// Asks for an exchange whose request has no end before its answer, and waits for the answer's head.
/// The caller's bytes pass once [`Raw::begin`] is called.
///
/// # Errors
/// The failure, with how far the request came.
pub async fn ask(
    state: &Arc<State>,
    asked: ExchangeRequest<'_>,
    place: ExchangePermit,
) -> Result<(TunnelResponse, Raw), Failure> {
    let (give, coming) = oneshot::channel();
    let body = RawBody {
        coming: Some(coming),
        reader: None,
    };
    let limit = state.limits().endpoint_head_timeout.0;
    let running = exchange::run(
        state,
        asked,
        Outbound::Streaming { body, idle: None },
        place,
    );
    match tokio::time::timeout(limit + TIME_GRACE, running).await {
        Ok(result) => result.map(|answer| (answer, Raw { give })),
        Err(_) => {
            let detail = format!("no answer within {} s", limit.as_secs());
            Err(Failure::possibly_executed(Code::Timeout, detail))
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
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
        if let Some(coming) = &mut this.coming {
            let reader = std::task::ready!(Pin::new(coming).poll(cx));
            this.coming = None;
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
            // Nobody listens where the answer has ended, too.
            let _ = ended.send(());
        }
        this.reader = None;
        Poll::Ready(None)
    }
}

impl Raw {
    /// Carries bytes as soon as the connection is raw, until both directions have ended. The
    /// connection keeps its place meanwhile.
    pub fn begin(self, upgrade: OnUpgrade, body: TunnelBody, connection: Arc<Connection>) {
        connection.turns_raw();
        tokio::spawn(async move {
            // Boxed: what the handshake needs is given back.
            if let Ok(upgraded) = Box::pin(upgrade).await {
                match upgraded.downcast::<TokioIo<BareLfIo<TcpStream>>>() {
                    Ok(Parts { io, read_buf, .. }) => {
                        let (read, write) = io.into_inner().into_inner().into_split();
                        carry(self, body, (read, read_buf), write, |write| {
                            transport::tcp::will_reset(write.as_ref());
                            write.forget();
                        })
                        .await;
                    }
                    Err(upgraded) => {
                        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
                        // TLS that ends without a farewell, and an HTTP/2 stream that is dropped, look
                        // broken off.
                        carry(self, body, (read, Bytes::new()), write, drop).await;
                    }
                }
            }
            drop(connection);
        });
    }
}

async fn carry<R, W>(
    raw: Raw,
    mut body: TunnelBody,
    (read, early): (R, Bytes),
    mut write: W,
    break_off: impl FnOnce(W),
) where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin,
{
    let (ended, mut end) = oneshot::channel();
    let reader = Reader {
        early,
        io: Box::new(read),
        ended: Some(ended),
    };
    if raw.give.send(reader).is_err() {
        break_off(write);
        return;
    }
    let mut has_caller_ended = false;
    while let Some(frame) = body.frame().await {
        let Some(data) = frame.ok().and_then(|frame| frame.into_data().ok()) else {
            break_off(write);
            return;
        };
        let mut writing = std::pin::pin!(async {
            write.write_all(&data).await?;
            write.flush().await
        });
        let written = tokio::select! {
            written = writing.as_mut() => Some(written),
            // A stream that is lost meanwhile takes its body with it.
            told = &mut end, if !has_caller_ended => match told {
                Ok(()) => {
                    has_caller_ended = true;
                    Some(writing.await)
                }
                Err(_) => None,
            },
        };
        if !matches!(written, Some(Ok(()))) {
            break_off(write);
            return;
        }
    }
    let _ = write.shutdown().await;
    // Its own direction may go on; dropping the answer would take the exchange back.
    if has_caller_ended || end.await.is_ok() {
        body.both_ended();
    }
}
