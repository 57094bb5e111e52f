//! How the receive windows of incoming bodies grow, and when.
//!
//! A reader that takes most of its window in one round trip, and then waits for more, is limited by its
//! window. The window that a transfer needed is remembered for the session. The next transfer on the
//! same path then starts with it, instead of one round trip for each doubling.

use super::stream::Stream;
use super::{Session, Side};
use crate::frame::CallerWeight;
use std::time::{Duration, Instant};

/// How often the windows of a session are summed up by caller.
const USAGE_INTERVAL: Duration = Duration::from_millis(50);

/// The receive windows of the transfers of a session, summed up by caller.
#[derive(Debug, Default)]
pub(super) struct CallerUsage {
    by_caller: Vec<(CallerWeight, u64)>,
}

impl CallerUsage {
    /// Counts the streams that have moved more than one window: they are transfers.
    fn count<'a>(&mut self, streams: impl Iterator<Item = &'a Stream>) {
        let by_caller = &mut self.by_caller;
        by_caller.clear();
        for stream in streams {
            let recv = &stream.recv;
            if recv.state.is_closed() || recv.total < recv.window.initial {
                continue;
            }
            let found = by_caller
                .iter_mut()
                .find(|(share, _)| share.caller == stream.share.caller);
            match found {
                Some((_, bytes)) => *bytes += recv.window.size,
                None => by_caller.push((stream.share, recv.window.size)),
            }
        }
    }

    /// Returns how many bytes a caller is below its share of all windows, if it has less than half of its
    /// share.
    fn deficit(&self, share: CallerWeight) -> u64 {
        if self.by_caller.len() < 2 {
            return 0;
        }
        let all: u64 = self.by_caller.iter().map(|(_, bytes)| bytes).sum();
        let weights: u64 = self
            .by_caller
            .iter()
            .map(|(of, _)| u64::from(of.weight.get()))
            .sum();
        let own = self
            .by_caller
            .iter()
            .find(|(of, _)| of.caller == share.caller);
        own.map_or(0, |(of, bytes)| {
            let due = all.saturating_mul(u64::from(of.weight.get())) / weights.max(1);
            let deficit = due.saturating_sub(*bytes);
            // Below half only: windows that are nearly equal would otherwise push each other up for ever.
            if deficit > *bytes { deficit } else { 0 }
        })
    }

    /// Adds what a caller was granted since the last count.
    fn granted(&mut self, share: CallerWeight, more: u64) {
        let own = self
            .by_caller
            .iter_mut()
            .find(|(of, _)| of.caller == share.caller);
        if let Some((_, bytes)) = own {
            *bytes += more;
        }
    }
}

/// How fast a reader takes bytes, by round trip.
#[derive(Debug, Default)]
pub(super) struct ReceiveRate {
    /// When the current round trip began, and the bytes taken since.
    round: Option<(Instant, u64)>,
    /// The most bytes that were taken in one round trip.
    best: u64,
    /// Bytes taken since the window got its current size.
    since_growth: u64,
}

impl ReceiveRate {
    /// The reader has taken `bytes`.
    pub(super) fn add(&mut self, now: Instant, rtt: Duration, bytes: u64) {
        let round = match &mut self.round {
            Some((began, taken)) if now.saturating_duration_since(*began) < rtt => {
                *taken += bytes;
                *taken
            }
            Some(_) | None => {
                self.round = Some((now, bytes));
                bytes
            }
        };
        self.best = self.best.max(round);
        self.since_growth += bytes;
    }

    /// Whether the window limits the reader: it took three quarters of it in a round trip.
    fn outgrows(&self, window_bytes: u64) -> bool {
        // Three quarters and not all: a window then ends a third larger than the path holds, which leaves
        // CREDIT the time to arrive before the sender stalls.
        let taken = self.round.map_or(0, |(_, taken)| taken);
        taken >= window_bytes / 4 * 3
    }
}

impl Session {
    /// Enlarges a stream's window when the window is what limits its reader.
    ///
    /// Called when a reader found nothing to take, so the reader itself is not the limit. The new size is
    /// what earlier transfers needed, or else twice the current one.
    pub(super) fn grow(&mut self, now: Instant, id: u32) {
        let cap = self.config.stream_window_cap;
        let deficit = self.deficit(now, id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let recv = &mut stream.recv;
        let size = recv.window.size;
        let is_limited = deficit > 0 || recv.rate.outgrows(size);
        if recv.state.is_closed() || size >= cap || !is_limited {
            return;
        }
        recv.rate.round = None;
        recv.rate.since_growth = 0;
        let share = stream.share;
        // With contending callers each round trip is long because of their queued data, so doubling
        // once in a round trip would take too long: grow by up to four times.
        let larger = match deficit {
            0 => size.saturating_mul(2),
            deficit => size + deficit.min(size.saturating_mul(3)),
        };
        let larger = larger.min(cap);
        let known = self.window_needed.min(cap);
        let granted = [known, larger]
            .into_iter()
            .filter_map(|wanted| wanted.checked_sub(size))
            .find(|more| *more > 0 && self.config.budget.try_take(*more));
        if let Some(more) = granted {
            self.usage.granted(share, more);
            self.enlarge(id, more);
        }
    }

    /// Returns how many bytes of window a stream's caller is below its share, if that is what slows it down.
    ///
    /// Bandwidth at a bottleneck is shared in proportion to outstanding data, so one window gets little
    /// next to a hundred.
    fn deficit(&mut self, now: Instant, id: u32) -> u64 {
        let Some(stream) = self.streams.get(&id) else {
            return 0;
        };
        let recv = &stream.recv;
        // A window that has not been used once in full has not shown that it is too small.
        if recv.state.is_closed() || recv.rate.since_growth < recv.window.size {
            return 0;
        }
        let share = stream.share;
        let since = self.usage_at.map(|at| now.saturating_duration_since(at));
        if since.is_none_or(|since| since >= USAGE_INTERVAL) {
            self.usage_at = Some(now);
            self.usage.count(self.streams.values());
        }
        self.usage.deficit(share)
    }

    /// Relay: grants a new stream the window that earlier transfers needed, before its response has come.
    pub(super) fn advance(&mut self, id: u32) {
        debug_assert_eq!(self.config.side, Side::Relay);
        let wanted = self.window_needed.min(self.config.stream_window_cap);
        let more = wanted.saturating_sub(self.config.local.stream_bytes);
        // One stream of a session at a time, and at most half of what the budget has left: streams that
        // have shown their need come first.
        if more > 0
            && self.advanced.is_none()
            && more <= self.config.budget.left() / 2
            && self.config.budget.try_take(more)
        {
            self.advanced = Some(id);
            self.enlarge(id, more);
        }
    }

    /// Enlarges a window by bytes that were taken from the budget; CREDIT announces them to the peer.
    fn enlarge(&mut self, id: u32, more: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.recv.window.size += more;
            stream.recv.growth += more;
            stream.pending.credit = true;
            self.list_control(id);
        }
    }

    /// A stream is forgotten: returns its growth to the budget, and remembers the window that it needed.
    pub(super) fn return_growth(&mut self, id: u32, stream: &Stream) {
        let window = &stream.recv.window;
        let grown = window.size - window.initial;
        if grown == 0 {
            return;
        }
        self.config.budget.give(grown);
        if self.advanced == Some(id) {
            self.advanced = None;
        }
        // A transfer shorter than its window has not shown what it needs.
        if stream.recv.total >= window.size {
            let best = stream.recv.rate.best;
            self.window_needed = (best + best / 2).min(window.size);
        }
    }
}
