//! A counter per slot that does not go back: the relay fences by it.
//!
//! It is written to the disk before the connection that it names is made. Where the disk takes nothing, the
//! number in memory does: this process never uses one twice. A process that starts from a number that is too
//! low learns from the relay (`stale_epoch`) which one it saw last, and goes on from there.
//!
//! What the relay says is bounded, too: it may raise the number by [`STEP_MAX`] at a time, so that no
//! answer uses the numbers up. `pair` starts the counters again.

use crate::data_dir::{DataDir, DataDirError, PrivateDir};

/// The most by which one answer of the relay raises a number. A connection each second uses this up in
/// 136 years.
pub const STEP_MAX: u64 = 1 << 32;

/// The highest number in a file that this program can have written; it is out of reach by steps.
const FILE_MAX: u64 = u64::MAX / 2;

/// Slots whose counters `pair` starts again: as many as there may be.
const SLOTS_MAX: u8 = 8;

/// The relay names a number that is too far from ours to be one that this bridge has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the relay says that it saw connection number {current} of this bridge, which has used {last} and raises \
     that by {STEP_MAX} at most"
)]
pub struct TooFar {
    /// What the relay says.
    pub current: u64,
    /// What this bridge has used last.
    pub last: u64,
}

/// The counter of one slot.
#[derive(Debug)]
pub struct Epoch {
    file: String,
    last: u64,
}

fn file_of(slot: u8) -> String {
    format!("epoch-{slot}")
}

impl Epoch {
    /// Reads it. A file that cannot be understood counts as zero: the relay then says what it saw
    /// last, and [`Self::raise`] takes that.
    ///
    /// # Errors
    /// [`DataDirError`] when the file is there and cannot be read.
    pub fn load(data_dir: &DataDir, slot: u8) -> Result<Self, DataDirError> {
        let file = file_of(slot);
        let last = data_dir
            .read_private(&file)?
            .and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse().ok())
            .filter(|last| *last <= FILE_MAX)
            .unwrap_or(0);
        Ok(Self { file, last })
    }

    /// One that begins at zero, for a file that cannot be read now.
    pub fn unread(slot: u8) -> Self {
        Self {
            file: file_of(slot),
            last: 0,
        }
    }

    /// The number of the next connection, and what the disk said when it was to be written. The number is
    /// above all that this process has used, whatever the disk said. Blocks for the disk.
    pub fn next(&mut self, data_dir: &DataDir) -> (u64, Result<(), DataDirError>) {
        self.last = self.last.saturating_add(1);
        let written = data_dir.write_private(&self.file, self.last.to_string().as_bytes());
        (self.last, written)
    }

    /// The relay did not take our number, and has seen `current`: the next number is above that.
    ///
    /// # Errors
    /// [`TooFar`] when it cannot be one of ours; the number stays.
    pub fn raise(&mut self, current: u64) -> Result<(), TooFar> {
        if current > self.last.saturating_add(STEP_MAX) || current > FILE_MAX {
            return Err(TooFar {
                current,
                last: self.last,
            });
        }
        self.last = self.last.max(current);
        Ok(())
    }

    /// Starts all counters again: `pair` does, for the relay forgets them, too.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn reset_all(data_dir: &PrivateDir) -> Result<(), DataDirError> {
        (0..SLOTS_MAX).try_for_each(|slot| data_dir.remove(&file_of(slot)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::TempDir;

    fn next(epoch: &mut Epoch, data_dir: &DataDir) -> u64 {
        let (next, written) = epoch.next(data_dir);
        written.unwrap();
        next
    }

    #[test]
    fn an_epoch_grows_over_restarts_and_slots_are_apart() {
        let temp = TempDir::new("epoch");
        let data_dir = DataDir::open(temp.path()).unwrap();
        let mut epoch = Epoch::load(&data_dir, 0).unwrap();
        assert_eq!(next(&mut epoch, &data_dir), 1);
        assert_eq!(next(&mut epoch, &data_dir), 2);
        let mut again = Epoch::load(&data_dir, 0).unwrap();
        assert_eq!(next(&mut again, &data_dir), 3);
        again.raise(100).unwrap();
        again.raise(50).unwrap();
        assert_eq!(next(&mut again, &data_dir), 101);
        assert_eq!(next(&mut Epoch::load(&data_dir, 1).unwrap(), &data_dir), 1);
        Epoch::reset_all(&data_dir).unwrap();
        assert_eq!(next(&mut Epoch::load(&data_dir, 0).unwrap(), &data_dir), 1);
    }

    #[test]
    fn a_damaged_epoch_starts_over_and_can_be_raised() {
        let temp = TempDir::new("epoch damaged");
        let data_dir = DataDir::open(temp.path()).unwrap();
        let huge = u64::MAX.to_string();
        for text in [b"\xff\xff" as &[u8], b"", b"-1", huge.as_bytes()] {
            data_dir.write_private("epoch-0", text).unwrap();
            let mut epoch = Epoch::load(&data_dir, 0).unwrap();
            epoch.raise(7).unwrap();
            assert_eq!(next(&mut epoch, &data_dir), 8);
        }
    }

    #[test]
    fn relay_raises_an_epoch_by_a_bounded_step() {
        let temp = TempDir::new("epoch step");
        let data_dir = DataDir::open(temp.path()).unwrap();
        let mut epoch = Epoch::load(&data_dir, 0).unwrap();
        for current in [u64::MAX, u64::MAX - 1, u64::MAX / 2, STEP_MAX + 1] {
            assert_eq!(epoch.raise(current), Err(TooFar { current, last: 0 }));
        }
        assert_eq!(next(&mut epoch, &data_dir), 1);
        epoch.raise(STEP_MAX).unwrap();
        assert_eq!(next(&mut epoch, &data_dir), STEP_MAX + 1);
        assert_eq!(
            next(&mut Epoch::load(&data_dir, 0).unwrap(), &data_dir),
            STEP_MAX + 2
        );
    }

    #[test]
    fn epoch_in_memory_grows_while_the_disk_takes_nothing() {
        let temp = TempDir::new("epoch disk");
        let data_dir = DataDir::open(temp.path()).unwrap();
        let mut epoch = Epoch::load(&data_dir, 0).unwrap();
        assert_eq!(next(&mut epoch, &data_dir), 1);
        // Nothing can be renamed over a directory.
        std::fs::remove_file(data_dir.path("epoch-0")).unwrap();
        std::fs::create_dir(data_dir.path("epoch-0")).unwrap();
        for expected in [2, 3] {
            let (number, written) = epoch.next(&data_dir);
            assert_eq!(number, expected);
            written.unwrap_err();
        }
        std::fs::remove_dir(data_dir.path("epoch-0")).unwrap();
        assert_eq!(next(&mut epoch, &data_dir), 4);
    }
}
