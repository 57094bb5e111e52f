//! The environment of these tests: a relay, a bridge, and an HTTP/2 target.

use std::sync::Arc;
use std::time::Duration;
use support::h2_target::{Head, Step, whole};
use support::setup::{Allow, Endpoint};
use support::{Answer, Ask, H2Target, Origin, TIMEOUT, TestEnv, ThrowawayCa};

/// Longer than any test here takes.
pub(crate) const FOREVER: Duration = Duration::from_secs(120);

/// Both protocols, HTTP/2 the dearer.
pub(crate) const BOTH: &[&str] = &["h2", "http/1.1"];
/// HTTP/2 alone.
pub(crate) const HTTP2_ALONE: &[&str] = &["h2"];

/// A target that the bridge has as the endpoint `t` and may call.
pub(crate) struct H2Env {
    // Dropped first: it has the connections to the target.
    pub(crate) env: TestEnv,
    pub(crate) target: H2Target,
}

impl H2Env {
    /// With a target that offers these protocols.
    pub(crate) async fn start(alpn: &[&str]) -> Self {
        let ca = Arc::new(ThrowawayCa::new());
        let target = H2Target::start(&ca, alpn).await;
        let env = TestEnv::bare()
            .ca(&ca)
            .endpoint(Endpoint::new("t", target.url("/")))
            .allow(Allow::loopback(target.addr().port()))
            .start()
            .await;
        Self { env, target }
    }

    /// The relay's listener without TLS.
    pub(crate) fn relay(&self) -> Origin {
        self.env.api.clone()
    }

    /// A request for a path of the target.
    pub(crate) fn get(&self, path: &str) -> Ask {
        Ask::get(format!("/v1/endpoints/t{path}")).key(&self.env.caller)
    }

    /// A request with a body.
    pub(crate) fn post(&self, path: &str, body: &str) -> Ask {
        Ask::post(format!("/v1/endpoints/t{path}"))
            .key(&self.env.caller)
            .body(body.to_owned())
    }

    /// Sends it to the relay and reads the whole response.
    pub(crate) async fn send(&self, ask: Ask) -> Answer {
        self.relay().send(ask.within(TIMEOUT)).await
    }
}

/// Reads the request and responds with 200 and this body.
pub(crate) fn ok(body: &str) -> Vec<Step> {
    whole(Head::new(200), body)
}
