//! Raw bytes between a socket and a stream: CONNECT, and what follows an upgrade.
//!
//! Nothing is kept for a socket that is silent, so that thousands of idle ones cost little; and a
//! piece takes no more memory than its bytes, whoever sends them one by one.

use crate::handle::INLINE_MAX_BYTES;
use bytes::{Bytes, BytesMut};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A piece that fills less of its buffer than this part moves into a buffer of its own size.
const FILLED_PART: usize = 4;

/// The next bytes of a socket, at most 16 KiB; empty at its end. Cancel safe.
///
/// # Errors
/// As reading fails.
pub fn poll_piece<R>(read: &mut R, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>>
where
    R: AsyncRead + Unpin,
{
    let mut buffer = BytesMut::with_capacity(INLINE_MAX_BYTES);
    let bytes = std::task::ready!(pin!(read.read_buf(&mut buffer)).poll(cx))?;
    if bytes < INLINE_MAX_BYTES / FILLED_PART {
        return Poll::Ready(Ok(Bytes::copy_from_slice(&buffer)));
    }
    Poll::Ready(Ok(buffer.freeze()))
}

/// As [`poll_piece`].
///
/// # Errors
/// As reading fails.
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
    async fn pieces_come_as_they_are_and_the_end_is_empty() {
        let whole = vec![7; INLINE_MAX_BYTES];
        let mut source = &whole[..];
        assert_eq!(piece(&mut source).await.unwrap(), whole);
        assert!(piece(&mut source).await.unwrap().is_empty());
        let mut source = &b"x"[..];
        assert_eq!(piece(&mut source).await.unwrap(), "x");
    }
}
