//! Conversion of rows into types.

use super::StorageError;
use super::model::{ApiKey, Bridge, BridgeIdentity, ClientId, SecretHash, Tenant, UnknownWord};
use super::scope::Scope;
use sqlx::Row;
use sqlx::any::AnyRow;

pub(super) fn corrupt(what: &str) -> sqlx::Error {
    // A decode error is not transient: a retry would read the same value.
    sqlx::Error::Decode(format!("the column `{what}` contains an unknown value").into())
}

pub(super) fn word<T: std::str::FromStr<Err = UnknownWord>>(
    row: &AnyRow,
    column: &str,
) -> Result<T, sqlx::Error> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| corrupt(column))
}

fn text(row: &AnyRow, column: &str) -> Result<String, sqlx::Error> {
    row.try_get(column)
}

pub(super) fn tenant(row: &AnyRow) -> Result<Tenant, StorageError> {
    Ok(Tenant {
        id: text(row, "id")?.into(),
        name: text(row, "name")?,
        state: word(row, "state")?,
        created: row.try_get("created")?,
        direct_urls: serde_json::from_str(&text(row, "direct_urls")?)
            .map_err(|_| corrupt("direct_urls"))?,
        notice_url: row.try_get("notice_url")?,
        expires_in: row.try_get("expires_in")?,
        revision: row.try_get("revision")?,
    })
}

pub(super) fn key(row: &AnyRow) -> Result<ApiKey, StorageError> {
    let hash: Vec<u8> = row.try_get("secret_hash")?;
    Ok(ApiKey {
        client_id: text(row, "client_id")?.into(),
        tenant: text(row, "tenant_id")?.into(),
        role: word(row, "role")?,
        name: text(row, "name")?,
        secret_hash: SecretHash::from_stored(&hash).ok_or_else(|| corrupt("secret_hash"))?,
        existing: word(row, "existing")?,
        created: row.try_get("created")?,
        expires: row.try_get("expires")?,
        revoked: row.try_get("revoked")?,
        previous: previous(row)?,
        last_used: row.try_get("last_used")?,
        scope: Scope::from_stored(&text(row, "scope")?).ok_or_else(|| corrupt("scope"))?,
        is_one_time: row.try_get::<i64, _>("one_time")? != 0,
        spent: row.try_get("spent")?,
    })
}

fn previous(row: &AnyRow) -> Result<Option<(SecretHash, i64)>, StorageError> {
    let hash: Option<Vec<u8>> = row.try_get("previous_hash")?;
    let until: Option<i64> = row.try_get("previous_until")?;
    // A rotation without an overlap sets neither.
    let (Some(hash), Some(until)) = (hash, until) else {
        return Ok(None);
    };
    let hash = SecretHash::from_stored(&hash).ok_or_else(|| corrupt("previous_hash"))?;
    Ok(Some((hash, until)))
}

pub(super) fn bridge(row: &AnyRow) -> Result<Bridge, StorageError> {
    Ok(Bridge {
        id: text(row, "id")?.into(),
        tenant: text(row, "tenant_id")?.into(),
        name: text(row, "name")?,
        created: row.try_get("created")?,
        revoked: row.try_get("revoked")?,
        disabled: row.try_get("disabled")?,
        inspected: row.try_get("inspected")?,
        last_seen: row.try_get("last_seen")?,
    })
}

pub(super) fn identity(row: &AnyRow) -> Result<BridgeIdentity, StorageError> {
    let instance: Vec<u8> = row.try_get("instance")?;
    Ok(BridgeIdentity {
        id: text(row, "id")?.into(),
        bridge: text(row, "bridge_id")?.into(),
        public_key: row.try_get("public_key")?,
        instance: instance.try_into().map_err(|_| corrupt("instance"))?,
        paired_by: ClientId::from(text(row, "paired_by")?),
        endpoints: serde_json::from_str(&text(row, "endpoints")?)
            .map_err(|_| corrupt("endpoints"))?,
        revoked: row.try_get("revoked")?,
    })
}
