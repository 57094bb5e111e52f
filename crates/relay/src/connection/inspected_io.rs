//! A connection of which somebody looks at what comes in, and that does not wait for ever to write.

use super::write_timeout::WriteTimeout;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads whose bytes are all taken out, before others have their turn.
const READS_IN_A_ROW: usize = 16;

/// Looks at what comes in.
pub(crate) trait StreamInspector {
    /// Whether there may be another read.
    ///
    /// # Errors
    /// Why not.
    fn may_read(&self) -> io::Result<()> {
        Ok(())
    }

    /// What becomes of a read that came to `result`, with these bytes.
    fn see(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<()>>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<()>>;

    /// Takes out of what was read what is not passed on, and returns how many bytes are left. Called
    /// before [`Self::see`].
    fn keep(&mut self, bytes: &mut [u8]) -> usize {
        bytes.len()
    }

    /// Whether a write may wait for as long as it takes.
    fn may_stand_still(&self) -> bool {
        false
    }
}

/// A connection with its watch.
#[derive(Debug)]
pub(crate) struct InspectedIo<IO, W> {
    io: IO,
    watch: W,
    patience: WriteTimeout,
}

impl<IO, W: StreamInspector> InspectedIo<IO, W> {
    /// From its first byte on.
    pub(crate) fn new(io: IO, watch: W, patience: WriteTimeout) -> Self {
        Self {
            io,
            watch,
            patience,
        }
    }

    /// The connection itself.
    pub(crate) fn into_inner(self) -> IO {
        self.io
    }

    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.watch.may_stand_still() {
            return result;
        }
        self.patience.see(cx, result)
    }
}

impl<IO: AsyncRead + Unpin, W: StreamInspector + Unpin> AsyncRead for InspectedIo<IO, W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.watch.may_read()?;
        let before = buf.filled().len();
        for _ in 0..READS_IN_A_ROW {
            let result = Pin::new(&mut this.io).poll_read(cx, buf);
            let read = buf.filled().len() - before;
            if read == 0 {
                return this.watch.see(cx, result, &mut []);
            }
            let kept = this.watch.keep(&mut buf.filled_mut()[before..]);
            buf.set_filled(before + kept);
            // Without a byte, the reader would take the connection for ended.
            if kept > 0 {
                return this.watch.see(cx, result, &mut buf.filled_mut()[before..]);
            }
        }
        cx.waker().wake_by_ref();
        this.watch.see(cx, Poll::Pending, &mut [])
    }
}

impl<IO: AsyncWrite + Unpin, W: StreamInspector + Unpin> AsyncWrite for InspectedIo<IO, W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_write(cx, buf);
        this.written(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_flush(cx);
        this.written(cx, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_shutdown(cx);
        this.written(cx, result)
    }
}
