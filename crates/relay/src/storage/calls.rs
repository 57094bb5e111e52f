//! Stored calls: their rows, and the statements on them.
//!
//! | module | statements |
//! | --- | --- |
//! | `state` | [`CallState`] |
//! | `write` | changes of one call, committed in groups by the [`Batch`](super::Batch) |
//! | `queue` | what the delivery engine reads, and changes of many calls |
//! | `pages` | what a tenant sees of its calls; redeliver and cancel |
//! | `scan` | calls in order, for keys that see only some of them |
//!
//! A change leaves a state only from the states in which it is expected. So a change that is late or repeated, or
//! that comes from a process that has lost the lease, changes nothing.

mod pages;
mod queue;
mod scan;
mod state;
mod write;

pub(crate) use pages::no_call;
pub use pages::{CallAttemptRow, CallFilter, CallSummary};
#[cfg(test)]
pub(super) use pages::{PAGE_OF_ALL, PAGE_OF_STATE};
#[cfg(test)]
pub(super) use queue::DUE;
pub use queue::{ExpiredCall, Group, Queued};
pub use scan::{CallRef, Purpose};
pub use state::CallState;
pub use write::{Write, Written};

use super::StorageError;
use super::idempotency::RequestDigest;
use super::rows::corrupt;
use protocol::frame::JournalMark;
use protocol::{Code, Execution};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use std::sync::Arc;

/// A call that is to be stored.
#[derive(Debug)]
pub struct NewCall {
    /// Its id, as callers see it.
    pub id: String,
    /// Its tenant's id.
    pub tenant: Arc<str>,
    /// The client id of the key that submitted it.
    pub client_id: String,
    /// The caller's label.
    pub label: Option<String>,
    /// When it was submitted, in milliseconds since 1970.
    pub created_ms: i64,
    /// The request's method.
    pub method: String,
    /// The URL's host.
    pub host: String,
    /// The bridge that it must go through, if the caller named one.
    pub bridge: Option<String>,
    /// Whether it may be repeated when its outcome cannot be determined.
    pub at_least_once: bool,
    /// The caller's idempotency key.
    pub idempotency_key: Option<String>,
    /// Hash of the request.
    pub digest: RequestDigest,
    /// The request, sealed.
    pub sealed: Vec<u8>,
    /// Bytes of the request's body.
    pub bytes: i64,
    /// How long it may wait before it expires.
    pub expires_in: ExpiresIn,
    /// Whether the relay may call its URL directly.
    pub class: DirectClass,
}

/// How long a call may wait before it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiresIn {
    /// The call's own value, in milliseconds; zero: it never expires.
    Own(i64),
    /// The tenant's value, or this one in milliseconds if the tenant has none; zero: it never expires.
    Default(i64),
}

/// Whether the relay may call a stored call's URL directly, and by which patterns that was decided. The mark
/// shows which calls must be decided again after the tenant's patterns have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirectClass {
    /// Whether the URL matches a pattern.
    pub is_direct: bool,
    /// The mark of the patterns; zero for none.
    pub mark: i64,
}

/// The outcome for a call that was to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is on disk.
    Stored,
    /// A stored call has the same idempotency key.
    Known {
        /// That call's id.
        id: String,
        /// Its state.
        state: CallState,
        /// Whether its request is the same.
        is_same: bool,
    },
    /// A synchronous call has the same idempotency key.
    KeyInUse,
    /// Its tenant was deleted.
    NoTenant,
}

/// The part of a stored call that an attempt needs.
#[derive(Debug, Clone)]
pub struct StoredCall {
    /// Its id.
    pub id: Arc<str>,
    /// Its tenant's id.
    pub tenant: Arc<str>,
    /// The caller's label.
    pub label: Option<String>,
    /// The request's method.
    pub method: String,
    /// The URL's host.
    pub host: String,
    /// The bridge that the caller named.
    pub bridge: Option<String>,
    /// Bytes of the request's body.
    pub bytes: i64,
    /// Whether it may be repeated when its outcome cannot be determined.
    pub at_least_once: bool,
    /// Attempts that were begun.
    pub attempt: u32,
    /// Steps of the retry schedule that were used up.
    pub step: u32,
    /// Whether its cancellation was requested.
    pub is_cancelled: bool,
    /// Whether the relay may call its URL directly.
    pub class: DirectClass,
}

/// Where an attempt was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// The bridge's id; empty for a direct call.
    pub bridge: Arc<str>,
    /// The installation; for a direct call its tenant.
    pub instance: Vec<u8>,
}

/// The end of an attempt, and the state that follows.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The call's id.
    pub id: Arc<str>,
    /// Its tenant's id.
    pub tenant: Arc<str>,
    /// The caller's label.
    pub label: Option<String>,
    /// The URL's host.
    pub host: String,
    /// Bytes of the request's body, if they may have gone to the target.
    pub bytes_up: u64,
    /// The attempt.
    pub attempt: u32,
    /// Where it was sent: only that installation may settle it.
    pub via: Via,
    /// The bridge's name, for display; empty for a direct call.
    pub bridge_name: String,
    /// The state that follows.
    pub state: CallState,
    /// When the call is due again, if it is pending; in milliseconds since 1970.
    pub due_ms: i64,
    /// When `due_ms` was computed, by the same clock.
    pub now_ms: i64,
    /// Steps of the retry schedule that are used up then.
    pub step: u32,
    /// When the attempt began, in milliseconds since 1970.
    pub began_ms: i64,
    /// How long it took, in milliseconds.
    pub took_ms: i64,
    /// The target's status.
    pub status: Option<u16>,
    /// The failure's code.
    pub code: Option<Code>,
    /// The execution state of the request.
    pub execution: Execution,
    /// The failure in plain text.
    pub detail: String,
    /// The position that the installation's journal must have reached, as far as the relay has seen.
    pub journal_reached: Option<JournalMark>,
    /// The relay cannot call the URL directly after all, by the tenant's current patterns.
    pub is_misrouted: bool,
}

// The databases have 64-bit columns; the values were `u32` when they were stored.
fn number(row: &AnyRow, column: &'static str) -> Result<u32, StorageError> {
    let number: i64 = row.try_get(column)?;
    Ok(u32::try_from(number).map_err(|_| corrupt(column))?)
}

fn class(row: &AnyRow) -> Result<DirectClass, StorageError> {
    Ok(DirectClass {
        // 2: a direct attempt found that the URL may not be called directly. Redelivery tries it again.
        is_direct: row.try_get::<i64, _>("direct")? == 1,
        mark: row.try_get("direct_mark")?,
    })
}

fn stored(row: &AnyRow) -> Result<StoredCall, StorageError> {
    Ok(StoredCall {
        id: row.try_get::<String, _>("id")?.into(),
        tenant: row.try_get::<String, _>("tenant_id")?.into(),
        label: row.try_get("label")?,
        method: row.try_get("method")?,
        host: row.try_get("host")?,
        bridge: row.try_get("bridge")?,
        bytes: row.try_get("bytes")?,
        at_least_once: row.try_get::<i64, _>("at_least_once")? != 0,
        attempt: number(row, "attempt")?,
        step: number(row, "step")?,
        is_cancelled: row.try_get::<i64, _>("cancelled")? != 0,
        class: class(row)?,
    })
}
