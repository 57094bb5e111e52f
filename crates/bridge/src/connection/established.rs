//! A connection while its session is up: until it ends, is replaced, or is drained.

use super::{Connection, DRAIN_TIMEOUT, Next, REJECTED_WAIT, advice, seconds};
use crate::state::Stage;
use crate::text::hex;
use protocol::frame::{GoAway, GoAwayReason};
use protocol::session::EndReason;
use std::time::{Duration, Instant};
use transport::Session;
use transport::handshake::Tunnel;

/// How long a session that the relay wants replaced may go on next to its successor. This is long,
/// because its exchanges may be long; the relay ends it when it has to.
const RETIRED_SESSION_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a session may stay up after the relay announced its immediate end.
const IMMEDIATE_END_TIMEOUT: Duration = Duration::from_secs(2);

/// How the time of an established session ends.
enum Ending {
    /// The session has ended.
    Ended(EndReason),
    /// The relay asked for a new session.
    ReplacementRequested(GoAway),
    /// The journal became readable; the HELLO of this session did not describe it.
    JournalReadable,
    /// The bridge stops.
    Draining,
}

impl Connection {
    /// Runs a session until it ends or the relay wants another one.
    pub(super) async fn run_session(&mut self, tunnel: Tunnel, has_journal: bool) -> Next {
        let Tunnel {
            session,
            driver,
            welcome,
            node,
        } = tunnel;
        let state = self.state.clone();
        self.is_stale_repeated = false;
        // The relay has read the report in HELLO: it sent WELCOME.
        self.previous = None;
        let since = Instant::now();
        let driver = tokio::spawn(driver);
        state.sessions.add(&session);
        // A reload during the opening reached only the sessions that existed then.
        session.set_serves(state.dispatcher.active().serves());
        state.report_on(&session);
        tracing::info!(
            slot = self.number,
            session = hex(&welcome.session),
            %node,
            "session up"
        );
        state.stats.up(self.number, &node, hex(&welcome.session));
        state.relay.nodes.send_replace(welcome.nodes.max(1));
        // W-50: the bridge sends GOAWAY on the old session only after the next one is up, so that the
        // relay always has one for new requests.
        for old in self.retiring.drain(..) {
            old.drain(GoAwayReason::Renew, Duration::ZERO);
        }
        let ending = self.until_ending(&session, has_journal).await;
        self.reconnect.ended_after(since.elapsed());
        match ending {
            Ending::Ended(reason) => {
                drop(driver.await);
                state.sessions.remove(&session);
                self.previous = Some(session.previous_session_report());
                // The session is over, so this returns at once.
                let goaway = session.goaway().await;
                self.session_ended(&session, &reason, goaway, since.elapsed())
            }
            Ending::ReplacementRequested(goaway) => {
                let asked = Duration::from_millis(goaway.retry_after_ms.into());
                let wait = self.reconnect.wait_after_goaway(asked);
                tracing::info!(
                    slot = self.number, session = hex(&session.id()), reason = ?goaway.reason,
                    wait = %seconds(wait),
                    "the relay requested a new session; the old one finishes its exchanges"
                );
                self.retire(session);
                Next::Wait(wait)
            }
            Ending::JournalReadable => {
                tracing::info!(
                    slot = self.number,
                    session = hex(&session.id()),
                    "the delivery journal is readable again; opening a new session to report it"
                );
                session.drain(GoAwayReason::Renew, Duration::ZERO);
                self.retire(session);
                Next::Now
            }
            Ending::Draining => {
                session.drain(GoAwayReason::Draining, Duration::ZERO);
                let ended = tokio::time::timeout(DRAIN_TIMEOUT, session.ended()).await;
                if ended.is_err() {
                    let running = session.streams_open();
                    tracing::warn!(
                        running,
                        timeout = ?DRAIN_TIMEOUT,
                        "drain timeout reached; aborting exchanges"
                    );
                }
                session.close(EndReason::Draining);
                drop(driver.await);
                state.sessions.remove(&session);
                tracing::info!(slot = self.number, "session down: shutting down");
                Next::End
            }
        }
    }

    /// Waits for the first event that ends the session or this connection's interest in it.
    async fn until_ending(&self, session: &Session, has_journal: bool) -> Ending {
        let lifecycle = &self.state.lifecycle;
        let mut jumps = lifecycle.clock_jumps.subscribe();
        let mut draining = std::pin::pin!(lifecycle.reached(Stage::Draining));
        let mut goaway = std::pin::pin!(session.goaway());
        let mut ended = std::pin::pin!(session.ended());
        let mut journal = std::pin::pin!(self.state.deliveries.journal.known_mark());
        let mut named = None;
        loop {
            tokio::select! {
                // In this order: a session that has ended cannot be replaced or drained.
                biased;
                reason = &mut ended => return Ending::Ended(reason),
                () = &mut draining => return Ending::Draining,
                Some(goaway) = &mut goaway => match goaway.reason {
                    GoAwayReason::Draining | GoAwayReason::Renew | GoAwayReason::Overloaded => {
                        return Ending::ReplacementRequested(goaway);
                    }
                    // These end the session at once. The relay closes it; if it does not, the bridge
                    // does, or a broken relay could hold the connection without serving it.
                    GoAwayReason::Revoked | GoAwayReason::Replaced | GoAwayReason::Protocol => {
                        let over = tokio::time::timeout(IMMEDIATE_END_TIMEOUT, &mut ended).await;
                        return Ending::Ended(over.unwrap_or_else(|_| {
                            let reason = EndReason::PeerLeft(goaway.reason);
                            session.close(reason.clone());
                            reason
                        }));
                    }
                },
                // After a suspend the TCP connection may be dead without a sign of it.
                _ = jumps.changed() => session.probe(),
                () = &mut journal, if !has_journal => return Ending::JournalReadable,
                // `None` is the end of the session, which the first branch reports.
                Some(now) = session.versions_changed(named.as_ref()) => {
                    self.state.relay.versions.learn(&now);
                    named = Some(now);
                }
            }
        }
    }

    /// Logs the end of a session, perhaps after a GOAWAY of the relay, and chooses the wait.
    fn session_ended(
        &mut self,
        session: &Session,
        reason: &EndReason,
        goaway: Option<GoAway>,
        lasted: Duration,
    ) -> Next {
        let (slot, session) = (self.number, hex(&session.id()));
        let final_reason = match reason {
            EndReason::PeerLeft(reason) => Some(*reason),
            EndReason::Replaced => Some(GoAwayReason::Replaced),
            EndReason::Revoked => Some(GoAwayReason::Revoked),
            EndReason::Closed
            | EndReason::Dead(_)
            | EndReason::WriteStalled(_)
            | EndReason::Protocol(_)
            | EndReason::Io(_)
            | EndReason::Draining => None,
        };
        let is_orderly = goaway.is_some() || final_reason.is_some();
        let cut = self.lifetimes.ended(lasted, is_orderly);
        let advice = match final_reason {
            Some(GoAwayReason::Replaced) => Some(advice::CLONED.advice),
            Some(GoAwayReason::Revoked) => Some(advice::REVOKED),
            Some(
                GoAwayReason::Draining
                | GoAwayReason::Renew
                | GoAwayReason::Protocol
                | GoAwayReason::Overloaded,
            )
            | None => cut.as_ref().map(|cut| cut.remedy()),
        };
        self.state.stats.down(slot, reason.to_string(), advice);
        self.state.stats.cut(slot, cut.clone());
        match final_reason {
            Some(GoAwayReason::Replaced) => tracing::error!(
                slot, session, %reason, advice = advice::CLONED.advice,
                "session down: {}", advice::CLONED.error
            ),
            Some(GoAwayReason::Revoked) => tracing::error!(
                slot, session, %reason, advice = advice::REVOKED, "session down: revoked"
            ),
            Some(
                GoAwayReason::Draining
                | GoAwayReason::Renew
                | GoAwayReason::Protocol
                | GoAwayReason::Overloaded,
            )
            | None => {
                let wait = match goaway {
                    // After an orderly end the relay chooses the wait. What the backoff has grown to
                    // does not matter: the relay is reachable (W-50).
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
                let pattern = cut.map(tracing::field::display);
                tracing::warn!(
                    slot, session, %reason, pattern, advice, wait = %seconds(wait), "session down"
                );
                return Next::Wait(wait);
            }
        }
        // Two processes with one identity would otherwise replace each other in a tight loop.
        Next::Wait(REJECTED_WAIT + self.reconnect.next_wait(None))
    }

    /// Lets a session continue next to its successor until its exchanges have finished.
    fn retire(&mut self, session: Session) {
        let state = self.state.clone();
        self.retiring.retain(|old| old.is_open());
        self.retiring.push(session.clone());
        self.state.sessions.spawn_retired(&session.clone(), async move {
            tokio::select! {
                reason = session.ended() => {
                    tracing::debug!(session = hex(&session.id()), %reason, "retired session down");
                }
                () = state.lifecycle.reached(Stage::Draining) => {
                    session.drain(GoAwayReason::Draining, Duration::ZERO);
                    let _ = tokio::time::timeout(DRAIN_TIMEOUT, session.ended()).await;
                }
                () = tokio::time::sleep(RETIRED_SESSION_TIMEOUT) => {}
            }
            session.close(EndReason::Draining);
            state.sessions.remove(&session);
        });
    }
}
