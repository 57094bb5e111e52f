//! `POST /v1/pair`: a bridge registers its public key under a name.
//!
//! ```json
//! {"name": "berlin-dc1", "public_key": "base64, 32 bytes", "instance": "base64, 16 bytes",
//!  "host": "srv1", "software": "0.1.0", "proof": "base64, 64 bytes"}
//! -> {"tenant": "acme", "tenant_id": "ten_...", "bridge_id": "brg_...", "name": "berlin-dc1"}
//! ```
//!
//! The proof is the key's signature over the client id, the name and the key itself (W-10), so a client can
//! only register a key that it has. Storage enforces the rules about existing names.

use super::errors::failed;
use super::{Context, Handling, json};
use crate::access::Object;
use crate::body::Body;
use crate::denials::{Denied, DeniedClient};
use crate::problem::{Problem, document};
use crate::storage::{Pairing, StorageError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Response, StatusCode};
use protocol::opening::PairingTranscript;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A bridge to register.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PairDocument {
    /// The bridge's name: 1 to 64 letters, digits, `.`, `_` or `-`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    name: String,
    /// The bridge's Ed25519 public key: 32 bytes in base64.
    public_key: String,
    /// The installation: 16 bytes in base64, or 32 hexadecimal digits.
    instance: String,
    /// The host's name, for people.
    #[serde(default)]
    host: String,
    /// The program's version, for people.
    #[serde(default)]
    software: String,
    /// The key's signature over the pairing: 64 bytes in base64.
    proof: String,
}

/// A pairing whose proof is valid.
#[derive(Debug, PartialEq, Eq)]
struct PairingRequest {
    name: String,
    public_key: [u8; 32],
    instance: [u8; 16],
    host: String,
    software: String,
}

impl PairingRequest {
    fn parse(text: &[u8], client_id: &str) -> Result<Self, Problem> {
        let document: PairDocument = document::parse(text).map_err(Problem::invalid)?;
        let request = Self {
            public_key: bytes("public_key", &document.public_key)?,
            instance: instance(&document.instance)?,
            name: document.name,
            host: document.host,
            software: document.software,
        };
        let proof: [u8; 64] = bytes("proof", &document.proof)?;
        let transcript = PairingTranscript {
            client_id,
            name: &request.name,
            public_key: &request.public_key,
            instance: &request.instance,
        };
        if !transcript.is_proved_by(&proof) {
            return Err(Problem::invalid(
                "proof is not a valid signature of this pairing by public_key",
            ));
        }
        Ok(request)
    }
}

fn bytes<const N: usize>(field: &str, text: &str) -> Result<[u8; N], Problem> {
    let decoded = STANDARD.decode(text).ok();
    decoded
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Problem::invalid(format!("{field} must be {N} bytes in base64")))
}

/// Reads base64, or hexadecimal as in log lines.
fn instance(text: &str) -> Result<[u8; 16], Problem> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    if text.len() != 32 || digits.len() != 32 {
        return bytes("instance", text);
    }
    let mut out = [0; 16];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Ok(out)
}

/// A registered bridge.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PairedView {
    /// The tenant's name.
    tenant: String,
    /// The tenant's id.
    tenant_id: String,
    /// The bridge's id.
    bridge_id: String,
    /// The bridge's name.
    name: String,
}

pub(crate) fn pair<'a>(cx: &'a Context<'a>, request: http::Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let result = register(cx, request).await;
        result.inspect_err(|problem| {
            let (code, client) = (
                problem.failure.code.as_str(),
                DeniedClient::of(cx.principal),
            );
            cx.state.denied(Denied::Pairing, code, client, cx.peer);
        })
    })
}

async fn register(
    cx: &Context<'_>,
    request: http::Request<Bytes>,
) -> Result<Response<Body>, Problem> {
    let principal = cx.principal;
    let request = PairingRequest::parse(request.body(), &principal.client_id)?;
    // After the proof: a client that does not have the private key learns nothing about names.
    cx.check(Object::Pairing(&request.name))?;
    let pairing = Pairing {
        tenant: principal.tenant.to_string().into(),
        paired_by: principal.client_id.to_string().into(),
        existing: principal.existing,
        endpoints: principal.scope.given.endpoints.clone(),
        name: request.name,
        public_key: request.public_key,
        instance: request.instance,
        host: request.host,
        software: request.software,
        address: cx.peer.to_string(),
        bridges_max: cx.state.data.limits().bridges_per_tenant,
    };
    let paired = match cx.storage().pair(&pairing).await {
        Ok(paired) => paired,
        Err(error) => {
            if matches!(error, StorageError::KeySpent) {
                note_reuse(cx).await;
            }
            return Err(failed(error));
        }
    };
    cx.state.directory.follow_change().await;
    let registry = &cx.state.data.registry;
    // A re-installed bridge starts to count its connections at zero. Without this it would look like a
    // replayed, older one and be refused.
    registry.reset_epochs(&paired.bridge.to_string(), &pairing.instance);
    // A repeated pairing after a lost response is no second event.
    if paired.is_new {
        tracing::info!(
            tenant = %principal.tenant_name,
            bridge = %pairing.name,
            client_id = %principal.client_id,
            "bridge paired"
        );
    }
    cx.state.metrics.pairing("ok");
    let view = PairedView {
        tenant: principal.tenant_name.to_string(),
        tenant_id: principal.tenant.to_string(),
        bridge_id: paired.bridge.to_string(),
        name: pairing.name,
    };
    json::reply(StatusCode::OK, &view)
}

/// Raises the notice that a copy of a pairing file is in use. The request is refused in any case.
async fn note_reuse(cx: &Context<'_>) {
    match cx.storage().note_reuse(&cx.principal.client_id).await {
        Ok(true) => cx.state.notices_wanted.notify_one(),
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(%error, "cannot store that the key of a pairing file was used again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Code;
    use ring::signature::{Ed25519KeyPair, KeyPair};
    use serde_json::Value;
    use serde_json::json;

    fn document(client_id: &str) -> Value {
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let public_key = key.public_key().as_ref();
        let proof = PairingTranscript {
            client_id,
            name: "dc1",
            public_key,
            instance: &[0xab; 16],
        }
        .sign(&key);
        json!({
            "name": "dc1",
            "public_key": STANDARD.encode(public_key),
            "instance": STANDARD.encode([0xab; 16]),
            "host": "srv1",
            "software": "0.1.0",
            "proof": STANDARD.encode(proof),
        })
    }

    fn parse(document: &Value) -> Result<PairingRequest, Problem> {
        PairingRequest::parse(document.to_string().as_bytes(), "ibk_1")
    }

    #[test]
    fn proof_is_bound_to_key_and_name() {
        assert_eq!(parse(&document("ibk_1")).unwrap().name, "dc1");
        let foreign = parse(&document("ibk_2")).unwrap_err();
        assert_eq!(foreign.failure.code, Code::InvalidRequest);
        let mut renamed = document("ibk_1");
        renamed["name"] = json!("dc2");
        assert!(parse(&renamed).is_err());
    }

    #[test]
    fn instance_may_be_hexadecimal() {
        let mut hex = document("ibk_1");
        hex["instance"] = json!("ab".repeat(16));
        assert_eq!(parse(&hex).unwrap().instance, [0xab; 16]);
    }

    #[test]
    fn errors_name_the_field() {
        for (field, value) in [
            ("public_key", json!("AAAA")),
            ("instance", json!("zz".repeat(16))),
            ("proof", json!("%")),
            ("unknown", json!(1)),
            ("name", json!(7)),
        ] {
            let mut wrong = document("ibk_1");
            wrong[field] = value;
            let detail = parse(&wrong).unwrap_err().failure.detail;
            let named = detail.contains(field) || field == "name";
            assert!(named, "{field}: {detail}");
        }
    }
}
