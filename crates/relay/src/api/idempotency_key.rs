//! The `Idempotency-Key` header: a POST that is repeated with its key gets the response to the first one, also after
//! a restart of the relay ([`crate::idempotency`]).

use super::{Context, Handler};
use crate::body::Body;
use crate::idempotency::{self, ExecutedRequest, KeyedRequest, StoredResponse};
use crate::problem::Problem;
use crate::storage::idempotency::RequestDigest;
use bytes::Bytes;
use http::{Request, Response};
use ring::digest::{Context as Hash, SHA256};
use serde_json::Value;

/// Executes a request, or replays the response to an earlier one with the same key.
///
/// # Errors
/// The handler's, and those of [`crate::idempotency::IdempotencyCache::execute`].
pub(super) async fn execute(
    cx: &Context<'_>,
    operation: &'static str,
    handler: Handler,
    request: Request<Bytes>,
) -> Result<Response<Body>, Problem> {
    let Some(text) = idempotency::key_of(request.headers())? else {
        return handler(cx, request).await;
    };
    let digest = digest_of(&request.uri().to_string(), request.body());
    let keyed = KeyedRequest {
        tenant: cx.principal.tenant.clone(),
        client_id: cx.principal.client_id.clone(),
        operation,
        // The client id is part of the key: a response may contain a secret, and another API key of the tenant
        // may have fewer permissions.
        key: format!("{} {text}", cx.principal.client_id),
        digest,
    };
    let (state, principal) = (cx.state.clone(), cx.principal.clone());
    let (query, path, peer) = (cx.query.clone(), cx.path.clone(), cx.peer);
    let execution = async move {
        let cx = Context {
            state: &state,
            principal: &principal,
            query,
            path,
            peer,
        };
        let (response, had_no_effect) = match handler(&cx, request).await {
            Ok(response) => (response, false),
            Err(problem) => {
                let is_safe = problem.failure.execution.is_safe_to_repeat();
                (problem.into_response(), is_safe)
            }
        };
        let replay = StoredResponse::read(response).await;
        let replay = replay.expect("a handler's body is complete and has no error");
        ExecutedRequest {
            response: replay.clone().response(),
            replay,
            replay_without_body: None,
            had_no_effect,
        }
    };
    cx.state.idempotency.execute(keyed, execution).await
}

/// Returns the hash of a request. Spacing and the order of members make no difference.
fn digest_of(uri: &str, body: &[u8]) -> RequestDigest {
    let hash = |body: &[u8]| {
        let mut hash = Hash::new(&SHA256);
        hash.update(uri.as_bytes());
        // A URI contains no zero byte, so no other split of URI and body has this hash.
        hash.update(&[0]);
        hash.update(body);
        hash.finish().as_ref().to_vec()
    };
    // Objects are sorted by name. A document that is not JSON is refused later.
    let canonical = serde_json::from_slice::<Value>(body).map(|value| value.to_string());
    match canonical {
        // Earlier versions hashed the document as it was sent.
        Ok(canonical) => RequestDigest::new(hash(canonical.as_bytes()), hash(body)),
        Err(_) => hash(body).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_ignores_the_form_of_a_document() {
        let of = |body: &str| digest_of("/v1/keys", body.as_bytes());
        let first = of(r#"{"role":"caller","name":"a"}"#);
        assert!(of(r#"{ "name": "a", "role": "caller" }"#).is_of(first.stored()));
        assert!(!of(r#"{"role":"caller","name":"b"}"#).is_of(first.stored()));
        let elsewhere = digest_of("/v1/other", br#"{"role":"caller","name":"a"}"#);
        assert!(!elsewhere.is_of(first.stored()));
        assert!(!of("").is_of(first.stored()) && of("").is_of(of("").stored()));
    }
}
