//! How large the windows of incoming bodies grow, and why: a reader that takes most of its window
//! in a round trip, and then waits for more, is faster than its window.
//!
//! What a transfer turned out to need is remembered for the session, so that the next one on the
//! same path does not find out again, at a round trip for each doubling.

use super::stream::Stream;
use super::{Session, Side};
use crate::frame::CallerWeight;
use std::time::{Duration, Instant};

/// How often the transfers of a session are added up by caller.
const USAGE_INTERVAL: Duration = Duration::from_millis(50);

/// What the callers of a session have outstanding in their transfers.
#[derive(Debug, Default)]
pub(super) struct CallerUsage {
    of: Vec<(CallerWeight, u64)>,
}

impl CallerUsage {
    /// Counts the streams that have moved more than a window: they are transfers.
    fn count<'a>(&mut self, streams: impl Iterator<Item = &'a Stream>) {
        let of = &mut self.of;
        of.clear();
        for stream in streams {
            let recv = &stream.recv;
            if recv.ended || recv.total < recv.window.initial {
                continue;
            }
            let found = of
                .iter_mut()
                .find(|(share, _)| share.caller == stream.share.caller);
            match found {
                Some((_, bytes)) => *bytes += recv.window.size,
                None => of.push((stream.share, recv.window.size)),
            }
        }
    }

    /// What a caller deficit of its share of what all have, in bytes, where it has less than half of it.
    fn deficit(&self, share: CallerWeight) -> u64 {
        if self.of.len() < 2 {
            return 0;
        }
        let all: u64 = self.of.iter().map(|(_, bytes)| bytes).sum();
        let weights: u64 = self
            .of
            .iter()
            .map(|(of, _)| u64::from(of.weight.get()))
            .sum();
        let own = self.of.iter().find(|(of, _)| of.caller == share.caller);
        own.map_or(0, |(of, bytes)| {
            let due = all.saturating_mul(u64::from(of.weight.get())) / weights.max(1);
            let deficit = due.saturating_sub(*bytes);
            if deficit > *bytes { deficit } else { 0 }
        })
    }

    /// A caller was granted more.
    fn granted(&mut self, share: CallerWeight, more: u64) {
        let own = self.of.iter_mut().find(|(of, _)| of.caller == share.caller);
        if let Some((_, bytes)) = own {
            *bytes += more;
        }
    }
}

/// What a reader has shown of its rate.
#[derive(Debug, Default)]
pub(super) struct ReceiveRate {
    /// When the round trip that is looked at began, and the bytes taken since.
    round: Option<(Instant, u64)>,
    /// The most bytes that were taken in one.
    best: u64,
    /// Bytes that were taken since the window has its size.
    turned: u64,
}

impl ReceiveRate {
    /// The reader has taken so many bytes.
    pub(super) fn took(&mut self, now: Instant, rtt: Duration, bytes: u64) {
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
        self.turned += bytes;
    }

    /// Whether the window is what holds it up: three quarters of it in a round trip. So a window
    /// grows until it has a third more than the path holds, and CREDIT has time to come.
    fn outgrows(&self, window_bytes: u64) -> bool {
        let taken = self.round.map_or(0, |(_, taken)| taken);
        taken >= window_bytes / 4 * 3
    }
}

impl Session {
    /// A reader found nothing to take, so what holds it up is not itself. Lends its stream more
    /// window where that is it: what transfers before needed, or else twice what it has.
    pub(super) fn grow(&mut self, now: Instant, id: u32) {
        let cap = self.config.stream_window_cap;
        let deficit = self.deficit(now, id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let recv = &mut stream.recv;
        let size = recv.window.size;
        if recv.ended || size >= cap || !(deficit > 0 || recv.rate.outgrows(size)) {
            return;
        }
        recv.rate.round = None;
        recv.rate.turned = 0;
        let share = stream.share;
        // Beside a crowd each round trip is long, so there it grows faster.
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

    /// What a stream's caller deficit of its share of the path, where that is so: where transfers queue on
    /// the way, each gets as much of it as it may have outstanding, and one window is little beside a
    /// hundred.
    fn deficit(&mut self, now: Instant, id: u32) -> u64 {
        let Some(stream) = self.streams.get(&id) else {
            return 0;
        };
        let recv = &stream.recv;
        if recv.ended || recv.rate.turned < recv.window.size {
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

    /// Relay: lends a new stream what transfers before it needed, before its answer has come. One
    /// stream of a session at a time, and no more than half of what the budget has left: those
    /// that have shown their need come first.
    pub(super) fn advance(&mut self, id: u32) {
        debug_assert_eq!(self.config.side, Side::Relay);
        let wanted = self.window_needed.min(self.config.stream_window_cap);
        let more = wanted.saturating_sub(self.config.local.stream_bytes);
        if more > 0
            && self.advanced.is_none()
            && more <= self.config.budget.left() / 2
            && self.config.budget.try_take(more)
        {
            self.advanced = Some(id);
            self.enlarge(id, more);
        }
    }

    /// CREDIT tells the peer, which has been paid for.
    fn enlarge(&mut self, id: u32, more: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.recv.window.size += more;
            stream.recv.growth += more;
            stream.pending.credit = true;
            self.list_control(id);
        }
    }

    /// A stream is over: what it borrowed goes back, and what it needed is remembered.
    pub(super) fn give_growth(&mut self, id: u32, stream: &Stream) {
        let window = &stream.recv.window;
        let grown = window.size - window.initial;
        if grown == 0 {
            return;
        }
        self.config.budget.give(grown);
        if self.advanced == Some(id) {
            self.advanced = None;
        }
        // Short ones have not shown what they need.
        if stream.recv.total >= window.size {
            let best = stream.recv.rate.best;
            self.window_needed = (best + best / 2).min(window.size);
        }
    }
}
