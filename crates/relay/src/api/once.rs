//! `Idempotency-Key`: a POST that is repeated with its key gets the answer of the first one.
//!
//! Answers are kept in memory alone, for ten minutes, for a secret may be in them.

use super::{Context, Handler};
use crate::body::{self, Body};
use crate::problem::Problem;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use protocol::Code;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The key.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that an answer is the first one's.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

const KEPT: Duration = Duration::from_secs(600);
const KEYS_PER_TENANT: usize = 256;
const KEYS_MAX: usize = 16 * 1024;
const KEY_MAX_BYTES: usize = 128;

/// Tenant, client id, operation, and what the caller sent. Another key of the tenant, which may be
/// allowed less, never gets an answer that was not its own.
type Key = (Arc<str>, Arc<str>, &'static str, String);

#[derive(Debug, Clone)]
struct Kept {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Debug)]
struct Known {
    digest: Vec<u8>,
    since: Instant,
    /// `None` while it is being answered.
    kept: Option<Kept>,
}

/// Answers by key.
#[derive(Debug, Default)]
pub struct Answers {
    known: Mutex<HashMap<Key, Known>>,
}

enum Place {
    Mine,
    Kept(Kept),
}

impl Answers {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, key: &Key, digest: &[u8]) -> Result<Place, Problem> {
        let now = Instant::now();
        let mut known = self.lock();
        known.retain(|_, known| now.saturating_duration_since(known.since) < KEPT);
        if let Some(found) = known.get(key) {
            if found.digest != digest {
                let detail = "this idempotency key was used for another request";
                return Err(Problem::not_sent(Code::Conflict, detail));
            }
            return match &found.kept {
                Some(kept) => Ok(Place::Kept(kept.clone())),
                None => Err(Problem::not_sent(
                    Code::Conflict,
                    "the request with this idempotency key is still being answered",
                )),
            };
        }
        let of_tenant = known.keys().filter(|other| other.0 == key.0).count();
        if of_tenant >= KEYS_PER_TENANT || known.len() >= KEYS_MAX {
            let detail = "too many idempotency keys in the last ten minutes";
            return Err(Problem::not_sent(Code::RateLimited, detail));
        }
        let mine = Known {
            digest: digest.to_vec(),
            since: now,
            kept: None,
        };
        known.insert(key.clone(), mine);
        Ok(Place::Mine)
    }
}

/// Forgets a key whose request was not answered: it may be asked again.
struct Pending<'a> {
    answers: &'a Answers,
    key: Option<Key>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.answers.lock().remove(&key);
        }
    }
}

/// Answers a request, or repeats the answer to its first one.
///
/// # Errors
/// The handler's, and `conflict` when the key was used for another request.
pub async fn answer(
    cx: &Context<'_>,
    operation: &'static str,
    handler: Handler,
    request: Request<Bytes>,
) -> Result<Response<Body>, Problem> {
    let Some(value) = request.headers().get(&IDEMPOTENCY_KEY) else {
        return handler(cx, request).await;
    };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > KEY_MAX_BYTES {
        return Err(Problem::invalid(format!(
            "Idempotency-Key must be 1 to {KEY_MAX_BYTES} visible ASCII characters"
        )));
    }
    let principal = cx.principal;
    let key: Key = (
        principal.tenant.clone(),
        principal.client_id.clone(),
        operation,
        text.to_owned(),
    );
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(request.uri().to_string().as_bytes());
    digest.update(&[0]);
    digest.update(request.body());
    let answers = &cx.state.answers;
    match answers.place(&key, digest.finish().as_ref())? {
        Place::Kept(kept) => {
            let mut response = Response::new(body::full(kept.body));
            *response.status_mut() = kept.status;
            *response.headers_mut() = kept.headers;
            let replayed = HeaderValue::from_static("true");
            response.headers_mut().insert(REPLAYED, replayed);
            return Ok(response);
        }
        Place::Mine => {}
    }
    let mut pending = Pending {
        answers,
        key: Some(key),
    };
    let response = handler(cx, request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    if let Some(key) = pending.key.take()
        && let Some(known) = answers.lock().get_mut(&key)
    {
        let mut headers = parts.headers.clone();
        headers.remove(header::DATE);
        known.kept = Some(Kept {
            status: parts.status,
            headers,
            body: body.clone(),
        });
    }
    Ok(Response::from_parts(parts, body::full(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_for_one_request_and_a_tenant_has_so_many() {
        let answers = Answers::default();
        let key = |name: &str| -> Key { ("t".into(), "k".into(), "op", name.to_owned()) };
        assert!(matches!(answers.place(&key("a"), b"1"), Ok(Place::Mine)));
        let running = answers.place(&key("a"), b"1").err().unwrap();
        assert_eq!(running.failure.code, Code::Conflict);
        let other = answers.place(&key("a"), b"2").err().unwrap();
        assert_eq!(other.failure.code, Code::Conflict);
        for n in 1..KEYS_PER_TENANT {
            answers.place(&key(&n.to_string()), b"").unwrap();
        }
        let full = answers.place(&key("more"), b"").err().unwrap();
        assert_eq!(full.failure.code, Code::RateLimited);
        let theirs: Key = ("u".into(), "k".into(), "op", "a".to_owned());
        assert!(answers.place(&theirs, b"").is_ok());
    }

    #[test]
    fn idempotency_key_of_another_client_is_another_one() {
        let answers = Answers::default();
        let key = |client: &str| -> Key { ("t".into(), client.into(), "op", "a".to_owned()) };
        assert!(matches!(answers.place(&key("k"), b"1"), Ok(Place::Mine)));
        assert!(matches!(answers.place(&key("l"), b"1"), Ok(Place::Mine)));
    }

    #[test]
    fn a_request_that_was_not_answered_may_be_asked_again() {
        let answers = Answers::default();
        let key: Key = ("t".into(), "k".into(), "op", "a".to_owned());
        answers.place(&key, b"1").unwrap();
        drop(Pending {
            answers: &answers,
            key: Some(key.clone()),
        });
        assert!(matches!(answers.place(&key, b"1"), Ok(Place::Mine)));
    }
}
