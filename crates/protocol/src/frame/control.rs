//! The payloads of the opening, of the session, and of deliveries.

use super::head::CallAttempt;
use super::serial::Bounded;
use crate::code::{Code, Execution, Failure};
use crate::limits::{
    ABANDONED_MAX, DETAIL_MAX_BYTES, SERVES_ENDPOINTS_MAX, SERVES_HOSTS_MAX,
    STREAM_WINDOW_MIN_BYTES, VERSION_MAX_BYTES,
};
use crate::version::{AcceptedVersions, ProgramVersion};
use serde::{Deserialize, Serialize};

/// The latest version of the wire that this code supports. Version 2 adds the context of requests (W-69).
pub const VERSION: u16 = 2;

/// The oldest version of the wire that this code supports.
pub const VERSION_MIN: u16 = 1;

/// What one side allows the other to have outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Concurrent streams.
    pub streams_max: u32,
    /// Initial window of each stream, in bytes.
    pub stream_bytes: u64,
    /// Window of the session beyond every stream's reserve, in bytes.
    pub session_bytes: u64,
}

impl Windows {
    /// Whether a session can work with these numbers (W-13).
    pub fn are_usable(&self) -> bool {
        // The body inside OPEN or HEAD is sent without a check of the window, so every window must hold one.
        self.streams_max > 0 && self.stream_bytes >= STREAM_WINDOW_MIN_BYTES
    }
}

/// First frame of a tunnel, from the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Random, for this connection only.
    pub nonce: [u8; 32],
    /// Name of the relay's node.
    pub node: String,
    /// Lowest version of the wire that the relay supports.
    pub version_min: u16,
    /// Highest version of the wire that the relay supports.
    pub version_max: u16,
    /// What the relay allows the bridge to have outstanding.
    pub windows: Windows,
}

/// What a bridge serves, so that the relay can choose a bridge. The bridge decides again for each request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Serves {
    /// Names of endpoints.
    pub endpoints: Bounded<String, SERVES_ENDPOINTS_MAX>,
    /// Host patterns of the allow list; `None` if the bridge does not disclose them.
    pub hosts: Option<Bounded<String, SERVES_HOSTS_MAX>>,
    /// Names of the endpoints where a PUT or DELETE may be repeated (W-68).
    pub repeatable: Bounded<String, SERVES_ENDPOINTS_MAX>,
}

/// The identity of a bridge's delivery journal, and its number of entries (W-59).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalMark {
    /// Random, created with the journal.
    pub id: [u8; 16],
    /// The number of its last entry.
    pub sequence: u64,
}

/// The report about a session that was lost (W-51).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSession {
    /// The session that was lost.
    pub session: [u8; 16],
    /// Streams above this never arrived at the bridge.
    pub last_stream: u32,
    /// Streams that arrived, were never dispatched, and are abandoned for good.
    pub undispatched: Bounded<u32, ABANDONED_MAX>,
}

/// The bridge's reply to a challenge. Its proof follows in the same frame, outside of these fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the wire that the bridge chose.
    pub version: u16,
    /// Random, for this connection only.
    pub nonce: [u8; 32],
    /// The tenant that the bridge was paired with.
    pub tenant: String,
    /// The bridge's id, given at pairing.
    pub bridge: String,
    /// The id of this installation.
    pub instance: [u8; 16],
    /// The slot of this connection.
    pub slot: u8,
    /// The number of this connection among those of the slot; it only rises.
    pub epoch: u64,
    /// The authority that was dialled, `host:port`.
    pub authority: String,
    /// The TLS channel binding of the connection that was dialled (RFC 9266).
    pub channel: Option<[u8; 32]>,
    /// The program's version, for people.
    pub software: String,
    /// The host's name, for people.
    pub host: String,
    /// What the bridge allows the relay to have outstanding.
    pub windows: Windows,
    /// What the bridge serves.
    pub serves: Serves,
    /// The mark of its journal, if it keeps one.
    pub journal: Option<JournalMark>,
    /// The report about the slot's previous session.
    pub previous: Option<PreviousSession>,
}

/// The relay accepts the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The session's id.
    pub session: [u8; 16],
    /// Silence before a PING, in milliseconds.
    pub heartbeat_ms: u32,
    /// Silence after which a peer counts as dead, in milliseconds.
    pub dead_after_ms: u32,
    /// Relay nodes that a bridge may distribute its connections over.
    pub nodes: u16,
}

/// Why the relay refuses a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusedCode {
    /// The bridge is unknown, or its proof is invalid.
    Unauthorized,
    /// The bridge, or the key it was paired with, was revoked.
    Revoked,
    /// The tenant is suspended.
    TenantSuspended,
    /// The slot's epoch is not above the last one.
    StaleEpoch {
        /// The last epoch; the bridge may use the next one.
        current: u64,
    },
    /// There is no common version.
    Version,
    /// The relay's limit of sessions is reached; retry later.
    Overloaded,
    /// The TLS connection that the bridge signed is not the relay's: a middlebox terminates TLS.
    ChannelBinding,
    /// The bridge dialled an authority that is not this relay's.
    Authority,
}

impl std::fmt::Display for RefusedCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unauthorized => "the bridge is unknown, or its proof is invalid",
            Self::Revoked => "the bridge, or the key that it was paired with, was revoked",
            Self::TenantSuspended => "the tenant is suspended",
            Self::StaleEpoch { .. } => "a newer connection of the same slot exists",
            Self::Version => "it supports another version of the protocol",
            Self::Overloaded => "it reached its limit of tunnels",
            Self::ChannelBinding => "a middlebox between bridge and relay ends TLS",
            Self::Authority => "this name is not among its authorities",
        })
    }
}

/// The relay refuses the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The reason.
    pub code: RefusedCode,
    /// When to retry, in milliseconds; with zero the bridge decides.
    pub retry_after_ms: u32,
}

/// Returns bytes of a stream's window, and enlarges it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Bytes that the consumer took.
    pub returned: u32,
    /// Bytes that the window grows by, for the rest of the stream.
    pub grown: u32,
}

/// Truncates a text to [`DETAIL_MAX_BYTES`], at a character.
fn truncate(text: &mut String) {
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
        truncate(&mut detail);
        Self {
            code: failure.code.to_wire(),
            execution: failure.execution.to_wire(),
            detail,
        }
    }

    pub(super) fn into_failure(self) -> Option<Failure> {
        // A longer detail is a violation and not truncated here: truncation is the sender's duty (W-5).
        (self.detail.len() <= DETAIL_MAX_BYTES).then(|| {
            Failure::new(
                Code::from_wire(self.code),
                Execution::from_wire(self.execution),
                self.detail,
            )
        })
    }
}

/// Why a side ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GoAwayReason {
    /// It is shutting down or being replaced; running exchanges may finish.
    Draining,
    /// Stream ids are nearly exhausted.
    Renew,
    /// The bridge or its key was revoked.
    Revoked,
    /// A newer session of the same slot replaced it.
    Replaced,
    /// The peer violated the protocol.
    Protocol,
    /// It is overloaded.
    Overloaded,
}

impl std::fmt::Display for GoAwayReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Draining => "it is shutting down",
            Self::Renew => "stream ids are nearly exhausted",
            Self::Revoked => "revoked",
            Self::Replaced => "a newer session replaced it",
            Self::Protocol => "it reports a violation of the protocol",
            Self::Overloaded => "it is overloaded",
        })
    }
}

/// The announcement that the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoAway {
    /// From the bridge only: the last stream that it accepted.
    pub last_stream: Option<u32>,
    /// The reason.
    pub reason: GoAwayReason,
    /// When to open a new connection, in milliseconds.
    pub retry_after_ms: u32,
}

/// The outcome of a delivery's attempt, from the bridge's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryResult {
    /// The attempt.
    pub attempt: CallAttempt,
    /// The target's status; `None` if it did not respond.
    pub status: Option<u16>,
    /// The code of the failure, if it failed (W-40).
    pub code: Option<u16>,
    /// The execution state (W-40).
    pub execution: u8,
}

/// Whether an endpoint can be reached from the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Reach {
    /// It was not checked.
    #[default]
    Unknown,
    /// It responded.
    Up,
    /// It did not respond.
    Down,
}

/// The result of a bridge's last health check of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EndpointHealth {
    /// Whether it can be reached.
    pub reach: Reach,
    /// The status of its response.
    pub status: Option<u16>,
    /// The code of the failure (W-40).
    pub code: Option<u16>,
    /// The age of the check, in seconds.
    pub age_s: u32,
}

/// The head of a bridge's audit file, signed by its key (W-64).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Random, created with the file.
    pub id: [u8; 16],
    /// The number of its lines.
    pub sequence: u64,
    /// The hash of the last line.
    pub hash: [u8; 32],
    /// Ed25519, 64 bytes, see [`crate::opening::AuditTranscript`].
    pub signature: Bounded<u8, { super::PROOF_BYTES }>,
}

/// The health of the bridge (W-63).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The endpoints of HELLO or the last STATUS, in that order; those beyond the list are unknown.
    pub endpoints: Bounded<EndpointHealth, SERVES_ENDPOINTS_MAX>,
    /// The rejection of a changed config, with its line; the previous config stays active. It contains
    /// no text of the config, because callers can read it.
    pub config_refused: Option<String>,
    /// The head of its audit file, if it keeps one.
    pub audit: Option<AuditHead>,
}

impl Report {
    /// Returns the report with its text truncated to [`DETAIL_MAX_BYTES`].
    #[must_use]
    pub fn truncated(mut self) -> Self {
        if let Some(text) = &mut self.config_refused {
            truncate(text);
        }
        self
    }

    /// Whether its text is within its limit.
    pub(super) fn fits(&self) -> bool {
        self.config_refused
            .as_ref()
            .is_none_or(|text| text.len() <= DETAIL_MAX_BYTES)
    }
}

/// [`AcceptedVersions`] on the wire (W-70).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireVersions {
    newest: Option<String>,
    oldest: Option<String>,
    is_enforced: bool,
}

impl WireVersions {
    pub(super) fn new(versions: &AcceptedVersions) -> Self {
        let text = |version: &Option<ProgramVersion>| version.as_ref().map(ToString::to_string);
        Self {
            newest: text(&versions.newest),
            oldest: text(&versions.oldest),
            is_enforced: versions.is_enforced,
        }
    }

    /// Returns the versions; `None` if a text exceeds its limit.
    pub(super) fn into_versions(self) -> Option<AcceptedVersions> {
        let fits = |text: &Option<String>| {
            text.as_ref()
                .is_none_or(|text| text.len() <= VERSION_MAX_BYTES)
        };
        if !fits(&self.newest) || !fits(&self.oldest) {
            return None;
        }
        // A later relay may have another form of version. It is for people, so it is no reason to end the session.
        let version = |text: Option<String>| -> Option<ProgramVersion> { text?.parse().ok() };
        Some(AcceptedVersions {
            newest: version(self.newest),
            oldest: version(self.oldest),
            is_enforced: self.is_enforced,
        })
    }
}
