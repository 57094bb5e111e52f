//! The tables of the journal: one request at a time, inside a transaction of the store.

use super::super::{JournalEntryState, JournalError, JournalReply, JournalRequest};
use super::entry::{BEGUN, Entry, Key, State, Value, attempt, key};
use super::fault::{Fault, disk};
use super::{Bounds, Counts, now};
use protocol::frame::DeliveryResult;
use redb::{ReadableTable, Table};
use std::ops::Bound::{Excluded, Unbounded};

/// Acknowledged entries that are dropped in one commit.
const DROP_MAX: usize = 128;

/// Entries that one commit scans for that. The next commit continues where this one ended, so that no commit
/// takes long.
const SCAN_MAX: usize = 256;

/// The tables in one transaction.
pub(super) struct Tables<'a> {
    pub(super) entries: Table<'a, &'static Key, &'static Value>,
    pub(super) order: Table<'a, u64, &'static Key>,
    pub(super) counts: &'a mut Counts,
    pub(super) bounds: Bounds,
}

impl Tables<'_> {
    fn get(&self, key: &Key) -> Result<Option<Entry>, Fault> {
        get(&self.entries, key)
    }

    fn put(&mut self, key: &Key, entry: &Entry) -> Result<(), Fault> {
        self.entries.insert(key, &entry.write()).map_err(disk)?;
        Ok(())
    }

    /// Applies one request. The outer error is the database's, which fails the whole commit.
    pub(super) fn apply(
        &mut self,
        request: &JournalRequest,
    ) -> Result<Result<JournalReply, JournalError>, Fault> {
        match request {
            JournalRequest::Lookup(_) | JournalRequest::Open(..) => {
                lookup(&self.entries, request).map(Ok)
            }
            JournalRequest::Begin(attempt) => self.begin(&key(*attempt)),
            JournalRequest::End(attempt, outcome) => {
                let key = key(*attempt);
                if let Some(entry) = self.get(&key)?
                    && entry.state == State::Begun
                {
                    self.counts.sequence += 1;
                    let ended = Entry {
                        state: State::Ended,
                        outcome: *outcome,
                        ..entry
                    };
                    self.put(&key, &ended)?;
                }
                Ok(Ok(JournalReply::Done))
            }
            JournalRequest::Acknowledge(attempt) => {
                let key = key(*attempt);
                if let Some(entry) = self.get(&key)?
                    && entry.state == State::Ended
                {
                    self.counts.acknowledged += 1;
                    let acknowledged = Entry {
                        state: State::Acknowledged,
                        ..entry
                    };
                    self.put(&key, &acknowledged)?;
                }
                Ok(Ok(JournalReply::Done))
            }
        }
    }

    fn begin(&mut self, key: &Key) -> Result<Result<JournalReply, JournalError>, Fault> {
        if let Some(entry) = self.get(key)? {
            return Ok(Ok(JournalReply::State(entry.state())));
        }
        // Rejected rather than dropping an older entry: that one may be the only record of a delivery.
        if self.counts.entries >= self.bounds.entries() {
            let open = self.counts.entries - self.counts.acknowledged;
            return Ok(Err(JournalError::Full(open)));
        }
        self.counts.sequence += 1;
        self.counts.entries += 1;
        let entry = Entry {
            state: State::Begun,
            number: self.counts.sequence,
            at: now(),
            outcome: BEGUN,
        };
        self.put(key, &entry)?;
        self.order.insert(entry.number, key).map_err(disk)?;
        Ok(Ok(JournalReply::State(JournalEntryState::Unknown)))
    }

    /// Drops acknowledged entries, the oldest first, while they use more than half of the journal, or the space
    /// that the next intents need. An entry that is not acknowledged stays, however old it seems: a clock may
    /// be wrong, and without its entry a delivery is executed twice.
    pub(super) fn drop_acknowledged(&mut self, scanned_to: &mut u64) -> Result<(), Fault> {
        let (most, acknowledged) = (self.bounds.entries(), self.counts.acknowledged);
        let spare = (most / 8).min(DROP_MAX as u64);
        let above = self.counts.entries.saturating_sub(most - spare);
        let mut surplus = acknowledged
            .saturating_sub(most / 2)
            .max(above.min(acknowledged));
        // Most commits end here: the table of the order is not scanned.
        if surplus == 0 {
            return Ok(());
        }
        let mut gone = Vec::new();
        let mut scanned = 0;
        let from = (Excluded(*scanned_to), Unbounded);
        for item in self.order.range::<u64>(from).map_err(disk)? {
            let (number, key) = item.map_err(disk)?;
            scanned += 1;
            *scanned_to = number.value();
            match self.get(key.value())? {
                Some(entry) if entry.state != State::Acknowledged => {}
                found => {
                    surplus = surplus.saturating_sub(u64::from(found.is_some()));
                    gone.push((number.value(), *key.value(), found.is_some()));
                }
            }
            if scanned >= SCAN_MAX || gone.len() >= DROP_MAX || surplus == 0 {
                break;
            }
        }
        if scanned < SCAN_MAX && surplus > 0 && gone.len() < DROP_MAX {
            // At the end of the table: start over, since older entries were acknowledged meanwhile.
            *scanned_to = 0;
        }
        for (number, key, is_entry) in gone {
            self.order.remove(number).map_err(disk)?;
            if is_entry {
                self.entries.remove(&key).map_err(disk)?;
                self.counts.entries -= 1;
                self.counts.acknowledged -= 1;
            }
        }
        Ok(())
    }
}

/// Returns the reply of an empty journal.
pub(super) fn empty_reply(request: &JournalRequest) -> JournalReply {
    match request {
        JournalRequest::Lookup(_) => JournalReply::State(JournalEntryState::Unknown),
        JournalRequest::Open(..) => JournalReply::Open(Vec::new()),
        JournalRequest::Begin(_) | JournalRequest::End(..) | JournalRequest::Acknowledge(_) => {
            JournalReply::Done
        }
    }
}

fn get(
    entries: &impl ReadableTable<&'static Key, &'static Value>,
    key: &Key,
) -> Result<Option<Entry>, Fault> {
    let found = entries.get(key).map_err(disk)?;
    Ok(found.map(|value| Entry::read(value.value())))
}

/// Reads for a request. Requests that write are done by [`Tables::apply`].
pub(super) fn lookup(
    entries: &impl ReadableTable<&'static Key, &'static Value>,
    request: &JournalRequest,
) -> Result<JournalReply, Fault> {
    match request {
        JournalRequest::Lookup(attempt) => {
            let entry = get(entries, &key(*attempt))?;
            Ok(JournalReply::State(
                entry.map_or(JournalEntryState::Unknown, |e| e.state()),
            ))
        }
        JournalRequest::Open(after, limit) => {
            let from = after.map_or([0; 20], key);
            let mut results: Vec<DeliveryResult> = Vec::new();
            for item in entries.range::<&Key>(&from..).map_err(disk)? {
                let (key, value) = item.map_err(disk)?;
                let entry = Entry::read(value.value());
                let is_first = after.is_some() && *key.value() == from;
                // The range is inclusive, and its first entry was in the page before.
                if entry.state != State::Ended || is_first {
                    continue;
                }
                results.push(entry.outcome.to_result(attempt(key.value())));
                if results.len() >= *limit {
                    break;
                }
            }
            Ok(JournalReply::Open(results))
        }
        JournalRequest::Begin(_) | JournalRequest::End(..) | JournalRequest::Acknowledge(_) => {
            Ok(JournalReply::Done)
        }
    }
}
