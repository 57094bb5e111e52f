//! A resource is exhausted for some seconds under load: the disk, the database, the reader of standard error,
//! file descriptors. Afterwards everything works without a restart. No acknowledged delivery is lost, and none
//! is made twice.
//!
//! ```text
//! load (deliveries, calls, endpoint requests) ───────────────────────────────>
//! fault                        |── begins ── 6 s ── ends ──|  every operation works
//! ```
#![expect(clippy::print_stdout, reason = "the figures of a run")]

use serde_json::json;
use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::setup::{Builder, path};
use support::small_disk::SmallDisk;
use support::{
    ApiKey, Ask, FlakyProxy, Origin, PostgresDatabase, TestEnv, eventually, let_time_pass,
};
use tokio::task::JoinSet;

/// How long the load runs before the fault, and the fault before its end.
const BEFORE: Duration = Duration::from_secs(2);
const FAULT: Duration = Duration::from_secs(6);
/// After the fault: until every operation works again, and until every delivery is at its end.
const RECOVERED_WITHIN: Duration = Duration::from_secs(45);
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// The longest time to a response, whatever is exhausted.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// Room for the program, and for a few seconds of load.
const DISK_BYTES: u32 = 12 << 20;
/// Descriptors that are left while they are exhausted.
const DESCRIPTORS_LEFT: u64 = 1;

const SCHEDULE: [&str; 9] = ["500ms", "1s", "1s", "2s", "2s", "2s", "5s", "5s", "5s"];

/// Relay, bridge and target under load.
struct LoadedEnv {
    site: TestEnv,
    acknowledged: Arc<Mutex<HashMap<String, String>>>,
    works: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    load: JoinSet<()>,
}

impl LoadedEnv {
    async fn start(builder: Builder) -> Self {
        let builder = builder.relay(|relay| relay.set("deliveries.schedule", SCHEDULE.to_vec()));
        let mut scene = Self {
            site: builder.start().await,
            acknowledged: Arc::default(),
            works: Arc::default(),
            over: Arc::default(),
            load: JoinSet::new(),
        };
        for n in 0..3 {
            let caller = Caller {
                api: scene.site.relay.internal(),
                key: scene.site.caller.clone(),
                hook: scene.site.target.url("/hook"),
                acknowledged: scene.acknowledged.clone(),
                works: scene.works.clone(),
            };
            let over = scene.over.clone();
            scene.load.spawn(async move {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    count += 1;
                    caller.round(&format!("/{n}/{count}")).await;
                    let_time_pass(
                        Duration::from_millis(20),
                        "the load must not saturate the machine",
                    )
                    .await;
                }
            });
        }
        scene
    }

    /// Runs the load and the fault, and asserts what must hold after it.
    async fn endure<Began>(
        mut self,
        begin: impl AsyncFnOnce(&Self) -> Began,
        end: impl AsyncFnOnce(Began),
    ) {
        let (relay, bridge) = (
            self.site.relay.process().pid(),
            self.site.bridge.process().pid(),
        );
        let_time_pass(BEFORE, "the load runs before the fault").await;
        let began = begin(&self).await;
        let_time_pass(FAULT, "the fault lasts").await;
        end(began).await;
        self.wait_until_everything_works().await;
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.load.join_next().await {
            ended.unwrap();
        }
        self.settle().await;
        let now = (
            self.site.relay.process().pid(),
            self.site.bridge.process().pid(),
        );
        assert_eq!((relay, bridge), now);
        for process in [self.site.relay.process(), self.site.bridge.process()] {
            assert!(process.exited().is_none(), "{} ended", process.name());
        }
    }

    /// Each of the operations has to work once after the fault.
    async fn wait_until_everything_works(&self) {
        let deadline = Instant::now() + RECOVERED_WITHIN;
        let left = || deadline.saturating_duration_since(Instant::now());
        let (api, admin) = (self.site.relay.internal(), self.site.admin.clone());
        let hook = self.site.target.url("/hook/after");
        let asks = [
            || Ask::get("/v1/endpoints/t/small"),
            || Ask::post("/v1/keys").json(&json!({"role": "caller"})),
        ];
        for ask in asks {
            wait_success(&api, || ask().key(&admin), left()).await;
        }
        let call = || {
            Ask::post("/v1/calls")
                .key(&admin)
                .json(&json!({"url": hook, "body": "1"}))
        };
        wait_success(&api, call, left()).await;
        let deliver = json!({"mode": "deliver", "url": hook, "body": "1"});
        let deliver = || Ask::post("/v1/calls").key(&admin).json(&deliver);
        let answer = wait_success(&api, deliver, left()).await;
        let path = format!("/v1/calls/{}", answer["id"].as_str().unwrap());
        eventually(left(), "the success of a new delivery", async || {
            let call = wait_success(&api, || Ask::get(path.clone()).key(&admin), left()).await;
            match call["state"] == "succeeded" {
                true => Ok(()),
                false => Err(format!("{call:#}")),
            }
        })
        .await;
        wait_success(&self.site.relay.admin(), || Ask::get("/readyz"), left()).await;
    }

    /// Every acknowledged delivery was made once.
    async fn settle(&self) {
        let deadline = Instant::now() + SETTLED_WITHIN;
        let left = || deadline.saturating_duration_since(Instant::now());
        let (api, key) = (self.site.relay.internal(), &self.site.caller);
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let mut unknown = 0;
        for (id, path) in &acknowledged {
            let is_known = eventually(left(), &format!("the end of {path}"), async || {
                let ask = || Ask::get(format!("/v1/calls/{id}")).key(key);
                let call = wait_success(&api, ask, left()).await;
                match call["state"].as_str().unwrap() {
                    "succeeded" => Ok(true),
                    // The bridge could not write the outcome to its disk.
                    "outcome_unknown" => Ok(false),
                    "pending" | "attempting" | "waiting_for_bridge" => Err(format!("{call:#}")),
                    other => panic!("the delivery {path} is {other}: {call:#}"),
                }
            })
            .await;
            unknown += usize::from(!is_known);
        }
        let mut seen: HashMap<String, usize> = HashMap::new();
        for hook in self.site.target.hooks() {
            *seen.entry(hook.path).or_default() += 1;
        }
        let twice: Vec<_> = seen
            .iter()
            .filter(|(path, count)| path.starts_with("/hook/d") && **count > 1)
            .collect();
        assert!(twice.is_empty(), "made more than once: {twice:?}");
        let missing = acknowledged
            .values()
            .filter(|path| !seen.contains_key(*path))
            .count();
        println!(
            "{} deliveries acknowledged, {unknown} of unknown outcome, {missing} not made; {} requests succeeded",
            acknowledged.len(),
            self.works.load(Ordering::Relaxed)
        );
        assert!(
            missing <= unknown,
            "{missing} acknowledged deliveries were not made"
        );
        assert!(unknown <= 3, "{unknown} deliveries of unknown outcome");
        assert!(acknowledged.len() > 20, "too few deliveries for a result");
    }
}

/// Sends until the response is a success, and returns its JSON document, if it is one.
async fn wait_success(api: &Origin, ask: impl Fn() -> Ask, within: Duration) -> serde_json::Value {
    eventually(within, &format!("a success of {}", ask()), async || {
        let last = match api.try_send(ask().within(ANSWERED_WITHIN)).await {
            Ok(answer) if answer.status.is_success() => {
                return Ok(serde_json::from_str(&answer.text()).unwrap_or_default());
            }
            Ok(answer) => format!("{} {}", answer.status, answer.text()),
            Err(failure) => failure.to_string(),
        };
        Err(last)
    })
    .await
}

struct Caller {
    api: Origin,
    key: ApiKey,
    hook: String,
    acknowledged: Arc<Mutex<HashMap<String, String>>>,
    works: Arc<AtomicU64>,
}

impl Caller {
    /// One request of each kind. Any of them may fail during a fault, but it fails in time.
    async fn round(&self, name: &str) {
        let url = format!("{}/d{name}", self.hook);
        let deliver = json!({"mode": "deliver", "url": url, "body": "{}"});
        if let Some(answer) = self.send(Ask::post("/v1/calls").json(&deliver)).await {
            let id = answer["id"].as_str().unwrap().to_owned();
            let path = format!("/hook/d{name}");
            self.acknowledged.lock().unwrap().insert(id, path);
        }
        let call = json!({"url": format!("{}/c{name}", self.hook), "body": "{}"});
        self.send(Ask::post("/v1/calls").json(&call)).await;
        self.send(Ask::get("/v1/endpoints/t/small")).await;
    }

    async fn send(&self, ask: Ask) -> Option<serde_json::Value> {
        let what = ask.to_string();
        let began = Instant::now();
        let answer = self
            .api
            .try_send(ask.key(&self.key).within(ANSWERED_WITHIN))
            .await;
        assert!(
            began.elapsed() < ANSWERED_WITHIN,
            "{what} was not answered in time"
        );
        // Without descriptors the relay cannot accept a connection: the caller sees its end.
        let answer = answer.ok()?;
        if !answer.status.is_success() {
            let execution = answer.header("bridge-error").is_some();
            assert!(
                execution,
                "{what}: {} without a code: {}",
                answer.status,
                answer.text()
            );
            return None;
        }
        self.works.fetch_add(1, Ordering::Relaxed);
        Some(serde_json::from_str(&answer.text()).unwrap_or_default())
    }
}

/// The relay's database on this disk.
fn relay_on(disk: &Path) -> Builder {
    let [database, key] = ["relay.db", "relay-secrets.key"].map(|name| disk.join(name));
    let url = format!("sqlite://{}", database.display());
    served().relay(|relay| relay.database(&url).set("storage.key_file", path(key)))
}

fn postgres(url: &str) -> Builder {
    served().relay(|relay| relay.database(url))
}

/// An environment with a target, and without a proxy that would share in the faults.
fn served() -> Builder {
    TestEnv::builder().direct()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_recovers_from_a_full_disk() {
    let disk = SmallDisk::mount(DISK_BYTES);
    let scene = LoadedEnv::start(relay_on(disk.path())).await;
    scene
        .endure(async |_| disk.fill(), async |()| disk.free())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bridge_recovers_from_a_full_disk() {
    let disk = SmallDisk::mount(DISK_BYTES);
    let data = path(disk.path().join("data"));
    let scene =
        LoadedEnv::start(served().bridge(|bridge| bridge.set("bridge.data_dir", data))).await;
    scene
        .endure(async |_| disk.fill(), async |()| disk.free())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_recovers_from_a_lost_database() {
    let database = PostgresDatabase::create();
    let server = database.url().split('@').nth(1).unwrap();
    let address = server.split('/').next().unwrap().parse().unwrap();
    let line = FlakyProxy::start(address).await;
    let url = database
        .url()
        .replace(&address.to_string(), &line.addr().to_string());
    let scene = LoadedEnv::start(postgres(&url)).await;
    let begin = async |_: &LoadedEnv| {
        line.refuse(true).await;
        line.reset();
    };
    scene
        .endure(begin, async |()| line.refuse(false).await)
        .await;
}

/// Both programs write their standard error to this file.
fn writing_to(file: &Path) -> Builder {
    let builder = served().relay(|relay| relay.stderr(file));
    builder.bridge(|bridge| bridge.stderr(file))
}

/// Not waiting for the other end of a named pipe: `O_NONBLOCK` of Linux.
const NONBLOCKING: i32 = 0o4000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_survive_a_closed_standard_error() {
    let dir = support::TempDir::new("stderr");
    let pipe = dir.join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let mut options = std::fs::OpenOptions::new();
    let reader = options
        .read(true)
        .custom_flags(NONBLOCKING)
        .open(&pipe)
        .unwrap();
    let scene = LoadedEnv::start(writing_to(&pipe)).await;
    scene.endure(async |_| drop(reader), async |()| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_survive_a_full_standard_error() {
    let full = Path::new("/dev/full");
    let scene = LoadedEnv::start(writing_to(full)).await;
    scene.endure(async |_| {}, async |()| {}).await;
}

#[derive(Clone, Copy)]
enum Program {
    Relay,
    Bridge,
}

async fn descriptors_are_exhausted(program: Program, builder: Builder) {
    let scene = LoadedEnv::start(builder).await;
    let running = |scene: &LoadedEnv| match program {
        Program::Relay => scene.site.relay.process().pid(),
        Program::Bridge => scene.site.bridge.process().pid(),
    };
    let begin = async |scene: &LoadedEnv| {
        let pid = running(scene);
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count() as u64;
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        let usual = line.split_whitespace().nth(3).unwrap().to_owned();
        set_descriptors(pid, &(open + DESCRIPTORS_LEFT).to_string());
        (pid, usual)
    };
    let end = async |(pid, usual): (u32, String)| set_descriptors(pid, &usual);
    scene.endure(begin, end).await;
}

/// Changes the soft limit of a process that runs.
fn set_descriptors(pid: u32, soft: &str) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")]);
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_recovers_from_exhausted_descriptors() {
    descriptors_are_exhausted(Program::Relay, served()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_relay_recovers_from_no_descriptors() {
    let database = PostgresDatabase::create();
    descriptors_are_exhausted(Program::Relay, postgres(database.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bridge_recovers_from_exhausted_descriptors() {
    descriptors_are_exhausted(Program::Bridge, served()).await;
}
