//! Users of streams that act only on events: a missed wake-up shows as a body that never ends.

use bytes::Bytes;
use protocol::session::{Event, Read, SendCapacity, Session};
use std::collections::BTreeMap;
use std::time::Instant;

/// Returns the byte at a position of the body with this key.
fn byte(key: u64, position: u64) -> u8 {
    let mixed = (position ^ (key << 7)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}

/// A body. Its key determines its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    pub(crate) key: u64,
    pub(crate) bytes: u64,
}

/// Returns bytes of a body from a position on.
pub(crate) fn piece(body: Body, from: u64, bytes: u64) -> Bytes {
    (from..(from + bytes).min(body.bytes))
        .map(|at| byte(body.key, at))
        .collect()
}

/// Writes a body. After `Full` it waits for `Writable`.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) id: u32,
    pub(crate) body: Body,
    pub(crate) sent: u64,
    pub(crate) piece_bytes: u64,
    pub(crate) waits: bool,
    pub(crate) done: bool,
}

impl Writer {
    pub(crate) fn new(id: u32, body: Body) -> Self {
        Self {
            id,
            body,
            sent: 0,
            piece_bytes: 10_000,
            waits: false,
            done: false,
        }
    }

    /// Writes until the queue is full; returns the bytes written.
    pub(crate) fn write(&mut self, session: &mut Session) -> u64 {
        let before = self.sent;
        while !self.waits && !self.done {
            match session.send_capacity(self.id) {
                Err(_) | Ok(SendCapacity::Stopped) => self.done = true,
                Ok(SendCapacity::Full) => self.waits = true,
                Ok(SendCapacity::Free) if self.sent == self.body.bytes => {
                    session.finish(self.id, None).unwrap();
                    self.done = true;
                }
                Ok(SendCapacity::Free) => self.write_piece(session),
            }
        }
        self.sent - before
    }

    /// Writes one piece, even if the queue is full.
    pub(crate) fn write_piece(&mut self, session: &mut Session) {
        let data = piece(self.body, self.sent, self.piece_bytes);
        self.sent += data.len() as u64;
        session.send_data(self.id, data).unwrap();
    }
}

/// Reads a body and checks each byte. After `Pending` it waits for `Readable`.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) id: u32,
    pub(crate) key: u64,
    pub(crate) got: u64,
    pub(crate) waits: bool,
    pub(crate) done: bool,
    pub(crate) failed: bool,
}

impl Reader {
    pub(crate) fn new(id: u32, key: u64) -> Self {
        Self {
            id,
            key,
            got: 0,
            waits: false,
            done: false,
            failed: false,
        }
    }

    /// Takes one piece, if available. Returns whether it did.
    pub(crate) fn read(&mut self, now: Instant, session: &mut Session) -> bool {
        if self.waits || self.done {
            return false;
        }
        match session.read(now, self.id) {
            Read::Data(data) => {
                for (at, got) in (self.got..).zip(&data) {
                    assert_eq!(*got, byte(self.key, at), "byte {at} of stream {}", self.id);
                }
                self.got += data.len() as u64;
            }
            Read::Trailers(_) => {}
            Read::End => self.done = true,
            Read::Pending => self.waits = true,
            Read::Failed(_) => {
                self.done = true;
                self.failed = true;
            }
        }
        true
    }

    pub(crate) fn read_all(&mut self, now: Instant, session: &mut Session) {
        while self.read(now, session) {}
    }
}

/// The users of one side's streams.
#[derive(Debug, Default)]
pub(crate) struct Users {
    pub(crate) writers: BTreeMap<u32, Writer>,
    pub(crate) readers: BTreeMap<u32, Reader>,
}

impl Users {
    pub(crate) fn write(&mut self, id: u32, body: Body) {
        self.writers.insert(id, Writer::new(id, body));
    }

    pub(crate) fn read(&mut self, id: u32, key: u64) {
        self.readers.insert(id, Reader::new(id, key));
    }

    /// Wakes the user that an event concerns, and no other.
    pub(crate) fn wake(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            let (reader, writer) = match event {
                Event::Readable(id) => (Some(id), None),
                Event::Writable(id) => (None, Some(id)),
                Event::Failed(id) => (Some(id), Some(id)),
                _ => (None, None),
            };
            if let Some(reader) = reader.and_then(|id| self.readers.get_mut(&id)) {
                reader.waits = false;
            }
            if let Some(writer) = writer.and_then(|id| self.writers.get_mut(&id)) {
                writer.waits = false;
            }
        }
    }

    /// Lets every writer write, and every reader take at most `pieces`.
    pub(crate) fn act(&mut self, now: Instant, session: &mut Session, pieces: usize) {
        for writer in self.writers.values_mut() {
            writer.write(session);
        }
        for reader in self.readers.values_mut() {
            for _ in 0..pieces {
                reader.read(now, session);
            }
        }
    }

    pub(crate) fn are_done(&self) -> bool {
        self.writers.values().all(|writer| writer.done)
            && self.readers.values().all(|reader| reader.done)
    }

    /// Whether some reader can proceed without an event.
    pub(crate) fn are_busy(&self) -> bool {
        self.readers
            .values()
            .any(|reader| !reader.waits && !reader.done)
    }
}
