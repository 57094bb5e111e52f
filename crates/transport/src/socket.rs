//! The WebSocket of a session, with buffers that fit its traffic.
//!
//! The WebSocket's own buffers never shrink, and tungstenite fills the read buffer with zeros before
//! each read. A buffer for long bodies therefore costs small messages more than their own bytes. So the
//! buffers are replaced: by large ones when long bodies come, and by small ones when they end or the
//! session becomes idle. A relay holds thousands of sessions, and few are active at the same time.

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

/// Average message size above which large buffers are used.
const LARGE_BYTES: u64 = 2 * 1024;

/// Bytes of messages after which their average is meaningful.
const SAMPLE_BYTES: u64 = 64 * 1024;

/// Counts bytes written, to distinguish a slow write from a stalled one, and bytes read, to know when
/// all of them were decoded.
#[derive(Debug)]
pub(crate) struct Metered<IO> {
    io: IO,
    read: u64,
    written: u64,
}

impl<IO> Metered<IO> {
    /// Wraps a connection of which `ahead` bytes were read before.
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

/// Returns the least bytes that a message takes on the wire (RFC 6455, 5.2). It takes exactly these if
/// it came in one frame with the shortest length, as those of nearly every peer do.
fn wire_bytes(role: Role, payload: usize) -> u64 {
    let length = match payload {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    // Frames from a client are masked, with a key of four bytes.
    let mask = match role {
        Role::Server => 4,
        Role::Client => 0,
    };
    2 + length + mask + payload as u64
}

/// A WebSocket and the connection under it.
#[derive(Debug)]
pub(crate) struct Socket<IO> {
    /// `None` only while it is replaced.
    ws: Option<WebSocketStream<Metered<IO>>>,
    role: Role,
    /// Bytes of the messages that were decoded, counted by [`wire_bytes`]. When they equal the bytes read, its
    /// buffers are empty, since a message takes no fewer bytes.
    decoded: u64,
    buffers: Buffers,
    /// Messages and their bytes, since the buffers were last checked.
    messages: u64,
    bytes: u64,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Socket<IO> {
    /// Wraps a WebSocket with small buffers, before its first message.
    pub(crate) fn new(ws: WebSocketStream<Metered<IO>>, role: Role) -> Self {
        Self {
            decoded: 0,
            ws: Some(ws),
            role,
            buffers: Buffers::Small,
            messages: 0,
            bytes: 0,
        }
    }

    /// Records that all bytes read so far are decoded, also those before the WebSocket. Only valid
    /// where the peer cannot have sent anything after the last message.
    pub(crate) fn mark_all_decoded(&mut self) {
        self.decoded = self.meter().read;
    }

    /// Waits for the next message. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Sends a frame, and waits until it is in the kernel.
    pub(crate) async fn send(&mut self, frame: Bytes) -> Result<(), Error> {
        self.start_send(frame)?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends Close.
    pub(crate) async fn close(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_close(cx)).await
    }

    fn ws(&mut self) -> Pin<&mut WebSocketStream<Metered<IO>>> {
        Pin::new(
            self.ws
                .as_mut()
                .expect("a socket is missing only while it is replaced"),
        )
    }

    fn meter(&self) -> &Metered<IO> {
        let ws = self
            .ws
            .as_ref()
            .expect("a socket is missing only while it is replaced");
        ws.get_ref()
    }

    /// Polls for the next message.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, Error>>> {
        let next = ready!(self.ws().poll_next(cx));
        if let Some(Ok(message)) = &next {
            self.decoded += wire_bytes(self.role, message.len());
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

    /// Returns the bytes that the connection accepted so far.
    pub(crate) fn written(&self) -> u64 {
        self.meter().written
    }

    /// Whether it has large buffers, which must be checked from time to time.
    pub(crate) fn is_large(&self) -> bool {
        self.buffers == Buffers::Large
    }

    /// Whether long bodies come through small buffers, so that larger ones should replace them.
    pub(crate) fn outgrew(&self) -> bool {
        self.buffers == Buffers::Small && self.bytes > SAMPLE_BYTES && self.takes_large()
    }

    fn takes_large(&self) -> bool {
        self.bytes > self.messages * LARGE_BYTES
    }

    /// Replaces the buffers by ones that fit the traffic, if that is possible now: everything written
    /// is flushed, and the read buffer is empty. Returns whether they were replaced; the socket must be
    /// polled again then.
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
        // A reply to a ping may still be in the write buffer.
        let mut cx = Context::from_waker(Waker::noop());
        // A waker is not needed: if the flush is not complete, the buffers are checked again later.
        let is_flushed = matches!(self.poll_flush(&mut cx), Poll::Ready(Ok(())));
        if !is_flushed || self.decoded != self.meter().read {
            return false;
        }
        let Some(ws) = self.ws.take() else {
            return false;
        };
        let config = Some(websocket::config(wanted));
        let exchanged = WebSocketStream::from_raw_socket(ws.into_inner(), self.role, config);
        // It is ready at once: creating a WebSocket from a raw socket does no I/O.
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
    async fn buffers_are_replaced_only_when_empty() {
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
    async fn fragmented_message_keeps_the_buffers() {
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
