//! The flow-control window of one direction of a stream, counted alike by both sides (W-30).

use crate::limits::STREAM_RESERVE_BYTES;

/// What one direction of a stream may have outstanding.
#[derive(Debug)]
pub(in crate::session) struct Window {
    /// Bytes sent and not yet returned.
    pub(in crate::session) outstanding: u64,
    /// Bytes that may be outstanding.
    pub(in crate::session) size: u64,
    /// The size at the beginning. Growth beyond it is not charged to the session.
    pub(in crate::session) initial: u64,
}

impl Window {
    pub(super) fn new(initial: u64) -> Self {
        Self {
            outstanding: 0,
            size: initial,
            initial,
        }
    }

    /// Returns the bytes that count against the session's window: those between the reserve and the
    /// initial size.
    pub(in crate::session) fn charge(&self) -> u64 {
        charge_of(self.outstanding, self.initial)
    }

    /// Returns how many of `wanted` bytes fit, when the session has `session_left` bytes uncharged.
    pub(in crate::session) fn fits(&self, wanted: u64, session_left: u64) -> u64 {
        let wanted = wanted.min(self.size.saturating_sub(self.outstanding));
        let free_below = STREAM_RESERVE_BYTES.saturating_sub(self.outstanding);
        if wanted <= free_below || self.outstanding >= self.initial {
            return wanted;
        }
        let charged_end = self.initial.max(STREAM_RESERVE_BYTES);
        let from = self.outstanding.max(STREAM_RESERVE_BYTES);
        let chargeable = charged_end.saturating_sub(from);
        if chargeable <= session_left {
            wanted
        } else {
            wanted.min(free_below + session_left)
        }
    }
}

fn charge_of(outstanding: u64, initial: u64) -> u64 {
    outstanding
        .min(initial)
        .saturating_sub(STREAM_RESERVE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_and_growth_are_not_charged() {
        let mut window = Window::new(64 * 1024);
        window.outstanding = STREAM_RESERVE_BYTES;
        assert_eq!(window.charge(), 0);
        window.outstanding = 20 * 1024;
        assert_eq!(window.charge(), 4 * 1024);
        window.size = 1 << 20;
        window.outstanding = 1 << 19;
        assert_eq!(window.charge(), 64 * 1024 - STREAM_RESERVE_BYTES);
    }

    #[test]
    fn fits_never_charges_more_than_the_session_has() {
        for initial in [STREAM_RESERVE_BYTES, 20_000, 64 * 1024] {
            for size in [initial, initial + 100_000] {
                for outstanding in (0..=size).step_by(997) {
                    for left in [0, 1, 500, 10_000, 1 << 20] {
                        let mut window = Window::new(initial);
                        window.size = size;
                        window.outstanding = outstanding;
                        let before = window.charge();
                        let fits = window.fits(16 * 1024, left);
                        window.outstanding += fits;
                        assert!(window.outstanding <= size);
                        assert!(window.charge() - before <= left);
                        if fits < 16 * 1024 && window.outstanding < size {
                            window.outstanding += 1;
                            assert!(window.charge() - before > left, "stopped too early");
                        }
                    }
                }
            }
        }
    }
}
