//! One of the bridge's connections: kept up for as long as the bridge runs.
//!
//! ```text
//!            +--------------------- wait (backoff, full jitter) <-------------------+
//!            v                                                                      |
//! epoch -> dial -> opening -> up --(ends)-------------------------------------------+
//!            ^                |--(GOAWAY)--> the old session finishes by itself     |
//!            +----------------+                                                     |
//!                             \--(stop)---> drain, end            (refused: slow, loud)
//! ```
//!
//! It never gives up. What only an administrator can repair is logged at level ERROR, once a minute. A disk that
//! takes nothing does not keep it away: the epoch in memory grows all the same.

use crate::audit::Audit;
use crate::clock;
use crate::connection_counter::{Epoch, TooFar};
use crate::data_dir::{DataDir, DataDirError};
use crate::deliveries::Deliveries;
use crate::dispatcher::Dispatcher;
use crate::health::Health;
use crate::stats::RuntimeStats;
use protocol::frame::{GoAway, GoAwayReason, PreviousSession, RefusedCode, Windows};
use protocol::limits::STREAM_WINDOW_CAP_BYTES;
use protocol::session::{Budget, EndReason};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use transport::Session;
use transport::backoff::Reconnect;
use transport::dial::{DialError, Dialer};
use transport::handle::Settings;
use transport::handshake::{Identity, Introduction, Tunnel};

/// Wait before asking again what only a person can mend.
const SLOW: Duration = Duration::from_secs(60);

/// How long a drain may take.
pub(crate) const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// How long a session that the relay wants gone may go on beside its successor. Long, for what it
/// carries may be long; the relay ends it when it has to.
const OLD_SESSION_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a relay that left in order may take until its successor is there.
const SUCCESSOR_AFTER: Duration = Duration::from_secs(1);

/// How long a session may stay after the relay said that this is its end at once.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// How far the bridge is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It runs.
    Running,
    /// What runs may finish; nothing new begins.
    Draining,
    /// Everything ends now.
    Stopped,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) dialer: Mutex<Dialer>,
    pub(crate) tenant: String,
    pub(crate) name: String,
    /// When the config in force was taken, in seconds since 1970.
    pub(crate) config_taken: AtomicU64,
    pub(crate) identity: Identity,
    pub(crate) data_dir: DataDir,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) windows: Windows,
    pub(crate) budget: Arc<Budget>,
    pub(crate) stage: watch::Sender<Stage>,
    /// Nodes that the relay has, as WELCOME said last.
    pub(crate) nodes: watch::Sender<u16>,
    /// Live sessions, those included that are on their way out.
    pub(crate) sessions: watch::Sender<Vec<Session>>,
    pub(crate) clock_jumps: watch::Sender<u64>,
    pub(crate) old: Mutex<JoinSet<()>>,
    pub(crate) health: Health,
    /// Where this bridge runs, for work that a thread outside it begins.
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) board: Arc<RuntimeStats>,
    pub(crate) audit: Option<Arc<Audit>>,
}

impl Shared {
    fn settings(&self) -> Settings {
        let (dispatcher, deliveries) = (self.dispatcher.clone(), self.deliveries.clone());
        Settings {
            windows: self.windows,
            budget: self.budget.clone(),
            stream_window_cap: STREAM_WINDOW_CAP_BYTES,
            on_open: Some(Arc::new(move |incoming| dispatcher.accept(incoming))),
            on_result: None,
            on_result_ack: Some(Arc::new(move |attempt| deliveries.acknowledged(attempt))),
        }
    }

    /// How the relay is dialled now.
    pub(crate) fn dialer(&self) -> Dialer {
        let dialer = self.dialer.lock().unwrap_or_else(PoisonError::into_inner);
        dialer.clone()
    }

    /// How it is dialled from now on.
    pub(crate) fn set_dialer(&self, dialer: Dialer) {
        *self.dialer.lock().unwrap_or_else(PoisonError::into_inner) = dialer;
    }

    /// Tells the relay how this bridge is, on every session.
    pub(crate) fn report(&self) {
        for session in self.sessions.borrow().iter() {
            self.report_on(session);
        }
    }

    fn report_on(&self, session: &Session) {
        let serves = session.serves();
        let names = serves.endpoints.iter().map(String::as_str);
        let mut report = self.health.report(names);
        report.audit = self.audit.as_ref().and_then(|audit| audit.head());
        session.send_report(report);
    }

    fn add(&self, session: &Session) {
        self.sessions
            .send_modify(|sessions| sessions.push(session.clone()));
    }

    fn remove(&self, session: &Session) {
        self.sessions
            .send_modify(|sessions| sessions.retain(|other| !other.is_same(session)));
    }
}

/// Watches the clock for all slots.
pub(crate) async fn watch_clock(shared: Arc<Shared>) {
    clock::watch(shared.clock_jumps.clone()).await;
}

/// Looks at the endpoints, and tells the relay.
pub(crate) async fn watch_health(shared: Arc<Shared>) {
    let active = || shared.dispatcher.active();
    shared.health.watch(active, || shared.report()).await;
}

/// Waits until the stage is at least `stage`.
async fn reached(stages: &mut watch::Receiver<Stage>, stage: Stage) {
    // The sender lives as long as the shared state that every slot holds.
    let _ = stages.wait_for(|now| *now >= stage).await;
}

/// One connection.
pub(crate) struct Slot {
    number: u8,
    shared: Arc<Shared>,
    epoch: Option<Epoch>,
    reconnect: Reconnect,
    previous: Option<PreviousSession>,
    /// Sessions that the relay wants gone; they go on until the next one is up.
    retiring: Vec<Session>,
    /// The relay called our epoch stale, and nothing was learned since.
    is_stale_again: bool,
    /// The disk did not take the last epoch.
    is_disk_failing: bool,
}

/// What comes after an attempt.
enum Next {
    /// Dial at once.
    Now,
    /// Dial after so long.
    Wait(Duration),
    /// The bridge stops.
    End,
}

impl Slot {
    pub(crate) fn new(number: u8, shared: Arc<Shared>) -> Self {
        Self {
            number,
            shared,
            epoch: None,
            reconnect: Reconnect::new(),
            previous: None,
            retiring: Vec::new(),
            is_stale_again: false,
            is_disk_failing: false,
        }
    }

    /// Keeps the connection up until the bridge stops. A slot above the first waits until the
    /// relay has as many nodes.
    pub(crate) async fn run(mut self) {
        let mut stages = self.shared.stage.subscribe();
        let mut nodes = self.shared.nodes.subscribe();
        let number = u16::from(self.number);
        if number > 0 {
            self.shared.board.unused(self.number);
        }
        tokio::select! {
            result = nodes.wait_for(|nodes| *nodes > number) => drop(result),
            () = reached(&mut stages, Stage::Draining) => return,
        }
        loop {
            let next = tokio::select! {
                next = self.attempt() => next,
                // Only while dialling: a session that is up looks at the stage itself.
                () = async {
                    reached(&mut stages, Stage::Stopped).await;
                    // Its driver needs a moment to say GOAWAY.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                } => return,
            };
            let wait = match next {
                Next::Now => continue,
                Next::Wait(wait) => wait,
                Next::End => return,
            };
            if !self.wait_or_successor(wait).await {
                return;
            }
        }
    }

    /// Waits, and not much longer than until the relay that asked for a new session is gone: what comes
    /// in its place may be there soon, and waits that grew while it drained would be too long. False when
    /// the bridge stops.
    async fn wait_or_successor(&mut self, wait: Duration) -> bool {
        let Some(session) = self.retiring.last().cloned() else {
            return self.wait(wait).await;
        };
        let until = tokio::time::Instant::now() + wait;
        tokio::select! {
            goes_on = self.wait(wait) => return goes_on,
            _ = session.ended() => {}
        }
        self.retiring.retain(|old| !old.is_over());
        self.reconnect.reset_after_drain();
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let wait = left.min(self.reconnect.next_wait(Some(SUCCESSOR_AFTER)));
        self.wait(wait).await
    }

    /// Waits, or until the clock jumps. False when the bridge stops.
    async fn wait(&self, wait: Duration) -> bool {
        let mut stages = self.shared.stage.subscribe();
        let mut jumps = self.shared.clock_jumps.subscribe();
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            changed = jumps.changed() => { drop(changed); true }
            () = reached(&mut stages, Stage::Draining) => false,
        }
    }

    async fn next_epoch(&mut self) -> Result<u64, DataDirError> {
        let (shared, number, known) = (self.shared.clone(), self.number, self.epoch.take());
        let result = tokio::task::spawn_blocking(move || {
            // Networks change while we are away from the relay.
            shared.dispatcher.refresh_addresses();
            let mut epoch = match known {
                Some(epoch) => epoch,
                None => match Epoch::load(&shared.data_dir, number) {
                    Ok(epoch) => epoch,
                    Err(error) if is_passing(&error) => {
                        tracing::error!(
                            slot = number,
                            error = chain(&error),
                            "the epoch cannot be read; the relay says which one it saw last"
                        );
                        Epoch::unread(number)
                    }
                    Err(error) => return Err(error),
                },
            };
            let (next, written) = epoch.next(&shared.data_dir);
            Ok::<_, DataDirError>((epoch, next, written))
        })
        .await;
        let (epoch, next, written) = result.expect("reading and writing a file does not panic")?;
        self.epoch = Some(epoch);
        let was_failing = std::mem::replace(&mut self.is_disk_failing, written.is_err());
        match written {
            Err(error) if !was_failing => tracing::error!(
                slot = self.number,
                error = chain(&error),
                "the epoch cannot be written; the one in memory is used"
            ),
            Ok(()) if was_failing => {
                tracing::info!(slot = self.number, "the epoch can be written again");
            }
            Ok(()) | Err(_) => {}
        }
        Ok(next)
    }

    /// Dials, and carries the session to its end.
    async fn attempt(&mut self) -> Next {
        let mut stages = self.shared.stage.subscribe();
        self.shared.board.connecting(self.number);
        let dialling = async {
            let epoch = self.next_epoch().await.map_err(Attempt::Disk)?;
            let introduction = Introduction {
                slot: self.number,
                epoch,
                serves: self.shared.dispatcher.active().serves(),
                previous: self.previous.clone(),
                journal: self.shared.deliveries.journal.mark(),
            };
            let has_journal = introduction.journal.is_some();
            let shared = &self.shared;
            let dialer = shared.dialer();
            let dialled = dialer.tunnel(&shared.identity, introduction, shared.settings());
            let tunnel = dialled.await.map_err(Attempt::Dial)?;
            Ok::<_, Attempt>((tunnel, has_journal))
        };
        let dialled = tokio::select! {
            dialled = dialling => dialled,
            () = reached(&mut stages, Stage::Draining) => return Next::End,
        };
        match dialled {
            Ok((tunnel, has_journal)) => self.carry(tunnel, has_journal).await,
            Err(Attempt::Dial(error)) => self.failed(&error),
            Err(Attempt::Disk(error)) => {
                self.shared.board.down(self.number, chain(&error), None);
                tracing::error!(
                    slot = self.number, error = %chain(&error),
                    "no connection without an epoch: its file cannot be used"
                );
                Next::Wait(SLOW)
            }
        }
    }

    fn failed(&mut self, error: &DialError) -> Next {
        let relay = self.shared.dialer().relay().to_string();
        if let Some(RefusedCode::StaleEpoch { current }) = error.refused() {
            if let Some(Err(error)) = self.epoch.as_mut().map(|epoch| epoch.raise(current)) {
                return self.is_far_off(&error, &relay);
            }
            if !std::mem::replace(&mut self.is_stale_again, true) {
                return Next::Now;
            }
            let error = "another process connects with this identity".to_owned();
            let advice =
                "was the data directory copied? Remove the copy's identity.json and pair it anew";
            self.shared.board.down(self.number, error, Some(advice));
            tracing::error!(
                slot = self.number,
                relay,
                current,
                "another process connects with this identity: was the data directory copied? \
                 Remove the copy's identity.json and pair it anew"
            );
            return Next::Wait(SLOW);
        }
        let error_text = chain(error);
        let help = error.needs_operator().then(|| advice(error));
        self.shared
            .board
            .down(self.number, error_text.clone(), help);
        if error.needs_operator() {
            let wait = SLOW.max(self.reconnect.next_wait(error.retry_after()));
            tracing::error!(
                slot = self.number,
                relay,
                error = error_text,
                advice = advice(error),
                wait = %shown(wait),
                "the relay does not take this bridge"
            );
            return Next::Wait(wait);
        }
        let wait = self.reconnect.next_wait(error.retry_after());
        tracing::warn!(
            slot = self.number,
            relay,
            error = error_text,
            wait = %shown(wait),
            "no session"
        );
        Next::Wait(wait)
    }

    /// The relay has seen an epoch that this bridge cannot have used.
    fn is_far_off(&self, error: &TooFar, relay: &str) -> Next {
        let advice = "pair the bridge again: that starts the epochs again on both sides";
        let text = error.to_string();
        tracing::error!(
            slot = self.number,
            relay,
            error = text,
            advice,
            "no session"
        );
        self.shared.board.down(self.number, text, Some(advice));
        Next::Wait(SLOW)
    }

    /// A session from its beginning to its end, or to the relay's wish to have another.
    async fn carry(&mut self, tunnel: Tunnel, has_journal: bool) -> Next {
        let Tunnel {
            session,
            driver,
            welcome,
            node,
        } = tunnel;
        self.is_stale_again = false;
        self.previous = None;
        let since = Instant::now();
        let driver = tokio::spawn(driver);
        self.shared.add(&session);
        // What was served may have changed while the opening was under way.
        session.set_serves(self.shared.dispatcher.active().serves());
        self.shared.report_on(&session);
        tracing::info!(
            slot = self.number,
            session = hex(&welcome.session),
            node,
            "session up"
        );
        self.shared.board.up(self.number, &node);
        self.shared.nodes.send_replace(welcome.nodes.max(1));
        for old in self.retiring.drain(..) {
            old.drain(GoAwayReason::Renew, Duration::ZERO);
        }
        let ending = self.until_ending(&session, has_journal).await;
        self.reconnect.ended_after(since.elapsed());
        match ending {
            Ending::Over(reason) => {
                drop(driver.await);
                self.shared.remove(&session);
                self.previous = Some(session.previous_session_report());
                // It is over, so this does not wait.
                let asked = session.goaway().await;
                self.over(&session, &reason, asked)
            }
            Ending::Asked(goaway) => {
                let asked = Duration::from_millis(goaway.retry_after_ms.into());
                let wait = self.reconnect.wait_after_goaway(asked);
                tracing::info!(
                    slot = self.number, session = hex(&session.id()), reason = ?goaway.reason, wait = %shown(wait),
                    "the relay asks for a new session; the old one finishes what it carries"
                );
                self.leave_behind(session);
                Next::Wait(wait)
            }
            Ending::HasJournal => {
                tracing::info!(
                    slot = self.number,
                    session = hex(&session.id()),
                    "the journal of deliveries can be read: a new session tells the relay of it"
                );
                session.drain(GoAwayReason::Renew, Duration::ZERO);
                self.leave_behind(session);
                Next::Now
            }
            Ending::Draining => {
                session.drain(GoAwayReason::Draining, Duration::ZERO);
                let ended = tokio::time::timeout(DRAIN_WITHIN, session.ended()).await;
                if ended.is_err() {
                    let left = session.streams_open();
                    tracing::warn!(
                        left,
                        "exchanges are cut off: they took longer than {DRAIN_WITHIN:?}"
                    );
                }
                session.close(EndReason::Draining);
                drop(driver.await);
                self.shared.remove(&session);
                tracing::info!(slot = self.number, "session down: shutting down");
                Next::End
            }
        }
    }

    /// While the session is up.
    async fn until_ending(&self, session: &Session, has_journal: bool) -> Ending {
        let mut stages = self.shared.stage.subscribe();
        let mut jumps = self.shared.clock_jumps.subscribe();
        let mut asked = std::pin::pin!(session.goaway());
        let mut ended = std::pin::pin!(session.ended());
        let mut known = std::pin::pin!(self.shared.deliveries.journal.known_mark());
        loop {
            tokio::select! {
                biased;
                reason = &mut ended => return Ending::Over(reason),
                () = reached(&mut stages, Stage::Draining) => return Ending::Draining,
                Some(goaway) = &mut asked => match goaway.reason {
                    GoAwayReason::Draining | GoAwayReason::Renew | GoAwayReason::Overloaded => {
                        return Ending::Asked(goaway);
                    }
                    // These are the session's end at once, and it says so, or we do.
                    GoAwayReason::Revoked | GoAwayReason::Replaced | GoAwayReason::Protocol => {
                        let over = tokio::time::timeout(GONE_WITHIN, &mut ended).await;
                        return Ending::Over(over.unwrap_or_else(|_| {
                            let reason = EndReason::PeerLeft(goaway.reason);
                            session.close(reason.clone());
                            reason
                        }));
                    }
                },
                _ = jumps.changed() => session.probe(),
                () = &mut known, if !has_journal => return Ending::HasJournal,
            }
        }
    }

    /// A session ended, perhaps after the relay said GOAWAY (`asked`).
    fn over(&mut self, session: &Session, reason: &EndReason, asked: Option<GoAway>) -> Next {
        let (slot, session) = (self.number, hex(&session.id()));
        self.shared.board.down(slot, reason.to_string(), None);
        let said = match reason {
            EndReason::PeerLeft(said) => Some(*said),
            EndReason::Replaced => Some(GoAwayReason::Replaced),
            EndReason::Revoked => Some(GoAwayReason::Revoked),
            EndReason::Closed
            | EndReason::Dead(_)
            | EndReason::WriteStalled(_)
            | EndReason::Protocol(_)
            | EndReason::Io(_)
            | EndReason::Draining => None,
        };
        match said {
            Some(GoAwayReason::Replaced) => tracing::error!(
                slot, session, %reason,
                "session down: another process connected with this identity. Was the data \
                 directory copied? Remove the copy's identity.json and pair it anew"
            ),
            Some(GoAwayReason::Revoked) => tracing::error!(
                slot, session, %reason,
                "session down: this bridge or its API key was revoked; pair it again with a new key"
            ),
            Some(
                GoAwayReason::Draining
                | GoAwayReason::Renew
                | GoAwayReason::Protocol
                | GoAwayReason::Overloaded,
            )
            | None => {
                let wait = match asked {
                    Some(GoAway {
                        reason:
                            GoAwayReason::Draining | GoAwayReason::Renew | GoAwayReason::Overloaded,
                        retry_after_ms,
                        ..
                    }) => {
                        let asked = Duration::from_millis(retry_after_ms.into());
                        self.reconnect.wait_after_goaway(asked)
                    }
                    Some(_) | None => self.reconnect.next_wait(None),
                };
                tracing::warn!(slot, session, %reason, wait = %shown(wait), "session down");
                return Next::Wait(wait);
            }
        }
        Next::Wait(SLOW + self.reconnect.next_wait(None))
    }

    /// Lets a session go on beside its successor, until it has finished what it carries.
    fn leave_behind(&mut self, session: Session) {
        let shared = self.shared.clone();
        let mut stages = shared.stage.subscribe();
        self.retiring.retain(|old| old.is_open());
        self.retiring.push(session.clone());
        let mut old = self
            .shared
            .old
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while old.try_join_next().is_some() {}
        old.spawn(async move {
            tokio::select! {
                reason = session.ended() => {
                    tracing::debug!(session = hex(&session.id()), %reason, "old session down");
                }
                () = reached(&mut stages, Stage::Draining) => {
                    session.drain(GoAwayReason::Draining, Duration::ZERO);
                    let _ = tokio::time::timeout(DRAIN_WITHIN, session.ended()).await;
                }
                () = tokio::time::sleep(OLD_SESSION_WITHIN) => {}
            }
            session.close(EndReason::Draining);
            shared.remove(&session);
        });
    }
}

/// Why a dial did not come to a session.
enum Attempt {
    Dial(DialError),
    Disk(DataDirError),
}

/// How a session's time comes to its end.
enum Ending {
    Over(EndReason),
    Asked(GoAway),
    /// The relay was not told of the journal, which could not be read then.
    HasJournal,
    Draining,
}

/// Whether a file cannot be used for a while only.
fn is_passing(error: &DataDirError) -> bool {
    runtime::shortage::io_error(error).is_some_and(runtime::shortage::is_disk_trouble)
}

/// What a person can do about a relay that does not take this bridge.
fn advice(error: &DialError) -> &'static str {
    match error.refused() {
        Some(RefusedCode::Unauthorized) => {
            "the relay does not know this bridge: pair it again, with an API key of the right tenant"
        }
        Some(RefusedCode::Revoked) => {
            "this bridge or its API key was revoked: pair it again with a new API key"
        }
        Some(RefusedCode::TenantSuspended) => "the tenant is suspended: ask the relay's operator",
        Some(RefusedCode::Version) => {
            "bridge and relay have no version in common: update the older one"
        }
        Some(RefusedCode::ChannelBinding) => {
            "something between this bridge and the relay ends TLS (inspection, or a balancer that \
             the relay is not configured for): exempt the relay from inspection, or ask its operator to \
             mark this bridge as inspected"
        }
        Some(RefusedCode::Authority) => {
            "the relay is not known under the name in relay.url: use the URL that its operator gave"
        }
        Some(RefusedCode::StaleEpoch { .. } | RefusedCode::Overloaded) | None => {
            "check that relay.url is that of an integration relay, and that nothing in between \
             asks for credentials"
        }
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        // Many errors repeat their source.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
/// A wait, for people.
fn shown(wait: Duration) -> String {
    format!("{:.1}s", wait.as_secs_f64())
}
