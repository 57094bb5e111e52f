//! The requests of a sign-in and a sign-out. They take the same way as every request: policy,
//! resolver, policy, connection.

use super::jar::Jar;
use super::{Login, SignIn};
use crate::dispatcher::resolve;
use crate::target_access::TargetAccess;
use crate::upstream::{
    AnswerBody, Key, RequestBody, Upstream, refused as refused_by_target, request_failure,
    request_head,
};
use bytes::Bytes;
use http::header::{HeaderMap, RETRY_AFTER};
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use protocol::frame::{BodyLength, Class, HeadersBuilder, RequestHead, RequestTarget, TimeLeft};
use protocol::{Code, Failure};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

const AUTHENTICATE: &str = "/authentication-point/alm-authenticate";
const LOGIN: &str = "/rest/oauth2/login";
const SITE_SESSION: &str = "/rest/site-session";
const IS_AUTHENTICATED: &str = "/rest/is-authenticated";
const LOGOUT: &str = "/authentication-point/logout";

const XML: &str = "application/xml";
const JSON: &str = "application/json";

/// How long one request may take.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

/// How long a sign-out may take, both requests together.
const SIGN_OUT_WITHIN: Duration = Duration::from_secs(5);

/// How long the check of a session may take.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of a response that are read.
const RESPONSE_MAX_BYTES: usize = 64 * 1024;

/// Opens a session.
///
/// # Errors
/// What failed; nothing of a caller's request was dispatched.
pub(super) async fn sign_in(
    sign_in: &SignIn,
    active: &TargetAccess,
    endpoint: &str,
) -> Result<Jar, Failure> {
    let jar = Jar::new();
    let (path, content_type, document) = match &sign_in.login {
        Login::Password { user, password } => {
            let document = format!(
                "<alm-authentication><user>{}</user><password>{}</password></alm-authentication>",
                escaped(user),
                escaped(password.expose())
            );
            (AUTHENTICATE, XML, document)
        }
        Login::ApiKey { client_id, secret } => {
            let document = serde_json::json!({"clientId": client_id, "secret": secret.expose()});
            (LOGIN, JSON, document.to_string())
        }
    };
    let request = Own {
        path,
        content_type,
        document,
        ..Own::post()
    };
    step(sign_in, active, endpoint, request, &jar).await?;
    // The login with an API key opens the session as well; on servers where it does not, this does.
    if matches!(sign_in.login, Login::Password { .. }) || !jar.has_session() {
        let document = "<session-parameters><client-type>Integration Bridge</client-type>\
                        </session-parameters>";
        let request = Own {
            path: SITE_SESSION,
            document: document.into(),
            ..Own::post()
        };
        step(sign_in, active, endpoint, request, &jar).await?;
    }
    if jar.is_empty() {
        let detail = "ALM accepted the sign-in and set no cookie";
        return Err(Failure::not_dispatched(Code::TargetProtocol, detail));
    }
    Ok(jar)
}

async fn step(
    sign_in: &SignIn,
    active: &TargetAccess,
    endpoint: &str,
    request: Own,
    jar: &Jar,
) -> Result<(), Failure> {
    let path = request.path;
    let asked = timeout(REQUEST_WITHIN, ask(active, endpoint, request, jar)).await;
    let (status, headers) = asked.unwrap_or_else(|_| {
        let detail = format!("the sign-in to ALM took longer than {REQUEST_WITHIN:?} at {path}");
        Err(Failure::not_dispatched(Code::TargetTimeout, detail))
    })?;
    jar.add(&headers);
    match status.as_u16() {
        200 | 201 => Ok(()),
        401 | 403 => {
            let detail = format!(
                "ALM did not accept the credential {} (HTTP {status} at {path}); set it again with \
                 `integration-bridge credential set {}`",
                sign_in.name, sign_in.name
            );
            Err(Failure::not_dispatched(Code::Forbidden, detail))
        }
        429 | 503 => {
            let detail = format!("ALM is busy: it answered the sign-in with HTTP {status}");
            let failure = Failure::not_dispatched(Code::Overloaded, detail);
            Err(match retry_after(&headers) {
                Some(wait) => failure.with_retry_after(wait),
                None => failure,
            })
        }
        _ => {
            let detail = format!("ALM answered the sign-in with HTTP {status} at {path}");
            Err(Failure::not_dispatched(Code::TargetProtocol, detail))
        }
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Ends a session, as far as ALM allows within [`SIGN_OUT_WITHIN`].
pub(super) async fn sign_out(active: &TargetAccess, endpoint: &str, jar: &Jar) {
    let both = async {
        let session = Own {
            method: Method::DELETE,
            path: SITE_SESSION,
            ..Own::post()
        };
        let session = ask(active, endpoint, session, jar).await;
        let logout = Own {
            path: LOGOUT,
            ..Own::post()
        };
        let identity = ask(active, endpoint, logout, jar).await;
        session.and(identity)
    };
    match timeout(SIGN_OUT_WITHIN, both).await {
        Ok(Ok((status, _))) => tracing::debug!(endpoint, %status, "signed out of ALM"),
        Ok(Err(failure)) => {
            tracing::debug!(
                endpoint,
                detail = failure.detail,
                "the sign-out of ALM failed"
            );
        }
        Err(_) => tracing::debug!(endpoint, "the sign-out of ALM took too long"),
    }
}

/// Asks ALM whether the session's identity is still signed in. `None` where ALM gives no response.
pub(super) async fn is_signed_in(active: &TargetAccess, endpoint: &str, jar: &Jar) -> Option<bool> {
    let request = Own {
        method: Method::GET,
        path: IS_AUTHENTICATED,
        ..Own::post()
    };
    let asked = timeout(CHECK_WITHIN, ask(active, endpoint, request, jar)).await;
    let (status, _) = asked.ok()?.ok()?;
    Some(status.is_success())
}

/// A request that the bridge makes for itself.
struct Own {
    method: Method,
    path: &'static str,
    content_type: &'static str,
    document: String,
}

impl Own {
    fn post() -> Self {
        Self {
            method: Method::POST,
            path: "",
            content_type: XML,
            document: String::new(),
        }
    }
}

async fn ask(
    active: &TargetAccess,
    endpoint: &str,
    own: Own,
    jar: &Jar,
) -> Result<(StatusCode, HeaderMap), Failure> {
    let body = Bytes::from(own.document);
    let method = own.method.as_str();
    let mut fields = HeadersBuilder::default();
    let content_type = (!body.is_empty()).then_some(("content-type", own.content_type));
    for (name, value) in content_type.into_iter().chain([("accept", XML)]) {
        let pushed = fields.push(name.as_bytes(), value.as_bytes());
        pushed.map_err(|error| Failure::not_dispatched(Code::Internal, error.to_string()))?;
    }
    let head = RequestHead {
        class: Class::Bulk,
        share: protocol::frame::CallerWeight::default(),
        target: RequestTarget::Endpoint {
            name: endpoint.to_owned(),
            path_and_query: own.path.to_owned(),
        },
        method: method.to_owned(),
        headers: fields.build(),
        body: match own.method {
            Method::POST => BodyLength::Known(body.len() as u64),
            _ => BodyLength::None,
        },
        expect_continue: false,
        time_left: TimeLeft::default(),
        call: None,
        credential: None,
    };
    let refused = |refusal: policy::Refusal| {
        let detail = format!("the sign-in to ALM is refused: {refusal}");
        Failure::not_dispatched(Code::RefusedByPolicy, detail)
    };
    let decided = active.policy.decide_own(endpoint, method, own.path);
    let candidate = decided.map_err(refused)?;
    let addresses = resolve(candidate.target().host()).await?;
    let approved = candidate.approve_any(addresses).map_err(refused)?;
    let settings = active.config.rules.settings(endpoint);
    let ca_file = settings.and_then(|settings| settings.ca_file.as_deref());
    let key: Key = Upstream::key(candidate.target(), ca_file, None);
    // Nothing of a caller's request has left: whatever fails here, it was not dispatched.
    let not_sent = |failure: Failure| Failure::not_dispatched(failure.code, failure.detail);
    let mut is_first = true;
    let (response, mut connection) = loop {
        let connecting = active.upstream.connect(approved.clone(), &key, None);
        let (approved, mut connection) = connecting.await?;
        let mut request = request_head(&approved, &head)?;
        jar.apply(&own.method, request.headers_mut());
        let request = request.map(|()| RequestBody::of_whole(body.clone(), head.body));
        let error = match connection.send(request).await {
            Ok(response) => break (response, connection),
            Err(error) => error,
        };
        match refused_by_target(error.error()) {
            Some(refused) if std::mem::take(&mut is_first) => active.upstream.note(&key, refused),
            _ => return Err(not_sent(request_failure(error.error()))),
        }
    };
    let (parts, incoming) = response.into_parts();
    let body = AnswerBody::new(incoming, &mut connection);
    let _ = Limited::new(body, RESPONSE_MAX_BYTES).collect().await;
    Ok((parts.status, parts.headers))
}

/// Text for XML (XML 1.0, 2.4).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_cannot_break_out_of_its_element() {
        assert_eq!(escaped("a<&>\"'"), "a&lt;&amp;&gt;\"'");
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("soon"), None);
        let past = of("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(past, Some(Duration::ZERO));
    }
}
