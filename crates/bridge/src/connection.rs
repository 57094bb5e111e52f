//! One of the bridge's connections to the relay. It reconnects for as long as the bridge runs.
//!
//! ```text
//!            +------------------- wait (backoff, full jitter) <-----------------------+
//!            v                                                                        |
//! counter -> dial -> opening -> session up --(ended)----------------------------------+
//!            ^                  |--(GOAWAY)--> the old session finishes its exchanges |
//!            +------------------+                                                     |
//!                               \--(shutdown)--> drain, end    (rejected: once a minute, ERROR)
//! ```
//!
//! `established` holds what happens while a session is up; `advice`, the texts for an administrator; `lifetimes`
//! finds sessions that are cut after a fixed time. A
//! rejection that only an administrator can repair is logged at level ERROR and retried once a minute. A
//! failing disk does not stop the connection: the counter in memory still increases.

mod advice;
mod established;
mod lifetimes;

use crate::connection_counter::{ConnectionCounter, TooFar};
use crate::data_dir::DataDirError;
use crate::state::{BridgeState, Stage};
use crate::text::error_chain;
use advice::Advice;
use lifetimes::Lifetimes;
use protocol::frame::{PreviousSession, RefusedCode};
use protocol::limits::STREAM_WINDOW_CAP_BYTES;
use std::sync::Arc;
use std::time::Duration;
use transport::Session;
use transport::backoff::Reconnect;
use transport::dial::DialError;
use transport::handle::Settings;
use transport::handshake::{Introduction, Tunnel};

/// Wait before the next attempt after a rejection that only an administrator can repair.
const REJECTED_WAIT: Duration = Duration::from_secs(60);

/// How long a drain may take.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long after an orderly stop of a relay its successor is expected.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(1);

/// How long a driver gets to send GOAWAY after the bridge has stopped.
const GOAWAY_GRACE: Duration = Duration::from_secs(1);

/// One connection, with its number.
pub(crate) struct Connection {
    number: u8,
    state: Arc<BridgeState>,
    /// `None` until the first attempt has read it.
    counter: Option<ConnectionCounter>,
    reconnect: Reconnect,
    /// Report about the session before, for the next HELLO.
    previous: Option<PreviousSession>,
    /// Sessions that the relay wants replaced. They stay until the next one is up.
    retiring: Vec<Session>,
    /// The relay called the number stale although it was raised: another process uses the identity.
    is_stale_repeated: bool,
    /// The latest write of the counter failed.
    is_disk_failing: bool,
    /// The number of the dialer of the latest attempt.
    dialer_number: u64,
    /// How long the last sessions lasted that the network ended.
    lifetimes: Lifetimes,
}

/// What follows an attempt.
enum Next {
    /// Dial immediately.
    Now,
    /// Dial after this wait.
    Wait(Duration),
    /// The bridge stops.
    End,
}

/// Why a dial did not lead to a session.
enum AttemptError {
    Dial(DialError),
    Counter(DataDirError),
}

impl Connection {
    pub(crate) fn new(number: u8, state: Arc<BridgeState>) -> Self {
        Self {
            number,
            state,
            counter: None,
            reconnect: Reconnect::new(),
            previous: None,
            retiring: Vec::new(),
            is_stale_repeated: false,
            is_disk_failing: false,
            dialer_number: 0,
            lifetimes: Lifetimes::default(),
        }
    }

    /// Keeps the connection up until the bridge stops. A connection other than the first waits until
    /// the relay has enough nodes.
    pub(crate) async fn run(mut self) {
        let state = self.state.clone();
        let mut nodes = state.relay.nodes.subscribe();
        let number = u16::from(self.number);
        if number > 0 {
            state.stats.unused(self.number);
        }
        tokio::select! {
            result = nodes.wait_for(|nodes| *nodes > number) => drop(result),
            () = state.lifecycle.reached(Stage::Draining) => return,
        }
        loop {
            let next = tokio::select! {
                next = self.attempt() => next,
                // Only relevant while dialing: an established session watches the stage itself.
                () = async {
                    state.lifecycle.reached(Stage::Stopped).await;
                    tokio::time::sleep(GOAWAY_GRACE).await;
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

    /// Waits, but not much longer than until the relay that asked for a new session has stopped. Its
    /// successor may be ready soon, and a wait that grew during the drain would be too long. Returns
    /// false when the bridge stops.
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
        let wait = left.min(self.reconnect.next_wait(Some(SUCCESSOR_WAIT)));
        self.wait(wait).await
    }

    /// Waits, or until the clock jumps or the dialer is replaced. Returns false when the bridge stops.
    async fn wait(&self, wait: Duration) -> bool {
        let lifecycle = &self.state.lifecycle;
        let mut jumps = lifecycle.clock_jumps.subscribe();
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            // A corrected proxy or CA file is tried at once.
            () = self.state.relay.dialer_replaced(self.dialer_number) => true,
            // After a suspend the network may be back long before the monotonic timer ends.
            changed = jumps.changed() => { drop(changed); true }
            () = lifecycle.reached(Stage::Draining) => false,
        }
    }

    /// Returns the number of the next connection, after it was written to the disk if that works.
    async fn next_number(&mut self) -> Result<u64, DataDirError> {
        let (state, number, counter) = (self.state.clone(), self.number, self.counter.take());
        let result = tokio::task::spawn_blocking(move || {
            // The host's networks may have changed while the bridge was offline.
            state.dispatcher.refresh_addresses();
            let mut counter = match counter {
                Some(counter) => counter,
                None => match ConnectionCounter::load(&state.data_dir, number) {
                    Ok(counter) => counter,
                    // Waiting for the disk would keep the bridge offline. The relay responds to a number
                    // that is too low with the one that it saw last, so a start at zero is safe.
                    Err(error) if is_temporary(&error) => {
                        tracing::error!(
                            slot = number,
                            error = error_chain(&error),
                            "cannot read the connection counter; continuing from the relay's number"
                        );
                        ConnectionCounter::unread(number)
                    }
                    Err(error) => return Err(error),
                },
            };
            let (next, written) = counter.next(&state.data_dir);
            Ok::<_, DataDirError>((counter, next, written))
        })
        .await;
        let (counter, next, written) =
            result.expect("reading and writing a file does not panic")?;
        self.counter = Some(counter);
        // Logged on a change only: there may be an attempt each second.
        let was_failing = std::mem::replace(&mut self.is_disk_failing, written.is_err());
        match written {
            Err(error) if !was_failing => tracing::error!(
                slot = self.number,
                error = error_chain(&error),
                "cannot persist the connection counter; using the one in memory"
            ),
            Ok(()) if was_failing => {
                tracing::info!(
                    slot = self.number,
                    "the connection counter is persisted again"
                );
            }
            Ok(()) | Err(_) => {}
        }
        Ok(next)
    }

    /// Dials, and runs the session until it ends.
    async fn attempt(&mut self) -> Next {
        let state = self.state.clone();
        state.stats.connecting(self.number);
        let dialed = tokio::select! {
            dialed = self.dial() => dialed,
            () = state.lifecycle.reached(Stage::Draining) => return Next::End,
        };
        match dialed {
            Ok((tunnel, has_journal)) => self.run_session(tunnel, has_journal).await,
            Err(AttemptError::Dial(error)) => self.dial_failed(&error),
            Err(AttemptError::Counter(error)) => {
                let error = error_chain(&error);
                tracing::error!(
                    slot = self.number,
                    error,
                    "cannot read the connection counter; not connecting"
                );
                self.state.stats.down(self.number, error, None);
                Next::Wait(REJECTED_WAIT)
            }
        }
    }

    /// Returns a tunnel, and whether its HELLO described the journal of deliveries.
    async fn dial(&mut self) -> Result<(Tunnel, bool), AttemptError> {
        // Each attempt uses up a number: the relay rejects a HELLO whose number is not higher than the
        // one before, and it may have read a HELLO whose response was lost.
        let epoch = self.next_number().await.map_err(AttemptError::Counter)?;
        // Before the dialer itself is taken: a replacement in between then ends the next wait.
        self.dialer_number = self.state.relay.dialer_number();
        let state = &self.state;
        let introduction = Introduction {
            slot: self.number,
            epoch,
            serves: state.dispatcher.active().serves(),
            // Kept for the next attempt, too: this one may fail before the relay reads it.
            previous: self.previous.clone(),
            journal: state.deliveries.journal.mark(),
        };
        let has_journal = introduction.journal.is_some();
        let dialer = state.relay.dialer();
        let dialed = dialer.tunnel(&state.relay.identity, introduction, session_settings(state));
        let tunnel = dialed.await.map_err(AttemptError::Dial)?;
        Ok((tunnel, has_journal))
    }

    fn dial_failed(&mut self, error: &DialError) -> Next {
        let relay = self.state.relay.dialer().relay().to_string();
        if let Some(RefusedCode::StaleEpoch { current }) = error.refused() {
            return self.number_is_stale(current, &relay);
        }
        if let Some(accepted) = error.accepted_versions() {
            self.state.relay.versions.learn(accepted);
        }
        let text = error_chain(error);
        let wait = self.reconnect.next_wait(error.retry_after());
        if !error.needs_operator() {
            let advice = error.diagnosis().map(|why| why.remedy());
            tracing::warn!(
                slot = self.number,
                relay,
                error = text,
                advice,
                wait = %seconds(wait),
                "cannot connect to the relay"
            );
            self.state.stats.down(self.number, text, advice);
            return Next::Wait(wait);
        }
        // A retry that cannot succeed only adds to the relay's load: at most one a minute.
        let wait = wait.max(REJECTED_WAIT);
        let advice = advice::for_rejection(error);
        tracing::error!(
            slot = self.number,
            relay,
            error = text,
            advice,
            wait = %seconds(wait),
            "the relay rejected this bridge"
        );
        self.state.stats.down(self.number, text, Some(advice));
        Next::Wait(wait)
    }

    /// The relay has seen a higher connection number, `current`, of this bridge.
    fn number_is_stale(&mut self, current: u64, relay: &str) -> Next {
        if let Some(Err(error)) = self.counter.as_mut().map(|counter| counter.raise(current)) {
            return self.number_is_out_of_reach(&error, relay);
        }
        // Once is normal after the data directory was restored from a backup. A second time, directly
        // after the number was raised above the relay's, another process must have raised it as well.
        if !std::mem::replace(&mut self.is_stale_repeated, true) {
            return Next::Now;
        }
        let Advice { error, advice } = advice::CLONED;
        tracing::error!(slot = self.number, relay, current, advice, "{error}");
        self.state
            .stats
            .down(self.number, error.to_owned(), Some(advice));
        Next::Wait(REJECTED_WAIT)
    }

    /// The relay has seen a number that this bridge cannot have used.
    fn number_is_out_of_reach(&self, error: &TooFar, relay: &str) -> Next {
        let (text, advice) = (error.to_string(), advice::OUT_OF_REACH);
        tracing::error!(
            slot = self.number,
            relay,
            error = text,
            advice,
            "the relay rejected this bridge"
        );
        self.state.stats.down(self.number, text, Some(advice));
        Next::Wait(REJECTED_WAIT)
    }
}

/// Returns what a new session uses: windows, and the receivers of its events.
fn session_settings(state: &BridgeState) -> Settings {
    let (dispatcher, deliveries) = (state.dispatcher.clone(), state.deliveries.clone());
    Settings {
        windows: state.relay.windows,
        budget: state.relay.budget.clone(),
        stream_window_cap: STREAM_WINDOW_CAP_BYTES,
        on_open: Some(Arc::new(move |incoming| dispatcher.accept(incoming))),
        on_result: None,
        on_result_ack: Some(Arc::new(move |attempt| deliveries.acknowledged(attempt))),
    }
}

/// Returns whether a file is unusable only for a while, as with a full disk.
fn is_temporary(error: &DataDirError) -> bool {
    runtime::shortage::io_error(error).is_some_and(runtime::shortage::is_disk_trouble)
}

/// Returns a wait for people, like `1.5s`.
fn seconds(wait: Duration) -> String {
    format!("{:.1}s", wait.as_secs_f64())
}
