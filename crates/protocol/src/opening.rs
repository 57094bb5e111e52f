//! The signatures by which a bridge authenticates, and how the relay verifies them.
//!
//! ```text
//! relay  --- CHALLENGE(nonce, node, versions, windows) -->  bridge
//! relay  <-- HELLO(...) + proof --------------------------  bridge
//! relay  --- WELCOME(session, heartbeat)  or  REFUSED --->  bridge
//! ```
//!
//! The proof is an Ed25519 signature over a transcript (W-12): a label, the version, both nonces, the
//! hashes of CHALLENGE and HELLO, and the identity of the connection: the authority that was dialled,
//! tenant, bridge, instance, slot, epoch, and the TLS channel binding (RFC 9266). So a signature for
//! one connection is invalid on another.

use crate::frame::{Hello, PROOF_BYTES};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};

/// First part of a tunnel's transcript. Labels differ by purpose, so that no signature can serve
/// another purpose.
const LABEL: &[u8] = b"integration-bridge tunnel v1";

/// First part of the transcript of an audit head.
const AUDIT_LABEL: &[u8] = b"integration-bridge audit v1";

/// First part of a pairing transcript.
const PAIR_LABEL: &[u8] = b"integration-bridge pair v1";

/// Bytes of a channel binding (RFC 9266, `tls-exporter`).
pub const CHANNEL_BINDING_BYTES: usize = 32;

/// The label with which TLS exports a channel binding (RFC 9266, section 4.2).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// The signed content of a tunnel's proof (W-12).
#[derive(Debug, Clone, Copy)]
pub struct Transcript<'a> {
    /// The payload of CHALLENGE, with its bytes on the wire.
    pub challenge: &'a [u8],
    /// The relay's nonce.
    pub challenge_nonce: &'a [u8; 32],
    /// The fields of HELLO before the proof, with their bytes on the wire.
    pub hello_body: &'a [u8],
    /// The same fields, decoded.
    pub hello: &'a Hello,
}

impl Transcript<'_> {
    fn bytes(&self) -> Vec<u8> {
        // Order and parts are W-12. A change of either is a new version of the wire.
        let hello = self.hello;
        let mut out = Vec::with_capacity(512);
        put(&mut out, LABEL);
        put(&mut out, &hello.version.to_be_bytes());
        put(&mut out, self.challenge_nonce);
        put(&mut out, &hello.nonce);
        // Hashes of the bytes and not only of the fields: a middlebox cannot change an encoding that both
        // sides decode alike.
        put(&mut out, digest(&SHA256, self.challenge).as_ref());
        put(&mut out, digest(&SHA256, self.hello_body).as_ref());
        put(&mut out, hello.authority.as_bytes());
        put(&mut out, hello.tenant.as_bytes());
        put(&mut out, hello.bridge.as_bytes());
        put(&mut out, &hello.instance);
        put(&mut out, &[hello.slot]);
        put(&mut out, &hello.epoch.to_be_bytes());
        put(
            &mut out,
            hello.channel.as_ref().map_or(&[][..], |channel| channel),
        );
        out
    }

    /// Signs the transcript.
    pub fn sign(&self, key: &Ed25519KeyPair) -> [u8; PROOF_BYTES] {
        signature(key, &self.bytes())
    }

    /// Whether `proof` is the signature of this transcript under `public_key` (32 bytes).
    pub fn is_proved_by(&self, public_key: &[u8], proof: &[u8; PROOF_BYTES]) -> bool {
        verify(public_key, &self.bytes(), proof)
    }
}

/// The signed content of an audit head (W-64).
#[derive(Debug, Clone, Copy)]
pub struct AuditTranscript<'a> {
    /// The file's id, 16 bytes.
    pub id: &'a [u8; 16],
    /// The number of its lines.
    pub sequence: u64,
    /// The hash of the last line.
    pub hash: &'a [u8; 32],
}

impl AuditTranscript<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        put(&mut out, AUDIT_LABEL);
        put(&mut out, self.id);
        put(&mut out, &self.sequence.to_be_bytes());
        put(&mut out, self.hash);
        out
    }

    /// Signs the transcript.
    pub fn sign(&self, key: &Ed25519KeyPair) -> [u8; PROOF_BYTES] {
        signature(key, &self.bytes())
    }

    /// Whether `signature` is the signature of this transcript under `public_key` (32 bytes).
    pub fn is_signed_by(&self, public_key: &[u8], signature: &[u8]) -> bool {
        verify(public_key, &self.bytes(), signature)
    }
}

/// The signed content at pairing, which proves that the bridge holds the private key (W-10).
#[derive(Debug, Clone, Copy)]
pub struct PairingTranscript<'a> {
    /// The API key's client id.
    pub client_id: &'a str,
    /// The bridge's name.
    pub name: &'a str,
    /// The public key, 32 bytes.
    pub public_key: &'a [u8],
    /// The installation's id, 16 bytes.
    pub instance: &'a [u8],
}

impl PairingTranscript<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        put(&mut out, PAIR_LABEL);
        put(&mut out, self.client_id.as_bytes());
        put(&mut out, self.name.as_bytes());
        put(&mut out, self.public_key);
        put(&mut out, self.instance);
        out
    }

    /// Signs the transcript.
    pub fn sign(&self, key: &Ed25519KeyPair) -> [u8; PROOF_BYTES] {
        signature(key, &self.bytes())
    }

    /// Whether `proof` is the signature of this transcript under its public key.
    pub fn is_proved_by(&self, proof: &[u8]) -> bool {
        verify(self.public_key, &self.bytes(), proof)
    }
}

/// Appends a part after its length. Without lengths, different parts could form the same transcript.
fn put(out: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).expect("every part fits a frame");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(part);
}

fn signature(key: &Ed25519KeyPair, message: &[u8]) -> [u8; PROOF_BYTES] {
    let mut proof = [0; PROOF_BYTES];
    proof.copy_from_slice(key.sign(message).as_ref());
    proof
}

fn verify(public_key: &[u8], message: &[u8], proof: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(message, proof)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Serves, Windows};
    use ring::signature::KeyPair;

    fn hello() -> Hello {
        Hello {
            version: 1,
            nonce: [7; 32],
            tenant: "acme".into(),
            bridge: "b-1".into(),
            instance: [9; 16],
            slot: 0,
            epoch: 3,
            authority: "relay.example:443".into(),
            channel: Some([3; 32]),
            software: "0.1.0".into(),
            host: "host".into(),
            windows: Windows {
                streams_max: 1,
                stream_bytes: 1 << 18,
                session_bytes: 1 << 20,
            },
            serves: Serves::default(),
            journal: None,
            previous: None,
        }
    }

    #[test]
    fn proof_is_valid_for_its_connection_only() {
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let public = key.public_key().as_ref().to_vec();
        let hello = hello();
        let transcript = Transcript {
            challenge: b"challenge",
            challenge_nonce: &[5; 32],
            hello_body: b"hello",
            hello: &hello,
        };
        let proof = transcript.sign(&key);
        assert!(transcript.is_proved_by(&public, &proof));

        let other_hello = Hello {
            authority: "evil.example:443".into(),
            ..hello.clone()
        };
        let other_channel = Hello {
            channel: Some([4; 32]),
            ..hello.clone()
        };
        let others = [
            Transcript {
                challenge: b"another",
                ..transcript
            },
            Transcript {
                challenge_nonce: &[6; 32],
                ..transcript
            },
            Transcript {
                hello_body: b"other",
                ..transcript
            },
            Transcript {
                hello: &other_hello,
                ..transcript
            },
            Transcript {
                hello: &other_channel,
                ..transcript
            },
        ];
        for other in others {
            assert!(!other.is_proved_by(&public, &proof), "{other:?}");
        }
        let stranger = Ed25519KeyPair::from_seed_unchecked(&[2; 32]).unwrap();
        assert!(!transcript.is_proved_by(stranger.public_key().as_ref(), &proof));
        assert!(!transcript.is_proved_by(b"short", &proof));
    }
}
