//! The rules of the relay's tables, on both databases.

use super::calls::{CallState, Write, Written};
use super::*;
use crate::testing::TempDir;
use std::time::{Duration, Instant};
use store::PostgresUrl;
use store::lease::AcquireOutcome;
use support::PostgresDatabase;

/// How long an event may take that must come, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a call of a tenant that is due at once.
fn call(tenant: &str, id: &str) -> calls::NewCall {
    calls::NewCall {
        id: id.to_owned(),
        tenant: tenant.into(),
        client_id: "client".to_owned(),
        label: Some("nightly".to_owned()),
        created_ms: 1_000,
        method: "POST".to_owned(),
        host: "a.example".to_owned(),
        bridge: None,
        at_least_once: false,
        idempotency_key: None,
        digest: vec![0_u8; 32].into(),
        sealed: vec![0; 64],
        bytes: 64,
        expires_in: calls::ExpiresIn::Default(0),
        class: calls::DirectClass::default(),
    }
}

fn via() -> calls::Via {
    calls::Via {
        bridge: "brg_1".into(),
        instance: vec![7; 16],
    }
}

/// Returns an attempt's end at `now_ms`; `state` follows, and is due `after_ms` later.
fn settlement(tenant: &str, id: &str, state: CallState, now_ms: i64, after_ms: i64) -> Write {
    Write::Settle(Box::new(calls::Settlement {
        id: id.into(),
        tenant: tenant.into(),
        label: None,
        host: "a.example".to_owned(),
        bytes_up: 0,
        attempt: 1,
        via: via(),
        bridge_name: "dc1".to_owned(),
        state,
        due_ms: now_ms + after_ms,
        now_ms,
        step: 1,
        began_ms: now_ms,
        took_ms: 1,
        status: Some(503),
        code: None,
        execution: Execution::Executed,
        detail: String::new(),
        journal_reached: None,
        is_misrouted: false,
    }))
}

fn begin(id: &str, now_ms: i64) -> Write {
    Write::Begin {
        id: id.into(),
        attempt: 1,
        via: via(),
        now_ms,
    }
}

/// Starts a batch that holds the lease.
async fn batch(storage: &Storage) -> Batch {
    let batch = storage.start_batch();
    batch.hold(acquire(storage, "test").await);
    batch
}

/// Acquires the lease, which must be free.
async fn acquire(storage: &Storage, holder: &str) -> i64 {
    let outcome = storage.lease().acquire(holder, "node").await.unwrap();
    let AcquireOutcome::Acquired(epoch) = outcome else {
        panic!("{outcome:?}");
    };
    epoch
}

/// A database of either kind, removed with the value.
enum TestDatabase {
    File(TempDir),
    Server(PostgresDatabase),
}

impl TestDatabase {
    fn database(&self) -> Database {
        match self {
            Self::File(dir) => Database::Sqlite(dir.path().join("data/relay.db")),
            Self::Server(database) => database_at(database.url()),
        }
    }

    async fn open(&self) -> Storage {
        Storage::open(&self.database()).await.unwrap()
    }
}

fn database_at(url: &str) -> Database {
    Database::Postgres(PostgresUrl::new(url))
}

/// The same test on both databases.
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($database:ident: TestDatabase) $body:block)*) => {
        $(async fn $name($database: TestDatabase) $body)*

        mod sqlite {
            use super::*;
            $($(#[$doc])* #[tokio::test] async fn $name() {
                super::$name(TestDatabase::File(TempDir::new(stringify!($name)))).await;
            })*
        }

        mod postgres {
            use super::*;
            $($(#[$doc])* #[tokio::test] async fn $name() {
                super::$name(TestDatabase::Server(PostgresDatabase::create())).await;
            })*
        }
    };
}

mod audit_seals;
mod due;
mod faults;
mod interleaving;
mod migrations;
mod one_time_keys;
mod standby;
mod stored_calls;

fn pairing(tenant: &Tenant, key: &ApiKey, name: &str, seed: u8) -> Pairing {
    Pairing {
        tenant: tenant.id.clone(),
        paired_by: key.client_id.clone(),
        existing: key.existing,
        endpoints: Vec::new(),
        name: name.to_owned(),
        public_key: [seed; 32],
        instance: [seed; 16],
        host: "host\n".into(),
        software: "0.1.0".into(),
        address: "192.0.2.1".into(),
        bridges_max: 2,
    }
}

on_both! {
async fn data_survives_a_restart(database: TestDatabase) {
    let first = database.open().await;
    let tenant = first.create_tenant("acme").await.unwrap();
    let (key, secret) = first
        .create_key("acme", Role::Caller, "rules", Existing::Refuse)
        .await
        .unwrap();
    let revision = first.revision().await.unwrap();
    first.close().await;

    let again = database.open().await;
    assert_eq!(again.revision().await.unwrap(), revision);
    assert_eq!(again.tenants().await.unwrap()[0].id, tenant.id);
    let keys = again.keys(Some("acme")).await.unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].client_id, key.client_id);
    assert!(keys[0].secret_hash.matches(&secret.hash()));
    if let TestDatabase::File(dir) = &database {
        let file = std::fs::read(dir.path().join("data/relay.db")).unwrap();
        let needle = secret.reveal().as_bytes();
        assert!(!file.windows(needle.len()).any(|window| window == needle));
    }
}

async fn rejected_change_leaves_the_revision(database: TestDatabase) {
    let storage = database.open().await;
    let start = storage.revision().await.unwrap();
    storage.create_tenant("acme").await.unwrap();
    assert_eq!(storage.revision().await.unwrap(), start + 1);
    let twice = storage.create_tenant("acme").await.unwrap_err();
    assert!(matches!(twice, StorageError::Conflict(_)), "{twice}");
    let bad = storage.create_tenant("a b").await.unwrap_err();
    assert!(matches!(bad, StorageError::Invalid(_)), "{bad}");
    let unknown = storage
        .create_key("unknown", Role::Admin, "", Existing::Refuse)
        .await;
    assert!(matches!(unknown, Err(StorageError::NotFound(_))));
    assert_eq!(storage.revision().await.unwrap(), start + 1);
}

async fn changes_since_zero_leave_out_revoked_keys(database: TestDatabase) {
    let storage = database.open().await;
    storage.create_tenant("acme").await.unwrap();
    let (key, _) = storage
        .create_key("acme", Role::Caller, "", Existing::Refuse)
        .await
        .unwrap();
    let first = storage.changes_since(0).await.unwrap();
    // The site's own tenant exists from the beginning.
    assert_eq!((first.tenants.len(), first.keys.len()), (2, 1));
    let none = storage.changes_since(first.revision).await.unwrap();
    assert_eq!((none.tenants.len(), none.keys.len()), (0, 0));
    storage
        .revoke_key(key.client_id.as_str(), false)
        .await
        .unwrap();
    let newer = storage.changes_since(first.revision).await.unwrap();
    assert!(newer.keys[0].revoked.is_some());
    assert!(newer.tenants.is_empty());
    assert!(storage.changes_since(0).await.unwrap().keys.is_empty());
    let again = storage.revoke_key(key.client_id.as_str(), false).await;
    assert!(matches!(again, Err(StorageError::NotFound(_))));
}

async fn pairing_is_idempotent_and_protects_the_name(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let key = |existing| {
        let storage = storage.clone();
        async move {
            let made = storage.create_key("acme", Role::Bridge, "", existing).await;
            made.unwrap().0
        }
    };
    let plain = key(Existing::Refuse).await;
    let first = storage
        .pair(&pairing(&tenant, &plain, "dc1", 1))
        .await
        .unwrap();
    assert!(first.is_new);
    let revision = storage.revision().await.unwrap();
    let again = storage
        .pair(&pairing(&tenant, &plain, "dc1", 1))
        .await
        .unwrap();
    assert_eq!(
        (again.bridge.clone(), again.is_new),
        (first.bridge.clone(), false)
    );
    assert_eq!(storage.revision().await.unwrap(), revision);

    let other = storage
        .pair(&pairing(&tenant, &plain, "dc1", 2))
        .await
        .unwrap_err();
    assert!(other.to_string().contains("--existing join"), "{other}");

    let join = key(Existing::Join).await;
    let joined = storage
        .pair(&pairing(&tenant, &join, "dc1", 2))
        .await
        .unwrap();
    assert_eq!(joined.bridge, first.bridge);
    assert_eq!(storage.changes_since(0).await.unwrap().identities.len(), 2);

    let replace = key(Existing::Replace).await;
    let replaced = storage
        .pair(&pairing(&tenant, &replace, "dc1", 3))
        .await
        .unwrap();
    assert_eq!(replaced.bridge, first.bridge);
    let mut left = storage.changes_since(0).await.unwrap().identities;
    left.retain(|identity| identity.revoked.is_none());
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].public_key, [3; 32]);
}

async fn bridges_and_installations_are_bounded(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let (key, _) = storage
        .create_key("acme", Role::Bridge, "", Existing::Join)
        .await
        .unwrap();
    for seed in 0..16 {
        storage
            .pair(&pairing(&tenant, &key, "dc1", seed))
            .await
            .unwrap();
    }
    let many = storage
        .pair(&pairing(&tenant, &key, "dc1", 16))
        .await
        .unwrap_err();
    assert!(many.to_string().contains("16 installations"), "{many}");
    storage
        .pair(&pairing(&tenant, &key, "dc2", 1))
        .await
        .unwrap();
    let third = storage
        .pair(&pairing(&tenant, &key, "dc3", 1))
        .await
        .unwrap_err();
    assert!(third.to_string().contains("2 bridges"), "{third}");
    let bad = storage
        .pair(&pairing(&tenant, &key, "dc/3", 1))
        .await
        .unwrap_err();
    assert!(matches!(bad, StorageError::Invalid(_)), "{bad}");
}

async fn last_offers_are_of_all_tenants(database: TestDatabase) {
    let storage = database.open().await;
    for (name, installations) in [("large", 5_u8), ("small", 2)] {
        let tenant = storage.create_tenant(name).await.unwrap();
        let (key, _) = storage
            .create_key(name, Role::Bridge, "", Existing::Join)
            .await
            .unwrap();
        for seed in 0..installations {
            let pairing = pairing(&tenant, &key, "dc1", seed);
            storage.pair(&pairing).await.unwrap();
        }
    }
    let identities = storage.changes_since(0).await.unwrap().identities;
    let offers: Vec<_> = identities
        .iter()
        .map(|identity| (identity.id.shared(), "{}".to_owned()))
        .collect();
    storage.store_offers(&offers).await.unwrap();
    assert_eq!(storage.last_offers(100).await.unwrap().len(), 7);
    let some = storage.last_offers(4).await.unwrap();
    assert_eq!(some.len(), 4);
    let of_one = some.iter().filter(|offer| offer.tenant == some[0].tenant);
    assert_eq!(of_one.count(), 2);
    assert!(identities.iter().any(|identity| {
        identity.id.as_str() == &*some[0].identity && identity.bridge.as_str() == &*some[0].bridge
    }));
}

async fn revoked_bridge_key_revokes_its_bridges(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    for (name, seed, keep) in [("dc1", 1, false), ("dc2", 2, true)] {
        let made = storage
            .create_key("acme", Role::Bridge, "", Existing::Refuse)
            .await;
        let key = made.unwrap().0;
        storage
            .pair(&pairing(&tenant, &key, name, seed))
            .await
            .unwrap();
        let revoked = storage
            .revoke_key(key.client_id.as_str(), keep)
            .await
            .unwrap();
        assert_eq!(revoked.bridges.is_empty(), keep);
    }
    let mut left = storage.changes_since(0).await.unwrap();
    left.bridges.retain(|bridge| bridge.revoked.is_none());
    left.identities
        .retain(|identity| identity.revoked.is_none());
    assert_eq!(left.bridges.len(), 1);
    assert_eq!(left.bridges[0].name, "dc2");
    assert_eq!(left.identities.len(), 1);
}

async fn endpoint_belongs_to_its_first_claimant(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let other = storage.create_tenant("other").await.unwrap();
    let made = storage
        .create_key("acme", Role::Bridge, "", Existing::Refuse)
        .await;
    let key = made.unwrap().0;
    let one = storage.pair(&pairing(&tenant, &key, "dc1", 1)).await.unwrap();
    let two = storage.pair(&pairing(&tenant, &key, "dc2", 2)).await.unwrap();
    let (id, one, two) = (tenant.id.as_str(), one.bridge, two.bridge);
    let names = ["alm".to_owned(), "ci".to_owned()];
    let claim = |bridge: &BridgeId, names: &[String]| {
        let (storage, bridge, names) = (storage.clone(), bridge.clone(), names.to_vec());
        async move { storage.claim_endpoints(id, bridge.as_str(), &names).await.unwrap() }
    };
    assert_eq!(claim(&one, &names[..1]).await, ["alm"]);
    assert_eq!(claim(&two, &names).await, ["ci"]);
    let revision = storage.revision().await.unwrap();
    assert!(claim(&one, &names).await.is_empty());
    assert_eq!(storage.revision().await.unwrap(), revision, "nothing was changed");
    // Another tenant's bridge cannot claim a name.
    let foreign = storage
        .claim_endpoints(other.id.as_str(), one.as_str(), &["x".to_owned()])
        .await;
    assert!(foreign.unwrap().is_empty());

    storage.assign_endpoint(id, "dc2", "alm", true).await.unwrap();
    let has = async |endpoint: &str| {
        let claims = storage.claimed_endpoints(Some("acme")).await.unwrap();
        let of = claims.into_iter().filter(|claim| claim.endpoint == endpoint);
        of.map(|claim| claim.bridge).collect::<Vec<_>>()
    };
    assert_eq!(has("alm").await, ["dc1", "dc2"]);
    storage.assign_endpoint(id, "dc2", "alm", false).await.unwrap();
    assert_eq!(has("alm").await, ["dc2"]);
    storage.release_endpoint(id, "dc2", "alm").await.unwrap();
    assert!(has("alm").await.is_empty());
    let twice = storage.release_endpoint(id, "dc2", "alm").await;
    assert!(matches!(twice, Err(StorageError::NotFound(_))));
    let unknown = storage.assign_endpoint(other.id.as_str(), "dc1", "alm", false).await;
    assert!(matches!(unknown, Err(StorageError::NotFound(_))));
    let bad = storage.assign_endpoint(id, "dc1", "A b", false).await;
    assert!(matches!(bad, Err(StorageError::Invalid(_))));

    // Released by its own bridge and claimed again; then freed with its bridge.
    assert_eq!(claim(&two, &names[..1]).await, ["alm"]);
    let since = storage.revision().await.unwrap();
    storage.revoke_bridge(id, "dc2").await.unwrap();
    assert!(has("alm").await.is_empty());
    assert_eq!(claim(&one, &names).await, ["alm", "ci"]);
    let changes = storage.changes_since(since).await.unwrap();
    assert_eq!(changes.claims.len(), 2);
    assert!(changes.claims.iter().all(|claim| claim.bridge == one && !claim.is_removed));
}

/// Several nodes see two bridges declare the same new names at the same time.
async fn simultaneous_first_claims_have_one_winner(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let made = storage
        .create_key("acme", Role::Bridge, "", Existing::Refuse)
        .await;
    let key = made.unwrap().0;
    let nodes = [database.open().await, database.open().await, storage.clone()];
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 1..=2 {
        let name = format!("dc{seed}");
        let paired = storage.pair(&pairing(&tenant, &key, &name, seed)).await.unwrap();
        for n in 0..20 {
            let (storage, tenant, bridge) = (nodes[n % 3].clone(), tenant.id.clone(), paired.bridge.clone());
            tasks.spawn(async move {
                let names = [format!("e{n}"), format!("e{}", 19 - n)];
                let claimed = storage.claim_endpoints(tenant.as_str(), bridge.as_str(), &names).await;
                claimed.unwrap().len()
            });
        }
    }
    let mut claimed = 0;
    while let Some(count) = tasks.join_next().await {
        claimed += count.unwrap();
    }
    assert_eq!(claimed, 20, "each name was claimed once");
    let claims = storage.claimed_endpoints(Some("acme")).await.unwrap();
    assert_eq!(claims.len(), 20);
}

async fn endpoint_claims_of_a_bridge_are_bounded(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let made = storage
        .create_key("acme", Role::Bridge, "", Existing::Refuse)
        .await;
    let key = made.unwrap().0;
    let bridge = storage.pair(&pairing(&tenant, &key, "dc1", 1)).await.unwrap().bridge;
    let names: Vec<String> = (0..600).map(|n| format!("e{n}")).collect();
    let id = tenant.id.as_str();
    let claimed = storage.claim_endpoints(id, bridge.as_str(), &names).await.unwrap();
    assert_eq!(claimed.len(), claims::CLAIMS_PER_BRIDGE_MAX);
    let more = storage.claim_endpoints(id, bridge.as_str(), &names).await.unwrap();
    assert!(more.is_empty());
    let assigned = storage.assign_endpoint(id, "dc1", "one-more", false).await;
    assert!(matches!(assigned, Err(StorageError::Conflict(_))));
}

async fn administrative_actions_leave_audit_rows(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let made = storage
        .create_key("acme", Role::Bridge, "", Existing::Refuse)
        .await;
    let key = made.unwrap().0;
    let cli = storage.acting("cli:me");
    cli.pair(&pairing(&tenant, &key, "dc1", 1)).await.unwrap();
    // A repeat changes nothing, and adds no row.
    cli.pair(&pairing(&tenant, &key, "dc1", 1)).await.unwrap();
    cli.set_deliveries_paused(true).await.unwrap();
    cli.set_deliveries_paused(false).await.unwrap();
    let filter = audit::AuditFilter {
        actor: Some("cli:me".to_owned()),
        ..audit::AuditFilter::default()
    };
    let rows = storage.audit_rows(&filter, i64::MAX, 10).await.unwrap();
    let rows: Vec<_> = rows.iter().rev().map(|row| (&*row.action, &*row.object)).collect();
    assert_eq!(
        rows,
        [("bridge.pair", "dc1"), ("deliveries.pause", ""), ("deliveries.resume", "")]
    );
}

async fn audit_rows_are_filtered(database: TestDatabase) {
    let storage = database.open().await;
    let long = "x".repeat(200);
    let row = |tenant: &str, action, object: &str, result, detail: &str| AuditEvent {
        tenant: tenant.into(),
        actor: "k".into(),
        action,
        object: object.to_owned(),
        result,
        count: 1,
        detail: detail.to_owned(),
        ..AuditEvent::default()
    };
    let rows = [
        row("a", "call", "call_1", "ok", r#"{"host":"h","status":404}"#),
        row("a", "call", "call_2", "timeout", r#"{"host":"h","label":"\"status\":404","status":null}"#),
        row("b", "call", "call_1", "refused_by_policy", "{}"),
        row("a", "key.create", &long, "ok", "{}"),
        row("a", "key.rotate", &long[1..], "ok", "{}"),
    ];
    storage.audit(&rows).await.unwrap();
    let none = audit::AuditFilter::default;
    let some = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (audit::AuditFilter { object: some("call_1"), ..none() }, 2),
        (audit::AuditFilter { object: some("call_1"), tenant: some("a"), ..none() }, 1),
        (audit::AuditFilter { object: some("call_1"), tenant: some("c"), ..none() }, 0),
        (audit::AuditFilter { object: Some(long.clone()), ..none() }, 1),
        (audit::AuditFilter { result: some("failed"), ..none() }, 2),
        (audit::AuditFilter { result: some("timeout"), tenant: some("a"), ..none() }, 1),
        (audit::AuditFilter { status: Some(404), ..none() }, 1),
        (audit::AuditFilter { action: some("key."), ..none() }, 2),
        (audit::AuditFilter { action: some("key"), ..none() }, 0),
    ] {
        let found = storage.audit_rows(&filter, i64::MAX, 10).await.unwrap();
        assert_eq!(found.len(), expected, "{filter:?}");
    }
}

async fn revoked_bridge_releases_its_name(database: TestDatabase) {
    let storage = database.open().await;
    let acme = storage.create_tenant("acme").await.unwrap();
    let other = storage.create_tenant("other").await.unwrap();
    let made = storage
        .create_key("acme", Role::Bridge, "", Existing::Refuse)
        .await;
    let key = made.unwrap().0;
    let first = storage.pair(&pairing(&acme, &key, "dc1", 1)).await.unwrap();
    let foreign = storage.revoke_bridge(other.id.as_str(), "dc1").await;
    assert!(matches!(foreign, Err(StorageError::NotFound(_))));
    storage
        .revoke_bridge(acme.id.as_str(), "dc1")
        .await
        .unwrap();
    let second = storage.pair(&pairing(&acme, &key, "dc1", 2)).await.unwrap();
    assert_ne!(first.bridge, second.bridge);
    assert_eq!(storage.bridges(Some("acme")).await.unwrap().len(), 2);
}
}

/// Frequent queries read an index in its order, whatever is stored: they neither scan the table nor sort.
#[tokio::test]
async fn pages_and_due_calls_use_an_index() {
    let dir = TempDir::new("query-plans");
    let database = TestDatabase::File(dir);
    let storage = database.open().await;
    for (statement, index) in [
        (calls::PAGE_OF_ALL, "calls_by_tenant"),
        (calls::PAGE_OF_STATE, "calls_by_state"),
        (calls::DUE, "calls_due"),
    ] {
        let explain = format!("EXPLAIN QUERY PLAN {statement}");
        let mut query = sqlx::query(sqlx::AssertSqlSafe(explain)).bind("ten_1");
        // The types of the parameters do not matter to the plan.
        for _ in 1..statement.matches('$').count() {
            query = query.bind(0_i64);
        }
        let rows = query.fetch_all(storage.pool()).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let plan = plan.join("; ");
        assert!(plan.contains(&format!("USING INDEX {index}")), "{plan}");
        assert!(
            !plan.contains("SCAN calls") && !plan.contains("TEMP B-TREE"),
            "{plan}"
        );
    }
}
