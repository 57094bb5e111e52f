//! Larger reads of a socket under TLS.
//!
//! rustls asks for 4 KiB at a time, so a full record would take five system calls. Here one call reads what has
//! arrived, and the rest is handed out from memory.
//!
//! The buffer belongs to the thread, not to the connection: a connection holds it only while it has bytes that were not
//! handed out. Thousands of idle connections hold none.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes of one read: what a peer writes at once.
const AHEAD_BYTES: usize = 64 * 1024;

/// A TLS connection to a server, after its handshake.
pub type ClientStream = tokio_rustls::client::TlsStream<ReadAhead<TcpStream>>;

thread_local! {
    /// The thread's buffer, while no connection holds it. Empty before its first use.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection that is read ahead, once [enabled](Self::enable).
#[derive(Debug)]
pub struct ReadAhead<IO> {
    io: IO,
    is_enabled: bool,
    /// The buffer, while bytes of it are left; else empty.
    buffer: Vec<u8>,
    /// The bytes of the buffer that were not handed out.
    left: Range<usize>,
}

impl<IO> ReadAhead<IO> {
    /// Wraps a connection that is not read ahead yet.
    pub fn new(io: IO) -> Self {
        Self {
            io,
            is_enabled: false,
            buffer: Vec::new(),
            left: 0..0,
        }
    }

    /// Reads ahead from now on. The connection may then hold up to 64 KiB that its reader did not take.
    pub fn enable(&mut self) {
        self.is_enabled = true;
    }

    /// Returns the connection itself.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Hands out bytes that were read before. Gives the buffer back after the last one.
    fn hand_out(&mut self, out: &mut ReadBuf<'_>) {
        let fits = self.left.len().min(out.remaining());
        let end = self.left.start + fits;
        out.put_slice(&self.buffer[self.left.start..end]);
        self.left.start = end;
        if self.left.is_empty() {
            SPARE.set(std::mem::take(&mut self.buffer));
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            if !this.is_enabled || out.remaining() >= AHEAD_BYTES {
                return Pin::new(&mut this.io).poll_read(cx, out);
            }
            let mut buffer = SPARE.take();
            if buffer.is_empty() {
                buffer = vec![0; AHEAD_BYTES];
            }
            let mut ahead = ReadBuf::new(&mut buffer);
            let result = Pin::new(&mut this.io).poll_read(cx, &mut ahead);
            this.left = 0..ahead.filled().len();
            this.buffer = buffer;
            if !matches!(result, Poll::Ready(Ok(()))) {
                this.hand_out(out);
                return result;
            }
        }
        this.hand_out(out);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn bytes_arrive_in_order_and_the_buffer_is_given_back() {
        let (mut peer, ours) = duplex(1 << 20);
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(200_000).collect();
        peer.write_all(&sent).await.unwrap();
        drop(peer);
        let mut ours = ReadAhead::new(ours);
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let bytes = ours.read(&mut piece).await.unwrap();
            if bytes == 0 {
                break;
            }
            received.extend_from_slice(&piece[..bytes]);
            let is_ahead = !ours.left.is_empty();
            assert_eq!(is_ahead, !ours.buffer.is_empty());
            if received.len() == 4096 {
                assert!(!is_ahead, "not before it is enabled");
                ours.enable();
            }
        }
        assert_eq!(received, sent);
        assert!(ours.buffer.is_empty());
        assert_eq!(SPARE.take().len(), AHEAD_BYTES);
    }

    #[tokio::test]
    async fn connections_of_a_thread_share_no_bytes() {
        let (mut first_peer, first) = duplex(1 << 20);
        let (mut second_peer, second) = duplex(1 << 20);
        let (mut first, mut second) = (ReadAhead::new(first), ReadAhead::new(second));
        first.enable();
        second.enable();
        first_peer.write_all(&[1; 10_000]).await.unwrap();
        second_peer.write_all(&[2; 10_000]).await.unwrap();
        for _ in 0..5 {
            let mut piece = [0; 2_000];
            first.read_exact(&mut piece).await.unwrap();
            assert_eq!(piece, [1; 2_000]);
            second.read_exact(&mut piece).await.unwrap();
            assert_eq!(piece, [2; 2_000]);
        }
    }
}
