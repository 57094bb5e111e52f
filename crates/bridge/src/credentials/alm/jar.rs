//! The cookies of one ALM session.

use super::cookie::{Change, of_caller};
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

const XSRF_COOKIE: &str = "XSRF-TOKEN";
const USER_COOKIE: &str = "ALM_USER";
const XSRF_FIELD: HeaderName = HeaderName::from_static("x-xsrf-token");

/// The cookies that make the session. When the server deletes one, the session is over.
const CORE_COOKIES: [&str; 2] = ["LWSSO_COOKIE_KEY", "QCSession"];

/// Further cookies that a caller must not send, even if the server did not set them.
const SESSION_COOKIES: [&str; 3] = [XSRF_COOKIE, USER_COOKIE, "JSESSIONID"];

/// A session that was not used for this long is replaced: ALM ends an idle one after 60 minutes.
const IDLE_MAX: Duration = Duration::from_secs(50 * 60);

/// Cookies of one session, and bytes of one cookie.
const COOKIES_MAX: usize = 32;
const COOKIE_MAX_BYTES: usize = 4096;

struct Cookie {
    name: String,
    value: String,
    expires: Option<SystemTime>,
}

/// The cookies of a session that the bridge has opened.
///
/// Only the sign-in itself adds cookies ([`Jar::add`]). Responses to callers' requests can change or delete these
/// cookies ([`Jar::follow`]), and add none: otherwise one caller could set a cookie for all.
pub(crate) struct Jar {
    cookies: Mutex<Vec<Cookie>>,
    opened: Instant,
    used: Mutex<Instant>,
}

impl fmt::Debug for Jar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jar")
    }
}

impl Jar {
    pub(super) fn new() -> Self {
        Self {
            cookies: Mutex::default(),
            opened: Instant::now(),
            used: Mutex::new(Instant::now()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Cookie>> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the session may still be used: not idle for too long, and not older than `age_max`.
    pub(super) fn is_fresh(&self, age_max: Duration) -> bool {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.elapsed() <= IDLE_MAX && self.opened.elapsed() <= age_max && self.is_complete()
    }

    /// Returns whether no core cookie has expired.
    fn is_complete(&self) -> bool {
        let now = SystemTime::now();
        let has_ended = |cookie: &Cookie| cookie.expires.is_some_and(|end| end <= now);
        !self
            .lock()
            .iter()
            .any(|cookie| is_core(&cookie.name) && has_ended(cookie))
    }

    /// Returns whether there is a cookie of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        let cookies = self.lock();
        cookies
            .iter()
            .any(|cookie| cookie.name.eq_ignore_ascii_case(name))
    }

    /// Returns whether there is a `QCSession`, which some servers set with the first response.
    pub(super) fn has_session(&self) -> bool {
        self.has(CORE_COOKIES[1])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Stores the cookies of a response to the bridge's own sign-in.
    pub(super) fn add(&self, headers: &HeaderMap) {
        self.change(headers, true);
    }

    /// Updates known cookies from the response to a request. Returns false when a core cookie was deleted, which
    /// ends the session.
    pub(crate) fn follow(&self, headers: &HeaderMap) -> bool {
        self.change(headers, false)
    }

    fn change(&self, headers: &HeaderMap, may_add: bool) -> bool {
        let now = SystemTime::now();
        let mut is_complete = true;
        let mut cookies = self.lock();
        for field in headers.get_all(header::SET_COOKIE) {
            let Some(change) = field
                .to_str()
                .ok()
                .and_then(|text| Change::parse(text, now))
            else {
                continue;
            };
            match change {
                Change::Deleted { name } => {
                    let before = cookies.len();
                    // Deleting a cookie that is not there changes nothing.
                    cookies.retain(|cookie| cookie.name != name);
                    is_complete &= cookies.len() == before || !is_core(&name);
                }
                Change::Set {
                    name,
                    value,
                    expires,
                } => {
                    // Bounds, because all of it goes with every request of every caller.
                    if name.len() + value.len() >= COOKIE_MAX_BYTES {
                        continue;
                    }
                    let known = cookies.iter_mut().find(|cookie| cookie.name == name);
                    if let Some(known) = known {
                        (known.value, known.expires) = (value, expires);
                    } else if may_add && cookies.len() < COOKIES_MAX {
                        cookies.push(Cookie {
                            name,
                            value,
                            expires,
                        });
                    }
                }
            }
        }
        is_complete
    }

    /// Writes the session into a request's fields. The caller's cookies with other names follow those of the
    /// session; session cookies of the caller are dropped.
    pub(crate) fn apply(&self, method: &Method, headers: &mut HeaderMap) {
        // ALM restarts its idle time with every request, too.
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let now = SystemTime::now();
        let mut cookies = self.lock();
        cookies.retain(|cookie| cookie.expires.is_none_or(|end| end > now));
        let is_callers = |name: &str| {
            let mut own = cookies.iter().map(|cookie| cookie.name.as_str());
            !is_core(name)
                && !SESSION_COOKIES
                    .iter()
                    .any(|session| session.eq_ignore_ascii_case(name))
                && !own.any(|own| own.eq_ignore_ascii_case(name))
        };
        let callers = of_caller(headers, is_callers);
        let mut pairs: Vec<String> = cookies
            .iter()
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        pairs.extend(callers);
        headers.remove(header::COOKIE);
        if let Ok(mut value) = HeaderValue::from_str(&pairs.join("; "))
            && !pairs.is_empty()
        {
            value.set_sensitive(true);
            headers.insert(header::COOKIE, value);
        }
        let token = cookies.iter().find(|cookie| cookie.name == XSRF_COOKIE);
        // In any case: a caller must not forge it.
        headers.remove(XSRF_FIELD);
        if let Some(token) = token
            && *method != Method::GET
            && let Ok(mut value) = HeaderValue::from_str(&token.value)
        {
            value.set_sensitive(true);
            headers.insert(XSRF_FIELD, value);
        }
    }

    /// Returns the values that no response to a caller may show.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let cookies = self.lock();
        cookies
            .iter()
            .filter(|cookie| cookie.name != USER_COOKIE)
            .map(|cookie| cookie.value.clone())
            .collect()
    }
}

fn is_core(name: &str) -> bool {
    CORE_COOKIES
        .iter()
        .any(|core| core.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(cookies: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::SET_COOKIE, cookie.parse().unwrap());
        }
        headers
    }

    fn signed_in() -> Jar {
        let jar = Jar::new();
        jar.add(&response(&[
            "LWSSO_COOKIE_KEY=abc; Path=/; HttpOnly",
            "XSRF-TOKEN=t1",
            "QCSession=s==; Secure",
        ]));
        jar
    }

    fn sent(jar: &Jar, method: &Method, callers: &str) -> HeaderMap {
        let mut request = HeaderMap::new();
        request.append(header::COOKIE, callers.parse().unwrap());
        request.insert(XSRF_FIELD, "forged".parse().unwrap());
        jar.apply(method, &mut request);
        request
    }

    #[test]
    fn session_cookies_are_sent_and_rotated() {
        let jar = signed_in();
        assert!(jar.follow(&response(&["XSRF-TOKEN=t2; Path=/", "QCSession=s2"])));
        let request = sent(&jar, &Method::POST, "own=1");
        assert_eq!(
            request[header::COOKIE],
            "LWSSO_COOKIE_KEY=abc; XSRF-TOKEN=t2; QCSession=s2; own=1"
        );
        assert_eq!(request[XSRF_FIELD], "t2");
        let request = sent(&jar, &Method::GET, "own=1");
        assert!(!request.contains_key(XSRF_FIELD));
    }

    #[test]
    fn callers_cannot_send_session_cookies() {
        let jar = signed_in();
        let forged =
            "LWSSO_COOKIE_KEY=x; qcsession=x; XSRF-TOKEN=x; jsessionid=x; ALM_USER=x; own=\"";
        let request = sent(&jar, &Method::POST, forged);
        assert_eq!(
            request[header::COOKIE],
            "LWSSO_COOKIE_KEY=abc; XSRF-TOKEN=t1; QCSession=s=="
        );
    }

    #[test]
    fn responses_to_callers_add_no_cookie() {
        let jar = signed_in();
        assert!(jar.follow(&response(&["JSESSIONID=theirs", "other=1"])));
        assert!(!jar.has("JSESSIONID") && !jar.has("other"));
    }

    #[test]
    fn deleted_core_cookie_ends_the_session() {
        let gone = "Expires=Thu, 01-Jan-1970 00:00:10 GMT; Path=/";
        let jar = signed_in();
        assert!(jar.follow(&response(&["XSRF-TOKEN=\"\""])));
        assert!(!jar.follow(&response(&[&format!("QCSession=\"\"; {gone}")])));
        let request = sent(&jar, &Method::POST, "own=1");
        assert_eq!(request[header::COOKIE], "LWSSO_COOKIE_KEY=abc; own=1");
        assert!(!request.contains_key(XSRF_FIELD));
        // A deleted cookie that was never there does not end this session.
        assert!(signed_in().follow(&response(&["JSESSIONID=; Max-Age=0"])));
    }

    #[test]
    fn jar_has_a_maximum_age_and_size() {
        let jar = signed_in();
        assert!(jar.is_fresh(Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(2));
        assert!(!jar.is_fresh(Duration::from_millis(1)));
        let many: Vec<String> = (0..100).map(|n| format!("c{n}=v")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        jar.add(&response(&many));
        assert_eq!(jar.lock().len(), COOKIES_MAX);
        let long = format!("XSRF-TOKEN={}", "x".repeat(COOKIE_MAX_BYTES));
        jar.follow(&response(&[&long]));
        assert!(jar.secrets().contains(&"t1".to_owned()));
    }
}
