//! The payloads of the opening, of a session's life, and of deliveries.

use super::head::CallAttempt;
use super::serial::Bounded;
use crate::code::{Code, Execution, Failure};
use crate::limits::{
    ABANDONED_MAX, DETAIL_MAX_BYTES, SERVES_ENDPOINTS_MAX, SERVES_HOSTS_MAX,
    STREAM_WINDOW_MIN_BYTES,
};
use serde::{Deserialize, Serialize};

/// The version of the wire that this code speaks.
pub const VERSION: u16 = 1;

/// What one side lets the other have outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Streams open at once.
    pub streams_max: u32,
    /// Initial window of each stream, in bytes.
    pub stream_bytes: u64,
    /// Window of the session beyond every stream's reserve, in bytes.
    pub session_bytes: u64,
}

impl Windows {
    /// Whether a session can work with these numbers (W-31).
    pub fn are_usable(&self) -> bool {
        self.streams_max > 0 && self.stream_bytes >= STREAM_WINDOW_MIN_BYTES
    }
}

/// First frame of a tunnel, from the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Random, of this connection alone.
    pub nonce: [u8; 32],
    /// Name of the relay's node.
    pub node: String,
    /// Lowest version of the wire that the relay speaks.
    pub version_min: u16,
    /// Highest version of the wire that the relay speaks.
    pub version_max: u16,
    /// What the relay lets the bridge have outstanding.
    pub windows: Windows,
}

/// What a bridge serves, so that the relay can choose; the bridge decides again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Serves {
    /// Names of endpoints.
    pub endpoints: Bounded<String, SERVES_ENDPOINTS_MAX>,
    /// Host patterns of the allow list; none when the bridge keeps them to itself.
    pub hosts: Option<Bounded<String, SERVES_HOSTS_MAX>>,
    /// Names of those endpoints where a PUT or DELETE may be made twice (W-68).
    pub repeatable: Bounded<String, SERVES_ENDPOINTS_MAX>,
}

/// Which delivery journal a bridge has, and how far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalMark {
    /// Random, made with the journal.
    pub id: [u8; 16],
    /// Its last entry's number.
    pub sequence: u64,
}

/// What became of streams of a session that was lost (W-51).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSession {
    /// The session that was lost.
    pub session: [u8; 16],
    /// Streams above this never arrived at the bridge.
    pub last_stream: u32,
    /// Streams that arrived, were never dispatched, and are abandoned.
    pub undispatched: Bounded<u32, ABANDONED_MAX>,
}

/// The bridge's answer to a challenge. Its proof follows it in the same frame, outside this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the wire that the bridge chose.
    pub version: u16,
    /// Random, of this connection alone.
    pub nonce: [u8; 32],
    /// The tenant that the bridge was paired with.
    pub tenant: String,
    /// The bridge's id, given at pairing.
    pub bridge: String,
    /// This installation of it.
    pub instance: [u8; 16],
    /// Which of its connections.
    pub slot: u8,
    /// Counts this slot's connections, never backwards.
    pub epoch: u64,
    /// The authority that was dialled, `host:port`.
    pub authority: String,
    /// The TLS channel binding of the connection that was dialled (RFC 9266).
    pub channel: Option<[u8; 32]>,
    /// The program's version, for people.
    pub software: String,
    /// The host's name, for people.
    pub host: String,
    /// What the bridge lets the relay have outstanding.
    pub windows: Windows,
    /// What it serves.
    pub serves: Serves,
    /// Its journal, if it keeps one.
    pub journal: Option<JournalMark>,
    /// What became of the session that this slot had before.
    pub previous: Option<PreviousSession>,
}

/// The relay takes the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The session's id.
    pub session: [u8; 16],
    /// PING after this much silence, in milliseconds.
    pub heartbeat_ms: u32,
    /// Dead after this much silence, in milliseconds.
    pub dead_after_ms: u32,
    /// Nodes that a bridge may spread its connections over.
    pub nodes: u16,
}

/// Why a tunnel was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusedCode {
    /// The bridge is unknown here, or its proof is wrong.
    Unauthorized,
    /// The bridge, or the key it was paired with, was revoked.
    Revoked,
    /// The tenant is suspended.
    TenantSuspended,
    /// The slot's epoch is not above the last one seen.
    StaleEpoch {
        /// The last one seen; the bridge may go one above it.
        current: u64,
    },
    /// No common version.
    Version,
    /// Too many sessions; come again later.
    Overloaded,
    /// The TLS connection that the bridge signed is not the one that the relay has: somebody in
    /// between ends TLS.
    ChannelBinding,
    /// The authority that the bridge dialled is not this relay's.
    Authority,
}

impl std::fmt::Display for RefusedCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unauthorized => "it does not know this bridge, or the proof is wrong",
            Self::Revoked => "this bridge or the key it was paired with was revoked",
            Self::TenantSuspended => "the tenant is suspended",
            Self::StaleEpoch { .. } => "a newer connection of the same slot was there before",
            Self::Version => "it speaks another version of the protocol",
            Self::Overloaded => "it has as many tunnels as it takes",
            Self::ChannelBinding => "somebody between the bridge and the relay ends TLS",
            Self::Authority => "it is not meant to be reached by this name",
        })
    }
}

/// The relay does not take the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub code: RefusedCode,
    /// When to come again, in milliseconds; zero leaves it to the bridge.
    pub retry_after_ms: u32,
}

/// Gives back and widens what may be outstanding on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Bytes that the consumer took.
    pub returned: u32,
    /// Bytes that the window grows by, for the rest of the stream.
    pub grown: u32,
}

/// Cuts a text to [`DETAIL_MAX_BYTES`], at a character.
fn cut(text: &mut String) {
    let mut end = text.len().min(DETAIL_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireReset {
    code: u16,
    execution: u8,
    detail: String,
}

impl WireReset {
    pub(super) fn new(failure: &Failure) -> Self {
        let mut detail = failure.detail.clone();
        cut(&mut detail);
        Self {
            code: failure.code.to_wire(),
            execution: failure.execution.to_wire(),
            detail,
        }
    }

    pub(super) fn into_failure(self) -> Option<Failure> {
        (self.detail.len() <= DETAIL_MAX_BYTES).then(|| {
            Failure::new(
                Code::from_wire(self.code),
                Execution::from_wire(self.execution),
                self.detail,
            )
        })
    }
}

/// Why a side wants the session to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GoAwayReason {
    /// It is shutting down or being replaced; work in flight may finish.
    Draining,
    /// Stream ids are running out.
    Renew,
    /// The bridge or its key was revoked.
    Revoked,
    /// A newer session of the same slot took over.
    Replaced,
    /// The peer broke the protocol.
    Protocol,
    /// It has more than it can carry.
    Overloaded,
}

impl std::fmt::Display for GoAwayReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Draining => "it is shutting down",
            Self::Renew => "stream ids are running out",
            Self::Revoked => "revoked",
            Self::Replaced => "a newer session took over",
            Self::Protocol => "it says that the protocol was broken",
            Self::Overloaded => "it has more than it can carry",
        })
    }
}

/// The session will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoAway {
    /// From the bridge alone: the last stream that it took.
    pub last_stream: Option<u32>,
    /// Why.
    pub reason: GoAwayReason,
    /// When a new connection is welcome, in milliseconds.
    pub retry_after_ms: u32,
}

/// What became of an attempt of a delivery, from the bridge's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryResult {
    /// Which attempt.
    pub attempt: CallAttempt,
    /// The target's status; none when it never answered.
    pub status: Option<u16>,
    /// The code of the failure, if it failed (W-40).
    pub code: Option<u16>,
    /// How far it came (W-40).
    pub execution: u8,
}

/// Whether an endpoint can be reached from the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Reach {
    /// It was not looked at.
    #[default]
    Unknown,
    /// It answered.
    Up,
    /// It did not.
    Down,
}

/// What a bridge found when it looked at an endpoint last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EndpointHealth {
    /// Whether it can be reached.
    pub reach: Reach,
    /// The status that it answered with.
    pub status: Option<u16>,
    /// The code of what failed (W-40).
    pub code: Option<u16>,
    /// How long ago that was, in seconds.
    pub age_s: u32,
}

/// How far a bridge's audit file has got, signed by its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Random, made with the file.
    pub id: [u8; 16],
    /// Lines so far.
    pub sequence: u64,
    /// The hash of the last one.
    pub hash: [u8; 32],
    /// Ed25519, 64 bytes, see [`crate::opening::AuditTranscript`].
    pub signature: Bounded<u8, { super::PROOF_BYTES }>,
}

/// How the bridge is, beside its tunnel (W-63).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Of the endpoints that HELLO or the last STATUS listed, in that order; those beyond are unknown.
    pub endpoints: Bounded<EndpointHealth, SERVES_ENDPOINTS_MAX>,
    /// That its config was refused when it was read last, and at which line; the one before is active. Without
    /// text of the config: callers can read it.
    pub config_refused: Option<String>,
    /// Its audit file, if it keeps one.
    pub audit: Option<AuditHead>,
}

impl Report {
    /// The same, with its text cut to [`DETAIL_MAX_BYTES`].
    #[must_use]
    pub fn truncated(mut self) -> Self {
        if let Some(text) = &mut self.config_refused {
            cut(text);
        }
        self
    }

    /// Whether its text keeps to its limit.
    pub(super) fn fits(&self) -> bool {
        self.config_refused
            .as_ref()
            .is_none_or(|text| text.len() <= DETAIL_MAX_BYTES)
    }
}
