//! A connection whose input is inspected, and whose writes time out.

use super::write_timeout::WriteTimeout;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads whose bytes are all removed, before the task yields.
const READS_IN_A_ROW: usize = 16;

/// Inspects the input of a connection.
pub(crate) trait StreamInspector {
    /// Returns whether another read is allowed.
    ///
    /// # Errors
    /// Why it is not.
    fn may_read(&self) -> io::Result<()> {
        Ok(())
    }

    /// Inspects the bytes of a read that ended in `result`. Returns what the reader gets.
    fn inspect(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<()>>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<()>>;

    /// Removes bytes that are not passed on. Returns how many are left. Called before [`Self::inspect`].
    fn keep(&mut self, bytes: &mut [u8]) -> usize {
        bytes.len()
    }

    /// Returns whether writes have no timeout.
    fn is_write_unlimited(&self) -> bool {
        false
    }
}

/// A connection with its inspector.
#[derive(Debug)]
pub(crate) struct InspectedIo<IO, W> {
    io: IO,
    inspector: W,
    write_timeout: WriteTimeout,
}

impl<IO, W: StreamInspector> InspectedIo<IO, W> {
    /// Returns a connection without input so far.
    pub(crate) fn new(io: IO, inspector: W, write_timeout: WriteTimeout) -> Self {
        Self {
            io,
            inspector,
            write_timeout,
        }
    }

    /// Returns the connection itself.
    pub(crate) fn into_inner(self) -> IO {
        self.io
    }

    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.inspector.is_write_unlimited() {
            return result;
        }
        self.write_timeout.poll(cx, result)
    }
}

impl<IO: AsyncRead + Unpin, W: StreamInspector + Unpin> AsyncRead for InspectedIo<IO, W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.inspector.may_read()?;
        let before = buf.filled().len();
        for _ in 0..READS_IN_A_ROW {
            let result = Pin::new(&mut this.io).poll_read(cx, buf);
            let read = buf.filled().len() - before;
            if read == 0 {
                return this.inspector.inspect(cx, result, &mut []);
            }
            let kept = this.inspector.keep(&mut buf.filled_mut()[before..]);
            buf.set_filled(before + kept);
            // A read without a byte means the end of the input to the reader, so another one follows.
            if kept > 0 {
                return this
                    .inspector
                    .inspect(cx, result, &mut buf.filled_mut()[before..]);
            }
        }
        // Nothing but removed bytes so far. The task yields, so that such a connection cannot keep its thread busy.
        cx.waker().wake_by_ref();
        this.inspector.inspect(cx, Poll::Pending, &mut [])
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
