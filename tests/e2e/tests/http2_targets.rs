//! Targets that speak HTTP/2: the tunnel is as invisible to it as to HTTP/1.1, and what a stream can do
//! that a connection cannot (be refused, reset, or stand still alone) reaches who it is meant for.
//!
//! ```text
//! HTTP/2 caller   ──────────────────────────────────────────────> H2Target   directly
//!                 ──> relay, TLS, HTTP/2 ──> bridge ──> HTTP/2 ──> H2Target   by HTTP/2
//! HTTP/1.1 caller ──> relay, HTTP/1.1    ──> bridge ──> HTTP/2 ──> H2Target   by HTTP/1.1
//! ```
//!
//! These may differ on a way through the tunnel:
//!
//! | what | because |
//! | --- | --- |
//! | `connection`, `keep-alive`, `proxy-connection`, `te`, `transfer-encoding`, `upgrade`, `proxy-authorization`, `proxy-authenticate` | they are of one hop (RFC 9110, 7.6.1) |
//! | `host` | HTTP/2 says it in `:authority`, which is compared: it is that of the target |
//! | `bridge-authorization` | the relay's own key: no target may see it |
//! | `content-length: 0` of a body of no bytes | END_STREAM says the same (RFC 9113, 8.1) |
//! | `cookie` in one field or in crumbs | whoever reads them joins them (RFC 9113, 8.2.3) |
//! | `date` of an answer | the relay adds one where the target sent none (RFC 9110, 6.6.1) |
//! | answers with a status of 1xx | they are hints |
//! | the order of fields with different names, and the frames that a body is cut into | neither means anything |
//!
//! Where more may differ, the case says so: see [`case::Check`].
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures_util::{StreamExt as _, stream};
use std::time::Duration;

// Beside this file, and no tests of their own.
#[path = "http2_targets/answers.rs"]
mod answers;
#[path = "http2_targets/caller.rs"]
mod caller;
#[path = "http2_targets/case.rs"]
mod case;
#[path = "http2_targets/compare.rs"]
mod compare;
#[path = "http2_targets/requests.rs"]
mod requests;
#[path = "http2_targets/site.rs"]
mod site;

// Tests, each file a topic.
#[path = "http2_targets/calls.rs"]
mod calls;
#[path = "http2_targets/choice.rs"]
mod choice;
#[path = "http2_targets/endings.rs"]
mod endings;
#[path = "http2_targets/repeats.rs"]
mod repeats;
#[path = "http2_targets/websocket.rs"]
mod websocket;

use caller::{Door, Reply};
use case::{Case, KEY};
use compare::Run;
use site::{BOTH, Site};

/// Cases that run at once.
const AT_ONCE: usize = 8;
/// Less would be another test.
const CASES_MIN: usize = 150;
/// What one exchange may take on a loaded machine.
const WITHIN: Duration = Duration::from_secs(30);
/// The relay's path for the target.
const ENDPOINT: &str = "/v1/endpoints/t";

#[tokio::test]
async fn http2_through_the_tunnel_is_what_it_is_without_it() {
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

/// How a request gets to the target.
#[derive(Debug, Clone, Copy)]
enum Way {
    Direct,
    Http2,
    Http1,
}

/// A relay and a bridge that lead to the target.
struct Ground {
    site: Site,
    direct: Door,
    relay: Door,
    /// The key for the relay, as the value of a field.
    key: String,
}

impl Ground {
    async fn start() -> Self {
        let site = Site::start(BOTH).await;
        let ca = &site.installation.ca;
        let key = site.installation.caller.basic();
        let own = vec![(KEY.to_owned(), key.clone().into_bytes())];
        let public = site.installation.relay.public().addr();
        Self {
            direct: Door::new(site.target.addr(), ca, "", Vec::new()),
            relay: Door::new(public, ca, ENDPOINT, own),
            key,
            site,
        }
    }

    /// A case on all ways, one after the other. What differs, a line each.
    async fn compare(&self, number: usize, case: &Case) -> Vec<String> {
        let steps = case.steps.clone();
        self.site.target.answer(&number.to_string(), steps);
        let direct = self.run(number, case, Way::Direct).await;
        let mut found: Vec<_> = compare::unsound(case, &direct)
            .into_iter()
            .map(|what| line(number, case, Way::Direct, &what))
            .collect();
        for way in [Way::Http2, Way::Http1] {
            let tunnelled = self.run(number, case, way).await;
            let differences = compare::differences(case, &self.key, &direct, &tunnelled);
            found.extend(differences.iter().map(|what| line(number, case, way, what)));
        }
        found
    }

    async fn run(&self, number: usize, case: &Case, way: Way) -> Run {
        let heard = match way {
            Way::Direct => self.direct.ask(case, number, WITHIN).await,
            Way::Http2 => self.relay.ask(case, number, WITHIN).await,
            Way::Http1 => self.ask_by_http1(case, number).await,
        };
        Run {
            seen: self.site.target.take(&number.to_string()),
            heard,
        }
    }

    async fn ask_by_http1(&self, case: &Case, number: usize) -> Result<Reply, String> {
        let request = case.raw(number, ENDPOINT, &self.key);
        let relay = self.site.relay().addr();
        let heard = support::recorder::talk(relay, None, &request, WITHIN).await;
        let heard = heard.map_err(|error| error.to_string())?;
        let answer = heard
            .answer
            .ok_or_else(|| format!("there is no answer: {}", heard.rest.escape_ascii()))?;
        Ok(Reply::from(answer))
    }
}

fn line(number: usize, case: &Case, way: Way, what: &str) -> String {
    format!("{number} ({}), {way:?}: {what}", case.name)
}
