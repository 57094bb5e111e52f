//! A counter for each connection, which never decreases: the relay uses it to fence an older process.
//!
//! ```text
//! load -> next (written to the disk) -> HELLO with the number -> WELCOME
//!           ^                                     \--> stale_epoch with the relay's number
//!           \---------------- raise <------------------------------/
//! ```
//!
//! The number is written to the disk before the connection that it identifies is opened. If the disk fails, the
//! number in memory still increases, so one process never uses a number twice. A process that starts from a
//! number that is too low gets the relay's latest number (`stale_epoch`) and continues from there.
//!
//! The relay's number is bounded as well: it may raise the counter by [`STEP_MAX`] at a time, so that no
//! response can use up the numbers. `pair` restarts the counters.

use crate::data_dir::{DataDir, DataDirError, PrivateDir};

/// The most by which one response of the relay raises a counter. At a connection each second, this many
/// numbers last 136 years.
pub(crate) const STEP_MAX: u64 = 1 << 32;

/// The highest number in a file that this program can have written. It cannot be reached by steps.
const FILE_MAX: u64 = u64::MAX / 2;

/// Connections whose counters `pair` restarts: the most that `relay.connections` allows.
const CONNECTIONS_MAX: u8 = 8;

/// The relay reports a number that is too far from the counter to be one that this bridge has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the relay reports connection number {current} for this bridge, but the latest number used here is \
     {last}, and one response may raise it by {STEP_MAX} at most"
)]
pub(crate) struct TooFar {
    /// The relay's number.
    pub(crate) current: u64,
    /// The latest number that this bridge has used.
    pub(crate) last: u64,
}

/// The counter of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionCounter {
    file: String,
    last: u64,
}

/// Returns the counter's file in the data directory. (`epoch` is the wire's name of the number.)
fn file_of(connection: u8) -> String {
    format!("epoch-{connection}")
}

impl ConnectionCounter {
    /// Reads the counter. A damaged file counts as zero: the relay then reports its latest number, and
    /// [`Self::raise`] accepts that.
    ///
    /// # Errors
    /// [`DataDirError`] if the file exists and cannot be read.
    pub(crate) fn load(data_dir: &DataDir, connection: u8) -> Result<Self, DataDirError> {
        let file = file_of(connection);
        let last = data_dir
            .read_private(&file)?
            .and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse().ok())
            // A damaged file must not use up the numbers either.
            .filter(|last| *last <= FILE_MAX)
            .unwrap_or(0);
        Ok(Self { file, last })
    }

    /// Returns a counter that starts at zero, for a file that cannot be read now.
    pub(crate) fn unread(connection: u8) -> Self {
        Self {
            file: file_of(connection),
            last: 0,
        }
    }

    /// Returns the number of the next connection, and the result of writing it. The number is higher than
    /// all that this process has used, even if the write failed. Blocks for the disk.
    pub(crate) fn next(&mut self, data_dir: &DataDir) -> (u64, Result<(), DataDirError>) {
        // Before the write: a failed write must not make the next attempt use the same number.
        self.last = self.last.saturating_add(1);
        let written = data_dir.write_private(&self.file, self.last.to_string().as_bytes());
        (self.last, written)
    }

    /// Raises the counter to the relay's number after a rejection: the next number is higher than that.
    ///
    /// # Errors
    /// [`TooFar`] if this bridge cannot have used that number; the counter stays as it is.
    pub(crate) fn raise(&mut self, current: u64) -> Result<(), TooFar> {
        if current > self.last.saturating_add(STEP_MAX) || current > FILE_MAX {
            return Err(TooFar {
                current,
                last: self.last,
            });
        }
        self.last = self.last.max(current);
        Ok(())
    }

    /// Restarts all counters. Only `pair` may do that: the relay restarts its side as well.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn reset_all(data_dir: &PrivateDir) -> Result<(), DataDirError> {
        (0..CONNECTIONS_MAX).try_for_each(|number| data_dir.remove(&file_of(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn next(counter: &mut ConnectionCounter, data_dir: &DataDir) -> u64 {
        let (next, written) = counter.next(data_dir);
        written.unwrap();
        next
    }

    #[test]
    fn counter_survives_restarts_for_each_connection() {
        let temp = TempDir::new("counter");
        let data_dir = DataDir::open(&temp.path().join("data")).unwrap();
        let mut counter = ConnectionCounter::load(&data_dir, 0).unwrap();
        assert_eq!(next(&mut counter, &data_dir), 1);
        assert_eq!(next(&mut counter, &data_dir), 2);
        let mut again = ConnectionCounter::load(&data_dir, 0).unwrap();
        assert_eq!(next(&mut again, &data_dir), 3);
        again.raise(100).unwrap();
        again.raise(50).unwrap();
        assert_eq!(next(&mut again, &data_dir), 101);
        assert_eq!(
            next(
                &mut ConnectionCounter::load(&data_dir, 1).unwrap(),
                &data_dir
            ),
            1
        );
        ConnectionCounter::reset_all(&data_dir).unwrap();
        assert_eq!(
            next(
                &mut ConnectionCounter::load(&data_dir, 0).unwrap(),
                &data_dir
            ),
            1
        );
    }

    #[test]
    fn damaged_counter_restarts_and_can_be_raised() {
        let temp = TempDir::new("counter damaged");
        let data_dir = DataDir::open(&temp.path().join("data")).unwrap();
        let huge = u64::MAX.to_string();
        for text in [b"\xff\xff" as &[u8], b"", b"-1", huge.as_bytes()] {
            data_dir.write_private("epoch-0", text).unwrap();
            let mut counter = ConnectionCounter::load(&data_dir, 0).unwrap();
            counter.raise(7).unwrap();
            assert_eq!(next(&mut counter, &data_dir), 8);
        }
    }

    #[test]
    fn relay_raises_the_counter_by_a_bounded_step() {
        let temp = TempDir::new("counter step");
        let data_dir = DataDir::open(&temp.path().join("data")).unwrap();
        let mut counter = ConnectionCounter::load(&data_dir, 0).unwrap();
        for current in [u64::MAX, u64::MAX - 1, u64::MAX / 2, STEP_MAX + 1] {
            assert_eq!(counter.raise(current), Err(TooFar { current, last: 0 }));
        }
        assert_eq!(next(&mut counter, &data_dir), 1);
        counter.raise(STEP_MAX).unwrap();
        assert_eq!(next(&mut counter, &data_dir), STEP_MAX + 1);
        assert_eq!(
            next(
                &mut ConnectionCounter::load(&data_dir, 0).unwrap(),
                &data_dir
            ),
            STEP_MAX + 2
        );
    }

    #[test]
    fn counter_in_memory_increases_while_disk_fails() {
        let temp = TempDir::new("counter disk");
        let data_dir = DataDir::open(&temp.path().join("data")).unwrap();
        let mut counter = ConnectionCounter::load(&data_dir, 0).unwrap();
        assert_eq!(next(&mut counter, &data_dir), 1);
        // A rename over a directory fails.
        std::fs::remove_file(data_dir.path("epoch-0")).unwrap();
        std::fs::create_dir(data_dir.path("epoch-0")).unwrap();
        for expected in [2, 3] {
            let (number, written) = counter.next(&data_dir);
            assert_eq!(number, expected);
            written.unwrap_err();
        }
        std::fs::remove_dir(data_dir.path("epoch-0")).unwrap();
        assert_eq!(next(&mut counter, &data_dir), 4);
    }
}
