//! Header fields that replace the method or the path at some targets do not pass a rule that restricts them.

use support::setup::{Allow, Endpoint};
use support::{Ask, RawTarget, TIMEOUT, TestEnv};

const METHODS: [(&str, &str); 5] = [
    ("x-http-method-override", "DELETE"),
    ("X_HTTP_METHOD_OVERRIDE", "DELETE"),
    ("X-HTTP-Method", "DELETE"),
    ("x-method-override", "DELETE"),
    ("Method-Override", "DELETE"),
];

const PATHS: [(&str, &str); 5] = [
    ("x-original-url", "/admin"),
    ("X_Original_URL", "/admin"),
    ("x-rewrite-url", "/admin"),
    ("x-forwarded-prefix", "/admin"),
    ("X-Request-URI", "/admin"),
];

struct OverrideEnv {
    env: TestEnv,
    target: RawTarget,
}

impl OverrideEnv {
    async fn start() -> Self {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let target = RawTarget::start(answer).await;
        let post = || Endpoint::new("post", target.url("/")).set("methods", vec!["POST"]);
        let mut passing = post().set("pass_overrides", true);
        passing = passing.set("name", "passing");
        let env = TestEnv::bare()
            .bridge(|bridge| bridge.set("targets.health_interval", "off"))
            .endpoint(post())
            .endpoint(passing)
            .endpoint(Endpoint::new("below", target.url("/app/")))
            .endpoint(Endpoint::new("open", target.url("/")))
            .allow(Allow::loopback(target.addr().port()).set("paths", vec!["/hooks/*"]))
            .start()
            .await;
        Self { env, target }
    }

    /// Returns which override fields the target got.
    async fn seen(&self, endpoint: &str) -> usize {
        let mut ask = Ask::post(format!("/v1/endpoints/{endpoint}/x")).key(&self.env.caller);
        for (name, value) in METHODS.iter().chain(&PATHS) {
            ask = ask.header(name, value);
        }
        let ask = ask.header("x-other", "stays");
        self.env.api.send(ask).await.expect_status(200);
        self.last()
    }

    fn last(&self) -> usize {
        let request = self.target.last_request().to_ascii_lowercase();
        assert!(request.contains("x-other: stays"), "{request}");
        let has = |value: &str| request.matches(value).count();
        has(": delete\r\n") + has(": /admin\r\n")
    }
}

#[tokio::test]
async fn endpoint_drops_what_it_restricts() {
    let site = OverrideEnv::start().await;
    // Each kind is dropped where the entry restricts it, and nowhere else.
    assert_eq!(site.seen("post").await, PATHS.len());
    assert_eq!(site.seen("below").await, METHODS.len());
    assert_eq!(site.seen("open").await, METHODS.len() + PATHS.len());
    assert_eq!(site.seen("passing").await, METHODS.len() + PATHS.len());
    let log = site.env.bridge.process();
    log.wait_log("dropped a field", TIMEOUT).await;
    site.seen("post").await;
    let lines = log.log();
    let dropped = lines.iter().filter(|line| {
        let line = format!("{line:?}");
        line.contains("dropped a field") && line.contains("endpoint post")
    });
    assert_eq!(dropped.count(), 1, "it is logged once");
}

#[tokio::test]
async fn rule_for_urls_drops_what_it_restricts() {
    let site = OverrideEnv::start().await;
    let headers: Vec<_> = METHODS.iter().chain(&PATHS).collect();
    let mut fields = serde_json::Map::new();
    for (name, value) in headers {
        fields.insert((*name).to_owned(), (*value).into());
    }
    fields.insert("x-other".to_owned(), "stays".into());
    let document = serde_json::json!({
        "url": site.target.url("/hooks/1"), "method": "POST", "headers": fields,
    });
    let ask = Ask::post("/v1/calls").key(&site.env.caller).json(&document);
    site.env.api.send(ask).await.expect_status(200);
    assert_eq!(site.last(), METHODS.len());
}
