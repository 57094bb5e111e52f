//! ALM's sign-in in two steps, so that a caller needs no ALM password.
//!
//! ```text
//! POST {base}/authentication-point/alm-authenticate   user, password  -> LWSSO_COOKIE_KEY
//! POST {base}/rest/site-session                       that cookie     -> QCSession, XSRF-TOKEN, ...
//! every request: these cookies; and X-XSRF-TOKEN where the method is not GET
//! ```
//!
//! One sign-in serves all callers of an endpoint. An answer of 401 ends it; the next request signs in
//! again. A password that was not accepted is not tried again for a minute: some servers lock accounts.

use crate::dispatcher::{Active, resolve};
use crate::secret::Secret;
use crate::upstream::{
    AnswerBody, Key, RequestBody, Upstream, refused as refused_by_target, request_failure,
    request_head,
};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use protocol::frame::{BodyLength, Class, HeadersBuilder, RequestHead, RequestTarget, TimeLeft};
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

const AUTHENTICATE: &str = "/authentication-point/alm-authenticate";
const SITE_SESSION: &str = "/rest/site-session";
const XSRF_COOKIE: &str = "XSRF-TOKEN";
const XSRF_FIELD: HeaderName = HeaderName::from_static("x-xsrf-token");

/// How long one of the two requests may take.
const STEP_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of their answers that are read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// How long a sign-in that was refused is not tried again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// A sign-in that was not used for so long is made anew: ALM forgets one after 60 minutes.
const IDLE_MAX: Duration = Duration::from_secs(50 * 60);

/// Cookies in one sign-in, and bytes of one.
const COOKIES_MAX: usize = 32;
const COOKIE_MAX_BYTES: usize = 4096;

/// Where a credential is signed in, by endpoint.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Arc<AsyncMutex<Place>>>>);

/// One endpoint's sign-in.
#[derive(Default)]
struct Place {
    jar: Option<Arc<Jar>>,
    refused: Option<(Instant, Failure)>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

/// The cookies of a sign-in.
pub(crate) struct Jar {
    cookies: Mutex<Vec<(String, String)>>,
    used: Mutex<Instant>,
}

impl fmt::Debug for Jar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jar")
    }
}

impl Jar {
    fn new() -> Self {
        Self {
            cookies: Mutex::default(),
            used: Mutex::new(Instant::now()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.elapsed() > IDLE_MAX
    }

    /// Takes the cookies that an answer sets.
    pub(crate) fn keep_cookies_of(&self, headers: &HeaderMap) {
        let mut cookies = self.lock();
        for value in headers.get_all(header::SET_COOKIE) {
            let Ok(text) = value.to_str() else { continue };
            let pair = text.split(';').next().unwrap_or_default();
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            let (name, value) = (name.trim(), value.trim());
            cookies.retain(|(known, _)| known != name);
            let fits = pair.len() <= COOKIE_MAX_BYTES && cookies.len() < COOKIES_MAX;
            if !value.is_empty() && fits {
                cookies.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// Writes the sign-in into a request's fields, beside the caller's own cookies of other names.
    pub(super) fn apply(&self, method: &Method, headers: &mut HeaderMap) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let cookies = self.lock();
        let mut crumbs: Vec<Vec<u8>> = Vec::new();
        for value in headers.get_all(header::COOKIE) {
            for crumb in value.as_bytes().split(|byte| *byte == b';') {
                let crumb = crumb.trim_ascii();
                let name = crumb.split(|byte| *byte == b'=').next().unwrap_or_default();
                if !crumb.is_empty() && !cookies.iter().any(|(own, _)| own.as_bytes() == name) {
                    crumbs.push(crumb.to_vec());
                }
            }
        }
        crumbs.extend(
            cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}").into_bytes()),
        );
        if let Ok(mut value) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            value.set_sensitive(true);
            headers.insert(header::COOKIE, value);
        }
        let token = cookies.iter().find(|(name, _)| name == XSRF_COOKIE);
        headers.remove(XSRF_FIELD);
        if let Some((_, token)) = token
            && *method != Method::GET
            && let Ok(mut value) = HeaderValue::from_str(token)
        {
            value.set_sensitive(true);
            headers.insert(XSRF_FIELD, value);
        }
    }

    /// What must not be seen.
    pub(super) fn values(&self) -> Vec<String> {
        self.lock().iter().map(|(_, value)| value.clone()).collect()
    }
}

/// What signing in needs.
pub(crate) struct SignIn {
    pub(super) name: String,
    pub(super) user: String,
    pub(super) password: Secret,
    pub(super) sessions: Arc<Sessions>,
}

impl SignIn {
    /// The sign-in at an endpoint: the one there is, or a new one. One at a time for each endpoint. `not`
    /// is one that has just been refused.
    ///
    /// # Errors
    /// What failed on the way; nothing of the request was dispatched.
    pub(crate) async fn at(
        &self,
        active: &Active,
        endpoint: &str,
        not: Option<&Arc<Jar>>,
    ) -> Result<Arc<Jar>, Failure> {
        let place = {
            let mut all = self
                .sessions
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.entry(endpoint.to_owned()).or_default().clone()
        };
        let mut place = place.lock().await;
        if let Some(jar) = &place.jar
            && !jar.is_idle()
            && not.is_none_or(|not| !Arc::ptr_eq(not, jar))
        {
            return Ok(jar.clone());
        }
        if let Some((at, failure)) = &place.refused
            && at.elapsed() < REFUSED_FOR
        {
            return Err(failure.clone());
        }
        place.jar = None;
        match self.fresh(active, endpoint).await {
            Ok(jar) => {
                tracing::info!(endpoint, credential = self.name, "signed in to ALM");
                place.refused = None;
                place.jar = Some(jar.clone());
                Ok(jar)
            }
            Err(failure) => {
                tracing::warn!(
                    endpoint,
                    credential = self.name,
                    detail = failure.detail,
                    "the sign-in to ALM failed"
                );
                if failure.code == Code::Forbidden {
                    place.refused = Some((Instant::now(), failure.clone()));
                }
                Err(failure)
            }
        }
    }

    async fn fresh(&self, active: &Active, endpoint: &str) -> Result<Arc<Jar>, Failure> {
        let jar = Arc::new(Jar::new());
        let document = format!(
            "<alm-authentication><user>{}</user><password>{}</password></alm-authentication>",
            escaped(&self.user),
            escaped(self.password.expose())
        );
        self.step(active, endpoint, AUTHENTICATE, &document, &jar)
            .await?;
        let session = "<session-parameters><client-type>Integration Bridge</client-type>\
                       </session-parameters>";
        self.step(active, endpoint, SITE_SESSION, session, &jar)
            .await?;
        Ok(jar)
    }

    async fn step(
        &self,
        active: &Active,
        endpoint: &str,
        path: &str,
        document: &str,
        jar: &Jar,
    ) -> Result<(), Failure> {
        let asking = ask(active, endpoint, path, document, jar);
        let answered = timeout(STEP_WITHIN, asking).await;
        let (status, headers) = answered.unwrap_or_else(|_| {
            let detail = format!("the sign-in to ALM took longer than {STEP_WITHIN:?} at {path}");
            Err(Failure::not_dispatched(Code::TargetTimeout, detail))
        })?;
        jar.keep_cookies_of(&headers);
        match status.as_u16() {
            200 | 201 => Ok(()),
            401 | 403 => {
                let detail = format!(
                    "ALM did not accept the credential {} (HTTP {status} at {path}); set it again with \
                     `integration-bridge credential set {}`",
                    self.name, self.name
                );
                Err(Failure::not_dispatched(Code::Forbidden, detail))
            }
            _ => {
                let detail = format!("ALM answered the sign-in with HTTP {status} at {path}");
                Err(Failure::not_dispatched(Code::TargetProtocol, detail))
            }
        }
    }
}

/// One request of the sign-in, by the way that every request goes.
async fn ask(
    active: &Active,
    endpoint: &str,
    path: &str,
    document: &str,
    jar: &Jar,
) -> Result<(StatusCode, HeaderMap), Failure> {
    let body = Bytes::copy_from_slice(document.as_bytes());
    let mut fields = HeadersBuilder::default();
    for (name, value) in [
        ("content-type", "application/xml"),
        ("accept", "application/xml"),
    ] {
        let pushed = fields.push(name.as_bytes(), value.as_bytes());
        pushed.map_err(|error| Failure::not_dispatched(Code::Internal, error.to_string()))?;
    }
    let head = RequestHead {
        class: Class::Bulk,
        share: protocol::frame::Share::default(),
        target: RequestTarget::Endpoint {
            name: endpoint.to_owned(),
            path_and_query: path.to_owned(),
        },
        method: "POST".into(),
        headers: fields.build(),
        body: BodyLength::Known(body.len() as u64),
        expect_continue: false,
        time_left: TimeLeft::default(),
        call: None,
        credential: None,
    };
    let refused = |refusal: policy::Refusal| {
        let detail = format!("the sign-in to ALM is refused: {refusal}");
        Failure::not_dispatched(Code::RefusedByPolicy, detail)
    };
    let decided = active.policy.decide_own(endpoint, "POST", path);
    let candidate = decided.map_err(refused)?;
    let addresses = resolve(candidate.target().host()).await?;
    let approved = candidate.approve_any(addresses).map_err(refused)?;
    let settings = active.config.rules.settings(endpoint);
    let ca_file = settings.and_then(|settings| settings.ca_file.as_deref());
    let key: Key = Upstream::key(candidate.target(), ca_file, None);
    // Nothing of the caller's request has left: whatever fails here, it was not dispatched.
    let not_sent = |failure: Failure| Failure::not_dispatched(failure.code, failure.detail);
    let mut is_first = true;
    let (response, mut connection) = loop {
        let connecting = active.upstream.connect(approved.clone(), &key, None);
        let (approved, mut connection) = connecting.await?;
        let mut request = request_head(&approved, &head)?;
        jar.apply(&Method::POST, request.headers_mut());
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
    let _ = Limited::new(body, ANSWER_MAX_BYTES).collect().await;
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
    fn cookies_are_kept_joined_and_renewed() {
        let jar = Jar::new();
        let mut answer = HeaderMap::new();
        for cookie in [
            "LWSSO_COOKIE_KEY=abc; Path=/; HttpOnly",
            "XSRF-TOKEN=t1",
            "QCSession=s==; Secure",
        ] {
            answer.append(header::SET_COOKIE, cookie.parse().unwrap());
        }
        jar.keep_cookies_of(&answer);
        let mut renewed = HeaderMap::new();
        renewed.append(header::SET_COOKIE, "XSRF-TOKEN=t2; Path=/".parse().unwrap());
        renewed.append(header::SET_COOKIE, "QCSession=; Max-Age=0".parse().unwrap());
        jar.keep_cookies_of(&renewed);
        let mut request = HeaderMap::new();
        request.append(header::COOKIE, "own=1; XSRF-TOKEN=forged".parse().unwrap());
        request.insert(XSRF_FIELD, "forged".parse().unwrap());
        jar.apply(&Method::POST, &mut request);
        assert_eq!(
            request[header::COOKIE],
            "own=1; LWSSO_COOKIE_KEY=abc; XSRF-TOKEN=t2"
        );
        assert_eq!(request[XSRF_FIELD], "t2");
        jar.apply(&Method::GET, &mut request);
        assert!(!request.contains_key(XSRF_FIELD));
    }

    #[test]
    fn a_password_cannot_break_out_of_its_element() {
        assert_eq!(escaped("a<&>\"'"), "a&lt;&amp;&gt;\"'");
    }
}
