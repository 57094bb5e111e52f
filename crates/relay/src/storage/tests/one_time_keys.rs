//! The keys of pairing files: one installation each.

use super::*;
use keys::ONE_TIME_MAX;

/// Returns a key that pairs one bridge.
async fn one_time_key(storage: &Storage, existing: Existing) -> ApiKey {
    let made = storage.create_key_with("acme", new_key(existing)).await;
    made.unwrap().0
}

fn new_key(existing: Existing) -> NewKey {
    NewKey {
        role: Role::Bridge,
        name: String::new(),
        existing,
        expires: Some(now() + 600),
        scope: Scope::default(),
        is_one_time: true,
    }
}

async fn stored(storage: &Storage, key: &ApiKey) -> ApiKey {
    storage.key("", key.client_id.as_str()).await.unwrap()
}

on_both! {
async fn one_time_key_pairs_one_installation(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let key = one_time_key(&storage, Existing::Join).await;
    assert_eq!(stored(&storage, &key).await.spent, None);
    let first = storage.pair(&pairing(&tenant, &key, "dc1", 1)).await.unwrap();
    assert!(first.is_new);
    assert!(stored(&storage, &key).await.spent.is_some());
    // The response was lost, and the bridge repeats its request.
    let again = storage.pair(&pairing(&tenant, &key, "dc1", 1)).await.unwrap();
    assert_eq!((again.bridge, again.is_new), (first.bridge, false));
    for (name, seed) in [("dc1", 2), ("dc2", 1), ("dc2", 3)] {
        let other = storage.pair(&pairing(&tenant, &key, name, seed)).await;
        assert!(matches!(other, Err(StorageError::KeySpent)), "{name} {seed}: {other:?}");
    }
    let bridges = storage.bridges(Some("acme")).await.unwrap();
    assert_eq!(bridges.len(), 1);
    // The revision tells running relays what changed: a refused pairing changes nothing.
    let revision = storage.revision().await.unwrap();
    let _ = storage.pair(&pairing(&tenant, &key, "dc2", 3)).await;
    assert_eq!(storage.revision().await.unwrap(), revision);
    // A revoked bridge does not come back with the old file.
    storage.revoke_bridge(tenant.id.as_str(), "dc1").await.unwrap();
    let after = storage.pair(&pairing(&tenant, &key, "dc1", 1)).await;
    assert!(matches!(after, Err(StorageError::KeySpent)), "{after:?}");
}

async fn one_of_two_pairings_at_once_wins(database: TestDatabase) {
    let storage = database.open().await;
    let other = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    for round in 0..8_u8 {
        let key = one_time_key(&storage, Existing::Replace).await;
        let (name, seed) = (format!("dc{}", round % 2), round * 2 + 1);
        let (one, two) = (
            pairing(&tenant, &key, &name, seed),
            pairing(&tenant, &key, &name, seed + 1),
        );
        let (one, two) = tokio::join!(storage.pair(&one), other.pair(&two));
        let (won, lost) = match (one, two) {
            (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
            both => panic!("{both:?}"),
        };
        assert!(won.is_new);
        assert!(matches!(lost, StorageError::KeySpent), "{lost}");
    }
}

async fn further_file_of_a_registered_bridge_is_spent(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    for seed in [1, 1] {
        let key = one_time_key(&storage, Existing::Join).await;
        storage.pair(&pairing(&tenant, &key, "dc1", seed)).await.unwrap();
        // Otherwise a copy of the second file could pair another machine next to this one.
        let copy = storage.pair(&pairing(&tenant, &key, "dc1", 7)).await;
        assert!(matches!(copy, Err(StorageError::KeySpent)), "{copy:?}");
    }
}

async fn failed_pairing_leaves_the_key_usable(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let first = one_time_key(&storage, Existing::Refuse).await;
    storage.pair(&pairing(&tenant, &first, "dc1", 1)).await.unwrap();
    let key = one_time_key(&storage, Existing::Refuse).await;
    let taken = storage.pair(&pairing(&tenant, &key, "dc1", 2)).await;
    assert!(matches!(taken, Err(StorageError::Conflict(_))), "{taken:?}");
    assert_eq!(stored(&storage, &key).await.spent, None);
    storage.pair(&pairing(&tenant, &key, "dc2", 2)).await.unwrap();
}

async fn expired_key_of_a_file_pairs_nothing(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let key = one_time_key(&storage, Existing::Refuse).await;
    // As if the time had passed.
    sqlx::query("UPDATE api_keys SET expires = $1 WHERE client_id = $2")
        .bind(now() - 1)
        .bind(key.client_id.as_str())
        .execute(storage.pool())
        .await
        .unwrap();
    let late = storage.pair(&pairing(&tenant, &key, "dc1", 1)).await;
    assert!(matches!(late, Err(StorageError::KeyGone)), "{late:?}");
}

async fn one_time_key_needs_role_and_near_expiry(database: TestDatabase) {
    let storage = database.open().await;
    storage.create_tenant("acme").await.unwrap();
    let plain = new_key(Existing::Refuse);
    for wrong in [
        NewKey { expires: None, ..plain.clone() },
        NewKey { expires: Some(now() + ONE_TIME_MAX + 60), ..plain.clone() },
        NewKey { role: Role::Caller, ..plain.clone() },
    ] {
        let refused = storage.create_key_with("acme", wrong).await;
        assert!(matches!(refused, Err(StorageError::Invalid(_))), "{refused:?}");
    }
    let latest = NewKey { expires: Some(now() + ONE_TIME_MAX), ..plain };
    storage.create_key_with("acme", latest).await.unwrap();
}

async fn reuse_is_a_notice_until_the_key_is_revoked(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let key = one_time_key(&storage, Existing::Refuse).await;
    let id = key.client_id.as_str();
    // It is meant to expire: no notice about that.
    assert!(storage.keys_expiring(now() + 3600).await.unwrap().is_empty());
    assert!(!storage.note_reuse(id).await.unwrap(), "not spent yet");
    storage.pair(&pairing(&tenant, &key, "dc1", 1)).await.unwrap();
    assert!(storage.keys_reused().await.unwrap().is_empty());
    assert!(storage.note_reuse(id).await.unwrap());
    assert!(!storage.note_reuse(id).await.unwrap(), "only the first is stored");
    let causes = storage.keys_reused().await.unwrap();
    assert_eq!((causes.len(), causes[0].object.as_str()), (1, id));
    assert!(causes[0].detail.contains("key revoke"), "{}", causes[0].detail);
    storage.revoke_key(id, true).await.unwrap();
    assert!(storage.keys_reused().await.unwrap().is_empty());
}

async fn pairing_keeps_its_address(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let key = one_time_key(&storage, Existing::Refuse).await;
    let paired = storage.pair(&pairing(&tenant, &key, "dc1", 1)).await.unwrap();
    let installations = storage.installations(Some("acme")).await.unwrap();
    let found: Vec<_> = installations
        .iter()
        .map(|one| (one.bridge.as_str(), one.address.as_str(), one.paired_by.as_str()))
        .collect();
    assert_eq!(found, [(paired.bridge.as_str(), "192.0.2.1", key.client_id.as_str())]);
}
}
