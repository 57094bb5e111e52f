//! The spelling of field names towards HTTP/1.1 targets and callers, and the name of the bridge in its own
//! requests.

use support::recorder::{RawRequest, Sending, talk};
use support::setup::Endpoint;
use support::{Ask, RawTarget, TIMEOUT, TestEnv, eventually};

#[tokio::test]
async fn field_names_have_their_usual_spelling() {
    let target =
        RawTarget::start("HTTP/1.1 200 OK\r\netag: \"1\"\r\nx-app: a\r\ncontent-length: 0\r\n\r\n")
            .await;
    let start = async |case: &str| {
        let builder = TestEnv::bare().bridge(|bridge| {
            let bridge = bridge.set("targets.health_interval", "off");
            bridge.set("targets.header_case", case)
        });
        let endpoint = Endpoint::new("soap", target.url("/"));
        builder.endpoint(endpoint).start().await
    };
    for (case, spellings) in [
        (
            "title",
            [
                "\r\nSOAPAction: \"x\"\r\n",
                "\r\nContent-Type: text/xml\r\n",
                "\r\nX-App-Name: a\r\n",
            ],
        ),
        (
            "lower",
            [
                "\r\nsoapaction: \"x\"\r\n",
                "\r\ncontent-type: text/xml\r\n",
                "\r\nx-app-name: a\r\n",
            ],
        ),
    ] {
        let env = start(case).await;
        let ask = Ask::post("/v1/endpoints/soap/")
            .key(&env.caller)
            .header("soapaction", "\"x\"")
            .header("content-type", "text/xml")
            .header("x-app-name", "a")
            .body("<a/>");
        env.api.send(ask).await.expect_status(200);
        let request = target.last_request();
        for spelling in spellings {
            assert!(request.contains(spelling), "{request}");
        }
    }
}

#[tokio::test]
async fn caller_gets_the_usual_spelling_if_configured() {
    let answer = "HTTP/1.1 200 OK\r\netag: \"1\"\r\nx-app: a\r\ncontent-length: 0\r\n\r\n";
    let target = RawTarget::start(answer).await;
    for (title_case, spelling) in [
        (true, "\r\nETag: \"1\"\r\nX-App: a\r\n"),
        (false, "\r\netag: \"1\"\r\nx-app: a\r\n"),
    ] {
        let env = TestEnv::bare()
            .bridge(|bridge| bridge.set("targets.health_interval", "off"))
            .relay(|relay| relay.set("listen.title_case", title_case))
            .endpoint(Endpoint::new("t", target.url("/")))
            .start()
            .await;
        let request = RawRequest {
            head: format!(
                "GET /v1/endpoints/t/ HTTP/1.1\r\nHost: x\r\nBridge-Authorization: {}\r\n\
                 Connection: close\r\n\r\n",
                env.caller.basic()
            )
            .into(),
            body: Vec::new(),
            sending: Sending::AtOnce,
        };
        let heard = talk(env.api.addr(), None, &request, TIMEOUT).await.unwrap();
        let text = String::from_utf8_lossy(&heard.raw()).into_owned();
        assert!(text.contains(spelling), "{text}");
    }
}

/// Some firewalls and servers refuse requests without `User-Agent`.
#[tokio::test]
async fn health_check_has_a_user_agent() {
    let target = RawTarget::start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let endpoint = Endpoint::new("t", target.url("/")).set("health_path", "/health");
    let _env = TestEnv::bare()
        .bridge(|bridge| bridge.set("targets.health_interval", "200ms"))
        .endpoint(endpoint)
        .start()
        .await;
    eventually(TIMEOUT, "a health check", async || {
        !target.requests().is_empty()
    })
    .await;
    let request = target.last_request();
    assert!(request.starts_with("GET /health HTTP/1.1\r\n"), "{request}");
    assert!(
        request.contains("\r\nUser-Agent: integration-bridge/"),
        "{request}"
    );
}
