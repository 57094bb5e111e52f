//! Stored calls in the order in which they were submitted, for operations of narrowed keys. Which calls such a key
//! sees is decided by `access`, row by row.

use super::{CallFilter, CallState};
use crate::storage::{Storage, StorageError};
use sqlx::Row as _;

/// The operation that the calls are selected for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Make final calls pending again, except those that succeeded.
    Redeliver,
    /// Cancel calls that are not final and whose cancellation was not requested before.
    Cancel,
}

/// The part of a call that decides whether a key sees it.
#[derive(Debug, Clone)]
pub struct CallRef {
    /// Orders calls: rises with each call that is submitted.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// The URL's host.
    pub host: String,
    /// The bridge that the caller named.
    pub bridge: Option<String>,
    /// The client id of the key that submitted it.
    pub client_id: String,
}

macro_rules! scan {
    ($states:literal) => {
        concat!(
            "SELECT seq, id, host, bridge, client_id FROM calls
             WHERE tenant_id = $1 AND seq > $2 AND ($3 = '' OR state = $3)
               AND ($4 = '' OR host = $4) AND created_ms >= $5 AND created_ms < $6
               AND ",
            $states,
            " ORDER BY seq LIMIT $7"
        )
    };
}

const TO_REDELIVER: &str =
    scan!("state NOT IN ('succeeded', 'pending', 'waiting_for_bridge', 'attempting')");

const TO_CANCEL: &str =
    scan!("state IN ('pending', 'waiting_for_bridge', 'attempting') AND cancelled = 0");

impl Storage {
    /// Returns up to `limit` calls of a tenant that match the filter and the purpose, oldest first, those after
    /// `after` (a [`CallRef::seq`]).
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn scan_calls(
        &self,
        tenant: &str,
        filter: &CallFilter,
        purpose: Purpose,
        after: i64,
        limit: u32,
    ) -> Result<Vec<CallRef>, StorageError> {
        let text = match purpose {
            Purpose::Redeliver => TO_REDELIVER,
            Purpose::Cancel => TO_CANCEL,
        };
        // By `seq` and not by time: it is unique, so no call is returned twice.
        let rows = sqlx::query(text)
            .bind(tenant)
            .bind(after)
            .bind(filter.state.map_or("", CallState::as_str))
            .bind(filter.host.clone().unwrap_or_default())
            .bind(filter.since_ms.unwrap_or(0))
            .bind(filter.until_ms.unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        let calls = rows.iter().map(|row| {
            Ok(CallRef {
                seq: row.try_get("seq")?,
                id: row.try_get("id")?,
                host: row.try_get("host")?,
                bridge: row.try_get("bridge")?,
                client_id: row.try_get("client_id")?,
            })
        });
        calls.collect()
    }
}
