//! A response body whose beginning was inspected.

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use http_client::{BodyError, Connection, ResponseBody};
use hyper::body::Incoming;
use runtime::body::PrefetchedBody;
use std::collections::VecDeque;
use std::time::Duration;

/// Bytes of a body that are inspected, and how long the bridge waits for them.
const PEEK_MAX_BYTES: usize = 16 * 1024;
const PEEK_TIMEOUT: Duration = Duration::from_secs(5);

/// A response body, of which the beginning may have been read. It is apart from its connection, so that the
/// two can be moved together.
#[derive(Debug)]
pub(in super::super) struct PeekedBody {
    front: VecDeque<Frame<Bytes>>,
    /// How reading ended, if it failed.
    failed: Option<BodyError>,
    incoming: Incoming,
}

impl From<Incoming> for PeekedBody {
    fn from(incoming: Incoming) -> Self {
        Self {
            front: VecDeque::new(),
            failed: None,
            incoming,
        }
    }
}

impl PeekedBody {
    /// Reads the beginning of a body. Returns the body, of which nothing is lost, and whether it has `text`.
    pub(in super::super) async fn search(
        text: &[u8],
        incoming: Incoming,
        connection: &mut Connection,
    ) -> (Self, bool) {
        let mut read = Vec::new();
        let mut front = VecDeque::new();
        let mut failed = None;
        let mut body = ResponseBody::new(incoming, connection);
        let reading = async {
            while read.len() < PEEK_MAX_BYTES {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            read.extend_from_slice(data);
                        }
                        front.push_back(frame);
                        // Searched in all that was read: the text may be split over two frames.
                        if read.windows(text.len()).any(|part| part == text) {
                            return true;
                        }
                    }
                    Some(Err(error)) => {
                        failed = Some(error);
                        return false;
                    }
                    None => return false,
                }
            }
            false
        };
        let reading = tokio::time::timeout(PEEK_TIMEOUT, reading);
        // Without the text in time, the response is forwarded as it is.
        let is_found = reading.await.unwrap_or(false);
        let incoming = body.into_incoming();
        let peeked = Self {
            front,
            failed,
            incoming,
        };
        (peeked, is_found)
    }

    /// Returns the whole body, as it arrives on its connection.
    pub(super) fn on(self, connection: &mut Connection) -> PrefetchedBody<ResponseBody<'_>> {
        let mut body = PrefetchedBody::new(ResponseBody::new(self.incoming, connection));
        for frame in self.front {
            body.push(frame);
        }
        if let Some(error) = self.failed {
            body.fail(error);
        }
        body
    }
}
