//! `POST /v1/pair`: a bridge registers its public key under a name.
//!
//! ```json
//! {"name": "berlin-dc1", "public_key": "base64, 32 bytes", "instance": "base64, 16 bytes",
//!  "host": "srv1", "software": "0.1.0", "proof": "base64, 64 bytes"}
//! -> {"tenant": "acme", "tenant_id": "ten_...", "bridge_id": "brg_...", "name": "berlin-dc1"}
//! ```
//!
//! The proof is the key's signature over the client id, the name and the key itself (W-10), so
//! that nobody can register a key that he does not have. Rules about names that exist are the
//! storage's.

use crate::auth::Principal;
use crate::body::Body;
use crate::ingress::whole_body;
use crate::problem::Problem;
use crate::service::json_response;
use crate::state::State;
use crate::storage::Pairing;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use hyper::body::Incoming;
use protocol::Failure;
use protocol::opening::PairingTranscript;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Largest document, in bytes: all its fields at their largest fit several times.
const DOCUMENT_MAX_BYTES: u64 = 8 * 1024;

/// How long that document may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: String,
    public_key: String,
    instance: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    software: String,
    proof: String,
}

/// A document whose proof holds.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    name: String,
    public_key: [u8; 32],
    instance: [u8; 16],
    host: String,
    software: String,
}

impl Asked {
    fn parse(text: &[u8], client_id: &str) -> Result<Self, Problem> {
        let document: Document = serde_json::from_slice(text).map_err(|error| {
            Problem::invalid(format!("the pairing is not what is expected: {error}"))
        })?;
        let asked = Self {
            public_key: bytes("public_key", &document.public_key)?,
            instance: instance(&document.instance)?,
            name: document.name,
            host: document.host,
            software: document.software,
        };
        let proof: [u8; 64] = bytes("proof", &document.proof)?;
        let transcript = PairingTranscript {
            client_id,
            name: &asked.name,
            public_key: &asked.public_key,
            instance: &asked.instance,
        };
        if !transcript.is_proved_by(&proof) {
            return Err(Problem::invalid(
                "proof is not the signature of this pairing under public_key",
            ));
        }
        Ok(asked)
    }
}

fn bytes<const N: usize>(field: &str, text: &str) -> Result<[u8; N], Problem> {
    let decoded = STANDARD.decode(text).ok();
    decoded
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Problem::invalid(format!("{field} must be {N} bytes in base64")))
}

/// In base64, or in hexadecimal as it is in logs.
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

/// Pairs a bridge.
///
/// # Errors
/// `invalid_request` for what cannot be read or is not proved, `conflict` for a name that another
/// key pair has.
pub async fn handle(
    state: &Arc<State>,
    principal: &Principal,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let text = whole_body(request.into_body(), DOCUMENT_MAX_BYTES, BODY_TIMEOUT).await?;
    let asked = Asked::parse(&text, &principal.client_id)?;
    let pairing = Pairing {
        tenant: principal.tenant.to_string().into(),
        paired_by: principal.client_id.to_string().into(),
        existing: principal.existing,
        name: asked.name,
        public_key: asked.public_key,
        instance: asked.instance,
        host: asked.host,
        software: asked.software,
        bridges_max: state.config.limits.bridges_per_tenant,
    };
    let storage = state.directory.storage();
    let paired = storage.pair(&pairing).await.map_err(failed)?;
    state.directory.refresh().await.map_err(failed)?;
    if paired.is_new {
        tracing::info!(
            tenant = %principal.tenant_name,
            bridge = %pairing.name,
            client_id = %principal.client_id,
            "bridge paired"
        );
    }
    Ok(json_response(&json!({
        "tenant": &*principal.tenant_name,
        "tenant_id": &*principal.tenant,
        "bridge_id": paired.bridge,
        "name": pairing.name,
    })))
}

/// What the caller is told; what is ours is logged.
pub(crate) fn failed(error: crate::storage::StorageError) -> Problem {
    use crate::storage::StorageError as E;
    match &error {
        E::Conflict(_) | E::NotFound(_) | E::Invalid(_) | E::KeyGone | E::Changed => {}
        E::Unavailable(_) | E::Unusable(_) | E::Database(_) | E::Random(_) | E::LeaseLost => {
            tracing::error!(%error, "the database refused");
        }
    }
    Failure::from(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Code;
    use ring::signature::{Ed25519KeyPair, KeyPair};
    use serde_json::Value;

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

    fn parse(document: &Value) -> Result<Asked, Problem> {
        Asked::parse(document.to_string().as_bytes(), "ibk_1")
    }

    #[test]
    fn a_proof_holds_for_this_api_key_and_this_name() {
        assert_eq!(parse(&document("ibk_1")).unwrap().name, "dc1");
        let foreign = parse(&document("ibk_2")).unwrap_err();
        assert_eq!(foreign.failure.code, Code::InvalidRequest);
        let mut renamed = document("ibk_1");
        renamed["name"] = json!("dc2");
        assert!(parse(&renamed).is_err());
    }

    #[test]
    fn an_instance_may_be_hexadecimal_too() {
        let mut hex = document("ibk_1");
        hex["instance"] = json!("ab".repeat(16));
        assert_eq!(parse(&hex).unwrap().instance, [0xab; 16]);
    }

    #[test]
    fn mistakes_name_the_field() {
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
