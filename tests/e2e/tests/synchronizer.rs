//! A synchronizer's complete run against ALM, with concurrent Call URL requests through the same bridge.

// A module of this test.
mod client;

use client::{AlmClient, Login};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::setup::Endpoint;
use support::{Alm, ApiKey, Ask, Origin, TestEnv, let_time_pass, pattern};
use tokio::task::JoinSet;

const MIB: u64 = 1024 * 1024;

const DEFECTS: usize = 20_000;
/// Every tenth defect is changed: half of them many at a time, half one by one.
const CHANGES: u64 = 2_000;
const CHANGED_EVERY: u64 = 10;
/// Changes in one request: more bytes than travel with a request's head.
const MANY: usize = 250;
/// Changes one by one that run at the same time.
const AT_ONCE: u32 = 8;
/// The session expires after this number of single changes.
const EXPIRES_AFTER: usize = 300;
/// After this number, ALM commits the next change and returns an error.
const FAILS_AFTER: usize = 600;

const ATTACHMENT_BYTES: u64 = 50 * MIB;
const ATTACHMENT: &str = "trace.bin";
/// A defect that is not changed.
const ATTACHED_TO: u64 = 1;
/// The most that relay and bridge may each grow by: less than the attachment, so that buffering it would show.
const GROWTH_MAX_KIB: u64 = 32 * 1024;

/// 200 a minute.
const CALL_EVERY: Duration = Duration::from_millis(300);
const QUIET_CALLS: u32 = 60;
const QUIET_CALL_EVERY: Duration = Duration::from_millis(100);
/// Far above the usual time of a call. Below it, other load of the machine decides.
const PROMPT: Duration = Duration::from_millis(50);
/// The longest that one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronizer_run_is_complete_and_calls_stay_fast() {
    let site = SyncEnv::start().await;
    let calls = Calls::of(&site.world);
    let called_before = site.world.target.requests();
    let why = "calls alone are the measure for those during the run";
    let quiet = let_time_pass(QUIET_CALL_EVERY * QUIET_CALLS, why);
    let ((), quiet) = calls.during(QUIET_CALL_EVERY, quiet).await;

    let before = site.world.rss_kib();
    site.world.reset_peaks();
    let ((), busy) = calls.during(CALL_EVERY, run(&site)).await;
    site.world.assert_grown_less(before, GROWTH_MAX_KIB);

    site.check_answers();
    let called = site.world.target.requests() - called_before;
    let made = quiet.len() + busy.len();
    assert_eq!(called, made as u64, "each call is made once");
    let (quiet, busy) = (median(quiet), median(busy));
    assert!(
        busy <= PROMPT.max(quiet * 2),
        "a call took {quiet:?} before the run and {busy:?} during it"
    );
}

async fn run(site: &SyncEnv) {
    site.synchronizer.sign_in().await;
    page_through(site).await;
    let changes: Vec<u64> = (1..=CHANGES).map(|n| n * CHANGED_EVERY).collect();
    let (in_bulk, alone) = changes.split_at(changes.len() / 2);
    change_in_bulk(site, in_bulk).await;
    change_one_by_one(site, alone).await;
    read_back(site, &changes).await;
    attach(site).await;
    site.synchronizer.sign_out().await;
}

/// Every defect comes, once and in order.
async fn page_through(site: &SyncEnv) {
    let all = site.synchronizer.list("").await;
    assert_eq!(all.len(), DEFECTS);
    for (defect, id) in all.iter().zip(1_u64..) {
        assert_eq!((defect.id, defect.version), (id, 1));
        assert_eq!(defect.name, format!("defect {id}"));
        assert_eq!(defect.mark, None, "{id}");
    }
}

/// What is written into a defect.
fn mark(id: u64) -> String {
    format!("SYNC-{id}")
}

/// Many at a time, while a colleague has one of them locked: that one is refused, and no other.
async fn change_in_bulk(site: &SyncEnv, ids: &[u64]) {
    let locked = ids[ids.len() / 2];
    site.colleague.sign_in().await;
    site.colleague.lock(locked).await;
    let mut refused = Vec::new();
    for ids in ids.chunks(MANY) {
        let changes: Vec<(u64, String)> = ids.iter().map(|id| (*id, mark(*id))).collect();
        refused.extend(site.synchronizer.update_many(&changes).await);
    }
    assert_eq!(refused, [(locked, "qccore.lock-failure".to_owned())]);
    let alone = site.synchronizer.update(locked, &mark(locked)).await;
    let alone = alone.expect_status(403).json();
    assert_eq!(alone["Id"], "qccore.lock-failure");
    site.colleague.unlock(locked).await;
    let free = site.synchronizer.update(locked, &mark(locked)).await;
    free.expect_status(200);
    site.colleague.sign_out().await;
}

/// Several at the same time, while the session expires and a write fails that was committed.
async fn change_one_by_one(site: &SyncEnv, ids: &[u64]) {
    let changes = OneByOne {
        site,
        ids,
        begun: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        found_written: AtomicU32::new(0),
    };
    join_all((0..AT_ONCE).map(|_| changes.work())).await;
    assert_eq!(changes.found_written.into_inner(), 1);
}

struct OneByOne<'a> {
    site: &'a SyncEnv,
    ids: &'a [u64],
    begun: AtomicUsize,
    done: AtomicUsize,
    /// Changes that were answered with an error, and were there all the same.
    found_written: AtomicU32,
}

impl OneByOne<'_> {
    /// Makes changes until none is left.
    async fn work(&self) {
        while let Some(id) = self.ids.get(self.begun.fetch_add(1, Ordering::Relaxed)) {
            self.change(*id).await;
            match self.done.fetch_add(1, Ordering::Relaxed) + 1 {
                EXPIRES_AFTER => self.site.alm.expire(),
                FAILS_AFTER => self.site.alm.commit_then_fail(1),
                _ => {}
            }
        }
    }

    /// Writes. Where ALM fails on the way, it reads first, and repeats only what is not there.
    async fn change(&self, id: u64) {
        let answer = self.site.synchronizer.update(id, &mark(id)).await;
        if answer.status != 500 {
            answer.expect_status(200);
            return;
        }
        assert_eq!(answer.json()["Id"], "qccore.general-error");
        if self.site.synchronizer.read(id).await.mark == Some(mark(id)) {
            self.found_written.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let again = self.site.synchronizer.update(id, &mark(id)).await;
        again.expect_status(200);
    }
}

/// Exactly what was to be changed has changed, and once each.
async fn read_back(site: &SyncEnv, ids: &[u64]) {
    // {ver-stamp[>1]}
    let changed = site.synchronizer.list("&query=%7Bver-stamp%5B%3E1%5D%7D");
    let changed = changed.await;
    let found: Vec<u64> = changed.iter().map(|defect| defect.id).collect();
    assert_eq!(found, ids);
    for defect in &changed {
        assert_eq!(defect.mark, Some(mark(defect.id)));
        assert_eq!(defect.version, 2, "{} was written once", defect.id);
    }
}

/// A large file goes in and comes out unchanged.
async fn attach(site: &SyncEnv) {
    let sha256 = pattern::sha256(ATTACHMENT_BYTES);
    let synchronizer = &site.synchronizer;
    synchronizer
        .upload(ATTACHED_TO, ATTACHMENT, ATTACHMENT_BYTES)
        .await;
    let kept = site.alm.attachments("defects", ATTACHED_TO);
    assert_eq!(kept.len(), 1);
    assert_eq!(
        (kept[0].name.as_str(), &kept[0].sha256),
        (ATTACHMENT, &sha256)
    );
    let came = synchronizer.download(ATTACHED_TO, ATTACHMENT).await;
    assert_eq!(came.truncated, None);
    assert_eq!((came.bytes, &came.sha256), (ATTACHMENT_BYTES, &sha256));
}

/// ALM served by the bridge, and two users of it through the relay.
struct SyncEnv {
    world: TestEnv,
    alm: Alm,
    /// Signs in with a password, in two steps.
    synchronizer: AlmClient,
    /// Signs in with an API key of ALM's.
    colleague: AlmClient,
}

impl SyncEnv {
    async fn start() -> Self {
        let alm = Alm::start("sync", "s3cret").await;
        alm.add_user("ann", "another");
        alm.set_api_key("key-of-ann", "its-secret", "ann", true);
        alm.seed_defects(DEFECTS);
        let endpoint = Endpoint::new("alm", alm.url());
        let world = TestEnv::builder().endpoint(endpoint).start().await;
        let key = world.key("synchronizer", &["--endpoint", "alm"]).await;
        let client = |login| AlmClient::new(&world.public, &key, login);
        let site = Self {
            synchronizer: client(Login::Password {
                user: "sync",
                password: "s3cret",
            }),
            colleague: client(Login::ApiKey {
                client_id: "key-of-ann",
                secret: "its-secret",
            }),
            world,
            alm,
        };
        site.warm().await;
        site
    }

    /// Growth is measured from warm processes.
    async fn warm(&self) {
        let path = self.world.endpoint(&format!("/bytes/{}", 4 * MIB));
        let ask = Ask::get(path).key(&self.world.caller);
        self.world.public.send(ask).await.expect_status(200);
    }

    /// ALM refused what it was made to refuse, and nothing else went wrong or was sent twice.
    fn check_answers(&self) {
        let mut refused = self.synchronizer.tally();
        refused.retain(|status, _| *status >= 400);
        let expired = refused.remove(&401).unwrap_or_default();
        assert!(
            (1..=AT_ONCE).contains(&expired),
            "{expired} requests met the expired session"
        );
        // The locked defect alone and among others, and the write that was committed.
        assert_eq!(refused, BTreeMap::from([(403, 1), (409, 1), (500, 1)]));
        let colleague = self.colleague.tally();
        assert!(
            colleague.keys().all(|status| *status < 400),
            "{colleague:?}"
        );
        let sent = self.synchronizer.requests() + self.colleague.requests();
        assert_eq!(self.alm.requests(), sent, "each request comes to ALM once");
        assert_eq!(
            self.alm.sign_ins(),
            3,
            "the synchronizer's two, the other's"
        );
    }
}

/// Call URL requests whose caller waits for the response.
struct Calls {
    api: Origin,
    key: ApiKey,
    document: Value,
}

impl Calls {
    fn of(world: &TestEnv) -> Self {
        let url = world.target.url("/small");
        Self {
            api: world.api.clone(),
            key: world.caller.clone(),
            document: json!({"url": url, "method": "GET", "mode": "wait"}),
        }
    }

    /// Calls at an even pace, however long each takes, for as long as `work` goes on. Each must
    /// succeed; the times that they took come with what `work` gives.
    async fn during<T>(
        &self,
        every: Duration,
        work: impl Future<Output = T>,
    ) -> (T, Vec<Duration>) {
        let mut work = pin!(work);
        let mut running = JoinSet::new();
        let mut ticks = tokio::time::interval(every);
        let begun = Instant::now();
        let given = loop {
            tokio::select! {
                // What is due comes before the end.
                biased;
                _ = ticks.tick() => {
                    running.spawn(self.one());
                }
                given = &mut work => break given,
            }
        };
        let due = begun.elapsed().as_millis() / every.as_millis();
        let took = running.join_all().await;
        let made = took.len();
        assert!(made as u128 >= due, "{made} calls of {due} were made");
        (given, took)
    }

    fn one(&self) -> impl Future<Output = Duration> + Send + use<> {
        let ask = Ask::post("/v1/calls").key(&self.key).json(&self.document);
        let (api, ask) = (self.api.clone(), ask.within(CALL_WITHIN));
        async move {
            let begun = Instant::now();
            let answer = api.send(ask).await.expect_status(200).json();
            let took = begun.elapsed();
            assert_eq!(answer["execution"], "executed", "{answer}");
            assert_eq!(answer["response"]["status"], 200, "{answer}");
            took
        }
    }
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}
