//! The environment of an HTTP/1.1 target: a recorder, and four routes to it.

use super::case::{Case, ENDPOINT, KEY, Route};
use super::compare::{Heard, Run, Sight};
use super::{Env, HEADERS_MAX};
use std::net::SocketAddr;
use std::time::Duration;
use support::TestEnv;
use support::recorder::{self, Recorder, talk};
use support::setup::{Allow, Endpoint};

/// The longest that one exchange may take on a loaded machine.
const WITHIN: Duration = Duration::from_secs(15);

pub(crate) struct Http1Env {
    // Dropped first: it has the connections to the recorder.
    env: TestEnv,
    recorder: Recorder,
    /// The caller's key, as the value of a field.
    key: String,
}

impl Http1Env {
    pub(crate) async fn start() -> Self {
        let recorder = Recorder::start().await;
        let rule = Allow::loopback(recorder.addr().port()).set("connect", true);
        let env = TestEnv::bare()
            .endpoint(Endpoint::new("t", recorder.url("/")))
            .allow(rule)
            .relay(|relay| {
                relay
                    .set("limits.headers_max", HEADERS_MAX)
                    .set("endpoints.sandbox", false)
            })
            .start()
            .await;
        Self {
            key: env.caller.basic(),
            env,
            recorder,
        }
    }

    /// The address that a route begins at, what precedes the path, and this hop's own lines.
    fn route(&self, route: Route) -> (SocketAddr, String, Vec<String>) {
        let (target, key) = (self.recorder.addr(), &self.key);
        let (relay, proxy) = (self.env.api.addr(), self.env.forward());
        let host = |of: SocketAddr| format!("Host: {of}");
        match route {
            Route::Direct => (target, String::new(), vec![host(target)]),
            Route::Connect => (proxy, String::new(), vec![host(target)]),
            Route::Endpoint => {
                let own = vec![host(relay), format!("{KEY}: {key}")];
                (relay, ENDPOINT.to_owned(), own)
            }
            Route::Proxy => {
                let own = vec![host(target), format!("Proxy-Authorization: {key}")];
                (proxy, format!("http://{target}"), own)
            }
            Route::EndpointHttp2 => panic!("a route of HTTP/2 targets"),
        }
    }
}

impl Env for Http1Env {
    const ROUTES: &'static [Route] = &[Route::Endpoint, Route::Proxy, Route::Connect];

    fn prepare(&self, number: usize, case: &Case) {
        self.recorder.answer(number, case.http1_steps());
    }

    async fn run(&self, number: usize, case: &Case, route: Route) -> Run {
        let (addr, base, own) = self.route(route);
        let target = self.recorder.addr();
        let connect = (route == Route::Connect).then(|| {
            let key = &self.key;
            format!(
                "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: {key}\r\n\r\n"
            )
        });
        let request = case.http1_request(number, &base, &own);
        let connect = connect.as_ref().map(String::as_bytes);
        let heard = talk(addr, connect, &request, WITHIN).await;
        let seen = self.recorder.take(number);
        let key = self.key.as_bytes();
        let parts = seen.iter().flat_map(|request| {
            let body: &[u8] = match case.is_early {
                true => b"",
                false => &request.raw_body,
            };
            [request.head.as_slice(), body]
        });
        Run {
            requests: seen.iter().map(Sight::of_http1_request).collect(),
            request_bytes: parts.collect::<Vec<_>>().concat(),
            heard: heard
                .map(|heard| to_heard(&heard))
                .map_err(|error| error.to_string()),
            has_leaked: seen
                .iter()
                .any(|request| request.head.windows(key.len()).any(|part| part == key)),
            is_downgraded: false,
        }
    }
}

fn to_heard(heard: &recorder::Heard) -> Heard {
    let informational = heard.informational.iter();
    Heard {
        response: heard.answer.as_ref().map(Sight::of_http1_response),
        informational: Some(informational.map(Sight::of_http1_response).collect()),
        rest: heard.rest.clone(),
        bytes: heard.raw(),
    }
}
