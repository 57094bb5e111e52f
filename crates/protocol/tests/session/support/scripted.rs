//! One session with a peer that sends exactly the frames of the test.

use super::origin;
use bytes::Bytes;
use protocol::frame::{Frame, Serves};
use protocol::session::{Config, EndReason, Event, Session};
use std::time::{Duration, Instant};

pub(crate) struct Scripted {
    pub(crate) now: Instant,
    pub(crate) session: Session,
}

impl Scripted {
    pub(crate) fn new(config: Config) -> Self {
        let now = origin();
        Self {
            now,
            session: Session::new(now, config, Serves::default()),
        }
    }

    /// The peer sends a frame.
    pub(crate) fn says(&mut self, frame: &Frame) -> Result<(), EndReason> {
        self.session.handle_frame(self.now, frame.encode().unwrap())
    }

    /// The peer sends a frame, which is accepted.
    pub(crate) fn hears(&mut self, frame: &Frame) {
        self.says(frame).unwrap();
    }

    /// The peer sends a frame that ends the session.
    pub(crate) fn refuses(&mut self, frame: &Frame) {
        let end = self.says(frame);
        assert!(
            matches!(end, Err(EndReason::Protocol(_))),
            "{end:?} after {frame:?}"
        );
    }

    /// The peer sends these bytes.
    pub(crate) fn says_raw(&mut self, bytes: &[u8]) -> Result<(), EndReason> {
        self.session
            .handle_frame(self.now, Bytes::copy_from_slice(bytes))
    }

    /// Returns the next frame to the peer.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        let bytes = self.session.poll_transmit(self.now)?;
        Some(Frame::decode(bytes).unwrap().unwrap())
    }

    /// Returns all frames that may leave now.
    pub(crate) fn frames(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.frame()).collect()
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    /// Advances the clock and runs the timers that are due.
    pub(crate) fn wait(&mut self, time: Duration) -> Result<(), EndReason> {
        self.now += time;
        self.session.handle_timeout(self.now)
    }
}
