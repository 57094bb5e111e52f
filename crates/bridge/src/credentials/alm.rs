//! ALM's sign-in, so that a caller needs no ALM password.
//!
//! ```text
//! user and password                                     API key
//! POST {base}/authentication-point/alm-authenticate     POST {base}/rest/oauth2/login
//! POST {base}/rest/site-session
//!        \---> LWSSO_COOKIE_KEY, QCSession, XSRF-TOKEN, ... <---/
//! every request: these cookies; and X-XSRF-TOKEN where the method is not GET
//! ```
//!
//! One session serves all callers of an endpoint:
//!
//! ```text
//!            first request             a response of 401, "TokenId is invalid",
//!            or after the end          a deleted core cookie, greatest age, idle
//! (none) ---------------------> open -------------------------------------------> (none)
//!    ^        |                                   \--> signed out once no request uses it
//!    |        | fails
//!    +-- wait <-   the failure is the response to every caller until the wait is over
//! ```
//!
//! A sign-in runs in a task of its own: a caller that hangs up does not end it, and callers that come
//! meanwhile wait for the same one. A caller's own sign-in and sign-out are not forwarded (`paths`).

mod cookie;
mod jar;
pub(crate) mod paths;
mod requests;

pub(crate) use jar::Jar;

use super::{Credentials, Kind};
use crate::config::Config;
use crate::dispatcher::Active;
use crate::secret::Secret;
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The wait after a sign-in that ALM refused, at first and at most. It doubles each time: ALM locks
/// accounts.
const REFUSED_WAIT_MIN: Duration = Duration::from_secs(60);
const REFUSED_WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// The wait after a sign-in that failed otherwise, at first and at most. It doubles each time.
const FAILED_WAIT_MIN: Duration = Duration::from_millis(500);
const FAILED_WAIT_MAX: Duration = Duration::from_secs(10);

/// The wait after a sign-in that ALM was too busy for: where it names none, and at most.
const BUSY_WAIT: Duration = Duration::from_secs(5);
const BUSY_WAIT_MAX: Duration = Duration::from_secs(5 * 60);

/// Sessions of an endpoint that responses may end at once, and how long until one more may. A resource
/// that always responds with 401 must not make the bridge sign in without end.
const ENDINGS_MAX: u32 = 60;
const ENDING_EVERY: Duration = Duration::from_secs(1);

/// How long requests may go on to use a session that was replaced, until it is signed out.
const USERS_WITHIN: Duration = Duration::from_secs(30);
const USERS_POLL: Duration = Duration::from_millis(20);

/// How long the end of the process waits for all sign-outs.
const STOP_WITHIN: Duration = Duration::from_secs(6);

/// Sign-ins and sign-outs that are under way.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// What ALM is signed in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Login {
    /// A user and the password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// An API key of ALM.
    ApiKey {
        /// Its client id.
        client_id: String,
        /// Its secret.
        secret: Secret,
    },
}

impl Login {
    /// The user or the client id.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Password { user, .. } => user,
            Self::ApiKey { client_id, .. } => client_id,
        }
    }

    /// The password, or the secret of the API key.
    pub(crate) fn secret(&self) -> &Secret {
        match self {
            Self::Password { password, .. } => password,
            Self::ApiKey { secret, .. } => secret,
        }
    }
}

/// The sessions of one credential, by endpoint.
#[derive(Default)]
pub(crate) struct Sessions {
    places: Mutex<HashMap<At, Arc<Place>>>,
    is_closed: AtomicBool,
}

/// An endpoint, and the base URL that its session is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct At {
    endpoint: String,
    base: String,
}

impl At {
    fn of(config: &Config, endpoint: &str) -> Self {
        let mut endpoints = config.rules.endpoints.iter();
        let base = endpoints.find(|own| own.name == endpoint);
        Self {
            endpoint: endpoint.to_owned(),
            base: base.map(|own| own.base.to_string()).unwrap_or_default(),
        }
    }
}

/// The session of one endpoint.
#[derive(Default)]
struct Place(Mutex<State>);

#[derive(Default)]
struct State {
    jar: Option<Arc<Jar>>,
    /// A sign-in that is under way.
    signing: Option<watch::Receiver<Signed>>,
    failed: Option<Failed>,
    endings: Endings,
    is_closed: bool,
}

/// What a sign-in came to; `None` while it is under way.
type Signed = Option<Result<Arc<Jar>, Failure>>;

/// The last sign-in failed.
struct Failed {
    failure: Failure,
    until: Instant,
    wait: Duration,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it for good and returns its session.
    fn close(&self) -> Option<Arc<Jar>> {
        let mut state = self.lock();
        state.is_closed = true;
        state.jar.take()
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<At, Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint's place.
    ///
    /// # Errors
    /// The credential was removed or replaced.
    fn place(&self, config: &Config, endpoint: &str) -> Result<Arc<Place>, Failure> {
        // One lock for both: `close` sets the flag before it takes the lock.
        let mut places = self.lock();
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(replaced());
        }
        Ok(places.entry(At::of(config, endpoint)).or_default().clone())
    }

    /// Ends the sessions of all endpoints that are not `kept`, and returns them.
    fn close(&self, kept: impl Fn(&At) -> bool) -> Vec<(At, Arc<Jar>)> {
        let mut places = self.lock();
        let gone: Vec<At> = places.keys().filter(|at| !kept(at)).cloned().collect();
        gone.into_iter()
            .filter_map(|at| {
                let jar = places.remove(&at)?.close()?;
                Some((at, jar))
            })
            .collect()
    }

    /// As [`Self::close`], of all, for good.
    fn close_all(&self) -> Vec<(At, Arc<Jar>)> {
        self.is_closed.store(true, Ordering::SeqCst);
        self.close(|_| false)
    }

    /// Lets the next request sign in at once, whatever failed before.
    fn forget_failures(&self) {
        for place in self.lock().values() {
            place.lock().failed = None;
        }
    }
}

fn replaced() -> Failure {
    let detail = "the credential was removed or replaced at this moment";
    Failure::not_dispatched(Code::Overloaded, detail)
}

/// How often responses may still end the endpoint's session: a token bucket.
struct Endings {
    left: u32,
    since: Instant,
}

impl Default for Endings {
    fn default() -> Self {
        Self {
            left: ENDINGS_MAX,
            since: Instant::now(),
        }
    }
}

impl Endings {
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs() / ENDING_EVERY.as_secs();
        let more = u32::try_from(passed).unwrap_or(u32::MAX);
        if more > 0 {
            self.since = now;
            self.left = self.left.saturating_add(more).min(ENDINGS_MAX);
        }
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }
}

/// What signing in needs.
#[derive(Clone)]
pub(crate) struct SignIn {
    pub(super) name: String,
    pub(super) login: Login,
    pub(super) sessions: Arc<Sessions>,
}

/// What a caller of [`SignIn::at`] has to do.
enum Step {
    Use(Arc<Jar>),
    Wait(watch::Receiver<Signed>),
}

impl SignIn {
    /// Returns the session at an endpoint: the open one, or a new one. Cancel safe: the sign-in goes on
    /// without its caller.
    ///
    /// # Errors
    /// What failed, now or a moment ago; nothing of the caller's request was dispatched.
    pub(crate) async fn at(
        &self,
        active: &Arc<Active>,
        endpoint: &str,
    ) -> Result<Arc<Jar>, Failure> {
        let place = self.sessions.place(&active.config, endpoint)?;
        let mut signing = match self.step(active, endpoint, &place)? {
            Step::Use(jar) => return Ok(jar),
            Step::Wait(signing) => signing,
        };
        let signed = signing.wait_for(Option::is_some).await;
        let signed = signed.ok().and_then(|signed| signed.clone());
        signed.unwrap_or_else(|| {
            let detail = "the sign-in to ALM ended without a result";
            Err(Failure::not_dispatched(Code::Internal, detail))
        })
    }

    fn step(
        &self,
        active: &Arc<Active>,
        endpoint: &str,
        place: &Arc<Place>,
    ) -> Result<Step, Failure> {
        let mut state = place.lock();
        if state.is_closed {
            return Err(replaced());
        }
        let age_max = active.config.targets.alm_session_max_age.get();
        if let Some(jar) = &state.jar
            && jar.is_fresh(age_max)
        {
            return Ok(Step::Use(jar.clone()));
        }
        if let Some(old) = state.jar.take() {
            sign_out_later(active, endpoint, old);
        }
        if let Some(signing) = &state.signing {
            return Ok(Step::Wait(signing.clone()));
        }
        if let Some(failed) = &state.failed {
            let left = failed.until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Err(again(&failed.failure, left));
            }
        }
        let (tell, signing) = watch::channel(None);
        state.signing = Some(signing.clone());
        let running = Running {
            place: place.clone(),
            tell,
            _counted: Counted::new(),
        };
        let (own, active, endpoint) = (self.clone(), active.clone(), endpoint.to_owned());
        tokio::spawn(async move {
            let signed = requests::sign_in(&own, &active, &endpoint).await;
            own.ended(&active, &endpoint, &running, signed);
        });
        Ok(Step::Wait(signing))
    }

    /// A sign-in has come to its end.
    fn ended(
        &self,
        active: &Arc<Active>,
        endpoint: &str,
        running: &Running,
        signed: Result<Jar, Failure>,
    ) {
        let mut state = running.place.lock();
        state.signing = None;
        let signed = match signed {
            Ok(jar) => {
                let jar = Arc::new(jar);
                state.failed = None;
                if state.is_closed {
                    drop(state);
                    sign_out_later(active, endpoint, jar);
                    Err(replaced())
                } else {
                    tracing::info!(endpoint, credential = self.name, "signed in to ALM");
                    state.jar = Some(jar.clone());
                    drop(state);
                    Ok(jar)
                }
            }
            Err(failure) => {
                let before = state.failed.as_ref();
                let wait = wait_after(&failure, before.map(|failed| failed.wait));
                tracing::warn!(
                    endpoint,
                    credential = self.name,
                    detail = failure.detail,
                    ?wait,
                    "the sign-in to ALM failed"
                );
                state.failed = Some(Failed {
                    failure: failure.clone(),
                    until: Instant::now() + wait,
                    wait,
                });
                drop(state);
                Err(again(&failure, wait))
            }
        };
        running.tell.send_replace(Some(signed));
    }

    /// Ends the session, because a response says that it is over. False when it may not be replaced now,
    /// because responses have ended too many: then the response stands.
    pub(crate) fn end_session(
        &self,
        active: &Arc<Active>,
        endpoint: &str,
        jar: &Arc<Jar>,
        why: SessionEnd,
    ) -> bool {
        let Ok(place) = self.sessions.place(&active.config, endpoint) else {
            return false;
        };
        let mut state = place.lock();
        // Another request has found it before.
        if !state.jar.as_ref().is_some_and(|own| Arc::ptr_eq(own, jar)) {
            return true;
        }
        if !state.endings.take(Instant::now()) {
            tracing::warn!(endpoint, "too many responses of ALM end the session");
            return false;
        }
        state.jar = None;
        drop(state);
        tracing::debug!(endpoint, ?why, "the session with ALM is over");
        match why {
            // Its cookies may live on: ALM keeps a session and its locks for an hour.
            SessionEnd::Unauthorized => sign_out_later(active, endpoint, jar.clone()),
            SessionEnd::SignedOut | SessionEnd::Deleted => {}
        }
        true
    }

    /// Asks ALM whether a session still lives. A session without a response to that is taken for alive.
    pub(crate) async fn is_alive(active: &Active, endpoint: &str, jar: &Jar) -> bool {
        let alive = requests::is_signed_in(active, endpoint, jar).await;
        alive.unwrap_or(true)
    }
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// A response of 401.
    Unauthorized,
    /// The identity was signed out: 500 "TokenId is invalid".
    SignedOut,
    /// A response has deleted a core cookie.
    Deleted,
}

/// A sign-in that is under way. However its task ends, the next caller can start another.
struct Running {
    place: Arc<Place>,
    tell: watch::Sender<Signed>,
    _counted: Counted,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.place.lock();
        let is_own = |own: &watch::Receiver<Signed>| own.same_channel(&self.tell.subscribe());
        if state.signing.as_ref().is_some_and(is_own) {
            state.signing = None;
        }
    }
}

/// How long no further sign-in is tried after a failure, `before` being the last wait.
fn wait_after(failure: &Failure, before: Option<Duration>) -> Duration {
    let (min, max) = match failure.code {
        Code::Forbidden => (REFUSED_WAIT_MIN, REFUSED_WAIT_MAX),
        Code::Overloaded => {
            return failure
                .retry_after()
                .unwrap_or(BUSY_WAIT)
                .min(BUSY_WAIT_MAX);
        }
        _ => (FAILED_WAIT_MIN, FAILED_WAIT_MAX),
    };
    before.map_or(min, |before| (before * 2).clamp(min, max))
}

/// A failure, for a caller who may come again after `left`.
fn again(failure: &Failure, left: Duration) -> Failure {
    match failure.code {
        Code::Overloaded => failure.clone().with_retry_after(left),
        _ => failure.clone(),
    }
}

/// Counts a sign-in or a sign-out for as long as it runs.
struct Counted;

impl Counted {
    fn new() -> Self {
        UNDER_WAY.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Signs out in the background, once no request uses the session any more.
fn sign_out_later(active: &Arc<Active>, endpoint: &str, jar: Arc<Jar>) {
    let (active, endpoint, counted) = (active.clone(), endpoint.to_owned(), Counted::new());
    tokio::spawn(async move {
        let by = Instant::now() + USERS_WITHIN;
        while Arc::strong_count(&jar) > 1 && Instant::now() < by {
            tokio::time::sleep(USERS_POLL).await;
        }
        requests::sign_out(&active, &endpoint, &jar).await;
        drop(counted);
    });
}

fn sessions_of(kind: &Kind) -> Option<&Arc<Sessions>> {
    match kind {
        Kind::Alm { sessions, .. } => Some(sessions),
        Kind::Basic { .. } | Kind::Bearer { .. } | Kind::Header { .. } | Kind::Certificate(_) => {
            None
        }
    }
}

/// Signs out wherever the config or the credentials before have a session that those of now do not use.
/// Must run in a runtime; the sign-outs go on in the background.
pub(crate) fn sign_out_of_replaced(before: &Arc<Active>, now: &Active) {
    for old in before.credentials.all() {
        let Some(sessions) = sessions_of(&old.kind) else {
            continue;
        };
        let is_shared = now
            .credentials
            .get(&old.name)
            .and_then(|new| sessions_of(&new.kind))
            .is_some_and(|new| Arc::ptr_eq(new, sessions));
        let kept = |at: &At| {
            let settings = now.config.rules.settings(&at.endpoint);
            let named = settings.and_then(|settings| settings.credential.as_deref());
            named == Some(old.name.as_str()) && At::of(&now.config, &at.endpoint) == *at
        };
        let over = match is_shared {
            true => sessions.close(kept),
            false => sessions.close_all(),
        };
        for (at, jar) in over {
            sign_out_later(before, &at.endpoint, jar);
        }
    }
}

/// Signs out of everything, before the end of the process. Takes [`STOP_WITHIN`] at most.
pub(crate) async fn sign_out_of_all(active: &Arc<Active>) {
    for one in active.credentials.all() {
        let sessions = sessions_of(&one.kind);
        for (at, jar) in sessions.into_iter().flat_map(|one| one.close_all()) {
            sign_out_later(active, &at.endpoint, jar);
        }
    }
    signed_out().await;
}

/// Signs out of one endpoint, for a command that has signed in to look at it. Takes [`STOP_WITHIN`] at
/// most.
pub(crate) async fn sign_out_of(active: &Arc<Active>, endpoint: &str) {
    for one in active.credentials.all() {
        let sessions = sessions_of(&one.kind).into_iter();
        let over = sessions.flat_map(|one| one.close(|at| at.endpoint != endpoint));
        for (at, jar) in over {
            sign_out_later(active, &at.endpoint, jar);
        }
    }
    signed_out().await;
}

/// Waits until no sign-in and no sign-out is under way.
async fn signed_out() {
    let over = async {
        while UNDER_WAY.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(USERS_POLL).await;
        }
    };
    let _ = tokio::time::timeout(STOP_WITHIN, over).await;
}

/// Gives credentials that were read again the open sessions of those before, where nothing of the
/// credential has changed. A sign-in that failed before is tried again at once.
pub(super) fn adopt(new: &mut super::Credential, before: &Credentials) {
    let old = before.get(&new.name);
    let Some(old) = old.filter(|old| old.origins == new.origins) else {
        return;
    };
    if let (
        Kind::Alm { login, sessions },
        Kind::Alm {
            login: old_login,
            sessions: open,
        },
    ) = (&mut new.kind, &old.kind)
        && login == old_login
    {
        open.forget_failures();
        *sessions = open.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_after_failed_sign_ins_grow_to_a_bound() {
        let refused = Failure::not_dispatched(Code::Forbidden, "");
        let mut wait = wait_after(&refused, None);
        assert_eq!(wait, REFUSED_WAIT_MIN);
        for _ in 0..10 {
            wait = wait_after(&refused, Some(wait));
        }
        assert_eq!(wait, REFUSED_WAIT_MAX);
        let closed = Failure::not_dispatched(Code::TargetClosed, "");
        assert_eq!(wait_after(&closed, None), FAILED_WAIT_MIN);
        assert_eq!(wait_after(&closed, Some(wait)), FAILED_WAIT_MAX);
        let busy = Failure::not_dispatched(Code::Overloaded, "");
        assert_eq!(wait_after(&busy, Some(wait)), BUSY_WAIT);
        let named = busy.clone().with_retry_after(Duration::from_secs(30));
        assert_eq!(wait_after(&named, None), Duration::from_secs(30));
        let long = busy.with_retry_after(Duration::from_secs(1_000_000));
        assert_eq!(wait_after(&long, None), BUSY_WAIT_MAX);
    }

    #[test]
    fn responses_end_a_bounded_number_of_sessions() {
        let mut endings = Endings::default();
        let start = endings.since;
        for _ in 0..ENDINGS_MAX {
            assert!(endings.take(start));
        }
        assert!(!endings.take(start));
        assert!(endings.take(start + ENDING_EVERY));
        assert!(!endings.take(start + ENDING_EVERY));
    }
}
