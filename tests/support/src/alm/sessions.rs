//! Who is signed in: identities (`LWSSO_COOKIE_KEY`) and sessions (`QCSession`), which end apart.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::COOKIE;

/// How long a session lives unused.
const IDLE_MAX: Duration = Duration::from_secs(60 * 60);

/// Everything about signing in.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) passwords: HashMap<String, String>,
    /// Secret, user, and whether the key is active, by client id.
    pub(super) api_keys: HashMap<String, ApiKey>,
    pub(super) sign_ins: u64,
    /// `Retry-After` of the 503 with which every sign-in is answered.
    pub(super) busy: Option<u32>,
    pub(super) idle_max: Duration,
    next: u64,
    /// Its identity, by `LWSSO_COOKIE_KEY`.
    identities: HashMap<String, Identity>,
    logged_out: HashSet<String>,
    /// By `QCSession`.
    open: HashMap<String, Session>,
}

#[derive(Debug)]
pub(super) struct ApiKey {
    pub(super) secret: String,
    pub(super) user: String,
    pub(super) is_active: bool,
}

/// One sign-in; several cookies may stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    number: u64,
    user: String,
}

#[derive(Debug)]
struct Session {
    xsrf: String,
    user: String,
    used: Instant,
    idle_max: Duration,
}

/// A session and its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) session: String,
    pub(super) user: String,
}

/// The session cookies of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SignedIn {
    NoUser,
    LoggedOut,
    As(String),
}

/// Cookies to set when a session opens.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) session: String,
    pub(super) xsrf: String,
    pub(super) user: String,
}

impl Sessions {
    pub(super) fn new(user: &str, password: &str) -> Self {
        Self {
            passwords: HashMap::from([(user.to_owned(), password.to_owned())]),
            api_keys: HashMap::new(),
            sign_ins: 0,
            busy: None,
            idle_max: IDLE_MAX,
            next: 0,
            identities: HashMap::new(),
            logged_out: HashSet::new(),
            open: HashMap::new(),
        }
    }

    fn fresh(&mut self, name: &str) -> String {
        self.next += 1;
        format!("{name}-{:04}", self.next)
    }

    /// A new identity's cookie.
    pub(super) fn identify(&mut self, user: &str) -> String {
        let cookie = self.fresh("lwsso");
        let identity = Identity {
            number: self.next,
            user: user.to_owned(),
        };
        self.identities.insert(cookie.clone(), identity);
        cookie
    }

    /// Another cookie for the same identity.
    pub(super) fn renew(&mut self, headers: &HeaderMap) -> Option<String> {
        let known = cookie(headers, "LWSSO_COOKIE_KEY")?;
        let identity = self.identities.get(&known)?.clone();
        let cookie = self.fresh("lwsso");
        self.identities.insert(cookie.clone(), identity);
        Some(cookie)
    }

    pub(super) fn signed_in(&self, headers: &HeaderMap) -> SignedIn {
        let Some(cookie) = cookie(headers, "LWSSO_COOKIE_KEY") else {
            return SignedIn::NoUser;
        };
        match self.identities.get(&cookie) {
            Some(identity) => SignedIn::As(identity.user.clone()),
            None if self.logged_out.contains(&cookie) => SignedIn::LoggedOut,
            None => SignedIn::NoUser,
        }
    }

    pub(super) fn open(&mut self, user: &str, idle_max: Option<Duration>) -> Opened {
        let (id, xsrf) = (self.fresh("session"), self.fresh("token"));
        let session = Session {
            xsrf: xsrf.clone(),
            user: user.to_owned(),
            used: Instant::now(),
            idle_max: idle_max.unwrap_or(self.idle_max),
        };
        self.open.insert(id.clone(), session);
        Opened {
            session: id,
            xsrf,
            user: user.to_owned(),
        }
    }

    /// The session of a request, which it keeps alive, and the token that a write must bring.
    pub(super) fn session(&mut self, headers: &HeaderMap) -> Option<(Who, String)> {
        let id = cookie(headers, "QCSession")?;
        if !self.is_open(&id) {
            self.open.remove(&id);
            return None;
        }
        let session = self.open.get_mut(&id)?;
        session.used = Instant::now();
        let user = session.user.clone();
        Some((Who { session: id, user }, session.xsrf.clone()))
    }

    /// Whether a session lives; what it had locked is free once it does not.
    pub(super) fn is_open(&self, id: &str) -> bool {
        let session = self.open.get(id);
        session.is_some_and(|session| session.used.elapsed() < session.idle_max)
    }

    pub(super) fn close(&mut self, id: &str) {
        self.open.remove(id);
    }

    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    /// Sessions that are open.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// Ends every identity and every session: their cookies are poison from now on.
    pub(super) fn log_out_all(&mut self) {
        let gone = self.identities.drain().map(|(cookie, _)| cookie);
        self.logged_out.extend(gone);
        self.open.clear();
    }

    /// Ends an identity: every cookie that stood for it is poison from now on.
    pub(super) fn log_out(&mut self, headers: &HeaderMap) {
        let known = cookie(headers, "LWSSO_COOKIE_KEY");
        let Some(gone) = known.and_then(|known| self.identities.get(&known).cloned()) else {
            return;
        };
        let logged_out = &mut self.logged_out;
        self.identities.retain(|cookie, identity| {
            let stays = *identity != gone;
            if !stays {
                logged_out.insert(cookie.clone());
            }
            stays
        });
        if let Some(session) = cookie(headers, "QCSession") {
            self.close(&session);
        }
    }
}

pub(super) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(COOKIE);
    let crumbs = all.iter().filter_map(|value| value.to_str().ok());
    crumbs
        .flat_map(|value| value.split(';'))
        .filter_map(|crumb| crumb.trim().split_once('='))
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn with(cookies: &str) -> HeaderMap {
        let value = HeaderValue::from_str(cookies).expect("a header's value");
        HeaderMap::from_iter([(COOKIE, value)])
    }

    #[test]
    fn logout_ends_every_session_of_the_user() {
        let mut sessions = Sessions::new("ann", "secret");
        let (one, other) = (sessions.identify("ann"), sessions.identify("ann"));
        let headers = with(&format!("LWSSO_COOKIE_KEY={one}"));
        let renewed = sessions.renew(&headers).expect("it is signed in");
        sessions.log_out(&headers);
        for gone in [&one, &renewed] {
            let headers = with(&format!("LWSSO_COOKIE_KEY={gone}"));
            assert_eq!(sessions.signed_in(&headers), SignedIn::LoggedOut);
        }
        let headers = with(&format!("a=1; LWSSO_COOKIE_KEY={other}"));
        assert_eq!(sessions.signed_in(&headers), SignedIn::As("ann".to_owned()));
    }

    #[test]
    fn idle_session_expires() {
        let mut sessions = Sessions::new("ann", "secret");
        let opened = sessions.open("ann", Some(Duration::ZERO));
        assert!(!sessions.is_open(&opened.session));
        let headers = with(&format!("QCSession={}", opened.session));
        assert_eq!(sessions.session(&headers), None);
        let opened = sessions.open("ann", None);
        assert!(sessions.is_open(&opened.session));
    }
}
