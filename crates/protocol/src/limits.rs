//! Every limit of the wire, with its unit and its reason. WIRE.md lists the same numbers (W-5).

use std::time::Duration;

/// Bytes of a frame's header: type, flags, stream id.
pub const HEADER_BYTES: usize = 6;

/// Largest payload of a DATA frame, and largest body inside OPEN or HEAD: 16 KiB, so that a small
/// call never waits for a long write (13 ms at 10 Mbit/s), and WebSocket buffers stay small.
pub const DATA_MAX_BYTES: usize = 16 * 1024;

/// Body in a DATA frame that this side sends. With the frame's header and that of a WebSocket (8 bytes,
/// masked) it fills one TLS record (RFC 8446, 5.1). The peer then reads complete frames, and copies no
/// parts together.
pub const DATA_SENT_BYTES: usize = DATA_MAX_BYTES - HEADER_BYTES - 8;

/// Largest encoded head in OPEN, HEAD or TRAILERS, and largest control payload: 128 KiB, enough for a
/// Kerberos ticket and the cookies of single sign-on (64 KiB is a common limit) next to a URL of 32 KiB.
pub const HEAD_MAX_BYTES: usize = 128 * 1024;

/// Largest frame, and therefore the largest WebSocket message: a header, a head with its length, a body.
pub const FRAME_MAX_BYTES: usize = HEADER_BYTES + 4 + HEAD_MAX_BYTES + DATA_MAX_BYTES;

/// [`HEAD_MAX_BYTES`] of a session of version 1: 48 KiB (W-60).
pub const HEAD_MAX_BYTES_V1: usize = 48 * 1024;

/// [`FRAME_MAX_BYTES`] of a session of version 1 (W-60).
pub const FRAME_MAX_BYTES_V1: usize = HEADER_BYTES + 4 + HEAD_MAX_BYTES_V1 + DATA_MAX_BYTES;

/// Header fields in one head.
pub const HEADERS_MAX: usize = 256;

/// Bytes of a method, an endpoint's name, a credential's name.
pub const NAME_MAX_BYTES: usize = 256;

/// Bytes of the id in a request's context (W-69).
pub const CONTEXT_ID_MAX_BYTES: usize = 64;

/// Bytes of the label in a request's context (W-69).
pub const CONTEXT_LABEL_MAX_BYTES: usize = 128;

/// Bytes of a failure's detail; longer ones are truncated.
pub const DETAIL_MAX_BYTES: usize = 512;

/// Bytes of a version in VERSIONS (W-70).
pub const VERSION_MAX_BYTES: usize = 64;

/// Endpoint names in HELLO and STATUS.
pub const SERVES_ENDPOINTS_MAX: usize = 256;

/// Host patterns in HELLO and STATUS. A bridge with more announces none, and the relay asks it for each
/// request.
pub const SERVES_HOSTS_MAX: usize = 512;

/// Streams of the previous session that HELLO may list as never dispatched.
pub const ABANDONED_MAX: usize = 1024;

/// Bytes of each stream that are never charged to the session's window, so that a session window
/// smaller than the sum of its streams cannot deadlock (W-31). It is the size of an inlined body, so a
/// small request never waits for credit.
pub const STREAM_RESERVE_BYTES: u64 = DATA_MAX_BYTES as u64;

/// Initial window of a stream: 256 KiB.
pub const STREAM_WINDOW_INITIAL_BYTES: u64 = 256 * 1024;

/// Smallest stream window that a peer may announce.
pub const STREAM_WINDOW_MIN_BYTES: u64 = STREAM_RESERVE_BYTES;

/// Largest window that one stream grows to: twice the bandwidth-delay product of 1 Gbit/s at 150 ms.
pub const STREAM_WINDOW_CAP_BYTES: u64 = 38 * 1024 * 1024;

/// Window of a session: what all its streams together may have outstanding between their reserve and
/// their initial window.
pub const SESSION_WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// Concurrent streams of a session. The default of both programs.
pub const STREAMS_MAX: u32 = 1024;

/// Unsent bytes of one stream before its writer has to wait.
pub const SEND_QUEUE_STREAM_BYTES: usize = 32 * 1024;

/// Unsent pieces of one stream before its writer has to wait: a body that comes in single bytes must
/// not cost many times its size in memory.
pub const SEND_QUEUE_STREAM_PIECES: usize = 256;

/// Unsent bytes of a session before writers with something queued have to wait.
pub const SEND_QUEUE_SESSION_BYTES: usize = 1024 * 1024;

/// Bytes chosen for one write. Frames that are chosen cannot be overtaken any more, so this bounds the
/// delay of urgent ones.
pub const WRITE_BATCH_BYTES: usize = 64 * 1024;

/// The stream id at which the relay requests a new session, long before ids are exhausted.
pub const STREAM_ID_RENEW: u32 = 0x7000_0000;

/// Silence before a PING. Below 30 and 60 s, the idle timeouts of many balancers.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// Silence after which the peer counts as dead. Below 30 s, so that a frozen connection is replaced
/// within that time, including the new dial.
pub const DEAD_AFTER: Duration = Duration::from_secs(25);

/// A write that makes no progress for this long ends the session.
pub const WRITE_STALL: Duration = Duration::from_secs(10);

/// How long DISPATCHED may be delayed, so that it travels with other frames (W-22).
pub const DISPATCHED_DELAY: Duration = Duration::from_millis(20);

/// Time from the upgrade to WELCOME.
pub const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// HEADs with an informational status in one exchange.
pub const INFORMATIONAL_MAX: u32 = 16;

/// Unsent delivery frames (RESULT, RESULT_ACK) of a session.
pub const RESULTS_QUEUED_MAX: usize = 256;
