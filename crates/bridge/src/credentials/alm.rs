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
//! A sign-in runs in a task of its own: a caller that disconnects does not end it, and further callers wait for
//! the same one. A caller's own sign-in and sign-out are not forwarded (`paths`).

mod backoff;
mod cookie;
mod jar;
pub(crate) mod paths;
mod requests;
mod sign_out;

pub(crate) use jar::Jar;
pub(crate) use sign_out::{sign_out_of, sign_out_of_all, sign_out_of_replaced};

use super::{Credentials, Kind};
use crate::config::Config;
use crate::secret::Secret;
use crate::target_access::TargetAccess;
use backoff::{EndBudget, wait_after, with_retry};
use protocol::{Code, Failure};
use sign_out::{InProgress, sign_out_later};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How the bridge signs in to ALM.
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
    /// Returns the user or the client id.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Password { user, .. } => user,
            Self::ApiKey { client_id, .. } => client_id,
        }
    }

    /// Returns the password, or the secret of the API key.
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
    by_endpoint: Mutex<HashMap<At, Arc<Session>>>,
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
struct Session(Mutex<State>);

#[derive(Default)]
struct State {
    jar: Option<Arc<Jar>>,
    /// A sign-in in progress.
    signing: Option<watch::Receiver<Signed>>,
    failed: Option<Failed>,
    end_budget: EndBudget,
    is_closed: bool,
}

/// The result of a sign-in; `None` while it is in progress.
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

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes it permanently, and returns its session.
    fn close(&self) -> Option<Arc<Jar>> {
        let mut state = self.lock();
        state.is_closed = true;
        state.jar.take()
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<At, Arc<Session>>> {
        self.by_endpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the session of an endpoint.
    ///
    /// # Errors
    /// The credential was removed or replaced.
    fn session(&self, config: &Config, endpoint: &str) -> Result<Arc<Session>, Failure> {
        // The flag is read under the lock: `close_all` sets it before it takes the lock, so a session that is
        // inserted here is either seen by it or not made.
        let mut sessions = self.lock();
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(replaced());
        }
        Ok(sessions
            .entry(At::of(config, endpoint))
            .or_default()
            .clone())
    }

    /// Closes the sessions of all endpoints that are not `kept`, and returns them.
    fn close(&self, kept: impl Fn(&At) -> bool) -> Vec<(At, Arc<Jar>)> {
        let mut sessions = self.lock();
        let gone: Vec<At> = sessions.keys().filter(|at| !kept(at)).cloned().collect();
        gone.into_iter()
            .filter_map(|at| {
                let jar = sessions.remove(&at)?.close()?;
                Some((at, jar))
            })
            .collect()
    }

    /// Closes all sessions permanently, and returns them.
    fn close_all(&self) -> Vec<(At, Arc<Jar>)> {
        self.is_closed.store(true, Ordering::SeqCst);
        self.close(|_| false)
    }

    /// Allows the next request to sign in immediately, after an earlier failure.
    fn forget_failures(&self) {
        for session in self.lock().values() {
            session.lock().failed = None;
        }
    }
}

fn replaced() -> Failure {
    let detail = "the credential was removed or replaced during the request; retry it";
    Failure::not_dispatched(Code::Overloaded, detail)
}

/// A credential's login and its sessions.
#[derive(Clone)]
pub(crate) struct SignIn {
    pub(super) name: String,
    pub(super) login: Login,
    pub(super) sessions: Arc<Sessions>,
}

/// The next step of a caller of [`SignIn::at`].
enum Step {
    Use(Arc<Jar>),
    Wait(watch::Receiver<Signed>),
}

impl SignIn {
    /// Returns the session at an endpoint: the open one, or a new one. Cancel safe: the sign-in continues
    /// without its caller.
    ///
    /// # Errors
    /// The failure of this sign-in, or of the last one until its wait is over. Nothing of the caller's request
    /// was dispatched.
    pub(crate) async fn at(
        &self,
        active: &Arc<TargetAccess>,
        endpoint: &str,
    ) -> Result<Arc<Jar>, Failure> {
        let session = self.sessions.session(&active.config, endpoint)?;
        let mut signing = match self.step(active, endpoint, &session)? {
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
        active: &Arc<TargetAccess>,
        endpoint: &str,
        session: &Arc<Session>,
    ) -> Result<Step, Failure> {
        let mut state = session.lock();
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
            // Signed out only in the background: requests in progress still use it.
            sign_out_later(active, endpoint, old);
        }
        if let Some(signing) = &state.signing {
            return Ok(Step::Wait(signing.clone()));
        }
        if let Some(failed) = &state.failed {
            let left = failed.until.saturating_duration_since(Instant::now());
            // Within the wait, every caller gets the same failure, and ALM gets no request: it locks accounts.
            if !left.is_zero() {
                return Err(with_retry(&failed.failure, left));
            }
        }
        let (result, signing) = watch::channel(None);
        // Set under the lock that was held since the checks: exactly one caller starts a sign-in.
        state.signing = Some(signing.clone());
        let running = RunningSignIn {
            session: session.clone(),
            result,
            _in_progress: InProgress::new(),
        };
        let (own, active, endpoint) = (self.clone(), active.clone(), endpoint.to_owned());
        tokio::spawn(async move {
            let signed = requests::sign_in(&own, &active, &endpoint).await;
            own.ended(&active, &endpoint, &running, signed);
        });
        Ok(Step::Wait(signing))
    }

    /// Stores the result of a sign-in, and passes it to the callers that wait.
    fn ended(
        &self,
        active: &Arc<TargetAccess>,
        endpoint: &str,
        running: &RunningSignIn,
        signed: Result<Jar, Failure>,
    ) {
        let mut state = running.session.lock();
        state.signing = None;
        let signed = match signed {
            Ok(jar) => {
                let jar = Arc::new(jar);
                state.failed = None;
                if state.is_closed {
                    drop(state);
                    // The credential was removed meanwhile, so no later reload would sign this session out.
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
                Err(with_retry(&failure, wait))
            }
        };
        // After the state was set: a caller that comes now must not start another sign-in.
        running.result.send_replace(Some(signed));
    }

    /// Ends the session, because a response shows that it is over. Returns false when responses have ended too
    /// many sessions: it is not replaced then, and the response is passed on.
    pub(crate) fn end_session(
        &self,
        active: &Arc<TargetAccess>,
        endpoint: &str,
        jar: &Arc<Jar>,
        why: SessionEnd,
    ) -> bool {
        let Ok(session) = self.sessions.session(&active.config, endpoint) else {
            return false;
        };
        let mut state = session.lock();
        // Another request has ended it before: this one uses the next session.
        if !state.jar.as_ref().is_some_and(|own| Arc::ptr_eq(own, jar)) {
            return true;
        }
        if !state.end_budget.take(Instant::now()) {
            tracing::warn!(
                endpoint,
                "too many responses of ALM end the session; keeping it"
            );
            return false;
        }
        state.jar = None;
        drop(state);
        tracing::debug!(endpoint, ?why, "ALM session ended");
        match why {
            // ALM may still have the session: it keeps one, and its locks, for an hour.
            SessionEnd::Unauthorized => sign_out_later(active, endpoint, jar.clone()),
            SessionEnd::SignedOut | SessionEnd::Deleted => {}
        }
        true
    }

    /// Asks ALM whether a session is still signed in. Without a response, it counts as signed in.
    pub(crate) async fn is_alive(active: &TargetAccess, endpoint: &str, jar: &Jar) -> bool {
        let alive = requests::is_signed_in(active, endpoint, jar).await;
        alive.unwrap_or(true)
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// A response of 401.
    Unauthorized,
    /// The identity was signed out: 500 "TokenId is invalid".
    SignedOut,
    /// A response has deleted a core cookie.
    Deleted,
}

/// A sign-in in progress. However its task ends, the next caller can start another.
struct RunningSignIn {
    session: Arc<Session>,
    result: watch::Sender<Signed>,
    _in_progress: InProgress,
}

impl Drop for RunningSignIn {
    fn drop(&mut self) {
        let mut state = self.session.lock();
        let is_own = |own: &watch::Receiver<Signed>| own.same_channel(&self.result.subscribe());
        // Another sign-in may have started since; that one must not be forgotten.
        if state.signing.as_ref().is_some_and(is_own) {
            state.signing = None;
        }
    }
}

/// Moves the open sessions to credentials that were read again, where the credential has not changed. After a
/// failed sign-in, the next request signs in immediately.
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
