//! Signs out of sessions that are no longer used, in the background.

use super::super::{Credentials, Kind};
use super::{At, Jar, Sessions, requests};
use crate::target_access::TargetAccess;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long requests may continue to use a replaced session before it is signed out.
const USERS_TIMEOUT: Duration = Duration::from_secs(30);
const USERS_POLL: Duration = Duration::from_millis(20);

/// How long the end of the process waits for all sign-outs.
const STOP_TIMEOUT: Duration = Duration::from_secs(6);

/// Sign-ins and sign-outs in progress.
static IN_PROGRESS: AtomicUsize = AtomicUsize::new(0);

/// Counts a sign-in or a sign-out for as long as it runs.
pub(super) struct InProgress;

impl InProgress {
    pub(super) fn new() -> Self {
        IN_PROGRESS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        IN_PROGRESS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Signs out in the background, once no request uses the session any more.
pub(super) fn sign_out_later(access: &Arc<TargetAccess>, endpoint: &str, jar: Arc<Jar>) {
    let (access, endpoint, counted) = (access.clone(), endpoint.to_owned(), InProgress::new());
    tokio::spawn(async move {
        // A request in progress holds the jar: signing out under it would fail it.
        let by = Instant::now() + USERS_TIMEOUT;
        while Arc::strong_count(&jar) > 1 && Instant::now() < by {
            tokio::time::sleep(USERS_POLL).await;
        }
        requests::sign_out(&access, &endpoint, &jar).await;
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

/// Signs out of all sessions of the earlier config or credentials that the active ones do not use. Must run in
/// a tokio runtime; the sign-outs continue in the background.
pub(crate) fn sign_out_of_replaced(
    before: &Arc<TargetAccess>,
    old_credentials: &Credentials,
    now: &TargetAccess,
    new_credentials: &Credentials,
) {
    for old in old_credentials.all() {
        let Some(sessions) = sessions_of(&old.kind) else {
            continue;
        };
        // The same `Sessions` was adopted by the new credential: only endpoints that changed are signed out.
        let is_shared = new_credentials
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

/// Signs out of all sessions, before the process ends. Takes [`STOP_TIMEOUT`] at most.
pub(crate) async fn sign_out_of_all(access: &Arc<TargetAccess>, credentials: &Credentials) {
    for one in credentials.all() {
        let sessions = sessions_of(&one.kind);
        for (at, jar) in sessions.into_iter().flat_map(|one| one.close_all()) {
            sign_out_later(access, &at.endpoint, jar);
        }
    }
    signed_out().await;
}

/// Signs out of one endpoint, for a command that signed in to check it. Takes [`STOP_TIMEOUT`] at most.
pub(crate) async fn sign_out_of(
    access: &Arc<TargetAccess>,
    credentials: &Credentials,
    endpoint: &str,
) {
    for one in credentials.all() {
        let sessions = sessions_of(&one.kind).into_iter();
        let over = sessions.flat_map(|one| one.close(|at| at.endpoint != endpoint));
        for (at, jar) in over {
            sign_out_later(access, &at.endpoint, jar);
        }
    }
    signed_out().await;
}

/// Waits until no sign-in and no sign-out is in progress.
async fn signed_out() {
    let over = async {
        // Polled: this runs only when a process or a command ends.
        while IN_PROGRESS.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(USERS_POLL).await;
        }
    };
    let _ = tokio::time::timeout(STOP_TIMEOUT, over).await;
}
