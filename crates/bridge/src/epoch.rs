//! A counter per slot that never goes back, not even over a crash: it is on the disk before the
//! connection that it names is made. The relay fences by it.

use crate::data_dir::{DataDir, DataDirError};

/// The counter of one slot.
#[derive(Debug)]
pub struct Epoch {
    file: String,
    last: u64,
}

impl Epoch {
    /// Reads it. A file that cannot be understood counts as zero: the relay then says what it saw
    /// last, and [`Self::raise`] takes that.
    ///
    /// # Errors
    /// [`DataDirError`] when the file is there and cannot be read.
    pub fn load(data_dir: &DataDir, slot: u8) -> Result<Self, DataDirError> {
        let file = format!("epoch-{slot}");
        let last = data_dir
            .read_private(&file)?
            .and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse().ok())
            .unwrap_or(0);
        Ok(Self { file, last })
    }

    /// The number of the next connection, on the disk when this returns. Blocks for the disk.
    ///
    /// # Errors
    /// [`DataDirError::Io`]; the number must not be used then.
    pub fn next(&mut self, data_dir: &DataDir) -> Result<u64, DataDirError> {
        let next = self.last.saturating_add(1);
        data_dir.write_private(&self.file, next.to_string().as_bytes())?;
        self.last = next;
        Ok(next)
    }

    /// The relay has seen `current`: the next number is above it.
    pub fn raise(&mut self, current: u64) {
        self.last = self.last.max(current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::TempDir;

    #[test]
    fn an_epoch_grows_over_restarts_and_slots_are_apart() {
        let temp = TempDir::new("epoch");
        let data_dir = DataDir::open(temp.path()).unwrap();
        let mut epoch = Epoch::load(&data_dir, 0).unwrap();
        assert_eq!(epoch.next(&data_dir).unwrap(), 1);
        assert_eq!(epoch.next(&data_dir).unwrap(), 2);
        let mut again = Epoch::load(&data_dir, 0).unwrap();
        assert_eq!(again.next(&data_dir).unwrap(), 3);
        again.raise(100);
        again.raise(50);
        assert_eq!(again.next(&data_dir).unwrap(), 101);
        assert_eq!(
            Epoch::load(&data_dir, 1).unwrap().next(&data_dir).unwrap(),
            1
        );
    }

    #[test]
    fn a_damaged_epoch_starts_over_and_can_be_raised() {
        let temp = TempDir::new("epoch damaged");
        let data_dir = DataDir::open(temp.path()).unwrap();
        data_dir.write_private("epoch-0", b"\xff\xff").unwrap();
        let mut epoch = Epoch::load(&data_dir, 0).unwrap();
        epoch.raise(7);
        assert_eq!(epoch.next(&data_dir).unwrap(), 8);
    }
}
