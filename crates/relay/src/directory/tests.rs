//! The directory on a real database.

use super::*;
use crate::auth::Carrier;
use crate::storage::{Pairing, Secret};
use crate::testing::TempDir;
use std::time::Instant;

struct World {
    _dir: TempDir,
    storage: Storage,
    directory: Arc<Directory>,
}

async fn world() -> World {
    let dir = TempDir::new("directory");
    let storage = Storage::open(&dir.path().join("relay.db")).await.unwrap();
    storage.create_tenant("acme").await.unwrap();
    let directory = Directory::load(storage.clone()).await.unwrap();
    World {
        _dir: dir,
        storage,
        directory,
    }
}

fn credentials(client_id: &ClientId, secret: &Secret) -> Credentials {
    Credentials {
        client_id: client_id.to_string(),
        secret: secret.clone(),
        carrier: Carrier::Authorization,
    }
}

#[tokio::test]
async fn a_key_of_another_process_is_known_after_a_refresh() {
    let world = world().await;
    let made = world.storage.create_key("acme", Role::Caller, "", Existing::Refuse).await;
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
async fn an_unknown_client_id_and_a_wrong_secret_read_the_same() {
    let world = world().await;
    let made = world.storage.create_key("acme", Role::Caller, "", Existing::Refuse).await;
    let (key, secret) = made.unwrap();
    world.directory.refresh().await.unwrap();
    let other = Secret::random().unwrap();
    let wrong = world.directory.authenticate(&credentials(&key.client_id, &other));
    let nobody = ClientId::random().unwrap();
    let unknown = world.directory.authenticate(&credentials(&nobody, &secret));
    assert_eq!(wrong.unwrap_err(), unknown.unwrap_err());
}

#[tokio::test]
async fn a_revoked_key_ends_the_lease_of_what_runs() {
    let world = world().await;
    let made = world.storage.create_key("acme", Role::Caller, "", Existing::Refuse).await;
    let (key, secret) = made.unwrap();
    world.directory.refresh().await.unwrap();
    let presented = credentials(&key.client_id, &secret);
    let mut principal = world.directory.authenticate(&presented).unwrap();
    assert!(principal.lease.failure().is_none());

    tokio::spawn(world.directory.clone().keep_fresh());
    let revoked = Instant::now();
    world.storage.revoke_key(key.client_id.as_str(), false).await.unwrap();
    let failure = principal.lease.ended().await;
    assert!(revoked.elapsed() < Duration::from_secs(2));
    assert_eq!(failure.code, Code::Unauthorized);
    assert!(world.directory.authenticate(&presented).is_err());
}

#[tokio::test]
async fn a_suspended_tenant_is_refused_until_it_is_resumed() {
    let world = world().await;
    let made = world.storage.create_key("acme", Role::Caller, "", Existing::Refuse).await;
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
    assert_eq!(running.lease.failure().unwrap().code, Code::TenantSuspended);
    set(TenantState::Active).await;
    assert!(world.directory.authenticate(&presented).unwrap().lease.failure().is_none());
}

#[tokio::test]
async fn an_identity_is_found_in_its_tenant_alone_and_leaves_with_its_bridge() {
    let world = world().await;
    world.storage.create_tenant("other").await.unwrap();
    let made = world.storage.create_key("acme", Role::Bridge, "", Existing::Refuse).await;
    let key = made.unwrap().0;
    let pairing = Pairing {
        tenant: key.tenant.clone(),
        paired_by: key.client_id.clone(),
        existing: Existing::Refuse,
        name: "dc1".into(),
        public_key: [7; 32],
        instance: [8; 16],
        host: String::new(),
        software: String::new(),
        bridges_max: 10,
    };
    let paired = world.storage.pair(&pairing).await.unwrap();
    world.directory.refresh().await.unwrap();
    let find = |tenant: &str, instance| {
        let found = world.directory.identity(tenant, paired.bridge.as_str(), &instance);
        found.map(|identity| identity.owner)
    };
    let owner = find(key.tenant.as_str(), [8; 16]).unwrap();
    assert_eq!(find("acme", [8; 16]).as_ref(), Ok(&owner));
    assert_eq!(find("other", [8; 16]), Err(RefusedCode::Unauthorized));
    assert_eq!(find("acme", [9; 16]), Err(RefusedCode::Unauthorized));
    assert!(world.directory.may_stay(&owner));
    assert_eq!(world.directory.bridges_of(&key.tenant)[0].installations, 1);

    world.storage.revoke_bridge(&key.tenant, "dc1").await.unwrap();
    world.directory.refresh().await.unwrap();
    assert!(!world.directory.may_stay(&owner));
    assert!(world.directory.bridges_of(&key.tenant).is_empty());
    assert_eq!(find("acme", [8; 16]), Err(RefusedCode::Unauthorized));
}
