//! Stored calls in the order in which they were handed over, for operations that act on those that a
//! narrowed key sees: which those are is decided by `access`, row by row.

use super::call_pages::CallFilter;
use super::{Storage, StorageError};
use crate::deliveries::state::CallState;
use sqlx::Row as _;

/// What is to be done with the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Make those pending again that are final and did not succeed.
    Redeliver,
    /// Cancel those that are not final, and are not cancelled already.
    Cancel,
}

/// What decides whether a key sees a call.
#[derive(Debug, Clone)]
pub struct CallRef {
    /// Orders calls: rises with each one that is handed over.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// The URL's host.
    pub host: String,
    /// The bridge that it names.
    pub bridge: Option<String>,
    /// The key that handed it over.
    pub client_id: String,
}

const TO_REDELIVER: &str = "SELECT seq, id, host, bridge, client_id FROM calls
    WHERE tenant_id = $1 AND seq > $2 AND ($3 = '' OR state = $3) AND ($4 = '' OR host = $4)
      AND created_ms >= $5 AND created_ms < $6
      AND state NOT IN ('succeeded', 'pending', 'waiting_for_bridge', 'attempting')
    ORDER BY seq LIMIT $7";

const TO_CANCEL: &str = "SELECT seq, id, host, bridge, client_id FROM calls
    WHERE tenant_id = $1 AND seq > $2 AND ($3 = '' OR state = $3) AND ($4 = '' OR host = $4)
      AND created_ms >= $5 AND created_ms < $6
      AND state IN ('pending', 'waiting_for_bridge', 'attempting') AND cancelled = 0
    ORDER BY seq LIMIT $7";

impl Storage {
    /// Up to `limit` calls of a tenant that match and fit the purpose, oldest first, those after a
    /// [`CallRef::seq`].
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
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
        let rows = sqlx::query(text)
            .bind(tenant)
            .bind(after)
            .bind(filter.state.map_or("", CallState::as_str))
            .bind(filter.host.clone().unwrap_or_default())
            .bind(filter.since_ms.unwrap_or(0))
            .bind(filter.until_ms.unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
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
