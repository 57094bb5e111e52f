//! Fairness under contention: many transfers of one caller take no share from another caller, and those of
//! one tenant none from another tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{ApiKey, Ask, Origin, TestEnv, let_time_pass};
use tokio::task::JoinSet;

/// What the line to the relay carries: far less than the machine.
const LINE_BYTES_PER_S: u64 = 8 * 1024 * 1024;
/// Transfers of the caller with many.
const CROWD: usize = 30;
/// How long is measured.
const WHILE: Duration = Duration::from_secs(4);

/// Takes a body without end until it is dropped, and counts.
async fn take(api: Origin, path: String, key: ApiKey, taken: Arc<AtomicU64>) {
    let ask = Ask::get(path).key(&key).within(Duration::from_secs(120));
    let mut reading = api.open(ask).await;
    while let Some(Ok(piece)) = reading.next().await {
        taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
}

/// How many per cent of the line the caller with a single transfer gets.
async fn share_of_the_lone(world: &TestEnv, crowd: &ApiKey, alone: &ApiKey) -> u64 {
    world.proxy().rate(Some(LINE_BYTES_PER_S));
    let path = world.endpoint("/bytes/10000000000");
    let counts = [Arc::<AtomicU64>::default(), Arc::default()];
    let mut taking = JoinSet::new();
    for _ in 0..CROWD {
        let count = counts[0].clone();
        taking.spawn(take(world.api.clone(), path.clone(), crowd.clone(), count));
    }
    let count = counts[1].clone();
    taking.spawn(take(world.api.clone(), path, alone.clone(), count));
    let_time_pass(
        Duration::from_secs(5),
        "buffers empty, and windows find their size",
    )
    .await;
    let read = || [0, 1].map(|n| counts[n].load(Ordering::Relaxed));
    let before = read();
    let_time_pass(WHILE, "throughput is measured over it").await;
    let after = read();
    let [crowd, alone] = [0, 1].map(|n| after[n] - before[n]);
    assert!(crowd > 0, "nothing moved");
    alone * 100 / (crowd + alone)
}

#[tokio::test]
async fn bandwidth_is_shared_per_caller() {
    let mut world = TestEnv::builder()
        .bridge(|bridge| bridge.set("relay.connections", 1))
        .start()
        .await;
    let (crowd, alone) = (
        world.key("synchronizer", &[]).await,
        world.key("synchronizer", &[]).await,
    );
    // A fair share is one half; per transfer it would be one in thirty-one.
    let share = share_of_the_lone(&world, &crowd, &alone).await;
    assert!((30..=70).contains(&share), "{share} %");

    world.proxy().rate(None);
    world.kill_relay().await;
    let config = world.relay_config();
    let weights = format!("\n[weights]\nkeys = {{ {} = 4 }}\n", crowd.client_id);
    let text = std::fs::read_to_string(&config).unwrap() + &weights;
    std::fs::write(&config, text).unwrap();
    world.start_relay().await;
    world.wait_online().await;
    let share = share_of_the_lone(&world, &crowd, &alone).await;
    assert!(
        (8..=32).contains(&share),
        "{share} % against four times the weight"
    );
}

/// Many transfers of one tenant, and a single one of another tenant.
#[tokio::test]
async fn node_throughput_is_shared_per_tenant() {
    let world = TestEnv::start().await;
    let neighbour = world.second_tenant("globex").await;
    let path = world.endpoint("/bytes/100000000000");
    let counts = [Arc::<AtomicU64>::default(), Arc::default()];
    let mut taking = JoinSet::new();
    for _ in 0..CROWD {
        let (api, key, count) = (world.api.clone(), world.caller.clone(), counts[0].clone());
        taking.spawn(take(api, path.clone(), key, count));
    }
    let (api, key, count) = (
        world.api.clone(),
        neighbour.caller.clone(),
        counts[1].clone(),
    );
    taking.spawn(take(api, path, key, count));
    let_time_pass(Duration::from_secs(1), "all transfers run").await;
    let read = || [0, 1].map(|n| counts[n].load(Ordering::Relaxed));
    let before = read();
    let_time_pass(WHILE, "throughput is measured over it").await;
    let after = read();
    let [crowd, alone] = [0, 1].map(|n| after[n] - before[n]);
    let share = alone * 100 / (crowd + alone).max(1);
    // Per transfer it would be three in a hundred.
    assert!(
        share >= 15,
        "{share} % of {} MB",
        (crowd + alone) / 1_000_000
    );
}

#[tokio::test]
async fn greedy_caller_leaves_slots_for_others() {
    let world = TestEnv::builder()
        .relay(|relay| {
            relay
                .set("limits.streams_per_tenant", 200)
                .set("limits.streams_per_key", 200)
                .set("limits.streams_per_session", 200)
        })
        .start()
        .await;
    let greedy = world.key("caller", &[]).await;
    let mut open = JoinSet::new();
    for _ in 0..200 {
        let ask = Ask::get(world.endpoint("/hang")).key(&greedy);
        let api = world.api.clone();
        open.spawn(async move { api.try_send(ask).await });
    }
    // Rejected requests get `overloaded` and `Retry-After`.
    let mut rejected = 0;
    while let Ok(Some(answer)) =
        tokio::time::timeout(Duration::from_secs(2), open.join_next()).await
    {
        let answer = answer.unwrap().unwrap().expect_status(503);
        assert_eq!(
            (answer.code(), answer.execution()),
            ("overloaded".into(), "not_sent".into())
        );
        assert!(answer.header("retry-after").is_some());
        rejected += 1;
    }
    assert!((50..=150).contains(&rejected), "{rejected}");
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
}
