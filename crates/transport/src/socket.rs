//! The WebSocket of a session, with buffers that fit what it does.
//!
//! A relay holds thousands of sessions of which few do anything at a time. The WebSocket's own
//! buffers never shrink, so they are exchanged: for small ones when a session has come to rest, for
//! large ones when much comes through it.

use crate::websocket::{self, Buffers};
use bytes::Bytes;
use futures_util::{FutureExt as _, Sink as _, Stream as _};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Between two looks at a session that come to different buffers: more is much.
const MUCH_BYTES: u64 = 64 * 1024;

/// Counts what the connection takes, to tell a slow write from a stalled one, and what it gives,
/// to know when all of it was understood.
#[derive(Debug)]
pub(crate) struct Metered<IO> {
    io: IO,
    read: u64,
    written: u64,
}

impl<IO> Metered<IO> {
    /// `ahead` bytes of it were read before.
    pub(crate) fn new(io: IO, ahead: usize) -> Self {
        Self {
            io,
            read: ahead as u64,
            written: 0,
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.read += (buf.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Bytes that a message from a client takes on the wire at least (RFC 6455, 5.2): exactly these,
/// if it came in one frame with the shortest length, as all do but those of strange peers.
pub(crate) fn masked_bytes(payload: usize) -> u64 {
    let length = match payload {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    2 + length + 4 + payload as u64
}

/// A WebSocket and the connection under it.
#[derive(Debug)]
pub(crate) struct Socket<IO> {
    /// Only gone while it is exchanged.
    ws: Option<WebSocketStream<Metered<IO>>>,
    /// Bytes of the messages that came out of it, counted as [`masked_bytes`]; `None` where nobody
    /// knows how many came before. When they are all that was read, nothing is in its buffers: a
    /// message takes no fewer.
    understood: Option<u64>,
    buffers: Buffers,
    /// Bytes that had moved when the buffers were last looked at.
    looked_at: u64,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Socket<IO> {
    /// With what is known of the messages so far.
    pub(crate) fn new(ws: WebSocketStream<Metered<IO>>, understood: Option<u64>) -> Self {
        Self {
            ws: Some(ws),
            understood,
            buffers: Buffers::Large,
            looked_at: 0,
        }
    }

    fn ws(&mut self) -> Pin<&mut WebSocketStream<Metered<IO>>> {
        Pin::new(self.ws.as_mut().expect("only gone while it is exchanged"))
    }

    fn meter(&self) -> &Metered<IO> {
        let ws = self.ws.as_ref().expect("only gone while it is exchanged");
        ws.get_ref()
    }

    /// The next message.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, Error>>> {
        let next = ready!(self.ws().poll_next(cx));
        if let (Some(understood), Some(Ok(message))) = (&mut self.understood, &next) {
            *understood += masked_bytes(message.len());
        }
        Poll::Ready(next)
    }

    /// Queues a frame.
    pub(crate) fn start_send(&mut self, frame: Bytes) -> Result<(), Error> {
        self.ws().start_send(Message::Binary(frame))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.ws().poll_flush(cx)
    }

    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.ws().poll_close(cx)
    }

    /// Bytes that the connection took so far.
    pub(crate) fn written(&self) -> u64 {
        self.meter().written
    }

    /// Bytes that moved so far, in both directions.
    fn moved(&self) -> u64 {
        let meter = self.meter();
        meter.read + meter.written
    }

    /// Whether it has buffers that a session at rest gives back.
    pub(crate) fn is_large(&self) -> bool {
        self.understood.is_some() && self.buffers == Buffers::Large
    }

    /// Whether much has come through small buffers.
    pub(crate) fn outgrew(&self) -> bool {
        self.understood.is_some() && self.buffers == Buffers::Small && self.has_moved_much()
    }

    fn has_moved_much(&self) -> bool {
        self.moved() - self.looked_at > MUCH_BYTES
    }

    /// Gives it the buffers that it should have, if that can be done now: everything written is
    /// flushed, and nothing that came is in them. Returns whether it was done; then it is to be
    /// polled.
    pub(crate) fn fit(&mut self, is_at_rest: bool) -> bool {
        let wanted = match self.buffers {
            Buffers::Large if is_at_rest && !self.has_moved_much() => Buffers::Small,
            Buffers::Small if self.has_moved_much() => Buffers::Large,
            Buffers::Large | Buffers::Small => {
                self.looked_at = self.moved();
                return false;
            }
        };
        // A reply to a ping may be on its way out.
        let mut cx = Context::from_waker(Waker::noop());
        let is_flushed = matches!(self.poll_flush(&mut cx), Poll::Ready(Ok(())));
        if !is_flushed || self.understood != Some(self.meter().read) {
            return false;
        }
        let Some(ws) = self.ws.take() else {
            return false;
        };
        let config = Some(websocket::config(wanted));
        let exchanged = WebSocketStream::from_raw_socket(ws.into_inner(), Role::Server, config);
        // It waits for nothing.
        self.ws = exchanged.now_or_never();
        self.buffers = wanted;
        self.looked_at = self.moved();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{SinkExt as _, StreamExt as _};
    use std::future::poll_fn;
    use tokio::io::{DuplexStream, duplex};

    async fn pair() -> (Socket<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (ours, theirs) = duplex(1 << 20);
        let config = Some(websocket::config(Buffers::Large));
        let meter = Metered::new(ours, 0);
        let ws = WebSocketStream::from_raw_socket(meter, Role::Server, config).await;
        let peer = WebSocketStream::from_raw_socket(theirs, Role::Client, config).await;
        (Socket::new(ws, Some(0)), peer)
    }

    async fn next(socket: &mut Socket<DuplexStream>) -> Bytes {
        let message = poll_fn(|cx| socket.poll_next(cx)).await;
        message.unwrap().unwrap().into_data()
    }

    #[tokio::test]
    async fn buffers_are_exchanged_only_when_all_that_came_was_understood() {
        let (mut socket, mut peer) = pair().await;
        for bytes in [0, 1, 125, 126, 60_000] {
            let message = Bytes::from(vec![7; bytes]);
            peer.send(Message::Binary(message.clone())).await.unwrap();
            assert_eq!(next(&mut socket).await, message);
        }
        let (small, large) = (Bytes::from_static(b"a"), Bytes::from(vec![1; 20_000]));
        peer.feed(Message::Binary(small.clone())).await.unwrap();
        peer.feed(Message::Binary(large.clone())).await.unwrap();
        peer.flush().await.unwrap();
        assert_eq!(next(&mut socket).await, small);
        socket.looked_at = socket.moved();
        // The other one is in the buffer, at least in part.
        assert!(!socket.fit(true));
        socket.looked_at = 0;
        assert_eq!(next(&mut socket).await, large);
        assert!(!socket.fit(true), "much has moved since the last look");
        assert!(socket.fit(true));
        assert_eq!(socket.buffers, Buffers::Small);
        for _ in 0..10 {
            peer.send(Message::Binary(large.clone())).await.unwrap();
            assert_eq!(next(&mut socket).await, large);
        }
        assert!(socket.outgrew() && socket.fit(false));
        assert_eq!(socket.buffers, Buffers::Large);
        peer.send(Message::Binary(small.clone())).await.unwrap();
        assert_eq!(next(&mut socket).await, small);
        socket.start_send(small.clone()).unwrap();
        poll_fn(|cx| socket.poll_flush(cx)).await.unwrap();
        assert_eq!(peer.next().await.unwrap().unwrap().into_data(), small);
    }

    #[tokio::test]
    async fn a_message_in_pieces_leaves_the_buffers_as_they_are() {
        use tokio_tungstenite::tungstenite::protocol::frame::Frame;
        use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
        let (mut socket, mut peer) = pair().await;
        let piece = |text: &'static [u8], code, is_last| {
            Message::Frame(Frame::message(text, OpCode::Data(code), is_last))
        };
        peer.send(piece(b"ab", Data::Binary, false)).await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(socket.poll_next(&mut cx).is_pending());
        assert!(!socket.fit(true));
        peer.send(piece(b"c", Data::Continue, true)).await.unwrap();
        assert_eq!(next(&mut socket).await, &b"abc"[..]);
        assert!(!socket.fit(true));
    }
}
