//! The file with the signed head and the signed start of an audit file, next to it: `audit.head.json`.

use crate::identity::Key;
use crate::text::{hex, unhex};
use protocol::opening::AuditTranscript;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The first part of what the signature of a start covers: it is never taken for one of a head.
const START_LABEL: &[u8] = b"integration-bridge audit start v1\0";

/// The head's file. Bytes are in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeadFile {
    /// The random id of the audit file, the same in all its rotated parts.
    pub(super) id: String,
    /// The number of the last line; 0 before the first one.
    pub(super) seq: u64,
    /// The hash of that line.
    pub(super) hash: String,
    /// The signature with the bridge's key.
    pub(super) signature: String,
    /// The first line that has to exist; earlier ones were removed by rotation. Missing in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<Start>,
}

/// The first line that has to exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    /// Its number.
    pub(super) seq: u64,
    /// The hash of the line before it; zeros for the very first line.
    pub(super) prev: String,
    /// The signature with the bridge's key.
    pub(super) signature: String,
}

/// A head whose signature is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) id: [u8; 16],
    pub(super) seq: u64,
    pub(super) hash: [u8; 32],
}

impl HeadFile {
    /// Returns a head that is signed by this key.
    pub(super) fn signed(key: &Key, head: &Head, start: Option<Start>) -> Self {
        let transcript = AuditTranscript {
            id: &head.id,
            sequence: head.seq,
            hash: &head.hash,
        };
        Self {
            id: hex(&head.id),
            seq: head.seq,
            hash: hex(&head.hash),
            signature: hex(&transcript.sign(key.pair())),
            start,
        }
    }

    /// Returns the head, without a check of its signature; `None` if its fields are damaged.
    pub(super) fn unproved(&self) -> Option<Head> {
        Some(Head {
            id: unhex(&self.id)?.try_into().ok()?,
            seq: self.seq,
            hash: unhex(&self.hash)?.try_into().ok()?,
        })
    }

    /// Returns the head and the start, if this key has signed them.
    pub(super) fn proved(&self, public_key: &[u8]) -> Option<Head> {
        let head = self.unproved()?;
        let transcript = AuditTranscript {
            id: &head.id,
            sequence: head.seq,
            hash: &head.hash,
        };
        let signature = unhex(&self.signature)?;
        let start = match &self.start {
            None => true,
            Some(start) => start.is_signed_by(public_key, &head.id),
        };
        (start && transcript.is_signed_by(public_key, &signature)).then_some(head)
    }
}

impl Start {
    /// Returns a start that is signed by this key.
    pub(super) fn signed(key: &Key, id: &[u8; 16], seq: u64, prev: String) -> Self {
        let signature = key.pair().sign(&transcript(id, seq, &prev));
        Self {
            seq,
            prev,
            signature: hex(signature.as_ref()),
        }
    }

    fn is_signed_by(&self, public_key: &[u8], id: &[u8; 16]) -> bool {
        let message = transcript(id, self.seq, &self.prev);
        unhex(&self.signature).is_some_and(|signature| {
            UnparsedPublicKey::new(&ED25519, public_key)
                .verify(&message, &signature)
                .is_ok()
        })
    }
}

/// Fixed lengths come first, so that no two starts have the same bytes.
fn transcript(id: &[u8; 16], seq: u64, prev: &str) -> Vec<u8> {
    [START_LABEL, id, &seq.to_be_bytes(), prev.as_bytes()].concat()
}

/// Returns the path of the head of an audit file.
pub(super) fn head_path(file: &Path) -> PathBuf {
    file.with_extension("head.json")
}
