//! Kill storms: relay, bridge and target are killed at random moments while clients submit calls. No
//! acknowledged call is lost, and none is executed twice.
#![expect(
    clippy::print_stdout,
    reason = "the seed and the counts identify a run"
)]

use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::setup::{Allow, Builder};
use support::{
    ApiKey, Ask, Origin, PostgresDatabase, Running, TestEnv, eventually, let_time_pass, ports,
    process,
};

/// Many short intervals, so that a target that was down is retried soon.
const SCHEDULE: [&str; 15] = [
    "100ms", "300ms", "300ms", "1s", "1s", "1s", "1s", "1s", "1s", "2s", "2s", "2s", "2s", "2s",
    "2s",
];

/// Clients that submit calls.
const CALLERS: usize = 4;

/// Why a client waits between two calls.
const PACE: &str = "the storm has a load of its own, below what the machine can do";
/// Why a program that was killed stays down.
const DOWNTIME: &str = "the others must notice that the program is down";

/// A small random generator, so that a run can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Relay,
    Bridge,
    Target,
}

struct Storm {
    site: TestEnv,
    target: Option<Running>,
    port: u16,
    seen: PathBuf,
    acknowledged: Arc<Mutex<HashSet<String>>>,
    over: Arc<AtomicBool>,
}

impl Storm {
    async fn start(builder: Builder) -> Self {
        let port = ports::free();
        let site = builder
            .allow(Allow::loopback(port).methods(&["POST"]))
            .relay(|relay| relay.set("deliveries.schedule", SCHEDULE.to_vec()))
            .start()
            .await;
        let seen = site.dir().join("seen");
        let mut storm = Self {
            site,
            target: None,
            port,
            seen,
            acknowledged: Arc::default(),
            over: Arc::default(),
        };
        storm.start_target();
        storm
    }

    fn start_target(&mut self) {
        let mut command: Command = process::command("hook-target");
        command.arg(self.port.to_string()).arg(&self.seen);
        self.target = Some(Running::spawn("target", command));
    }

    /// Starts clients that submit calls until the storm is over.
    fn callers(&self) -> tokio::task::JoinSet<()> {
        let mut callers = tokio::task::JoinSet::new();
        for n in 0..CALLERS {
            let (origin, key) = (self.site.relay.internal(), self.site.caller.clone());
            let (port, over) = (self.port, self.over.clone());
            let acknowledged = self.acknowledged.clone();
            callers.spawn(async move {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    count += 1;
                    let url = format!("http://127.0.0.1:{port}/{n}/{count}");
                    match submit(&origin, &key, &url).await {
                        Some(id) => assert!(acknowledged.lock().unwrap().insert(id)),
                        None => let_time_pass(Duration::from_millis(50), PACE).await,
                    }
                    let_time_pass(Duration::from_millis(10), PACE).await;
                }
            });
        }
        callers
    }

    /// Repeatedly kills one of the victims and starts it again.
    async fn rage(&mut self, victims: &[Victim], lasting: Duration, dice: &mut Dice) -> usize {
        let until = Instant::now() + lasting;
        let mut kills = 0;
        while Instant::now() < until {
            let pause = Duration::from_millis(100 + dice.below(1400));
            let_time_pass(pause, "kills come at random moments").await;
            let pick = usize::try_from(dice.below(victims.len() as u64)).unwrap();
            let dead_for = Duration::from_millis(dice.below(500));
            kills += 1;
            match victims[pick] {
                Victim::Relay => {
                    self.site.relay.kill9();
                    let_time_pass(dead_for, DOWNTIME).await;
                    self.site.relay.start().await;
                }
                Victim::Bridge => {
                    self.site.bridge.kill9();
                    let_time_pass(dead_for, DOWNTIME).await;
                    self.site.bridge.start();
                }
                Victim::Target => {
                    self.target.as_ref().unwrap().kill9();
                    let_time_pass(dead_for, DOWNTIME).await;
                    self.start_target();
                }
            }
        }
        kills
    }

    /// Returns the state of every call once all acknowledged ones are final.
    async fn settle(&mut self) -> HashMap<String, String> {
        // A bridge may back off for up to a minute; a new process dials at once.
        self.site.bridge.stop(Duration::from_secs(40)).await;
        self.site.bridge.start();
        eventually(
            Duration::from_secs(120),
            "an end of every call",
            async || {
                let states = self.states().await;
                let acknowledged = self.acknowledged.lock().unwrap().clone();
                let open: Vec<_> = acknowledged
                    .iter()
                    .filter(|id| {
                        let state = states.get(*id).map(String::as_str);
                        matches!(
                            state,
                            None | Some("pending" | "waiting_for_bridge" | "attempting")
                        )
                    })
                    .collect();
                let Some(first) = open.first() else {
                    return Ok(states);
                };
                Err(format!(
                    "{} of {} are open, such as {first} ({:?})",
                    open.len(),
                    acknowledged.len(),
                    states.get(*first)
                ))
            },
        )
        .await
    }

    async fn states(&self) -> HashMap<String, String> {
        let origin = self.site.relay.internal();
        let mut states = HashMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/calls?limit=1000{cursor}");
            let ask = Ask::get(path).key(&self.site.caller);
            let page = origin.send(ask).await.expect_status(200).json();
            for call in page["calls"].as_array().unwrap() {
                let id = call["id"].as_str().unwrap().to_owned();
                let state = call["state"].as_str().unwrap().to_owned();
                assert!(states.insert(id, state).is_none(), "a call is listed twice");
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return states,
            }
        }
    }

    /// Returns how often the target has seen each id.
    fn seen(&self) -> HashMap<String, usize> {
        let mut seen = HashMap::new();
        for line in std::fs::read_to_string(&self.seen).unwrap().lines() {
            *seen.entry(line.to_owned()).or_default() += 1;
        }
        seen
    }

    /// Prints the attempts of calls that the target saw more than once. There must be none.
    async fn print_repeated(&self) {
        let seen = self.seen();
        for (id, _) in seen.iter().filter(|(_, count)| **count > 1).take(4) {
            let ask = Ask::get(format!("/v1/calls/{id}")).key(&self.site.caller);
            let call = self.site.relay.internal().send(ask).await.text();
            println!("seen more than once: {call}");
        }
    }

    /// Asserts what must hold after any storm, and returns the number of unknown outcomes.
    fn check(&self, states: &HashMap<String, String>, kills: usize) -> usize {
        let seen = self.seen();
        let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "seen more than once: {twice:?}");
        let acknowledged = self.acknowledged.lock().unwrap();
        let mut of_state: HashMap<&str, usize> = HashMap::new();
        for id in acknowledged.iter() {
            let state = states[id].as_str();
            *of_state.entry(state).or_default() += 1;
            let count = seen.get(id).copied().unwrap_or(0);
            match state {
                "succeeded" => assert_eq!(count, 1, "{id} succeeded, and was seen {count} times"),
                "failed" => assert_eq!(count, 0, "{id} failed, and was seen"),
                "outcome_unknown" => {}
                other => panic!("{id} is {other}"),
            }
        }
        let succeeded = of_state.get("succeeded").copied().unwrap_or(0);
        println!("{kills} kills, {} calls: {of_state:?}", acknowledged.len());
        assert!(acknowledged.len() > 100, "too few calls for a result");
        assert!(succeeded * 2 > acknowledged.len(), "{of_state:?}");
        of_state.get("outcome_unknown").copied().unwrap_or(0)
    }
}

/// Submits a call, and returns its id if it was acknowledged.
async fn submit(origin: &Origin, key: &ApiKey, url: &str) -> Option<String> {
    let call = json!({"mode": "deliver", "url": url, "body": "{}"});
    let ask = Ask::post("/v1/calls").key(key).json(&call);
    let answer = origin
        .try_send(ask.within(Duration::from_secs(5)))
        .await
        .ok()?;
    (answer.status == 202).then(|| answer.json()["id"].as_str().unwrap().to_owned())
}

async fn storm(builder: Builder, victims: &[Victim], lasting: Duration) -> (usize, usize) {
    let seed = u64::from(std::process::id()) << 20 | 0x9e37;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let mut storm = Storm::start(builder).await;
    let mut callers = storm.callers();
    let kills = storm.rage(victims, lasting, &mut dice).await;
    storm.over.store(true, Ordering::Relaxed);
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    let states = storm.settle().await;
    storm.print_repeated().await;
    let unknown = storm.check(&states, kills);
    (kills, unknown)
}

const ALL: [Victim; 3] = [Victim::Relay, Victim::Bridge, Victim::Target];

/// Each kill of a bridge or a target leaves at most as many unknown outcomes as were in flight.
const IN_FLIGHT_MAX: usize = 32;

#[tokio::test]
async fn kill_storm_keeps_deliveries_exactly_once() {
    let (kills, unknown) = storm(TestEnv::bare(), &ALL, Duration::from_secs(60)).await;
    assert!(
        unknown <= kills * IN_FLIGHT_MAX,
        "{unknown} of {kills} kills"
    );
}

#[tokio::test]
async fn kill_storm_on_postgresql_is_exactly_once() {
    let database = PostgresDatabase::create();
    let builder = TestEnv::bare().relay(|relay| relay.database(database.url()));
    let (kills, unknown) = storm(builder, &ALL, Duration::from_secs(60)).await;
    assert!(
        unknown <= kills * IN_FLIGHT_MAX,
        "{unknown} of {kills} kills"
    );
}

#[tokio::test]
async fn relay_kills_leave_no_unknown_outcome() {
    let (_, unknown) = storm(TestEnv::bare(), &[Victim::Relay], Duration::from_secs(20)).await;
    assert_eq!(unknown, 0);
}
