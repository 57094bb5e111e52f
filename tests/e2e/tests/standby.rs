//! Two relay processes on one database: one serves, the other stands by and takes over.

use serde_json::json;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::setup::{Bridge, BridgeSetup, Relay, RelaySetup, path};
use support::{
    ApiKey, Ask, Direction, FlakyProxy, LONG_TIMEOUT, PostgresDatabase, Target, TempDir, TestEnv,
    ThrowawayCa, eventually, let_time_pass,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The longest wait of a bridge before it dials again, and time to connect.
const BRIDGE_BACK: Duration = Duration::from_secs(100);

/// The lease lasts 10 s; the rest is for a loaded machine.
const TAKEOVER: Duration = Duration::from_secs(20);

/// Forwards to the first of two addresses that accepts a connection, like a name with two addresses.
struct TwoAddresses {
    addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl TwoAddresses {
    async fn start(first: SocketAddr, second: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let far = match TcpStream::connect(first).await {
                        Ok(far) => Ok(far),
                        Err(_) => TcpStream::connect(second).await,
                    };
                    let Ok(mut far) = far else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { addr, accepting }
    }
}

impl Drop for TwoAddresses {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Two relays with files of their own on one PostgreSQL; the first serves.
struct StandbyPair {
    bridge: Bridge,
    first: Relay,
    second: Relay,
    target: Target,
    caller: ApiKey,
    admin: ApiKey,
    _addresses: TwoAddresses,
    _dirs: [TempDir; 2],
    _database: PostgresDatabase,
}

impl StandbyPair {
    async fn start() -> Self {
        let database = PostgresDatabase::create();
        let dirs = [TempDir::new("first"), TempDir::new("second")];
        let ca = Arc::new(ThrowawayCa::new());
        let key_file = dirs[0].join("relay-secrets.key");
        let write = |dir| {
            let setup = RelaySetup::default().database(database.url());
            Relay::write(setup.set("storage.key_file", path(&key_file)), &ca, dir)
        };
        let [mut first, mut second] = [write(&dirs[0]), write(&dirs[1])];
        first.create_tenant("acme").await;
        let pairing = first.create_key("acme", "bridge").await;
        let admin = first.create_key("acme", "admin").await;
        let caller = first.create_key("acme", "caller").await;
        first.start().await;
        second.spawn();
        wait_standby(&second).await;

        let target = Target::start().await;
        let addresses = TwoAddresses::start(first.public().addr(), second.public().addr()).await;
        let setup = BridgeSetup::new("b1")
            .via(addresses.addr)
            .target("t", &target);
        let mut bridge = Bridge::write(&first, setup, &dirs[0]);
        bridge.pair(&pairing).await;
        bridge.start();
        first.wait_bridge(&admin, "b1", true, LONG_TIMEOUT).await;
        Self {
            bridge,
            first,
            second,
            target,
            caller,
            admin,
            _addresses: addresses,
            _dirs: dirs,
            _database: database,
        }
    }

    async fn call(&self, relay: &Relay) {
        let call = json!({"url": self.target.url("/hook"), "body": "x"});
        let ask = Ask::post("/v1/calls").key(&self.caller).json(&call);
        relay.internal().send(ask).await.expect_status(200);
    }
}

/// Waits until `/readyz` on the admin listener reports a standby.
async fn wait_standby(relay: &Relay) {
    eventually(LONG_TIMEOUT, "a relay on standby", async || {
        let answer = relay.admin().try_send(Ask::get("/readyz")).await;
        match answer {
            Ok(answer) if answer.status == 503 && answer.text().contains("standby") => Ok(()),
            Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
            Err(failure) => Err(failure.to_string()),
        }
    })
    .await;
}

/// Asserts that the relay accepts no tunnel, serves no request, and reports why.
async fn assert_standby(relay: &Relay, key: &ApiKey) {
    for path in [
        "/v1/bridges",
        "/v1/calls",
        "/v1/endpoints/t/small",
        "/openapi.json",
    ] {
        let answer = relay.internal().send(Ask::get(path).key(key)).await;
        let answer = answer.expect_status(503);
        assert_eq!(answer.headers["bridge-error"], "standby", "{path}");
        assert_eq!(answer.execution(), "not_sent");
        assert!(answer.header("retry-after").is_some());
    }
    for public in [relay.public().addr(), relay.proxy()] {
        let refused = TcpStream::connect(public).await.err();
        assert!(refused.is_some(), "{public} takes connections");
    }
    let health = relay.internal().send(Ask::get("/healthz")).await;
    health.expect_status(200);
    let ready = relay.internal().send(Ask::get("/readyz")).await;
    assert!(ready.expect_status(503).text().contains("standby"));
    relay.cli(&["health"]).await.success();
    let ready = relay.cli(&["health", "--ready"]).await.failure();
    assert!(ready.contains("with 503: standby"), "{ready}");
    assert!(
        relay
            .metrics()
            .await
            .contains("integration_relay_active 0\n")
    );
}

#[tokio::test]
async fn standby_takes_over_when_the_active_relay_is_killed() {
    let mut pair = StandbyPair::start().await;
    assert_standby(&pair.second, &pair.caller).await;
    pair.call(&pair.first).await;

    pair.first.kill9();
    let killed = Instant::now();
    pair.second.wait_ready(TAKEOVER).await;
    assert!(killed.elapsed() < TAKEOVER, "{:?}", killed.elapsed());
    pair.second
        .wait_bridge(&pair.admin, "b1", true, BRIDGE_BACK)
        .await;
    pair.call(&pair.second).await;

    // The one that was killed comes back as the standby, and takes over in an orderly stop at once.
    pair.first.spawn();
    wait_standby(&pair.first).await;
    assert_standby(&pair.first, &pair.caller).await;
    pair.call(&pair.second).await;
    pair.second.stop(LONG_TIMEOUT).await;
    pair.first.wait_ready(TAKEOVER).await;
    pair.first
        .wait_bridge(&pair.admin, "b1", true, BRIDGE_BACK)
        .await;
    pair.call(&pair.first).await;
    pair.bridge.stop(LONG_TIMEOUT).await;
}

#[tokio::test]
async fn frozen_relay_serves_nothing_after_takeover() {
    let pair = StandbyPair::start().await;
    pair.call(&pair.first).await;
    let seen = pair.target.hooks().len();

    pair.first.process().signal("STOP");
    pair.second.wait_ready(TAKEOVER).await;
    // A request that waits for the frozen relay when it goes on.
    let mut waiting = TcpStream::connect(pair.first.internal().addr())
        .await
        .unwrap();
    let call = json!({"url": pair.target.url("/hook"), "body": "late"}).to_string();
    let request = format!(
        "POST /v1/calls HTTP/1.1\r\nHost: relay\r\nAuthorization: {}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{call}",
        pair.caller.basic(),
        call.len()
    );
    waiting.write_all(request.as_bytes()).await.unwrap();
    pair.first.process().signal("CONT");
    let mut answer = String::new();
    let reading = waiting.read_to_string(&mut answer);
    tokio::time::timeout(LONG_TIMEOUT, reading)
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("bridge-error: standby"), "{answer}");
    assert_eq!(pair.target.hooks().len(), seen);

    wait_standby(&pair.first).await;
    assert_standby(&pair.first, &pair.caller).await;
    pair.second
        .wait_bridge(&pair.admin, "b1", true, BRIDGE_BACK)
        .await;
    pair.call(&pair.second).await;
}

#[tokio::test]
async fn sqlite_database_has_one_serving_process() {
    let site = TestEnv::start().await;
    let home = site.relay.config().parent().unwrap().to_owned();
    let [link, hard] = ["link.db", "hard.db"].map(|name| home.join(name));
    symlink(home.join("relay.db"), &link).unwrap();
    std::fs::hard_link(home.join("relay.db"), &hard).unwrap();
    for name in [&link, &hard] {
        let dir = TempDir::new("second");
        let setup = RelaySetup::default().database(&format!("sqlite://{}", name.display()));
        let second = Relay::write(setup, &site.ca, &dir);
        let output = second.cli(&["serve"]).await.failure();
        assert!(output.contains("serves from this database"), "{output}");
        // Commands work next to the relay by its own name, and destroy nothing by another.
        let listed = second.cli(&["tenant", "list"]).await;
        assert_eq!(listed.status.success(), name == &link, "{}", listed.stderr);
    }
    site.relay.cli(&["tenant", "list"]).await.success();
    let ask = Ask::get(site.endpoint("/small")).key(&site.caller);
    site.api.send(ask).await.expect_status(200);
}

/// One relay whose connection to the database the test can break.
struct SingleRelay {
    site: TestEnv,
    database: FlakyProxy,
    _server: PostgresDatabase,
}

impl SingleRelay {
    async fn start() -> Self {
        Self::start_with(|relay| relay).await
    }

    /// With changes to the relay's setup.
    async fn start_with(change: impl FnOnce(RelaySetup) -> RelaySetup) -> Self {
        let server = PostgresDatabase::create();
        let (origin, name) = server.url().rsplit_once('/').unwrap();
        let addr = origin.rsplit_once('@').unwrap().1.parse().unwrap();
        let database = FlakyProxy::start(addr).await;
        let url = format!("postgres://test@{}/{name}", database.addr());
        let site = TestEnv::builder()
            .relay(|relay| change(relay.database(&url)))
            .start()
            .await;
        Self {
            site,
            database,
            _server: server,
        }
    }

    async fn set_away(&self, is_away: bool) {
        self.database.refuse(is_away).await;
        if is_away {
            self.database.cut();
        }
    }

    async fn status(&self) -> u16 {
        let ask = Ask::get(self.site.endpoint("/small")).key(&self.site.caller);
        self.site.api.send(ask).await.status.as_u16()
    }

    async fn wait_status(&self, status: u16, within: Duration) {
        eventually(
            within,
            &format!("{status} from the endpoint"),
            async || match self.status().await {
                now if now == status => Ok(()),
                now => Err(now),
            },
        )
        .await;
    }
}

#[tokio::test]
async fn relay_without_database_serves_from_memory() {
    let mut lonely = SingleRelay::start().await;
    lonely.set_away(true).await;
    // Longer than the lease lasts.
    let process = lonely.site.relay.process();
    process
        .wait_log("cannot renew the lease", LONG_TIMEOUT)
        .await;
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        assert_eq!(lonely.status().await, 200);
        let_time_pass(Duration::from_millis(200), "the lease runs out meanwhile").await;
    }
    lonely.site.bridge.kill9();
    lonely.wait_status(503, LONG_TIMEOUT).await;
    lonely.site.bridge.start();
    lonely.wait_status(200, LONG_TIMEOUT).await;
    let unknown_key = ApiKey::new("ibk_nobody", "ibs_nothing");
    let ask = Ask::get("/v1/bridges").key(&unknown_key);
    let unknown = lonely.site.relay.internal().send(ask).await;
    assert_eq!(unknown.expect_status(503).code(), "overloaded");
    lonely.set_away(false).await;
    process_renews(&lonely).await;
    let ask = Ask::get("/v1/bridges").key(&unknown_key);
    let unknown = lonely.site.relay.internal().send(ask).await;
    assert_eq!(unknown.expect_status(401).code(), "unauthorized");
    assert_eq!(lonely.status().await, 200);
}

async fn process_renews(lonely: &SingleRelay) {
    let process = lonely.site.relay.process();
    process.wait_log("lease renewed", LONG_TIMEOUT).await;
}

#[tokio::test]
async fn stale_directory_rejects_requests() {
    let lonely = SingleRelay::start_with(|relay| relay.set("directory.stale_max", "4s")).await;
    assert_eq!(lonely.status().await, 200);
    lonely.set_away(true).await;
    assert_eq!(lonely.status().await, 200);
    lonely.wait_status(503, LONG_TIMEOUT).await;
    let ask = Ask::get(lonely.site.endpoint("/small")).key(&lonely.site.caller);
    let refused = lonely.site.api.send(ask).await;
    assert_eq!(refused.code(), "directory_stale");
    let process = lonely.site.relay.process();
    process.wait_log("session down", LONG_TIMEOUT).await;
    let ready = lonely.site.relay.admin().send(Ask::get("/readyz")).await;
    let ready = ready.expect_status(503).text();
    assert!(ready.contains("directory.stale_max"), "{ready}");
    let metrics = lonely.site.relay.metrics().await;
    let age = metrics
        .lines()
        .find_map(|line| line.strip_prefix("integration_relay_directory_age_seconds "));
    let age: f64 = age.unwrap().parse().unwrap();
    assert!(age > 4.0, "{age}");
    lonely.set_away(false).await;
    lonely.wait_status(200, BRIDGE_BACK).await;
}

/// A frozen connection is silent; a closed port refuses connections.
#[tokio::test]
async fn silent_database_is_survived() {
    let lonely = SingleRelay::start().await;
    lonely.database.freeze(Direction::Both);
    let process = lonely.site.relay.process();
    process
        .wait_log("cannot renew the lease", LONG_TIMEOUT)
        .await;
    assert_eq!(lonely.status().await, 200);
    lonely.database.thaw();
    process_renews(&lonely).await;
    assert_eq!(lonely.status().await, 200);
}
