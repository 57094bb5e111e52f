//! Gives a header section in HTTP/2 the same time to arrive as in HTTP/1.1.
//!
//! hyper waits for the rest of a header section without a limit, and for the preface of a connection as well; it has
//! no option for either. So the input is followed from frame to frame (RFC 9113, 4.1): while a preface, a frame
//! header or a header section is incomplete, a timer runs.

use super::serve::{HTTP2_BYTES, HTTP2_HEADER_BYTES};
use crate::connection::Connection;
use crate::connection::inspected_io::{InspectedIo, StreamInspector};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// The preface of a client (RFC 9113, 3.4).
const PREFACE_BYTES: u32 = 24;

/// The header of a frame.
const HEAD_BYTES: usize = 9;

/// Types of frames that carry a header section (RFC 9113, 6.2 and 6.10), and the flag of the last one.
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A connection whose frames are inspected.
pub(super) type H2HeaderIo<IO> = InspectedIo<IO, HeaderTimeout>;

/// Runs while a preface, frame header or header section is incomplete.
#[derive(Debug)]
pub(super) struct HeaderTimeout {
    frames: Frames,
    /// How long it may take.
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_late: bool,
    /// The connection to charge for it while it is pending.
    connection: Option<Arc<Connection>>,
}

impl HeaderTimeout {
    /// Returns a timeout for a connection without input so far.
    pub(super) fn new(limit: Duration, connection: Option<Arc<Connection>>) -> Self {
        Self {
            frames: Frames::default(),
            limit,
            sleep: None,
            is_late: false,
            connection,
        }
    }

    /// Charges the connection for an incomplete header section.
    fn charge(&self) {
        if self.frames.open_bytes > 0
            && let Some(connection) = &self.connection
            && connection.is_pending()
        {
            connection.charge(self.frames.charge());
        }
    }
}

impl StreamInspector for HeaderTimeout {
    fn may_read(&self) -> io::Result<()> {
        if !self.is_late {
            return Ok(());
        }
        let detail = format!("header section not received within {:?}", self.limit);
        Err(io::Error::new(io::ErrorKind::TimedOut, detail))
    }

    fn inspect(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<()>>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<()>> {
        let was_complete = self.frames.follow(bytes);
        if was_complete {
            // Each header section has its own time, even if the next one begins in the same read.
            self.sleep = None;
        }
        if self.frames.is_between() {
            return result;
        }
        self.charge();
        let limit = self.limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        self.is_late = sleep.as_mut().poll(cx).is_ready();
        // Bytes that were read are passed on before the error.
        if result.is_pending() {
            self.may_read()?;
        }
        result
    }
}

/// The position in the input of a connection.
#[derive(Debug)]
struct Frames {
    /// Bytes that are left of the preface, or of a frame's payload.
    left: u32,
    /// The header of the next frame, as far as it has arrived.
    head: [u8; HEAD_BYTES],
    head_len: usize,
    /// A preface or a header section has begun.
    is_open: bool,
    /// It is complete when `left` bytes have arrived.
    ends: bool,
    /// Bytes of it that have arrived.
    open_bytes: usize,
    /// Whether a frame of it is complete. h2 has decoded that frame, and keeps the fields.
    has_decoded: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            // A connection begins with the preface, which has the same limit.
            left: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            head_len: 0,
            is_open: true,
            ends: true,
            open_bytes: 0,
            has_decoded: false,
        }
    }
}

impl Frames {
    /// Returns whether nothing is incomplete.
    fn is_between(&self) -> bool {
        !self.is_open && self.head_len == 0
    }

    /// Returns what a connection with an incomplete header section is charged.
    ///
    /// A few bytes of a decoded frame can stand for fields of any size up to the limit of the list (RFC 7541, 6.1).
    fn charge(&self) -> usize {
        let decoded = match self.has_decoded {
            true => HTTP2_HEADER_BYTES as usize,
            false => 0,
        };
        HTTP2_BYTES + decoded + self.open_bytes.saturating_mul(2)
    }

    /// Follows input. Returns whether nothing was incomplete at any moment in it.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        let mut was_complete = false;
        loop {
            let taken = bytes.len().min(self.left as usize);
            self.left -= u32::try_from(taken).unwrap_or(self.left);
            bytes = &bytes[taken..];
            if self.is_open {
                self.open_bytes = self.open_bytes.saturating_add(taken);
            }
            if self.left > 0 {
                return was_complete;
            }
            if self.ends {
                self.ends = false;
                self.is_open = false;
                self.open_bytes = 0;
                self.has_decoded = false;
            } else if self.is_open {
                self.has_decoded = true;
            }
            was_complete |= self.is_between();
            let wanted = (HEAD_BYTES - self.head_len).min(bytes.len());
            if wanted == 0 {
                return was_complete;
            }
            self.head[self.head_len..self.head_len + wanted].copy_from_slice(&bytes[..wanted]);
            self.head_len += wanted;
            bytes = &bytes[wanted..];
            if self.head_len == HEAD_BYTES {
                self.begin();
            }
        }
    }

    /// Reads a frame header that is complete.
    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.head_len = 0;
        self.left = u32::from_be_bytes([0, a, b, c]);
        if matches!(kind, HEADERS | CONTINUATION) {
            self.is_open = true;
            self.ends = flags & END_HEADERS != 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::write_timeout::WriteTimeout;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.extend(vec![0; length.into()]);
        frame
    }

    fn seen(bytes: &[u8], step: usize) -> Frames {
        let mut frames = Frames::default();
        for piece in bytes.chunks(step) {
            frames.follow(piece);
        }
        frames
    }

    #[test]
    fn completeness_does_not_depend_on_reads() {
        let settings = frame(4, 0, 12);
        let head = frame(HEADERS, 0, 5);
        let rest = frame(CONTINUATION, 0, 0);
        let last = frame(CONTINUATION, END_HEADERS, 7);
        let data = frame(0, 1, 100);
        let all = [PREFACE, &settings, &head, &rest, &last, &data].concat();
        for step in [1, 2, 7, 1000] {
            assert!(!seen(&PREFACE[..23], step).is_between());
            assert!(seen(PREFACE, step).is_between());
            let begun = [PREFACE, &settings, &head].concat();
            assert!(!seen(&begun, step).is_between());
            let more = [PREFACE, &settings, &head, &rest].concat();
            assert!(!seen(&more, step).is_between());
            assert!(seen(&all, step).is_between());
            // A body that is on its way is no header section.
            assert!(seen(&all[..all.len() - 50], step).is_between());
            assert!(!seen(&[&all[..], &[0, 0]].concat(), step).is_between());
        }
    }

    #[test]
    fn decoded_frames_are_charged_as_a_whole_list() {
        let list = HTTP2_HEADER_BYTES as usize;
        let head = frame(HEADERS, 0, 5);
        let last = frame(CONTINUATION, END_HEADERS, 7);
        for step in [1, 2, 7, 1000] {
            // The first frame is not complete: h2 has only its bytes.
            let begun = [PREFACE, &head[..HEAD_BYTES + 4]].concat();
            assert_eq!(seen(&begun, step).charge(), HTTP2_BYTES + 2 * 4);
            let decoded = [PREFACE, &head].concat();
            assert_eq!(seen(&decoded, step).charge(), HTTP2_BYTES + list + 2 * 5);
            let all = [PREFACE, &head, &last].concat();
            assert_eq!(seen(&all, step).charge(), HTTP2_BYTES);
            let next = [&all[..], &begun[PREFACE.len()..]].concat();
            assert_eq!(seen(&next, step).charge(), HTTP2_BYTES + 2 * 4);
        }
    }

    #[tokio::test]
    async fn dripping_header_section_times_out() {
        let limit = Duration::from_millis(200);
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server = H2HeaderIo::new(
            server,
            HeaderTimeout::new(limit, None),
            WriteTimeout::new(Duration::from_secs(60)),
        );
        let reading = tokio::spawn(async move {
            let mut taken = Vec::new();
            let error = server.read_to_end(&mut taken).await.unwrap_err();
            (error.kind(), taken.len())
        });
        client.write_all(PREFACE).await.unwrap();
        // Whole ones, with pauses that are longer than the limit together.
        for _ in 0..5 {
            tokio::time::sleep(limit / 3).await;
            client
                .write_all(&frame(HEADERS, END_HEADERS, 3))
                .await
                .unwrap();
        }
        tokio::time::sleep(limit * 2).await;
        assert!(!reading.is_finished());
        for byte in frame(HEADERS, END_HEADERS, 100) {
            if client.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(limit / 20).await;
        }
        let (kind, taken) = reading.await.unwrap();
        assert_eq!(kind, io::ErrorKind::TimedOut);
        assert!((PREFACE.len() + 60..PREFACE.len() + 60 + 100).contains(&taken));
    }
}
