//! The lock in which the driver and the users of streams meet.

use super::{Incoming, OnResult, OnResultAck, Settings, streams};
use protocol::frame::{
    CallAttempt, DeliveryResult, GoAway, GoAwayReason, PreviousSession, RequestHead,
};
use protocol::session::{EndReason, Event, Session, StreamMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::watch;

/// Tasks that are woken in one go.
const WAKE_RUN: usize = 8;

/// Who waits for something on a stream.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    pub(crate) closer: Option<Waker>,
}

/// What the whole session's watchers see.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) ended: Option<EndReason>,
    pub(crate) goaway: Option<GoAway>,
}

/// What the driver's way out is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// It has sent all it had: it wants to know of new frames.
    Idle,
    /// It waits for what other tasks add, but not for more than this many.
    Gathers { more: u32 },
    /// It looks again by itself.
    Busy,
}

impl Writer {
    /// Whether the driver is to be woken for something that was added just now.
    fn wants_to_know(&mut self) -> bool {
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

/// What the lock protects.
pub(crate) struct Core {
    pub(crate) session: Session,
    pub(crate) waiting: StreamMap<Waiting>,
    pub(crate) driver: Option<Waker>,
    pub(crate) writer: Writer,
    /// The owner wants the session to end.
    pub(crate) closing: Option<EndReason>,
    /// Nothing runs any more after a GOAWAY.
    pub(crate) drained: bool,
    undispatched: Vec<u32>,
}

impl Core {
    /// Nothing runs: gives room back that was for more.
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

/// What of a delivery is to be passed on outside of the lock.
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

    /// The lock is held for the length of a few map operations, and nothing in it can panic by
    /// what a peer sends; a poisoned one is as good as any.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the session.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&Session) -> T) -> T {
        look(&self.lock().session)
    }

    /// Does something with the session, then wakes whoever that concerns.
    pub(crate) fn with<T>(self: &Arc<Self>, act: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.lock();
        let result = act(&mut core);
        let wanted = core.session.has_frames() && core.writer.wants_to_know();
        let driver = wanted.then(|| core.driver.take()).flatten();
        if core.session.has_events() {
            self.settle(core);
        } else {
            drop(core);
        }
        if let Some(driver) = driver {
            driver.wake();
        }
        result
    }

    /// Passes on what has happened, and gives the lock back first.
    pub(crate) fn settle<'a>(self: &'a Arc<Self>, mut core: MutexGuard<'a, Core>) {
        let mut goaway = None;
        let mut serves = false;
        loop {
            // In runs, so that the lock is given back before anybody is woken, without a list on
            // the heap.
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
                    Event::Serves => serves = true,
                    Event::GoAway(said) => goaway = Some(said),
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
                self.begin(id, *head);
            }
            if let Some(delivery) = delivery {
                self.deliver(delivery);
            }
            if is_last {
                break;
            }
            core = self.lock();
        }
        if goaway.is_some() || serves {
            self.state
                .send_modify(|state| state.goaway = state.goaway.or(goaway));
        }
    }

    /// Passes on what the peer says of a delivery. Without a handler nobody wants to know.
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

    /// Bridge: hands an exchange over. Without a handler its streams are dropped, which resets it.
    fn begin(self: &Arc<Self>, id: u32, head: RequestHead) {
        let (send, recv) = streams::incoming(self, id, head.body);
        if let Some(on_open) = &self.on_open {
            on_open(Incoming { head, send, recv });
        }
    }

    /// The owner wants the session to end.
    pub(crate) fn close(self: &Arc<Self>, reason: EndReason) {
        self.with(|core| {
            if core.closing.is_none() {
                let said = match reason {
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
                core.session.drain(said, Duration::ZERO);
                core.closing = Some(reason);
            }
            if let Some(driver) = core.driver.take() {
                driver.wake();
            }
        });
    }

    /// The session is over: every stream fails, every watcher learns why.
    pub(crate) fn end(self: &Arc<Self>, reason: EndReason) -> EndReason {
        let mut core = self.lock();
        if core.session.ended().is_none() {
            core.undispatched = core.session.undispatched();
        }
        core.session.fail(reason);
        let reason = core.session.ended().cloned().unwrap_or(EndReason::Closed);
        self.settle(core);
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
