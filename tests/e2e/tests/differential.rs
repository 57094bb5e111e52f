//! The tunnel is invisible to HTTP: what a target sees of a request, and what a client sees of the
//! answer, is what both see without it.
//!
//! ```text
//! raw client ──────────────────────────────────────────────────> recorder   directly
//!            ──> relay /v1/endpoints/t/... ──> bridge ─────────> recorder   by the named endpoint
//!            ──> proxy GET http://host/... ──> bridge ─────────> recorder   by the forward proxy
//!            ──> proxy CONNECT host:port   ──> bridge ─────────> recorder   by CONNECT
//! ```
//!
//! By CONNECT every byte has to be the same. On the two ways between, a message is taken apart and
//! put together again, and these may differ:
//!
//! | what | because |
//! | --- | --- |
//! | `connection`, `keep-alive`, `proxy-connection`, `te`, `transfer-encoding`, `upgrade`, `proxy-authorization`, `proxy-authenticate`, and what `Connection` names | they are of one hop (RFC 9110, 7.6.1): compared without them, and none of those that are not framing may pass |
//! | `host` | the bridge writes the authority of the target that its policy approved |
//! | `bridge-authorization` | the relay's own key: no target may see it |
//! | `date` of an answer | the relay adds one where the target sent none (RFC 9110, 6.6.1); one that was sent stays |
//! | `content-length` beside `transfer-encoding` | it says nothing, and must not be passed on (RFC 9112, 6.3) |
//! | chunks, or the end of the connection | how a body of unknown length ends is of one hop (RFC 9112, 6 and 7.1); that its length is unknown is not |
//! | the HTTP version and the reason phrase | of one hop (RFC 9110, 2.5), and without meaning (RFC 9112, 4) |
//! | the order of fields with different names, and the case of names | neither means anything (RFC 9110, 5.1 and 5.3), and HTTP libraries put equal names together: compared are the names, and the values of each in their order |
//!
//! Where more may differ, the case says so: see [`case::Check`].

use futures_util::{StreamExt as _, stream};
use std::time::Duration;
use support::{Installation, Recorder};

// Beside this file, and no tests of their own.
#[path = "differential/answers.rs"]
mod answers;
#[path = "differential/case.rs"]
mod case;
#[path = "differential/compare.rs"]
mod compare;
#[path = "differential/requests.rs"]
mod requests;

use case::{Case, Doors, Way};
use compare::Run;

/// Cases that run at once.
const AT_ONCE: usize = 8;
/// Less would be another test.
const CASES_MIN: usize = 120;
/// What one exchange may take on a loaded machine.
const WITHIN: Duration = Duration::from_secs(15);
/// The most fields of a request here, and some of the relay's.
const RELAY: &str = "[limits]\nheaders_max = 128\n";

#[tokio::test]
async fn the_tunnel_is_invisible_to_http() {
    let ground = Ground::start().await;
    let mut cases = requests::all();
    cases.extend(answers::all());
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
    let compared: Vec<Vec<String>> = stream::iter(cases.iter().enumerate())
        .map(|(index, case)| ground.compare(index + 1, case))
        .buffered(AT_ONCE)
        .collect()
        .await;
    let failed = compared.iter().filter(|found| !found.is_empty()).count();
    let found = compared.concat();
    assert!(
        found.is_empty(),
        "{failed} of {} cases differ:\n{}",
        cases.len(),
        found.join("\n")
    );
}

/// A relay and a bridge that lead to the recorder in three ways.
struct Ground {
    // Dropped first: it has the connections to the recorder.
    _site: Installation,
    recorder: Recorder,
    doors: Doors,
}

impl Ground {
    async fn start() -> Self {
        let recorder = Recorder::start().await;
        let target = recorder.addr();
        let rule = format!(
            "[[allow]]\nhost = \"127.0.0.1\"\nports = [{}]\nmethods = [\"*\"]\nconnect = true\n",
            target.port()
        );
        let site = Installation::builder()
            .endpoint("t", &recorder.url("/"))
            .bridge_extra(&rule)
            .relay_extra(RELAY)
            .start()
            .await;
        let doors = Doors {
            target,
            relay: site.relay.internal().addr(),
            proxy: site.relay.proxy(),
            key: site.caller.basic(),
        };
        Self {
            _site: site,
            recorder,
            doors,
        }
    }

    /// A case on all ways, one after the other. What differs, a line each.
    async fn compare(&self, number: usize, case: &Case) -> Vec<String> {
        self.recorder.answer(number, case.steps.clone());
        let direct = self.run(number, case, Way::Direct).await;
        let mut found: Vec<_> = compare::unsound(case, &direct)
            .into_iter()
            .map(|what| line(number, case, Way::Direct, &what))
            .collect();
        for way in Way::THROUGH {
            let tunnelled = self.run(number, case, way).await;
            let mut differences = compare::differences(case, way, &direct, &tunnelled);
            if has_leaked(&tunnelled, &self.doors.key) {
                differences.push("the target saw the relay's key".to_owned());
            }
            found.extend(differences.iter().map(|what| line(number, case, way, what)));
        }
        found
    }

    async fn run(&self, number: usize, case: &Case, way: Way) -> Run {
        let (addr, connect) = self.doors.of(way);
        let request = case.request(number, way, &self.doors);
        let heard = support::recorder::talk(addr, connect.as_deref(), &request, WITHIN).await;
        Run {
            seen: self.recorder.take(number),
            heard: heard.map_err(|error| error.to_string()),
        }
    }
}

fn line(number: usize, case: &Case, way: Way, what: &str) -> String {
    format!("{number} ({}), {}: {what}", case.name, way.name())
}

/// Whether the key is anywhere in what the target saw.
fn has_leaked(run: &Run, key: &str) -> bool {
    let key = key.as_bytes();
    let mut heads = run.seen.iter().map(|request| &request.head);
    heads.any(|head| head.windows(key.len()).any(|part| part == key))
}
