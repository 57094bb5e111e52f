//! Large bodies and slow readers: all bytes arrive, memory stays flat, other callers are unaffected.

use std::time::{Duration, Instant};
use support::{Ask, TestEnv, let_time_pass, pattern};

const MIB: u64 = 1024 * 1024;

/// What relay and bridge may each grow by, in KiB.
const GROWTH_MAX_KIB: u64 = 16 * 1024;

/// Runs one small exchange and a moderate one, so that growth is measured from a warm process.
async fn warm(world: &TestEnv) {
    for size in [10, 4 * MIB] {
        let ask = Ask::get(world.endpoint(&format!("/bytes/{size}"))).key(&world.caller);
        world.api.send(ask).await.expect_status(200);
    }
}

#[tokio::test]
async fn download_of_100_mib_uses_flat_memory() {
    let world = TestEnv::start().await;
    warm(&world).await;
    let before = world.rss_kib();
    world.reset_peaks();
    let ask = Ask::get(world.endpoint(&format!("/bytes/{}", 100 * MIB))).key(&world.caller);
    let reading = world.api.open(ask.within(Duration::from_secs(120))).await;
    assert_eq!(reading.status, 200);
    let digest = reading.digest().await;
    assert_eq!(digest.truncated, None);
    assert_eq!(digest.bytes, 100 * MIB);
    assert_eq!(digest.sha256, pattern::sha256(100 * MIB));
    world.assert_grown_less(before, GROWTH_MAX_KIB);
}

#[tokio::test]
async fn upload_of_100_mib_uses_flat_memory() {
    let world = TestEnv::start().await;
    warm(&world).await;
    let before = world.rss_kib();
    world.reset_peaks();
    let ask = Ask::post(world.endpoint("/sink"))
        .key(&world.caller)
        .upload(100 * MIB);
    let answer = world.api.send(ask.within(Duration::from_secs(120))).await;
    let answer = answer.expect_status(200).json();
    assert_eq!(answer["received"], 100 * MIB);
    assert_eq!(answer["sha256"], pattern::sha256(100 * MIB));
    world.assert_grown_less(before, GROWTH_MAX_KIB);
}

/// Fifty concurrent callers, each with five responses of 200 kB. None takes long.
async fn fifty_others(world: &TestEnv) {
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (api, key) = (world.api.clone(), world.caller.clone());
        let path = world.endpoint("/bytes/200000");
        others.spawn(async move {
            let start = Instant::now();
            for _ in 0..5 {
                let ask = Ask::get(path.clone()).key(&key);
                let body = api.send(ask).await.expect_status(200).body.unwrap();
                assert_eq!(body.len(), 200_000);
            }
            start.elapsed()
        });
    }
    while let Some(took) = others.join_next().await {
        assert!(took.unwrap() < Duration::from_secs(30));
    }
}

#[tokio::test]
async fn stalled_reader_costs_a_bounded_window() {
    let world = TestEnv::start().await;
    // The memory of fifty callers is not the stalled reader's.
    fifty_others(&world).await;
    fifty_others(&world).await;
    let before = world.rss_kib();
    world.reset_peaks();
    let ask = Ask::get(world.endpoint(&format!("/bytes/{}", 100 * MIB))).key(&world.caller);
    let mut stalled = world.api.open(ask).await;
    stalled.next().await.unwrap().unwrap();
    for _ in 0..5 {
        fifty_others(&world).await;
    }
    world.assert_grown_less(before, GROWTH_MAX_KIB);
    drop(stalled);
}

#[tokio::test]
async fn stalled_target_applies_backpressure() {
    let world = TestEnv::start().await;
    warm(&world).await;
    let before = world.rss_kib();
    let ask = Ask::post(world.endpoint("/hang"))
        .key(&world.caller)
        .upload(100 * MIB);
    let api = world.api.clone();
    let upload = tokio::spawn(async move { api.try_send(ask).await });
    let_time_pass(Duration::from_secs(2), "the upload fills every window").await;
    world.assert_grown_less(before, GROWTH_MAX_KIB);
    upload.abort();
}
