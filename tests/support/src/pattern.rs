//! Bytes that are known without being stored: a body of any length, its hash, and a body that
//! aborts or drips.
//!
//! The pattern repeats after a prime number of bytes, so that a chunk that is lost, doubled or
//! moved changes the hash whatever the chunk's size was.

use std::error::Error;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use ring::digest;
use tokio::time::Sleep;

/// The error of a body here: whatever ended it early.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The largest prime below 2^16.
const PERIOD_BYTES: usize = 65_521;
/// Pieces of a body, and the most that [`chunk`] gives at once.
pub const PIECE_BYTES_MAX: usize = 32 * 1024;
/// How long a broken body waits before it breaks, so that what it sent is on its way by then.
const BREAK_AFTER: Duration = Duration::from_millis(30);

/// One period and one piece more: every piece is then a slice of it.
static TABLE: LazyLock<Bytes> = LazyLock::new(|| {
    (0..PERIOD_BYTES + PIECE_BYTES_MAX)
        .map(|at| {
            let at = u32::try_from(at % PERIOD_BYTES).expect("a period fits");
            at.wrapping_mul(2_654_435_761).to_be_bytes()[1]
        })
        .collect()
});

/// The piece of the pattern at `offset`: at most [`PIECE_BYTES_MAX`] bytes, copied from nowhere.
pub fn chunk(offset: u64, len: usize) -> Bytes {
    let start = usize::try_from(offset % PERIOD_BYTES as u64).expect("below the period");
    TABLE.slice(start..start + len.min(PIECE_BYTES_MAX))
}

/// The first `len` bytes of the pattern, in memory.
pub fn bytes(len: usize) -> Bytes {
    let mut all = Vec::with_capacity(len);
    while all.len() < len {
        all.extend_from_slice(&chunk(all.len() as u64, len - all.len()));
    }
    all.into()
}

/// The SHA-256 of the first `len` bytes of the pattern, in hex.
pub fn sha256(len: u64) -> String {
    let mut hash = Sha256::default();
    let mut at = 0;
    while at < len {
        let piece = chunk(at, piece_len(len - at));
        at += piece.len() as u64;
        hash.update(&piece);
    }
    hash.hex()
}

/// SHA-256 over pieces.
pub struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Sha256 {
    /// Adds a piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of everything added, in hex.
    pub fn hex(self) -> String {
        let hash = self.0.finish();
        hash.as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha256")
    }
}

/// The pattern as an HTTP body, made while it is sent.
///
/// Complete and of declared length by default.
#[derive(Debug)]
pub struct PatternBody {
    sent_bytes: u64,
    total_bytes: u64,
    piece_bytes: usize,
    pause: Option<Duration>,
    length_known: bool,
    breaks: bool,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl PatternBody {
    /// The first `total_bytes` bytes.
    pub fn new(total_bytes: u64) -> Self {
        Self {
            sent_bytes: 0,
            total_bytes,
            piece_bytes: PIECE_BYTES_MAX,
            pause: None,
            length_known: true,
            breaks: false,
            waiting: None,
        }
    }

    /// Does not tell its length: it is sent chunked.
    pub fn chunked(self) -> Self {
        Self {
            length_known: false,
            ..self
        }
    }

    /// In pieces of `piece_bytes`, with a pause after each.
    pub fn dripping(self, piece_bytes: usize, pause: Duration) -> Self {
        Self {
            piece_bytes: piece_bytes.clamp(1, PIECE_BYTES_MAX),
            pause: Some(pause),
            ..self
        }
    }

    /// Ends with an error instead of an end, and does not tell its length.
    pub fn breaking(self) -> Self {
        Self {
            breaks: true,
            length_known: false,
            ..self
        }
    }

    /// Whether all was handed over, without an error to come.
    pub fn is_done(&self) -> bool {
        self.sent_bytes == self.total_bytes && !self.breaks
    }
}

impl Body for PatternBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(sleep) = self.waiting.as_mut() {
            ready!(sleep.as_mut().poll(cx));
            self.waiting = None;
        }
        let left = self.total_bytes - self.sent_bytes;
        if left == 0 {
            return Poll::Ready(self.breaks.then(|| Err("the body broke off".into())));
        }
        let piece = chunk(self.sent_bytes, piece_len(left).min(self.piece_bytes));
        self.sent_bytes += piece.len() as u64;
        let last = self.sent_bytes == self.total_bytes;
        let pause = if last {
            self.breaks.then_some(BREAK_AFTER)
        } else {
            self.pause
        };
        self.waiting = pause.map(|pause| Box::pin(tokio::time::sleep(pause)));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        if self.length_known {
            SizeHint::with_exact(self.total_bytes - self.sent_bytes)
        } else {
            SizeHint::default()
        }
    }
}

/// The next piece's length where `left` bytes are left.
fn piece_len(left: u64) -> usize {
    usize::try_from(left)
        .unwrap_or(usize::MAX)
        .min(PIECE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::{PERIOD_BYTES, PIECE_BYTES_MAX, PatternBody, Sha256, bytes, chunk, sha256};
    use http_body_util::BodyExt;

    #[test]
    fn pattern_is_independent_of_piece_borders() {
        let all = bytes(3 * PERIOD_BYTES);
        for at in [0, 1, PIECE_BYTES_MAX, PERIOD_BYTES - 1, PERIOD_BYTES + 7] {
            assert_eq!(chunk(at as u64, 1000), all[at..at + 1000]);
        }
        let mut hash = Sha256::default();
        hash.update(&all);
        assert_eq!(hash.hex(), sha256(all.len() as u64));
    }

    #[test]
    fn pattern_detects_moved_pieces() {
        let all = bytes(4 * PIECE_BYTES_MAX);
        let (first, rest) = all.split_at(PIECE_BYTES_MAX);
        assert_ne!(first, &rest[..PIECE_BYTES_MAX]);
    }

    #[tokio::test]
    async fn pattern_body_can_end_with_an_error() {
        let whole = PatternBody::new(100_000)
            .collect()
            .await
            .expect("a whole body");
        assert_eq!(whole.to_bytes(), bytes(100_000));
        let broken = PatternBody::new(10).breaking().collect().await;
        assert_eq!(
            broken.expect_err("a broken body").to_string(),
            "the body broke off"
        );
    }
}
