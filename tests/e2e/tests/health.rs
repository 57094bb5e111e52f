//! `integration-relay health`, which the health checks of containers run.

use support::{LONG_TIMEOUT, TestEnv};

#[tokio::test]
async fn health_follows_the_running_relay() {
    let mut world = TestEnv::start().await;
    for (args, says) in [
        (&["health"][..], "(listen.admin): ok\n"),
        (&["health", "--ready"][..], "(listen.admin): ready\n"),
    ] {
        let said = world.relay.cli(args).await.success();
        assert!(said.ends_with(says), "{said}");
    }
    world.relay.stop(LONG_TIMEOUT).await;
    let said = world.relay.cli(&["health"]).await.failure();
    assert!(said.contains("no connection to the relay at"), "{said}");
}
