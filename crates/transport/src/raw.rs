//! Raw bytes between a socket and a stream: CONNECT, and what follows an upgrade.
//!
//! An idle socket holds no buffer, so thousands of them cost little. A piece takes no more memory than
//! its bytes, even if the peer sends single bytes.

use crate::handle::INLINE_MAX_BYTES;
use bytes::{Bytes, BytesMut};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A piece that fills less than this fraction of its buffer (one fourth) is copied into a smaller one.
const FILLED_PART: usize = 4;

/// Polls for the next bytes of a socket: at most 16 KiB, empty at its end. Cancel safe.
///
/// # Errors
/// The error of the read.
pub fn poll_piece<R>(read: &mut R, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>>
where
    R: AsyncRead + Unpin,
{
    // The buffer is dropped again while the socket has nothing: an allocation costs less than 16 KiB for each
    // idle stream.
    let mut buffer = BytesMut::with_capacity(INLINE_MAX_BYTES);
    let bytes = std::task::ready!(pin!(read.read_buf(&mut buffer)).poll(cx))?;
    if bytes < INLINE_MAX_BYTES / FILLED_PART {
        return Poll::Ready(Ok(Bytes::copy_from_slice(&buffer)));
    }
    Poll::Ready(Ok(buffer.freeze()))
}

/// Reads the next bytes of a socket, like [`poll_piece`].
///
/// # Errors
/// The error of the read.
pub async fn piece<R>(read: &mut R) -> io::Result<Bytes>
where
    R: AsyncRead + Unpin,
{
    poll_fn(|cx| poll_piece(read, cx)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn piece_is_empty_at_the_end() {
        let whole = vec![7; INLINE_MAX_BYTES];
        let mut source = &whole[..];
        assert_eq!(piece(&mut source).await.unwrap(), whole);
        assert!(piece(&mut source).await.unwrap().is_empty());
        let mut source = &b"x"[..];
        assert_eq!(piece(&mut source).await.unwrap(), "x");
    }
}
