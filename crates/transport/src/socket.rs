//! The WebSocket of a session, with buffers that fit what it does.
//!
//! The WebSocket's own buffers never shrink, and the one for reading is filled with zeros each time
//! that it is read into: one that suits long bodies costs small messages more than they are. So the
//! buffers are exchanged, for larger ones when long bodies come, and for small ones when none do or
//! the session has come to rest: a relay holds thousands of which few do anything at a time.

use crate::websocket::{self, Buffers};
use bytes::Bytes;
use futures_util::{FutureExt as _, Sink as _, Stream as _};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Large buffers are for messages of this size and more, on average.
const LARGE_BYTES: u64 = 2 * 1024;

/// So many bytes of messages show what their average is.
const SAMPLE_BYTES: u64 = 64 * 1024;

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

/// Bytes that a message takes on the wire at least (RFC 6455, 5.2): exactly these, if it came in
/// one frame with the shortest length, as all do but those of strange peers.
fn wire_bytes(role: Role, payload: usize) -> u64 {
    let length = match payload {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    // What comes from a client is masked.
    let mask = match role {
        Role::Server => 4,
        Role::Client => 0,
    };
    2 + length + mask + payload as u64
}

/// A WebSocket and the connection under it.
#[derive(Debug)]
pub(crate) struct Socket<IO> {
    /// Only gone while it is exchanged.
    ws: Option<WebSocketStream<Metered<IO>>>,
    role: Role,
    /// Bytes of what came out of it, counted as [`wire_bytes`]. When they are all that was read,
    /// nothing is in its buffers: a message takes no fewer.
    understood: u64,
    buffers: Buffers,
    /// Messages and their bytes, since the buffers were last looked at.
    messages: u64,
    bytes: u64,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Socket<IO> {
    /// Before the first message. The WebSocket has small buffers.
    pub(crate) fn new(ws: WebSocketStream<Metered<IO>>, role: Role) -> Self {
        Self {
            understood: 0,
            ws: Some(ws),
            role,
            buffers: Buffers::Small,
            messages: 0,
            bytes: 0,
        }
    }

    /// The peer has sent nothing behind the last message, and cannot have: all that was read, also
    /// before there was a WebSocket, is understood.
    pub(crate) fn caught_up(&mut self) {
        self.understood = self.meter().read;
    }

    /// The next message. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Sends a frame, and waits until it is in the kernel.
    pub(crate) async fn send(&mut self, frame: Bytes) -> Result<(), Error> {
        self.start_send(frame)?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says Close.
    pub(crate) async fn close(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_close(cx)).await
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
        if let Some(Ok(message)) = &next {
            self.understood += wire_bytes(self.role, message.len());
            self.messages += 1;
            self.bytes += message.len() as u64;
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

    /// Whether it has buffers that it does not keep for ever.
    pub(crate) fn is_large(&self) -> bool {
        self.buffers == Buffers::Large
    }

    /// Whether long bodies come through small buffers.
    pub(crate) fn outgrew(&self) -> bool {
        self.buffers == Buffers::Small && self.bytes > SAMPLE_BYTES && self.takes_large()
    }

    fn takes_large(&self) -> bool {
        self.bytes > self.messages * LARGE_BYTES
    }

    /// Gives it the buffers that it should have, if that can be done now: everything written is
    /// flushed, and nothing that came is in them. Returns whether it was done; then it is to be
    /// polled.
    pub(crate) fn fit(&mut self) -> bool {
        let wanted = if self.takes_large() {
            Buffers::Large
        } else {
            Buffers::Small
        };
        if wanted == self.buffers {
            (self.messages, self.bytes) = (0, 0);
            return false;
        }
        // A reply to a ping may be on its way out.
        let mut cx = Context::from_waker(Waker::noop());
        let is_flushed = matches!(self.poll_flush(&mut cx), Poll::Ready(Ok(())));
        if !is_flushed || self.understood != self.meter().read {
            return false;
        }
        let Some(ws) = self.ws.take() else {
            return false;
        };
        let config = Some(websocket::config(wanted));
        let exchanged = WebSocketStream::from_raw_socket(ws.into_inner(), self.role, config);
        // It waits for nothing.
        self.ws = exchanged.now_or_never();
        self.buffers = wanted;
        (self.messages, self.bytes) = (0, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::{DuplexStream, duplex};

    async fn pair(role: Role) -> (Socket<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (ours, theirs) = duplex(1 << 20);
        let config = Some(websocket::config(Buffers::Small));
        let meter = Metered::new(ours, 0);
        let ws = WebSocketStream::from_raw_socket(meter, role, config).await;
        let other = match role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        };
        let peer = WebSocketStream::from_raw_socket(theirs, other, config).await;
        (Socket::new(ws, role), peer)
    }

    async fn next(socket: &mut Socket<DuplexStream>) -> Bytes {
        socket.next().await.unwrap().unwrap().into_data()
    }

    #[tokio::test]
    async fn buffers_are_exchanged_only_when_all_that_came_was_understood() {
        for role in [Role::Server, Role::Client] {
            let (mut socket, mut peer) = pair(role).await;
            let (small, large) = (Bytes::from_static(b"a"), Bytes::from(vec![1; 20_000]));
            for bytes in [0, 1, 125, 126, 60_000] {
                let message = Bytes::from(vec![7; bytes]);
                peer.send(Message::Binary(message.clone())).await.unwrap();
                assert_eq!(next(&mut socket).await, message);
            }
            assert!(!socket.outgrew(), "too few bytes to tell");
            for _ in 0..2 {
                peer.feed(Message::Binary(small.clone())).await.unwrap();
                peer.feed(Message::Binary(large.clone())).await.unwrap();
            }
            peer.flush().await.unwrap();
            for _ in 0..2 {
                assert_eq!(next(&mut socket).await, small);
                // The other one is in the buffer, at least in part.
                assert!(!socket.fit());
                assert_eq!(next(&mut socket).await, large);
            }
            assert!(socket.outgrew() && socket.fit());
            assert_eq!(socket.buffers, Buffers::Large);
            for _ in 0..100 {
                peer.send(Message::Binary(small.clone())).await.unwrap();
                assert_eq!(next(&mut socket).await, small);
            }
            assert!(socket.fit(), "what comes now is small");
            assert_eq!(socket.buffers, Buffers::Small);
            peer.send(Message::Binary(large.clone())).await.unwrap();
            assert_eq!(next(&mut socket).await, large);
            socket.send(small.clone()).await.unwrap();
            assert_eq!(peer.next().await.unwrap().unwrap().into_data(), small);
        }
    }

    #[tokio::test]
    async fn a_message_in_pieces_leaves_the_buffers_as_they_are() {
        use tokio_tungstenite::tungstenite::protocol::frame::Frame;
        use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
        let (mut socket, mut peer) = pair(Role::Server).await;
        let piece = |code, is_last| {
            let bytes = vec![7; 30_000];
            Message::Frame(Frame::message(bytes, OpCode::Data(code), is_last))
        };
        peer.send(piece(Data::Binary, false)).await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(socket.poll_next(&mut cx).is_pending());
        assert!(!socket.fit());
        peer.send(piece(Data::Continue, true)).await.unwrap();
        assert_eq!(next(&mut socket).await.len(), 60_000);
        assert!(socket.takes_large() && !socket.fit());
    }
}
