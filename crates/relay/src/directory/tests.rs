//! The directory on a real database.

use super::*;
use crate::config::Database;
use crate::storage::{ClientId, Existing, Pairing, Role, Secret};
use crate::testing::TempDir;
use protocol::frame::RefusedCode;

const STALE_MAX: Duration = Duration::from_secs(24 * 3600);

struct World {
    _dir: TempDir,
    storage: Storage,
    directory: Arc<Directory>,
}

async fn world() -> World {
    let dir = TempDir::new("directory");
    let storage = Storage::open(&Database::Sqlite(dir.path().join("relay.db")))
        .await
        .unwrap();
    storage.create_tenant("acme").await.unwrap();
    let directory = Directory::load(storage.clone(), STALE_MAX).await.unwrap();
    World {
        _dir: dir,
        storage,
        directory,
    }
}

fn credentials(client_id: &ClientId, secret: &Secret) -> Credentials {
    Credentials {
        client_id: client_id.to_string().into(),
        hash: secret.hash(),
    }
}

/// Checks why a caller's requests end.
#[track_caller]
fn assert_ended(world: &World, principal: &Principal, code: Code, detail: &str) {
    let ended = world.directory.check_principal(principal).unwrap_err();
    assert_eq!(ended, Failure::possibly_executed(code, detail));
}

#[tokio::test]
async fn key_of_another_process_is_known_after_refresh() {
    let world = world().await;
    let made = world
        .storage
        .create_key("acme", Role::Caller, "", Existing::Refuse)
        .await;
    let (key, secret) = made.unwrap();
    let presented = credentials(&key.client_id, &secret);
    assert!(world.directory.authenticate(&presented).is_err());
    world.directory.refresh().await.unwrap();
    let principal = world.directory.authenticate(&presented).unwrap();
    assert_eq!(&*principal.tenant_name, "acme");
    assert!(principal.require(&[Role::Caller]).is_ok());
    let forbidden = principal.require(&[Role::Admin, Role::Bridge]).unwrap_err();
    assert_eq!(forbidden.code, Code::Forbidden);
}

#[tokio::test]
async fn unknown_id_and_wrong_secret_look_the_same() {
    let world = world().await;
    let made = world
        .storage
        .create_key("acme", Role::Caller, "", Existing::Refuse)
        .await;
    let (key, secret) = made.unwrap();
    world.directory.refresh().await.unwrap();
    let other = Secret::random().unwrap();
    let wrong = world
        .directory
        .authenticate(&credentials(&key.client_id, &other));
    let unknown_id = ClientId::random().unwrap();
    let unknown = world
        .directory
        .authenticate(&credentials(&unknown_id, &secret));
    assert_eq!(wrong.unwrap_err(), unknown.unwrap_err());
}

#[tokio::test]
async fn revoked_key_ends_within_two_seconds() {
    let world = world().await;
    let made = world
        .storage
        .create_key("acme", Role::Caller, "", Existing::Refuse)
        .await;
    let (key, secret) = made.unwrap();
    world.directory.refresh().await.unwrap();
    let presented = credentials(&key.client_id, &secret);
    let principal = world.directory.authenticate(&presented).unwrap();
    assert_eq!(world.directory.check_principal(&principal), Ok(()));

    let mut changed = world.directory.changed();
    changed.mark_unchanged();
    tokio::spawn(world.directory.clone().keep_fresh());
    let revoked = Instant::now();
    world
        .storage
        .revoke_key(key.client_id.as_str(), false)
        .await
        .unwrap();
    changed.changed().await.unwrap();
    assert!(revoked.elapsed() < Duration::from_secs(2));
    let why = "the API key was revoked during the request";
    assert_ended(&world, &principal, Code::Unauthorized, why);
    assert!(world.directory.authenticate(&presented).is_err());
}

#[tokio::test]
async fn reads_are_spaced_and_shared() {
    let world = world().await;
    world.directory.refresh().await.unwrap();
    let asked = *world.directory.asked.lock().await;
    let made = world
        .storage
        .create_key("acme", Role::Caller, "", Existing::Refuse)
        .await;
    let (key, secret) = made.unwrap();
    let looks = (0..10).map(|_| {
        let directory = world.directory.clone();
        tokio::spawn(async move {
            directory.refresh_shared().await;
            *directory.asked.lock().await
        })
    });
    let looks: Vec<_> = looks.collect();
    let mut looked = Vec::new();
    for look in looks {
        looked.push(look.await.unwrap());
    }
    let presented = credentials(&key.client_id, &secret);
    assert!(world.directory.authenticate(&presented).is_ok());
    assert!(looked[0] - asked >= LOOKUP_INTERVAL);
    assert!(looked.iter().all(|look| *look == looked[0]), "{looked:?}");
}

#[tokio::test]
async fn suspended_tenant_is_refused_until_resumed() {
    let world = world().await;
    let made = world
        .storage
        .create_key("acme", Role::Caller, "", Existing::Refuse)
        .await;
    let (key, secret) = made.unwrap();
    world.directory.refresh().await.unwrap();
    let presented = credentials(&key.client_id, &secret);
    let running = world.directory.authenticate(&presented).unwrap();
    let set = |state| {
        let (storage, directory) = (world.storage.clone(), world.directory.clone());
        async move {
            storage.set_tenant_state("acme", state).await.unwrap();
            directory.refresh().await.unwrap();
        }
    };
    set(TenantState::Suspended).await;
    let refused = world.directory.authenticate(&presented).unwrap_err();
    assert_eq!(refused.code, Code::TenantSuspended);
    let why = "the tenant was suspended during the request";
    assert_ended(&world, &running, Code::TenantSuspended, why);
    set(TenantState::Active).await;
    assert_eq!(world.directory.check_principal(&running), Ok(()));
    assert!(world.directory.authenticate(&presented).is_ok());
}

#[tokio::test]
async fn identity_belongs_to_its_tenant() {
    let world = world().await;
    world.storage.create_tenant("other").await.unwrap();
    let made = world
        .storage
        .create_key("acme", Role::Bridge, "", Existing::Refuse)
        .await;
    let key = made.unwrap().0;
    let pairing = Pairing {
        tenant: key.tenant.clone(),
        paired_by: key.client_id.clone(),
        existing: Existing::Refuse,
        endpoints: Vec::new(),
        name: "dc1".into(),
        public_key: [7; 32],
        instance: [8; 16],
        host: String::new(),
        software: String::new(),
        address: String::new(),
        bridges_max: 10,
    };
    let paired = world.storage.pair(&pairing).await.unwrap();
    world.directory.refresh().await.unwrap();
    let tenant = key.tenant.as_str();
    let find = |directory: &Directory, tenant: &str, instance| {
        directory.identity(tenant, paired.bridge.as_str(), &instance)
    };
    let TunnelClaim {
        owner,
        public_key,
        standing,
        ..
    } = find(&world.directory, tenant, [8; 16]).unwrap();
    assert_eq!((public_key, standing), (vec![7; 32], Ok(())));
    assert_eq!(
        find(&world.directory, "acme", [8; 16]).unwrap().owner,
        owner
    );
    assert!(find(&world.directory, "other", [8; 16]).is_none());
    assert!(find(&world.directory, "acme", [9; 16]).is_none());
    assert!(world.directory.close_reason(&owner).is_none());
    assert!(
        world
            .directory
            .has_installation(&Installation::from(&owner))
    );
    assert_eq!(world.directory.bridges_of(tenant)[0].installations, 1);

    world.storage.revoke_bridge(tenant, "dc1").await.unwrap();
    world.directory.refresh().await.unwrap();
    let restarted = Directory::load(world.storage.clone(), STALE_MAX)
        .await
        .unwrap();
    for directory in [&world.directory, &restarted] {
        assert!(directory.close_reason(&owner).is_some());
        assert!(!directory.has_installation(&Installation::from(&owner)));
        assert!(directory.bridges_of(tenant).is_empty());
        let standing = find(directory, "acme", [8; 16]).unwrap().standing;
        assert_eq!(standing, Err(RefusedCode::Revoked));
    }
}

/// A directory whose database is unavailable.
async fn without_database(stale_max: Duration) -> (World, Credentials, Principal) {
    let mut world = world().await;
    let made = world
        .storage
        .create_key("acme", Role::Caller, "", Existing::Refuse)
        .await;
    let (key, secret) = made.unwrap();
    world.directory = Directory::load(world.storage.clone(), stale_max)
        .await
        .unwrap();
    let presented = credentials(&key.client_id, &secret);
    let principal = world.directory.authenticate(&presented).unwrap();
    world.storage.close().await;
    assert!(world.directory.refresh().await.is_err());
    (world, presented, principal)
}

#[tokio::test]
async fn known_keys_are_valid_for_stale_max() {
    let (world, presented, principal) = without_database(Duration::from_secs(3)).await;
    let directory = &world.directory;
    assert!(directory.authenticate(&presented).is_ok());
    assert_eq!(directory.check_principal(&principal), Ok(()));
    let mut changed = directory.changed();
    changed.mark_unchanged();
    tokio::spawn(directory.clone().keep_fresh());
    // Exchanges are aborted when the directory reports a change.
    changed.changed().await.unwrap();
    assert!(directory.age() > Duration::from_secs(3));
    let stale = directory.authenticate(&presented).unwrap_err();
    assert_eq!(stale.code, Code::DirectoryStale);
    let ended = directory.check_principal(&principal).unwrap_err();
    assert_eq!(ended.code, Code::DirectoryStale);
    assert_eq!(ended.execution, Execution::PossiblyExecuted);
}

#[tokio::test]
async fn key_expires_without_the_database() {
    let world = world().await;
    let new = crate::storage::NewKey {
        role: Role::Caller,
        name: String::new(),
        existing: Existing::Refuse,
        expires: Some(now() + 2),
        scope: crate::storage::Scope::default(),
        is_one_time: false,
    };
    let made = world.storage.create_key_with("acme", new).await;
    let (key, secret) = made.unwrap();
    world.directory.refresh().await.unwrap();
    let presented = credentials(&key.client_id, &secret);
    let principal = world.directory.authenticate(&presented).unwrap();
    world.storage.close().await;
    let mut changed = world.directory.changed();
    changed.mark_unchanged();
    tokio::spawn(world.directory.clone().keep_fresh());
    changed.changed().await.unwrap();
    let why = "the API key expired during the request";
    assert_ended(&world, &principal, Code::Unauthorized, why);
    let expired = world.directory.authenticate(&presented).unwrap_err();
    assert_eq!(expired.code, Code::Unauthorized);
}

#[tokio::test]
async fn unknown_key_is_not_refused_without_the_database() {
    let (world, presented, _) = without_database(STALE_MAX).await;
    let keys = crate::auth::KeyCheck::new(world.directory.clone(), 60);
    let peer = [10, 0, 0, 1].into();
    let known = keys.check(&presented, peer).await;
    assert!(known.is_ok());
    let stranger = credentials(&ClientId::random().unwrap(), &Secret::random().unwrap());
    let unknown = keys.check(&stranger, peer).await;
    assert_eq!(unknown.unwrap_err().code, Code::Overloaded);
}

#[tokio::test]
async fn frequent_address_waits_for_the_regular_read() {
    let world = world().await;
    let peer = [10, 0, 0, 1].into();
    while world.directory.lookups.take(peer, Instant::now()) {}
    let looking = tokio::spawn({
        let directory = world.directory.clone();
        async move { directory.refresh_for(peer).await }
    });
    tokio::time::sleep(2 * LOOKUP_INTERVAL).await;
    assert!(!looking.is_finished());
    world.directory.refresh().await.unwrap();
    assert!(looking.await.unwrap());
}
