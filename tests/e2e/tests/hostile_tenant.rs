//! One tenant exhausts every shared resource at once, for most of a minute. Another tenant's calls, deliveries
//! and endpoint requests take at most twice as long as before, and none fails.
//!
//! ```text
//! hostile tenant   idle and slow calls, responses that it does not read, names that do not resolve,
//!                  silent connections to every listener
//! quiet tenant     a call, a delivery and an endpoint request at a time, on new connections
//! ```
#![expect(clippy::print_stdout, reason = "the figures of a run")]

use bytes::Bytes;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::setup::{Neighbour, upgrade_request};
use support::{ApiKey, Ask, Dns, Origin, TestEnv, let_time_pass};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long the target takes. A request is then measured against this, and not against the machine's load.
const TARGET_DELAY: &str = "/delay/150";
/// How long the quiet tenant is measured alone, and then next to the hostile one.
const ALONE: Duration = Duration::from_secs(12);
const ATTACKED: Duration = Duration::from_secs(45);
/// Between two requests of one kind.
const PAUSE: Duration = Duration::from_millis(60);
/// Between two looks at a delivery.
const POLL: Duration = Duration::from_millis(10);
/// How much the relay may hold for a tenant that reads nothing and sends nothing.
const GROWTH_MAX_KIB: u64 = 160 * 1024;
/// Addresses that the hostile tenant connects from.
const HOSTILE: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 66), Ipv4Addr::new(127, 0, 0, 67)];

/// What the attackers share.
#[derive(Clone)]
struct Attack {
    world: Arc<TestEnv>,
    keys: Arc<[ApiKey]>,
    over: Arc<AtomicBool>,
    /// Steps of each attacker, so that a run shows that all of them ran.
    steps: Arc<[AtomicUsize; 6]>,
}

impl Attack {
    fn runs(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn key(&self, n: usize) -> &ApiKey {
        &self.keys[n % self.keys.len()]
    }

    fn step(&self, attacker: usize) {
        self.steps[attacker].fetch_add(1, Ordering::Relaxed);
    }

    /// A call whose body never ends.
    async fn idle_body(self, n: usize) {
        let head = format!(
            "POST /v1/calls HTTP/1.1\r\nHost: relay\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n",
            self.key(n).basic()
        );
        while self.runs() {
            self.step(0);
            self.hold(self.world.api.addr(), head.as_bytes()).await;
        }
    }

    /// A call whose target sends a byte a second.
    async fn slow_target(self, n: usize) {
        let url = self.world.target.url("/drip/100000/1000");
        while self.runs() {
            self.step(1);
            let ask = Ask::post("/v1/calls").key(self.key(n));
            let ask = ask.json(&json!({"url": url, "method": "GET", "timeout_ms": 20_000}));
            let _ = self
                .world
                .api
                .try_send(ask.within(Duration::from_secs(20)))
                .await;
            pause().await;
        }
    }

    /// Responses of every kind that wait for an HTTP/2 window of zero bytes.
    async fn unread(self, n: usize) {
        while self.runs() {
            self.step(2);
            let _ = self.read_nothing(n).await;
            pause().await;
        }
    }

    async fn read_nothing(&self, n: usize) -> Result<(), Box<dyn std::error::Error>> {
        let tcp = self.connect(n, self.world.public.addr()).await?;
        let tls = self.world.tls(tcp, &["h2"]).await?;
        let mut builder = h2::client::Builder::new();
        let (sender, connection) = builder
            .initial_window_size(0)
            .handshake::<_, Bytes>(tls)
            .await?;
        let connection = tokio::spawn(connection);
        let mut responses = Vec::new();
        for stream in 0..48 {
            let mut sender = sender.clone().ready().await?;
            let url = self.world.target.url("/bytes/500000");
            let (method, path, body) = match stream % 4 {
                0 | 1 => (
                    "POST",
                    "/v1/calls".to_owned(),
                    json!({"url": url, "method": "GET"}),
                ),
                2 => ("GET", self.world.endpoint("/bytes/1000000"), json!(null)),
                _ => ("GET", "/v1/calls?limit=1000".to_owned(), json!(null)),
            };
            let request = http::Request::builder()
                .method(method)
                .uri(format!("https://localhost{path}"))
                .header("authorization", self.key(n).basic())
                .header("content-type", "application/json")
                .body(())?;
            let is_get = method == "GET";
            let (response, mut send) = sender.send_request(request, is_get)?;
            if !is_get {
                // The window of the relay is its own; this body fits into it.
                send.send_data(body.to_string().into(), true)?;
            }
            responses.push(response);
        }
        while self.runs() && !connection.is_finished() {
            pause().await;
        }
        drop(responses);
        connection.abort();
        Ok(())
    }

    /// Deliveries and direct calls to names that no server resolves.
    async fn slow_names(self, n: usize) {
        let mut count = 0;
        while self.runs() {
            count += 1;
            self.step(3);
            let url = format!("http://n{n}-{count}.slow.test/hook");
            let mode = if n.is_multiple_of(2) {
                "deliver"
            } else {
                "wait"
            };
            let ask = Ask::post("/v1/calls").key(self.key(n));
            let ask =
                ask.json(&json!({"mode": mode, "url": url, "body": "{}", "timeout_ms": 5000}));
            let _ = self
                .world
                .api
                .try_send(ask.within(Duration::from_secs(6)))
                .await;
            pause().await;
        }
    }

    /// Connections to the listener with TLS that never become a tunnel or a request.
    async fn silent(self, n: usize) {
        let head = b"GET / HTTP/1.1\r\nHost: relay\r\nX-Rest: ";
        while self.runs() {
            self.step(4);
            let address = self.world.public.addr();
            let Ok(tcp) = self.connect(n, address).await else {
                pause().await;
                continue;
            };
            if n.is_multiple_of(3) {
                self.wait_for_end(tcp).await;
                continue;
            }
            let Ok(mut tls) = self.world.tls(tcp, &["http/1.1"]).await else {
                pause().await;
                continue;
            };
            let upgrade = upgrade_request();
            let first = match n % 3 {
                1 => &head[..],
                _ => upgrade.as_bytes(),
            };
            if tls.write_all(first).await.is_ok() && tls.flush().await.is_ok() {
                self.wait_for_end(tls).await;
            }
        }
    }

    /// Connections to the listener without TLS that send nothing.
    async fn idle_local(self, n: usize) {
        while self.runs() {
            self.step(5);
            let address = self.world.api.addr();
            match self.connect(n, address).await {
                Ok(tcp) => self.wait_for_end(tcp).await,
                Err(_) => pause().await,
            }
        }
    }

    async fn connect(&self, n: usize, to: std::net::SocketAddr) -> std::io::Result<TcpStream> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((IpAddr::V4(HOSTILE[n % HOSTILE.len()]), 0).into())?;
        socket.connect(to).await
    }

    /// Writes this to a new connection, and keeps it until the relay closes it.
    async fn hold(&self, to: std::net::SocketAddr, first: &[u8]) {
        if let Ok(mut tcp) = TcpStream::connect(to).await
            && tcp.write_all(first).await.is_ok()
        {
            self.wait_for_end(tcp).await;
        }
        pause().await;
    }

    async fn wait_for_end(&self, mut stream: impl tokio::io::AsyncRead + Unpin) {
        let mut piece = [0; 1024];
        while self.runs() {
            let reading = tokio::time::timeout(Duration::from_millis(500), stream.read(&mut piece));
            if matches!(reading.await, Ok(Ok(0) | Err(_))) {
                break;
            }
        }
        pause().await;
    }

    /// Starts every attacker.
    fn start(&self) -> JoinSet<()> {
        let mut attackers = JoinSet::new();
        for n in 0..64 {
            attackers.spawn(self.clone().idle_body(n));
            attackers.spawn(self.clone().slow_target(n));
        }
        for n in 0..4 {
            attackers.spawn(self.clone().unread(n));
        }
        for n in 0..40 {
            attackers.spawn(self.clone().slow_names(n));
        }
        for n in 0..300 {
            attackers.spawn(self.clone().silent(n));
        }
        for n in 0..200 {
            attackers.spawn(self.clone().idle_local(n));
        }
        attackers
    }
}

async fn pause() {
    let_time_pass(
        Duration::from_millis(200),
        "an attacker holds on, and does not spin",
    )
    .await;
}

/// What the quiet tenant does, each in a loop of its own.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Endpoint,
    Call,
    Delivery,
}

const KINDS: [Kind; 3] = [Kind::Endpoint, Kind::Call, Kind::Delivery];

struct Quiet {
    public: Origin,
    caller: ApiKey,
    url: String,
}

impl Quiet {
    fn new(world: &TestEnv, neighbour: &Neighbour) -> Self {
        Self {
            public: world.public.clone(),
            caller: neighbour.caller.clone(),
            url: neighbour.target.url(TARGET_DELAY),
        }
    }

    async fn once(&self, kind: Kind) {
        let ask = match kind {
            Kind::Endpoint => Ask::get(format!("/v1/endpoints/t{TARGET_DELAY}")),
            Kind::Call => Ask::post("/v1/calls").json(&json!({"url": self.url, "method": "GET"})),
            Kind::Delivery => {
                Ask::post("/v1/calls").json(&json!({"mode": "deliver", "url": self.url}))
            }
        };
        let answer = self.public.send(ask.key(&self.caller)).await;
        let Kind::Delivery = kind else {
            answer.expect_status(200);
            return;
        };
        let id = answer.expect_status(202).json()["id"]
            .as_str()
            .unwrap()
            .to_owned();
        loop {
            let ask = Ask::get(format!("/v1/calls/{id}")).key(&self.caller);
            let call = self.public.send(ask).await.expect_status(200).json();
            match call["state"].as_str().unwrap() {
                "succeeded" => return,
                // `eventually` adapts its pause to the load, which would distort what is measured.
                "pending" | "attempting" => let_time_pass(POLL, "the state is polled").await,
                other => panic!("a delivery of the quiet tenant is {other}: {call}"),
            }
        }
    }

    /// How long each took, sorted.
    async fn measure(self: &Arc<Self>, lasting: Duration) -> [Vec<Duration>; 3] {
        let loops = KINDS.map(|kind| {
            let quiet = self.clone();
            tokio::spawn(async move {
                let until = Instant::now() + lasting;
                let mut took = Vec::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    quiet.once(kind).await;
                    took.push(began.elapsed());
                    let_time_pass(PAUSE, "the quiet tenant has an even pace").await;
                }
                took.sort_unstable();
                took
            })
        });
        let mut all = [Vec::new(), Vec::new(), Vec::new()];
        for (took, measured) in all.iter_mut().zip(loops) {
            *took = measured.await.unwrap();
        }
        all
    }
}

/// Ninety-nine of a hundred took at most this long.
fn p99(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() * 99 / 100).min(sorted.len() - 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_tenant_slows_no_other_tenant() {
    let server = Ipv4Addr::new(127, 86, 0, 1);
    let dns = Dns::start(server).await;
    dns.silence(true);
    let builder =
        TestEnv::builder().relay(|relay| relay.set("limits.connections_max", 800).resolver(server));
    let world = Arc::new(builder.start().await);
    let tenant = world.tenant().to_owned();
    let direct = [
        "tenant",
        "direct",
        &tenant,
        "--allow",
        "http://*.slow.test/*",
    ];
    world.relay_cli(&direct).await;
    let neighbour = world.second_tenant("globex").await;
    let mut keys = vec![world.caller.clone()];
    for _ in 0..3 {
        keys.push(world.key("caller", &[]).await);
    }
    let quiet = Arc::new(Quiet::new(&world, &neighbour));
    let alone = quiet.measure(ALONE).await;

    let attack = Attack {
        world: world.clone(),
        keys: keys.into(),
        over: Arc::default(),
        steps: Arc::default(),
    };
    let before = world.relay.process().rss_kib();
    world.relay.process().reset_peak_rss();
    let mut attackers = attack.start();
    let attacked = quiet.measure(ATTACKED).await;
    let grown = world.relay.process().peak_rss_kib().saturating_sub(before);
    attack.over.store(true, Ordering::Relaxed);
    while let Some(ended) = attackers.join_next().await {
        ended.unwrap();
    }

    let steps = attack
        .steps
        .each_ref()
        .map(|count| count.load(Ordering::Relaxed));
    println!("steps of the attackers: {steps:?}; the relay grew by {grown} KiB");
    assert!(steps.iter().all(|count| *count > 0), "{steps:?}");
    for ((kind, alone), attacked) in KINDS.iter().zip(&alone).zip(&attacked) {
        let (quiet, loud) = (p99(alone), p99(attacked));
        println!(
            "{kind:?}: {} of p99 {quiet:?} alone, {} of {loud:?} next to the hostile tenant",
            alone.len(),
            attacked.len()
        );
        assert!(loud <= quiet * 2, "{kind:?}: {loud:?}, and alone {quiet:?}");
    }
    assert!(grown < GROWTH_MAX_KIB, "the relay grew by {grown} KiB");
}
