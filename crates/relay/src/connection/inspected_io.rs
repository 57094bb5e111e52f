//! A connection whose input is inspected, and whose writes time out.

use super::write_timeout::WriteTimeout;
use bytes::Bytes;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use transport::read_ahead::ReadAhead;
use transport::tcp;

/// Reads whose bytes are all removed, before the task yields.
const READS_IN_A_ROW: usize = 16;

/// A connection that can end in a TCP reset.
pub(crate) trait ResetIo {
    /// Sets whether it ends in a reset when it is dropped.
    fn reset_on_drop(&self, will_reset: bool);
}

impl ResetIo for TcpStream {
    fn reset_on_drop(&self, will_reset: bool) {
        match will_reset {
            true => tcp::will_reset(self),
            false => tcp::will_end_in_order(self),
        }
    }
}

impl ResetIo for TlsStream<ReadAhead<TcpStream>> {
    fn reset_on_drop(&self, will_reset: bool) {
        self.get_ref().0.get_ref().reset_on_drop(will_reset);
    }
}

#[cfg(test)]
impl ResetIo for tokio::io::DuplexStream {
    fn reset_on_drop(&self, _: bool) {}
}

/// A change that makes the input longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Percent-encodes the byte at this offset.
    Encode(usize),
    /// Inserts a text before the byte at this offset.
    Insert(usize, &'static [u8]),
}

impl Edit {
    /// Returns by how many bytes it makes the input longer.
    pub(super) fn growth(&self) -> usize {
        match self {
            Self::Encode(_) => 2,
            Self::Insert(_, text) => text.len(),
        }
    }

    /// Returns the bytes with all edits applied.
    pub(super) fn apply(edits: &[Self], bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + edits.len() * 3);
        let mut done = 0;
        for edit in edits {
            match *edit {
                Self::Encode(at) => {
                    out.extend_from_slice(&bytes[done..at]);
                    out.extend_from_slice(format!("%{:02X}", bytes[at]).as_bytes());
                    done = at + 1;
                }
                Self::Insert(at, text) => {
                    out.extend_from_slice(&bytes[done..at]);
                    out.extend_from_slice(text);
                    done = at;
                }
            }
        }
        out.extend_from_slice(&bytes[done..]);
        out
    }
}

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

    /// Takes the edits that lengthen what [`Self::keep`] left, in order. Rare.
    fn take_edits(&mut self) -> Vec<Edit> {
        Vec::new()
    }

    /// Returns whether the connection's end is the end of its response. Such a connection is reset unless it
    /// is shut down in order: a response that breaks off must not look complete.
    fn is_end_of_response(&self) -> bool {
        false
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
    will_reset: bool,
    /// Inspected input that did not fit into the reader's buffer.
    left: Bytes,
}

impl<IO, W: StreamInspector> InspectedIo<IO, W> {
    /// Returns a connection without input so far.
    pub(crate) fn new(io: IO, inspector: W, write_timeout: WriteTimeout) -> Self {
        Self {
            io,
            inspector,
            write_timeout,
            will_reset: false,
            left: Bytes::new(),
        }
    }

    /// Returns the connection itself, and inspected input that was not read.
    pub(crate) fn into_parts(self) -> (IO, Bytes) {
        (self.io, self.left)
    }

    /// Applies edits to the input after the first `before` bytes of the buffer.
    fn edit(&mut self, edits: &[Edit], before: usize, buf: &mut ReadBuf<'_>) {
        self.left = Edit::apply(edits, &buf.filled()[before..]).into();
        buf.set_filled(before);
        self.read_left(buf);
    }

    fn read_left(&mut self, buf: &mut ReadBuf<'_>) {
        let fits = self.left.len().min(buf.remaining());
        buf.put_slice(&self.left.split_to(fits));
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
        if !this.left.is_empty() {
            this.read_left(buf);
            let bytes = &mut buf.filled_mut()[before..];
            return this.inspector.inspect(cx, Poll::Ready(Ok(())), bytes);
        }
        for _ in 0..READS_IN_A_ROW {
            let result = Pin::new(&mut this.io).poll_read(cx, buf);
            let read = buf.filled().len() - before;
            if read == 0 {
                return this.inspector.inspect(cx, result, &mut []);
            }
            let kept = this.inspector.keep(&mut buf.filled_mut()[before..]);
            buf.set_filled(before + kept);
            let edits = this.inspector.take_edits();
            if !edits.is_empty() {
                this.edit(&edits, before, buf);
            }
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

impl<IO: ResetIo, W: StreamInspector> InspectedIo<IO, W> {
    /// Prepares the reset before the first byte of a response that the connection's end completes.
    fn begin_write(&mut self) {
        if !self.will_reset && self.inspector.is_end_of_response() {
            self.will_reset = true;
            self.io.reset_on_drop(true);
        }
    }
}

impl<IO: AsyncWrite + ResetIo + Unpin, W: StreamInspector + Unpin> AsyncWrite
    for InspectedIo<IO, W>
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.begin_write();
        let result = Pin::new(&mut this.io).poll_write(cx, buf);
        this.written(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.begin_write();
        // Head and body of a small response. With TLS, too: they become one record either way.
        let mut small = [0; tcp::SMALL_BYTES];
        let result = match tcp::joined(&mut small, bufs) {
            Some(small) => Pin::new(&mut this.io).poll_write(cx, small),
            None => Pin::new(&mut this.io).poll_write_vectored(cx, bufs),
        };
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
        // hyper shuts a connection down only when everything is written.
        if this.will_reset {
            this.will_reset = false;
            this.io.reset_on_drop(false);
        }
        let result = Pin::new(&mut this.io).poll_shutdown(cx);
        this.written(cx, result)
    }
}
