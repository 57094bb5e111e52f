//! The `Idempotency-Key` header: a POST that is repeated with its key gets the response to the first one, also after
//! a restart of the relay ([`crate::idempotency`]).

use super::{Context, Handler};
use crate::body::Body;
use crate::idempotency::{self, ExecutedRequest, KeyedRequest, StoredResponse};
use crate::problem::Problem;
use bytes::Bytes;
use http::{Request, Response};

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
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(request.uri().to_string().as_bytes());
    // A URI contains no zero byte, so no other split of URI and body has this hash.
    digest.update(&[0]);
    digest.update(request.body());
    let keyed = KeyedRequest {
        tenant: cx.principal.tenant.clone(),
        client_id: cx.principal.client_id.clone(),
        operation,
        // The client id is part of the key: a response may contain a secret, and another API key of the tenant
        // may have fewer permissions.
        key: format!("{} {text}", cx.principal.client_id),
        digest: digest.finish().as_ref().to_vec(),
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
