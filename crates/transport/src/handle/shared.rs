//! The lock that the driver and the users of streams share.

use super::{Incoming, OnResult, OnResultAck, Settings, streams};
use protocol::frame::{
    CallAttempt, DeliveryResult, GoAway, GoAwayReason, PreviousSession, RequestHead,
};
use protocol::session::{EndReason, Event, Session, StreamMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::watch;

/// Tasks that are woken in one run, outside of the lock.
const WAKE_RUN: usize = 8;

/// The tasks that wait for something on a stream.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    pub(crate) closer: Option<Waker>,
}

/// The state that watchers of the whole session see.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) ended: Option<EndReason>,
    pub(crate) goaway: Option<GoAway>,
}

/// What the driver's writing side is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// It has sent everything: wake it for new frames.
    Idle,
    /// It waits for other tasks to add frames, for at most this many additions.
    Gathers { more: u32 },
    /// It polls the session again on its own.
    Busy,
}

impl Writer {
    /// Whether the driver must be woken for a frame that was added just now.
    fn needs_wake(&mut self) -> bool {
        match self {
            Self::Idle => true,
            Self::Gathers { more: 0 } => {
                *self = Self::Busy;
                true
            }
            Self::Gathers { more } => {
                *more -= 1;
                false
            }
            Self::Busy => false,
        }
    }
}

/// The data that the lock protects.
pub(crate) struct Core {
    pub(crate) session: Session,
    pub(crate) waiting: StreamMap<Waiting>,
    pub(crate) driver: Option<Waker>,
    pub(crate) writer: Writer,
    /// The owner wants the session to end.
    pub(crate) closing: Option<EndReason>,
    /// No exchange is left after a GOAWAY.
    pub(crate) drained: bool,
    undispatched: Vec<u32>,
}

impl Core {
    /// Returns memory that was used by more exchanges than there are now.
    pub(crate) fn trim(&mut self) {
        self.session.trim();
        self.waiting.shrink_to_fit();
    }
}

type OnOpen = Arc<dyn Fn(Incoming) + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) id: [u8; 16],
    core: Mutex<Core>,
    state: watch::Sender<State>,
    on_open: Option<OnOpen>,
    on_result: Option<OnResult>,
    on_result_ack: Option<OnResultAck>,
}

/// An event of a delivery, whose handler is called outside of the lock.
#[derive(Clone, Copy)]
enum Delivery {
    Result(DeliveryResult),
    Ack(CallAttempt),
}

impl Shared {
    pub(crate) fn new(id: [u8; 16], session: Session, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            id,
            core: Mutex::new(Core {
                session,
                waiting: StreamMap::default(),
                driver: None,
                writer: Writer::Idle,
                closing: None,
                drained: false,
                undispatched: Vec::new(),
            }),
            state: watch::Sender::new(State::default()),
            on_open: settings.on_open,
            on_result: settings.on_result,
            on_result_ack: settings.on_result_ack,
        })
    }

    /// Takes the lock. It is held for a few map operations only, and never while a task is woken or a
    /// handler runs: both may take it again.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        // Nothing that a peer sends makes the session panic, so a poisoned lock still guards a
        // consistent state.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from the session.
    pub(crate) fn peek<T>(&self, read: impl FnOnce(&Session) -> T) -> T {
        read(&self.lock().session)
    }

    /// Changes the session, then wakes the tasks that are concerned.
    pub(crate) fn with<T>(self: &Arc<Self>, act: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.lock();
        let result = act(&mut core);
        // Taken under the lock, woken after it: a driver that runs at once would only wait for the lock.
        let wanted = core.session.has_frames() && core.writer.needs_wake();
        let driver = wanted.then(|| core.driver.take()).flatten();
        if core.session.has_events() {
            self.notify_all(core);
        } else {
            drop(core);
        }
        if let Some(driver) = driver {
            driver.wake();
        }
        result
    }

    /// Handles the session's events: wakes tasks and calls handlers, after releasing the lock.
    pub(crate) fn notify_all<'a>(self: &'a Arc<Self>, mut core: MutexGuard<'a, Core>) {
        let mut goaway = None;
        let mut is_changed = false;
        loop {
            // In runs of a fixed size, so that the lock is released before a task is woken, without a
            // list on the heap. An event wakes up to three tasks.
            let mut wakers: [Option<Waker>; WAKE_RUN] = Default::default();
            let mut opened = None;
            let mut delivery = None;
            let mut count = 0;
            while count + 3 <= WAKE_RUN
                && opened.is_none()
                && delivery.is_none()
                && let Some(event) = core.session.poll_event()
            {
                let mut wake = |waker: Option<Waker>| {
                    if waker.is_some() {
                        wakers[count] = waker;
                        count += 1;
                    }
                };
                match event {
                    Event::Opened { id, head } => opened = Some((id, head)),
                    Event::Readable(id) => {
                        if let Some(waiting) = core.waiting.get_mut(&id) {
                            wake(waiting.reader.take());
                        }
                    }
                    Event::Writable(id) => {
                        if let Some(waiting) = core.waiting.get_mut(&id) {
                            wake(waiting.writer.take());
                        }
                    }
                    Event::Failed(id) => {
                        if let Some(waiting) = core.waiting.get_mut(&id) {
                            wake(waiting.reader.take());
                            wake(waiting.writer.take());
                            wake(waiting.closer.take());
                        }
                    }
                    Event::Serves | Event::Versions => is_changed = true,
                    Event::GoAway(sent) => goaway = Some(sent),
                    Event::Drained => {
                        core.drained = true;
                        wake(core.driver.take());
                    }
                    Event::Result(result) => delivery = Some(Delivery::Result(result)),
                    Event::ResultAck(attempt) => delivery = Some(Delivery::Ack(attempt)),
                }
            }
            let is_last = !core.session.has_events();
            drop(core);
            for waker in wakers.into_iter().flatten() {
                waker.wake();
            }
            if let Some((id, head)) = opened {
                self.accept(id, *head);
            }
            if let Some(delivery) = delivery {
                self.deliver(delivery);
            }
            if is_last {
                break;
            }
            core = self.lock();
        }
        // The watchers read the session itself, so one notification for the last change is enough.
        if goaway.is_some() || is_changed {
            self.state
                .send_modify(|state| state.goaway = state.goaway.or(goaway));
        }
    }

    /// Calls the handler of a delivery's event, if there is one.
    fn deliver(self: &Arc<Self>, delivery: Delivery) {
        match delivery {
            Delivery::Result(result) => {
                if let Some(on_result) = &self.on_result {
                    on_result(super::Session::new(self.clone()), result);
                }
            }
            Delivery::Ack(attempt) => {
                if let Some(on_result_ack) = &self.on_result_ack {
                    on_result_ack(attempt);
                }
            }
        }
    }

    /// Bridge: passes an exchange to its handler. Without a handler its streams are dropped, which resets it.
    fn accept(self: &Arc<Self>, id: u32, head: RequestHead) {
        let (send, recv) = streams::incoming(self, id, head.body);
        if let Some(on_open) = &self.on_open {
            on_open(Incoming { head, send, recv });
        }
    }

    /// The owner wants the session to end.
    pub(crate) fn close(self: &Arc<Self>, reason: EndReason) {
        self.with(|core| {
            // The first reason is kept: a session that was revoked must not report a later shutdown.
            if core.closing.is_none() {
                let goaway = match reason {
                    EndReason::Replaced => GoAwayReason::Replaced,
                    EndReason::Revoked => GoAwayReason::Revoked,
                    EndReason::Protocol(_) => GoAwayReason::Protocol,
                    EndReason::PeerLeft(_)
                    | EndReason::Closed
                    | EndReason::Dead(_)
                    | EndReason::WriteStalled(_)
                    | EndReason::Io(_)
                    | EndReason::Draining => GoAwayReason::Draining,
                };
                core.session.drain(goaway, Duration::ZERO);
                core.closing = Some(reason);
            }
            // The driver ends the session also where it has no frame to send.
            if let Some(driver) = core.driver.take() {
                driver.wake();
            }
        });
    }

    /// Ends the session: every stream fails, and every watcher is notified of the reason.
    pub(crate) fn end(self: &Arc<Self>, reason: EndReason) -> EndReason {
        let mut core = self.lock();
        // Before `fail`, which forgets the streams.
        if core.session.ended().is_none() {
            core.undispatched = core.session.undispatched();
        }
        core.session.fail(reason);
        let reason = core.session.ended().cloned().unwrap_or(EndReason::Closed);
        self.notify_all(core);
        self.state.send_modify(|state| {
            state.ended.get_or_insert_with(|| reason.clone());
        });
        reason
    }

    pub(crate) fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(crate) fn previous_session_report(&self) -> PreviousSession {
        let core = self.lock();
        PreviousSession {
            session: self.id,
            last_stream: core.session.last_stream(),
            undispatched: protocol::frame::Bounded::truncated(core.undispatched.iter().copied()),
        }
    }
}
