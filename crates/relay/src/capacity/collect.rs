//! Reads whole bodies into memory that is reserved as they arrive.

use super::reservation::{NoMemory, Reservation};
use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use protocol::{Code, Failure};
use std::error::Error;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// The limits of a request's body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    /// Its size, in bytes.
    pub(crate) max_bytes: u64,
    /// How long all of it may take, however often a byte arrives.
    pub(crate) total: Duration,
    /// How long the caller may send nothing of it (`limits.caller_idle_timeout`).
    pub(crate) idle: Duration,
}

/// What a caller reads whose chunks are malformed.
pub(crate) const MISFRAMED: &str =
    "the chunked framing of the request body is malformed (RFC 9112, 7.1)";

/// Returns whether a request's body failed because its chunks are malformed. hyper has no other sign of it: an I/O
/// error of these kinds is its own, while a connection that breaks has another kind.
pub(crate) fn is_misframed(error: &(dyn Error + 'static)) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref());
    source.is_some_and(|error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
        )
    })
}

/// Reads a request's body into memory, which is reserved as the body arrives.
///
/// # Errors
/// `request_too_large`; `invalid_request` when the caller aborts it or its chunks are malformed; `timeout`;
/// `overloaded` when there is no memory for it.
pub(crate) async fn collect_body<B>(
    body: &mut B,
    limits: BodyLimits,
    memory: &mut Reservation,
) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error + 'static,
{
    let too_large = || {
        let max = limits.max_bytes;
        let detail = format!("the request body is larger than the limit of {max} bytes");
        Failure::not_sent(Code::RequestTooLarge, detail)
    };
    let hint = body.size_hint();
    let most = hint.upper().unwrap_or(u64::MAX).min(limits.max_bytes);
    // A body that is known to be too large is still read up to the limit, without being kept: some clients
    // do not read a response before they have sent their body.
    let is_kept = hint.lower() <= limits.max_bytes;
    let mut discarded = 0;
    let until = Instant::now() + limits.total;
    let mut collected = Vec::new();
    loop {
        let by = until.min(Instant::now() + limits.idle);
        let data = match tokio::time::timeout_at(by, body.frame()).await {
            Ok(None) => return Ok(collected.into()),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(Some(Err(error))) => {
                let detail = match is_misframed(&error) {
                    true => MISFRAMED.to_owned(),
                    false => format!("the request body was aborted: {error}"),
                };
                return Err(Failure::not_sent(Code::InvalidRequest, detail));
            }
            Err(_) if by == until => {
                let detail = format!("request body not received within {:?}", limits.total);
                return Err(Failure::not_sent(Code::Timeout, detail));
            }
            Err(_) => {
                let detail = format!(
                    "the caller sent nothing of its body for {:?} (limits.caller_idle_timeout)",
                    limits.idle
                );
                return Err(Failure::not_sent(Code::Timeout, detail));
            }
        };
        let needed = discarded + (collected.len() + data.len()) as u64;
        if needed > limits.max_bytes {
            return Err(too_large());
        }
        if !is_kept {
            discarded = needed;
            continue;
        }
        if collected.is_empty() && body.is_end_stream() {
            // All of it in one frame: no copy.
            memory.try_grow_to(needed).map_err(NoMemory::failure)?;
            return Ok(data);
        }
        if needed > memory.bytes() {
            memory
                .try_grow_to(memory.step(needed, most))
                .map_err(NoMemory::failure)?;
        }
        append(&mut collected, &data, memory.bytes());
    }
}

/// Why a response's body was not read.
pub(crate) enum Unread<E> {
    /// It is larger than the limit.
    TooLarge,
    /// It failed.
    Broken(E),
}

/// Reads a response's body into memory, which is reserved as the body arrives. Waits for memory, because the
/// target has executed the request and its response must not be lost.
///
/// # Errors
/// [`Unread`].
pub(crate) async fn collect_response<B>(
    body: B,
    max_bytes: u64,
    memory: &mut Reservation,
) -> Result<Bytes, Unread<B::Error>>
where
    B: Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    let hint = body.size_hint();
    if hint.lower() > max_bytes {
        return Err(Unread::TooLarge);
    }
    let most = hint.upper().unwrap_or(u64::MAX).min(max_bytes);
    if hint.lower() > 0 {
        // Before its first frame is read, so that a response that waits for memory holds none.
        memory.grow_to(memory.step(1, most), most).await;
    }
    let mut collected = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Unread::Broken)?;
        let data = frame.into_data().unwrap_or_default();
        let needed = (collected.len() + data.len()) as u64;
        if needed > max_bytes {
            return Err(Unread::TooLarge);
        }
        if needed > memory.bytes() {
            let (step, most) = match body.is_end_stream() {
                true => (needed, needed),
                false => (memory.step(needed, most), most),
            };
            memory.grow_to(step, most).await;
        }
        append(&mut collected, &data, memory.bytes());
    }
    collected.shrink_to_fit();
    memory.shrink_to(collected.len() as u64);
    Ok(collected.into())
}

/// Adds a frame to a body whose memory is reserved. The frame is copied, because it keeps the whole buffer
/// that it arrived in.
fn append(collected: &mut Vec<u8>, data: &[u8], reserved_bytes: u64) {
    let reserved = usize::try_from(reserved_bytes).unwrap_or(usize::MAX);
    if collected.capacity() < collected.len() + data.len() {
        collected.reserve_exact(reserved.saturating_sub(collected.len()).max(data.len()));
    }
    collected.extend_from_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::{BodyMemory, KeyMemory, TenantMemory};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use std::convert::Infallible;
    use std::sync::Arc;
    use tokio::sync::mpsc;

    const LIMITS: BodyLimits = BodyLimits {
        max_bytes: 1024 * 1024,
        total: Duration::from_secs(30),
        idle: Duration::from_secs(10),
    };

    fn key() -> Arc<KeyMemory> {
        KeyMemory::new(&TenantMemory::new(&BodyMemory::new(64 * 1024 * 1024), 1), 1)
    }

    /// Returns a body of unknown length that is sent frame by frame.
    fn piecewise() -> (
        mpsc::Sender<&'static [u8]>,
        impl Body<Data = Bytes, Error = Infallible> + Unpin,
    ) {
        let (send, mut receive) = mpsc::channel(1);
        let frames = futures_util::stream::poll_fn(move |cx| {
            let piece = receive.poll_recv(cx);
            piece.map(|piece| piece.map(|piece| Ok(Frame::data(Bytes::from_static(piece)))))
        });
        (send, StreamBody::new(frames))
    }

    #[tokio::test(start_paused = true)]
    async fn unfinished_body_reserves_what_arrived() {
        let key = key();
        let (send, mut body) = piecewise();
        let mut memory = Reservation::new(key.clone());
        let reading = collect_body(&mut body, LIMITS, &mut memory);
        let sending = async {
            send.send(&[b'a'; 250]).await.unwrap();
            send.send(&[b'a'; 250]).await.unwrap();
            tokio::time::sleep(LIMITS.idle / 2).await;
            assert_eq!(key.used_bytes(), 4096);
            drop(send);
        };
        let (whole, ()) = tokio::join!(reading, sending);
        assert_eq!(whole.unwrap().len(), 500);
        drop(memory);
        assert_eq!(key.used_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_or_dripping_body_times_out() {
        for (pause, limit) in [
            (LIMITS.idle * 2, LIMITS.idle),
            (LIMITS.idle / 2, LIMITS.total),
        ] {
            let (send, mut body) = piecewise();
            let began = Instant::now();
            let mut memory = Reservation::new(key());
            let dripping = tokio::spawn(async move {
                while send.send(b"a").await.is_ok() {
                    tokio::time::sleep(pause).await;
                }
            });
            let failure = collect_body(&mut body, LIMITS, &mut memory)
                .await
                .unwrap_err();
            assert_eq!(failure.code, Code::Timeout);
            assert_eq!(began.elapsed().as_secs(), limit.as_secs());
            dripping.abort();
        }
    }
}
