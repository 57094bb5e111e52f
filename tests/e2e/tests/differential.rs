//! The tunnel is invisible to HTTP: what a target sees of a request, and what a caller sees of the
//! response, is what both see without the tunnel. One table of cases runs against both protocols.
//!
//! ```text
//! HTTP/1.1 target
//! HTTP/1.1 caller ──────────────────────────────────────────────> recorder   directly
//!                 ──> relay /v1/endpoints/t/... ──> bridge ─────> recorder   by the named endpoint
//!                 ──> proxy GET http://host/... ──> bridge ─────> recorder   by the forward proxy
//!                 ──> proxy CONNECT host:port   ──> bridge ─────> recorder   by CONNECT
//! HTTP/2 target
//! HTTP/2 caller   ──────────────────────────────────────────────> H2Target   directly
//!                 ──> relay, TLS, HTTP/2 ──> bridge ──> HTTP/2 ──> H2Target   by the endpoint over HTTP/2
//! HTTP/1.1 caller ──> relay, HTTP/1.1    ──> bridge ──> HTTP/2 ──> H2Target   by the endpoint
//! ```
//!
//! By CONNECT every byte is the same. On the other routes a message is parsed and written again, and
//! these may differ:
//!
//! | what | because |
//! | --- | --- |
//! | `connection`, `keep-alive`, `proxy-connection`, `te`, `transfer-encoding`, `upgrade`, `proxy-authorization`, `proxy-authenticate`, and what `Connection` names | they are of one hop (RFC 9110, 7.6.1): compared without them, and by HTTP/1.1 none of those that are not framing may pass |
//! | `host` | the bridge writes the authority that its policy approved; by HTTP/2 `:authority` is compared |
//! | `bridge-authorization` | the caller's key for the relay: no target may see it |
//! | `date` of a response | the relay adds one where the target sent none (RFC 9110, 6.6.1); one that was sent stays |
//! | `content-length` next to `transfer-encoding` | it means nothing, and must not be passed on (RFC 9112, 6.3) |
//! | `content-length: 0` of an empty body by HTTP/2 | END_STREAM states the same (RFC 9113, 8.1) |
//! | `cookie` in one field or in crumbs by HTTP/2 | receivers join them (RFC 9113, 8.2.3) |
//! | chunks, frames, or the end of the connection | how a body of unknown length ends is of one hop (RFC 9112, 6 and 7.1); that its length is unknown is not |
//! | the HTTP version and the reason phrase | of one hop (RFC 9110, 2.5), and without meaning (RFC 9112, 4) |
//! | responses with a status of 1xx by HTTP/2 | they are hints |
//! | the order of fields with different names, and the case of names | neither means anything (RFC 9110, 5.1 and 5.3), and HTTP libraries put equal names together: compared are the names, and the values of each in their order |
//!
//! Where more may differ, the case states it: see [`case::Check`].

use futures_util::{StreamExt as _, stream};

// Modules of this test, which have no tests of their own.
mod case;
mod compare;
mod http1;
mod http2;
mod http2_caller;
mod requests;
mod responses;
mod script;

use case::{Case, Route, Target};
use compare::Run;
use http1::Http1Env;
use http2::Http2Env;

/// Cases that run at once.
const AT_ONCE: usize = 8;
/// The relay's limit: the most fields of a case, and some that a route adds.
const HEADERS_MAX: i64 = 128;

/// A relay, a bridge and a target, with the routes between them.
trait Env {
    /// The routes through the tunnel.
    const ROUTES: &'static [Route];

    /// Gives the target the script of a case.
    fn prepare(&self, number: usize, case: &Case);

    /// Sends a case on a route.
    async fn run(&self, number: usize, case: &Case, route: Route) -> Run;
}

#[tokio::test]
async fn http1_requests_pass_unchanged() {
    let cases = requests::all(Target::Http1);
    compare_all(&Http1Env::start().await, Target::Http1, &cases, 190).await;
}

#[tokio::test]
async fn http1_responses_pass_unchanged() {
    let cases = responses::all(Target::Http1);
    compare_all(&Http1Env::start().await, Target::Http1, &cases, 170).await;
}

#[tokio::test]
async fn http2_requests_pass_unchanged() {
    let cases = requests::all(Target::Http2);
    compare_all(&Http2Env::start().await, Target::Http2, &cases, 150).await;
}

#[tokio::test]
async fn http2_responses_pass_unchanged() {
    let cases = responses::all(Target::Http2);
    compare_all(&Http2Env::start().await, Target::Http2, &cases, 150).await;
}

/// Runs every case on every route. `cases_min` guards against a table that lost its rows.
async fn compare_all<E: Env>(env: &E, target: Target, cases: &[Case], cases_min: usize) {
    assert!(cases.len() >= cases_min, "{} cases", cases.len());
    let compared: Vec<Vec<String>> = stream::iter(cases.iter().enumerate())
        .map(|(index, case)| compare_one(env, target, index + 1, case))
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

/// Runs a case on all routes, one after the other. Returns a line for each difference.
async fn compare_one<E: Env>(env: &E, target: Target, number: usize, case: &Case) -> Vec<String> {
    let line = |route: Route, what: &String| {
        let (name, route) = (&case.name, route.name());
        format!("{number} ({name}), {route}: {what}")
    };
    env.prepare(number, case);
    let direct = env.run(number, case, Route::Direct).await;
    let wrong = compare::unsound(case, &direct);
    let mut found: Vec<_> = wrong.iter().map(|what| line(Route::Direct, what)).collect();
    for route in E::ROUTES {
        let tunnelled = env.run(number, case, *route).await;
        let differences = compare::differences(case, target, *route, &direct, &tunnelled);
        found.extend(differences.iter().map(|what| line(*route, what)));
    }
    found
}
