//! The requests of a sign-in and a sign-out. They go through the same steps as every request: policy,
//! resolver, policy, connection.

use super::jar::Jar;
use super::{Login, SignIn};
use crate::target_access::TargetAccess;
use crate::target_access::resolve;
use bytes::Bytes;
use http::header::{HeaderMap, RETRY_AFTER};
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use http_client::{
    Attempts, Client, Executed, OwnRequest, Replay, RequestBody, RequestPlan, ResponseBody,
    request_head,
};
use policy::Approved;
use protocol::frame::{BodyLength, Class, HeadersBuilder, RequestHead, RequestTarget, TimeLeft};
use protocol::{Code, Failure};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use transport::dial::USER_AGENT;

const AUTHENTICATE: &str = "/authentication-point/alm-authenticate";
const LOGIN: &str = "/rest/oauth2/login";
const SITE_SESSION: &str = "/rest/site-session";
const IS_AUTHENTICATED: &str = "/rest/is-authenticated";
const LOGOUT: &str = "/authentication-point/logout";

const XML: &str = "application/xml";
const JSON: &str = "application/json";

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a sign-out may take, both requests together.
const SIGN_OUT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the check of a session may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that one request is tried on, if it verifiably was not sent on the first.
const ATTEMPTS_MAX: u32 = 2;

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
    let request = AlmRequest {
        path,
        content_type,
        document,
        ..AlmRequest::post()
    };
    step(sign_in, active, endpoint, request, &jar).await?;
    // The login with an API key opens the session as well; on servers where it does not, this does.
    if matches!(sign_in.login, Login::Password { .. }) || !jar.has_session() {
        let document = "<session-parameters><client-type>Integration Bridge</client-type>\
                        </session-parameters>";
        let request = AlmRequest {
            path: SITE_SESSION,
            document: document.into(),
            ..AlmRequest::post()
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
    request: AlmRequest,
    jar: &Jar,
) -> Result<(), Failure> {
    let path = request.path;
    let sent = timeout(REQUEST_TIMEOUT, send(active, endpoint, request, jar)).await;
    let (status, headers) = sent.unwrap_or_else(|_| {
        let detail = format!("the sign-in to ALM timed out after {REQUEST_TIMEOUT:?} at {path}");
        Err(Failure::not_dispatched(Code::TargetTimeout, detail))
    })?;
    jar.add(&headers);
    match status.as_u16() {
        200 | 201 => Ok(()),
        401 | 403 => {
            let detail = format!(
                "ALM rejected the credential {} (HTTP {status} at {path}); set it again with \
                 `integration-bridge credential set {}`",
                sign_in.name, sign_in.name
            );
            Err(Failure::not_dispatched(Code::Forbidden, detail))
        }
        429 | 503 => {
            let detail = format!("ALM is busy: it responded to the sign-in with HTTP {status}");
            let failure = Failure::not_dispatched(Code::Overloaded, detail);
            Err(match retry_after(&headers) {
                Some(wait) => failure.with_retry_after(wait),
                None => failure,
            })
        }
        _ => {
            let detail = format!("ALM responded to the sign-in with HTTP {status} at {path}");
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

/// Ends a session, as far as ALM allows it within [`SIGN_OUT_TIMEOUT`].
pub(super) async fn sign_out(active: &TargetAccess, endpoint: &str, jar: &Jar) {
    let both = async {
        let session = AlmRequest {
            method: Method::DELETE,
            path: SITE_SESSION,
            ..AlmRequest::post()
        };
        let session = send(active, endpoint, session, jar).await;
        let logout = AlmRequest {
            path: LOGOUT,
            ..AlmRequest::post()
        };
        let identity = send(active, endpoint, logout, jar).await;
        // Both are sent even if the first fails: each ends something of its own.
        session.and(identity)
    };
    match timeout(SIGN_OUT_TIMEOUT, both).await {
        Ok(Ok((status, _))) => tracing::debug!(endpoint, %status, "signed out of ALM"),
        Ok(Err(failure)) => {
            tracing::debug!(
                endpoint,
                detail = failure.detail,
                "signing out of ALM failed"
            );
        }
        Err(_) => tracing::debug!(endpoint, "signing out of ALM timed out"),
    }
}

/// Asks ALM whether the session's identity is still signed in. `None` where ALM does not respond.
pub(super) async fn is_signed_in(active: &TargetAccess, endpoint: &str, jar: &Jar) -> Option<bool> {
    let request = AlmRequest {
        method: Method::GET,
        path: IS_AUTHENTICATED,
        ..AlmRequest::post()
    };
    let sent = timeout(CHECK_TIMEOUT, send(active, endpoint, request, jar)).await;
    let (status, _) = sent.ok()?.ok()?;
    Some(status.is_success())
}

/// A request of the bridge itself.
struct AlmRequest {
    method: Method,
    path: &'static str,
    content_type: &'static str,
    document: String,
}

impl AlmRequest {
    fn post() -> Self {
        Self {
            method: Method::POST,
            path: "",
            content_type: XML,
            document: String::new(),
        }
    }
}

/// Sends a request, reads its response, and closes the connection: sign-ins are rare.
async fn send(
    active: &TargetAccess,
    endpoint: &str,
    own: AlmRequest,
    jar: &Jar,
) -> Result<(StatusCode, HeaderMap), Failure> {
    let body = Bytes::from(own.document);
    let method = own.method.as_str();
    let mut fields = HeadersBuilder::default();
    let content_type = (!body.is_empty()).then_some(("content-type", own.content_type));
    let always = [("accept", XML), ("user-agent", USER_AGENT)];
    for (name, value) in content_type.into_iter().chain(always) {
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
        let detail = format!("the policy refuses the sign-in to ALM: {refusal}");
        Failure::not_dispatched(Code::RefusedByPolicy, detail)
    };
    let decided = active.policy.decide_own(endpoint, method, own.path);
    let candidate = decided.map_err(refused)?;
    let addresses = resolve(candidate.target().host()).await?;
    let settings = active.config.rules.settings(endpoint);
    let ca_file = settings.and_then(|settings| settings.ca_file.as_deref());
    let pool_key = Client::pool_key(candidate.target(), ca_file, None);
    let request = OwnRequest {
        approved: candidate.approve_any(addresses).map_err(refused)?,
        head: |approved: &Approved| {
            let mut request = request_head(approved, &head)?;
            jar.apply(&own.method, request.headers_mut());
            Ok(request)
        },
    };
    let plan = RequestPlan::new(&candidate, pool_key);
    let attempts = Attempts::new(Replay::IfUnsent(Some(body.clone())), ATTEMPTS_MAX);
    let body = RequestBody::from_bytes(body, head.body);
    let executed = active.client.execute_own(&plan, request, body, attempts);
    // Nothing of a caller's request was sent yet: whatever fails here, that was not dispatched.
    let Executed {
        response,
        mut connection,
        ..
    } = executed.await.map_err(|error| {
        let failure = Failure::from(error);
        Failure::not_dispatched(failure.code, failure.detail)
    })?;
    let (parts, incoming) = response.into_parts();
    let body = ResponseBody::new(incoming, &mut connection);
    // Read, so that the connection is not closed while ALM still writes. The content is not needed.
    let _ = Limited::new(body, RESPONSE_MAX_BYTES).collect().await;
    Ok((parts.status, parts.headers))
}

/// Escapes text for XML (XML 1.0, 2.4).
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
    fn password_is_escaped_in_xml() {
        assert_eq!(escaped("a<&>\"'"), "a&lt;&amp;&gt;\"'");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
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
