//! Network faults between bridge and relay, in separate namespaces: lost packets, a silent path, names that do
//! not resolve or resolve wrongly, an address that moved.

use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::process::{Running, command_in};
use support::setup::{Allow, Bridge, BridgeSetup, Endpoint, Relay, RelaySetup};
use support::{
    Answer, ApiKey, Ask, Dns, LONG_TIMEOUT, Network, Target, TempDir, ThrowawayCa, eventually,
    let_time_pass, ports,
};

/// The longest that a reconnect may take once the network works again.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// A silent tunnel is dead after 30 s; the rest is for a loaded machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(45);
/// Loses every packet.
const SILENT: u32 = 1000;

/// A relay and a bridge, each in a network of its own.
struct NetworkEnv {
    bridge: Bridge,
    relay: Relay,
    target: Target,
    caller: ApiKey,
    dns: Dns,
    network: Network,
    dir: TempDir,
}

impl NetworkEnv {
    async fn start() -> Self {
        Self::start_with(|bridge, _| bridge).await
    }

    /// With changes to the bridge's setup, which may depend on the target's port.
    async fn start_with(change: impl FnOnce(BridgeSetup, u16) -> BridgeSetup) -> Self {
        let network = Network::start().await;
        let dns = Dns::start(network.outside()).await;
        dns.set("relay.test", network.relay_address());
        let target = Target::start_on(network.outside()).await;
        let dir = TempDir::new("network-site");
        let ca = Arc::new(ThrowawayCa::new());
        let (api, port) = (network.relay_api(), ports::free());
        let [internal, admin] = [(); 2].map(|()| ports::free());
        let setup = RelaySetup::default()
            .set("listen.public", format!("0.0.0.0:{port}"))
            .set("listen.internal", format!("{api}:{internal}"))
            .set("listen.admin", format!("{api}:{admin}"))
            .set("listen.insecure", true)
            .in_namespace(&network.relay());
        let mut relay = Relay::write(setup, &ca, &dir);
        relay.create_tenant("acme").await;
        let key = relay.create_key("acme", "bridge").await;
        let caller = relay.create_key("acme", "caller").await;
        relay.start().await;
        let setup = BridgeSetup::new("b1")
            .set("relay.url", format!("https://relay.test:{port}"))
            .set("relay.connections", 1)
            .endpoint(Endpoint::new("t", target.url("/")))
            .in_namespace(&network.bridge());
        let setup = change(setup, target.port());
        let mut bridge = Bridge::write(&relay, setup, &dir);
        bridge.pair(&key).await;
        bridge.start();
        bridge.process().wait_log("session up", LONG_TIMEOUT).await;
        let site = Self {
            bridge,
            relay,
            target,
            caller,
            dns,
            network,
            dir,
        };
        site.until_online(true, LONG_TIMEOUT).await;
        site
    }

    async fn small(&self) -> Result<Answer, support::http::Failure> {
        let ask = Ask::get("/v1/endpoints/t/small").key(&self.caller);
        let ask = ask.within(Duration::from_secs(10));
        self.relay.internal().try_send(ask).await
    }

    async fn call(&self, url: &str) -> Answer {
        let call = json!({"mode": "wait", "method": "GET", "url": url});
        let ask = Ask::post("/v1/calls").key(&self.caller).json(&call);
        self.relay.internal().send(ask).await
    }

    async fn until_online(&self, wanted: bool, within: Duration) {
        eventually(within, &format!("online = {wanted}"), async || {
            let status = self.bridge.status().await;
            match status["online"] == wanted {
                true => Ok(()),
                false => Err(format!("{status:#}")),
            }
        })
        .await;
    }

    /// Asserts that the bridge is online, reports it, and carries requests within [`BACK_WITHIN`].
    async fn comes_back(&self) {
        let began = Instant::now();
        self.until_online(true, BACK_WITHIN).await;
        let left = BACK_WITHIN.saturating_sub(began.elapsed());
        eventually(left, "an exchange", async || {
            let answer = self.small().await;
            answer.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// Returns the hop at which `doctor` reports a failure.
    async fn fails_at(&self) -> String {
        let report = self.bridge.doctor().await;
        report["fails_at"].as_str().unwrap_or_default().to_owned()
    }
}

#[tokio::test]
async fn lossy_network_is_slow_only() {
    let site = NetworkEnv::start().await;
    site.network.set_line(20, Duration::from_millis(150));
    let session = site.bridge.status().await["sessions"][0]["id"].clone();
    for _ in 0..20 {
        site.small().await.unwrap().expect_status(200);
    }
    let ask = Ask::get("/v1/endpoints/t/bytes/1000000").key(&site.caller);
    let large = site.relay.internal().send(ask).await.expect_status(200);
    assert_eq!(large.body.unwrap().len(), 1_000_000);
    assert_eq!(site.bridge.status().await["sessions"][0]["id"], session);
    assert_eq!(site.fails_at().await, "");
}

#[tokio::test]
async fn silent_network_is_reported_and_survived() {
    let site = NetworkEnv::start().await;
    site.network.set_line(SILENT, Duration::ZERO);
    site.until_online(false, NOTICED_WITHIN).await;
    assert_eq!(site.fails_at().await, "tcp");
    site.network.set_line(0, Duration::ZERO);
    site.comes_back().await;
    assert_eq!(site.fails_at().await, "");
}

#[tokio::test]
async fn missing_resolver_is_reported_by_doctor() {
    let mut site = NetworkEnv::start().await;
    site.dns.silence(true);
    // An established connection needs no names.
    site.small().await.unwrap().expect_status(200);
    site.relay.kill9();
    site.relay.start().await;
    site.until_online(false, NOTICED_WITHIN).await;
    assert_eq!(site.fails_at().await, "dns");
    eventually(LONG_TIMEOUT, "an error that names the relay", async || {
        let status = site.bridge.status().await;
        let error = status["connections"][0]["error"].to_string();
        match error.contains("relay.test") {
            true => Ok(()),
            false => Err(format!("{status:#}")),
        }
    })
    .await;
    site.dns.silence(false);
    site.comes_back().await;
}

#[tokio::test]
async fn moved_relay_is_found_by_dns() {
    let site = NetworkEnv::start().await;
    let mark = site.bridge.process().log_mark();
    let new = site.network.move_relay();
    site.dns.set("relay.test", new);
    // The old session is dead, which the bridge notices by its heartbeat. The log is used here because `status`
    // could miss the moment between the two sessions.
    let process = site.bridge.process();
    process
        .wait_log_since(mark, "session up", BACK_WITHIN)
        .await;
    site.comes_back().await;
}

/// Allows GET to names below `corp.test`.
fn allow_corp(bridge: BridgeSetup, port: u16) -> BridgeSetup {
    let rule = Allow::host("*.corp.test").ports([port]);
    bridge.allow(rule.methods(&["GET"]))
}

#[tokio::test]
async fn dns_rebinding_reaches_no_unchecked_address() {
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let site = NetworkEnv::start_with(|bridge, port| {
        allow_corp(bridge, port).set("targets.pool_idle_per_target", 0)
    })
    .await;
    let good = site.network.outside();
    site.network.add_to_bridge(metadata);
    let port = site.target.port();
    // Any request to the bridge's own machine would arrive here.
    let mut command = command_in(Some(&site.network.bridge()), "hook-target");
    command.arg(port.to_string()).arg(site.dir.join("hooks"));
    command.arg("0.0.0.0");
    let evil = Running::spawn("what must not be reached", command);
    evil.wait_log("listening", LONG_TIMEOUT).await;

    let turns: [&[Ipv4Addr]; 3] = [&[good], &[metadata], &[Ipv4Addr::LOCALHOST]];
    site.dns.set_in_turn("turns.corp.test", &turns);
    site.dns
        .set_in_turn("mixed.corp.test", &[&[metadata, good], &[good, metadata]]);
    let (mut answered, mut refused) = (0, 0);
    for n in 0..30 {
        let name = if n % 5 == 4 { "mixed" } else { "turns" };
        // A connection of its own each time, and with it another response of the resolver.
        let url = format!("http://{name}.corp.test:{port}/status/200?{n}");
        let answer = site.call(&url).await;
        match answer.status.as_u16() {
            200 => answered += 1,
            403 => {
                assert_eq!(answer.code(), "refused_by_policy");
                assert_eq!(answer.execution(), "not_dispatched");
                refused += 1;
            }
            _ => panic!("{}", answer.text()),
        }
    }
    let accepted = evil.log();
    let accepted = accepted
        .iter()
        .filter(|line| format!("{line:?}").contains("accepted"))
        .count();
    assert_eq!(accepted, 0, "an address that must never be reached was");
    assert!(answered > 0 && refused > 0, "{answered}, {refused}");
    assert!(site.dns.asked("turns.corp.test") > 3);
}

/// Concurrent calls to names that do not resolve.
const SLOW_CALLS: usize = 150;

/// Below the time that a lookup may take.
const QUICK: Duration = Duration::from_secs(4);

async fn call_by(relay: &Relay, key: &ApiKey, url: &str) -> Answer {
    let call = json!({"mode": "wait", "method": "GET", "url": url, "timeout_ms": 10_000});
    let ask = Ask::post("/v1/calls").key(key).json(&call);
    let client = relay.internal();
    client.send(ask.within(LONG_TIMEOUT)).await
}

/// Sends calls to many slow names with this key, and does not wait for them.
fn call_slow_names(relay: &Relay, key: &ApiKey, url: &str) -> tokio::task::JoinSet<()> {
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..SLOW_CALLS {
        let (origin, key) = (relay.internal(), key.clone());
        let url = url.replace('*', &format!("n{n}"));
        calls.spawn(async move {
            let call = json!({"mode": "wait", "method": "GET", "url": url, "timeout_ms": 10_000});
            let ask = Ask::post("/v1/calls").key(&key).json(&call);
            let _ = origin.try_send(ask).await;
        });
    }
    calls
}

#[tokio::test]
async fn slow_lookups_of_a_caller_leave_slots() {
    let site = NetworkEnv::start_with(allow_corp).await;
    let port = site.target.port();
    site.dns.set("ok.corp.test", site.network.outside());
    site.dns.silence_below(".slow.corp.test");
    let other = site.relay.create_key("acme", "caller").await;
    let url = format!("http://*.slow.corp.test:{port}/small");
    let slow = call_slow_names(&site.relay, &site.caller, &url);
    let_time_pass(Duration::from_secs(1), "the slow lookups are under way").await;
    for n in 0..5 {
        let began = Instant::now();
        let url = format!("http://ok.corp.test:{port}/status/200?{n}");
        let answer = call_by(&site.relay, &other, &url).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(began.elapsed() < QUICK, "{:?}", began.elapsed());
    }
    drop(slow);
}

#[tokio::test]
async fn slow_lookups_of_a_tenant_leave_direct_calls() {
    let site = NetworkEnv::start().await;
    let dns = Dns::start(site.network.relay_outside()).await;
    dns.silence_below(".slow.test");
    dns.set("ok.test", site.network.outside());
    let mut keys = Vec::new();
    for (tenant, pattern) in [
        ("hostile", "http://*.slow.test/*"),
        ("other", "http://ok.test/*"),
    ] {
        site.relay.create_tenant(tenant).await;
        let args = ["tenant", "direct", tenant, "--allow", pattern];
        site.relay.cli(&args).await.success();
        keys.push(site.relay.create_key(tenant, "caller").await);
    }
    // The name resolves, and not to a public address: so far a call comes from a test.
    let until = Instant::now() + LONG_TIMEOUT;
    while call_by(&site.relay, &keys[1], "http://ok.test/")
        .await
        .code()
        != "refused_by_policy"
    {
        assert!(
            Instant::now() < until,
            "the relay does not apply the patterns"
        );
    }
    let slow = call_slow_names(&site.relay, &keys[0], "http://*.slow.test/");
    let_time_pass(Duration::from_secs(1), "the slow lookups are under way").await;
    for _ in 0..5 {
        let began = Instant::now();
        let answer = call_by(&site.relay, &keys[1], "http://ok.test/").await;
        assert_eq!(answer.code(), "refused_by_policy", "{}", answer.text());
        assert!(began.elapsed() < QUICK, "{:?}", began.elapsed());
    }
    drop(slow);
}

/// A shortage of the relay is not reported as the target's refusal. The relay's namespace has no route to the
/// addresses.
#[tokio::test]
async fn direct_call_without_descriptors_is_overloaded() {
    let site = NetworkEnv::start().await;
    let _dns = Dns::start(site.network.relay_outside()).await;
    let urls = [
        "http://8.8.8.8:1/",
        "http://unknown.test/",
        "https://8.8.8.8:1/",
    ];
    site.relay.create_tenant("direct").await;
    let patterns = urls.map(|url| format!("{url}*"));
    let mut args = vec!["tenant", "direct", "direct"];
    for pattern in &patterns {
        args.extend(["--allow", pattern]);
    }
    site.relay.cli(&args).await.success();
    let key = site.relay.create_key("direct", "caller").await;
    let call = |url: &str| {
        let call = json!({"url": url, "method": "GET", "timeout_ms": 5000});
        Ask::post("/v1/calls").key(&key).json(&call)
    };
    let mut caller = site.relay.internal().client().await.ok().unwrap();
    let until = Instant::now() + LONG_TIMEOUT;
    while caller.send(call(urls[1])).await.code() != "target_dns" {
        assert!(
            Instant::now() < until,
            "the relay does not apply the patterns"
        );
    }
    assert_eq!(caller.send(call(urls[0])).await.code(), "target_refused");
    let process = site.relay.process();
    process.limit_files(Some(5));
    for url in urls {
        let answer = caller.send(call(url)).await;
        assert_eq!(answer.status, 503, "{url}");
        assert_eq!(answer.code(), "overloaded", "{url}");
        assert_eq!(answer.execution(), "not_dispatched", "{url}");
    }
    process.limit_files(None);
    assert_eq!(caller.send(call(urls[1])).await.code(), "target_dns");
    assert_eq!(caller.send(call(urls[2])).await.code(), "target_refused");
}

#[tokio::test]
async fn doctor_finds_lost_large_packets() {
    let mut site = NetworkEnv::start().await;
    site.bridge.stop(LONG_TIMEOUT).await;
    // The relay's certificate does not fit into one; the client's part of the handshake does.
    site.network.set_packet_max(600);
    let report = site.bridge.doctor().await;
    assert_eq!(report["fails_at"], "tls", "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    let tls = checks.iter().find(|check| check["hop"] == "tls").unwrap();
    let found = tls["found"].as_str().unwrap();
    assert!(found.contains("large packets are lost"), "{report:#}");
    assert!(
        tls["advice"].as_str().unwrap().contains("MTU"),
        "{report:#}"
    );
}
