//! What the target has seen, and which steps are next.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::request::Parts;
use http::{Version, header};

use super::script::{Head, Step, fields_of, whole};
use crate::recorder::{CASE, Field};

/// A request, as far as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its field [`CASE`], or its path without the query.
    pub key: String,
    /// The number of the connection that it came on, from 1. A connection without any request has a
    /// number, too.
    pub connection: u64,
    /// The version that it came by.
    pub version: Version,
    /// Its method.
    pub method: String,
    /// Its path and query, as they came.
    pub path: String,
    /// `:authority`, or `Host` where there is none.
    pub authority: String,
    /// Its fields. Values of equal names are in their order, and stand together.
    pub fields: Vec<Field>,
    /// Its body, as far as it was read.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Vec<Field>,
    /// How its body ended.
    pub body_end: BodyEnd,
    /// How the exchange ended.
    pub ended: Ended,
}

/// How a request's body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyEnd {
    /// It was not read to an end.
    Open,
    /// All of it came.
    Whole,
    /// It was aborted: the library's error text.
    BrokenOff(String),
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It runs.
    Running,
    /// All steps were taken.
    Answered,
    /// A step broke it off.
    Broken,
    /// The client reset its stream, or closed the connection, before all steps were taken.
    Left,
}

/// Of all connections.
#[derive(Debug, Default)]
pub(super) struct Shared {
    connections: AtomicU64,
    scripts: Mutex<HashMap<String, VecDeque<Vec<Step>>>>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    next: u64,
    /// Each with its serial number.
    seen: Vec<(u64, Seen)>,
}

/// The place where a request is written down. One that is dropped early was left by its client.
pub(super) struct Note {
    shared: Arc<Shared>,
    serial: u64,
}

impl Shared {
    /// The number of a new connection.
    pub(super) fn connected(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn set_scripts(&self, key: &str, scripts: Vec<Vec<Step>>) {
        lock(&self.scripts).insert(key.to_owned(), scripts.into());
    }

    pub(super) fn take(&self, key: &str) -> Vec<Seen> {
        let mut log = lock(&self.log);
        let all = std::mem::take(&mut log.seen).into_iter();
        let (taken, kept) = all.partition::<Vec<_>, _>(|(_, seen)| seen.key == key);
        log.seen = kept;
        taken.into_iter().map(|(_, seen)| seen).collect()
    }

    pub(super) fn seen(&self, key: &str) -> Vec<Seen> {
        let log = lock(&self.log);
        let all = log.seen.iter().map(|(_, seen)| seen);
        all.filter(|seen| seen.key == key).cloned().collect()
    }

    /// Writes a head down. With it come the steps that it is answered with.
    pub(super) fn begin(self: &Arc<Self>, head: &Parts, connection: u64) -> (Note, Vec<Step>) {
        let seen = Seen::begin(head, connection);
        let steps = self.next_script(&seen.key);
        let mut log = lock(&self.log);
        let serial = log.next;
        log.next += 1;
        log.seen.push((serial, seen));
        let note = Note {
            shared: Arc::clone(self),
            serial,
        };
        (note, steps)
    }

    fn next_script(&self, key: &str) -> Vec<Step> {
        let mut all = lock(&self.scripts);
        let scripts = all.get_mut(key);
        let next = scripts.and_then(|scripts| match scripts.len() {
            0 | 1 => scripts.front().cloned(),
            _ => scripts.pop_front(),
        });
        next.unwrap_or_else(|| whole(Head::new(404), "no such script"))
    }
}

impl Seen {
    fn begin(head: &Parts, connection: u64) -> Self {
        let path = head.uri.path_and_query();
        let path = path.map(|path| path.as_str().to_owned());
        let text = |name: &str| {
            let value = head.headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let authority = head.uri.authority().map(|own| own.as_str().to_owned());
        Self {
            key: text(CASE).unwrap_or_else(|| head.uri.path().to_owned()),
            connection,
            version: head.version,
            method: head.method.as_str().to_owned(),
            path: path.unwrap_or_default(),
            authority: authority
                .or_else(|| text(header::HOST.as_str()))
                .unwrap_or_default(),
            fields: fields_of(&head.headers),
            body: Vec::new(),
            trailers: Vec::new(),
            body_end: BodyEnd::Open,
            ended: Ended::Running,
        }
    }
}

impl Note {
    /// Adds to what is written, unless it was taken meanwhile.
    pub(super) fn change(&self, change: impl FnOnce(&mut Seen)) {
        let mut log = lock(&self.shared.log);
        let mut all = log.seen.iter_mut();
        if let Some((_, seen)) = all.find(|(serial, _)| *serial == self.serial) {
            change(seen);
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.change(|seen| {
            if seen.ended == Ended::Running {
                seen.ended = Ended::Left;
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
