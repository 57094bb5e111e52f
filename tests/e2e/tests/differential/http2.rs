//! The environment of an HTTP/2 target: the target, and three routes to it.

use super::case::{Case, ENDPOINT, KEY, Route};
use super::compare::{Heard, Run, Sight};
use super::http2_caller::{Http2Caller, Reply};
use super::{Env, HEADERS_MAX};
use hyper::Version;
use std::sync::Arc;
use std::time::Duration;
use support::h2_target::Seen;
use support::setup::{Allow, Endpoint};
use support::{H2Target, TestEnv, ThrowawayCa};

/// The longest that one exchange may take on a loaded machine.
const WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Http2Env {
    // Dropped first: it has the connections to the target.
    env: TestEnv,
    target: H2Target,
    direct: Http2Caller,
    relay: Http2Caller,
    /// The caller's key, as the value of a field.
    key: String,
}

impl Http2Env {
    pub(crate) async fn start() -> Self {
        let ca = Arc::new(ThrowawayCa::new());
        let target = H2Target::start(&ca, &["h2", "http/1.1"]).await;
        let env = TestEnv::bare()
            .ca(&ca)
            .endpoint(Endpoint::new("t", target.url("/")))
            .allow(Allow::loopback(target.addr().port()))
            .relay(|relay| {
                relay
                    .set("limits.headers_max", HEADERS_MAX)
                    .set("endpoints.sandbox", false)
            })
            .start()
            .await;
        let key = env.caller.basic();
        let own = vec![(KEY.to_owned(), key.clone().into_bytes())];
        Self {
            direct: Http2Caller::new(target.addr(), &ca, "", Vec::new()),
            relay: Http2Caller::new(env.public.addr(), &ca, ENDPOINT, own),
            key,
            env,
            target,
        }
    }

    /// The response to a caller that uses HTTP/1.1.
    async fn by_http1(&self, number: usize, case: &Case) -> Result<Reply, String> {
        let own = [
            "Host: relay.test".to_owned(),
            format!("{KEY}: {}", self.key),
        ];
        let request = case.http1_request(number, ENDPOINT, &own);
        let talking = support::recorder::talk(self.env.api.addr(), None, &request, WITHIN);
        let heard = talking.await.map_err(|error| error.to_string())?;
        let response = heard
            .answer
            .ok_or_else(|| format!("there is no response: {}", heard.rest.escape_ascii()))?;
        Ok(Reply::from(response))
    }

    fn has_leaked(&self, seen: &Seen) -> bool {
        let key = self.key.as_bytes();
        seen.fields
            .iter()
            .any(|(name, value)| name == KEY || value.windows(key.len()).any(|part| part == key))
    }
}

impl Env for Http2Env {
    const ROUTES: &'static [Route] = &[Route::EndpointHttp2, Route::Endpoint];

    fn prepare(&self, number: usize, case: &Case) {
        self.target.answer(&number.to_string(), case.http2_steps());
    }

    async fn run(&self, number: usize, case: &Case, route: Route) -> Run {
        let reply = match route {
            Route::Direct => self.direct.ask(case, number, WITHIN).await,
            Route::EndpointHttp2 => self.relay.ask(case, number, WITHIN).await,
            Route::Endpoint => self.by_http1(number, case).await,
            Route::Proxy | Route::Connect => panic!("a route of HTTP/1.1 targets"),
        };
        let seen = self.target.take(&number.to_string());
        let requests = seen.iter();
        Run {
            requests: requests
                .map(|seen| Sight::of_http2_request(case, seen))
                .collect(),
            request_bytes: Vec::new(),
            heard: reply.map(|reply| to_heard(&reply)),
            has_leaked: seen.iter().any(|seen| self.has_leaked(seen)),
            is_downgraded: seen.iter().any(|seen| seen.version != Version::HTTP_2),
        }
    }
}

fn to_heard(reply: &Reply) -> Heard {
    let status = format!("{} ", reply.status).into_bytes();
    Heard {
        response: Some(Sight::of_reply(reply)),
        informational: None,
        rest: Vec::new(),
        bytes: [status.as_slice(), &reply.body].concat(),
    }
}
