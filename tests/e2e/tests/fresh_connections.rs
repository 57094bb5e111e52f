//! A request that must not be repeated goes to its target on a connection that the target is not about to
//! close.

use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::setup::{Allow, Endpoint};
use support::{Ask, LONG_TIMEOUT, TestEnv};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A target whose response states the number of its connection, and a keep-alive policy.
struct Numbered {
    port: u16,
    /// The connections of all requests, in their order.
    used: Arc<Mutex<Vec<usize>>>,
}

impl Numbered {
    async fn start(announced: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let used = Arc::<Mutex<Vec<usize>>>::default();
        let all = used.clone();
        tokio::spawn(async move {
            let count = AtomicUsize::new(0);
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, number, announced, all.clone()));
            }
        });
        Self { port, used }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

async fn serve(stream: TcpStream, number: usize, announced: &str, used: Arc<Mutex<Vec<usize>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut bytes = 0;
        let mut is_empty = true;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() && !is_empty {
                break;
            }
            is_empty = false;
            if let Some(length) = line.strip_prefix("content-length:") {
                bytes = length.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; bytes];
        stream.read_exact(&mut body).await.unwrap();
        used.lock().unwrap().push(number);
        let body = number.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{announced}\r\n",
            body.len()
        );
        let response = head + &body;
        if stream
            .get_mut()
            .write_all(response.as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn call(world: &TestEnv, target: &Numbered, method: &str) -> String {
    let call = json!({"url": target.url(), "method": method});
    let answer = world.call(call).await.expect_status(200).json();
    answer["response"]["body"].as_str().unwrap().to_owned()
}

async fn deliver(world: &TestEnv, target: &Numbered) {
    let id = world
        .deliver(json!({"url": target.url(), "body": "x"}))
        .await;
    world.wait_call(&id, "succeeded", LONG_TIMEOUT).await;
}

/// Whether each request arrived on its own connection. Two requests in a row may do so anyway, where the first
/// connection was not back in the pool when the second request arrived.
fn are_fresh(target: &Numbered) -> bool {
    let used = std::mem::take(&mut *target.used.lock().unwrap());
    let mut apart = used.clone();
    apart.sort_unstable();
    apart.dedup();
    used.len() == apart.len()
}

#[tokio::test]
async fn unrepeatable_request_uses_a_fresh_connection() {
    let silent = Numbered::start("").await;
    let short = Numbered::start("Keep-Alive: timeout=1, max=100\r\n").await;
    let long = Numbered::start("Keep-Alive: timeout=100\r\n").await;
    let ports = [silent.port, short.port, long.port];
    let world = TestEnv::builder()
        .allow(Allow::host("127.0.0.1").ports(ports))
        .endpoint(Endpoint::new("silent", silent.url()))
        .bridge(|bridge| bridge.set("targets.health_interval", "off"))
        .start()
        .await;
    for (target, is_fresh) in [(&silent, true), (&short, true), (&long, false)] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "POST"] {
            call(&world, target, method).await;
        }
        assert_eq!(are_fresh(target), is_fresh, "calls to {}", target.port);
        for _ in 0..3 {
            deliver(&world, target).await;
        }
        assert_eq!(are_fresh(target), is_fresh, "deliveries to {}", target.port);
        for _ in 0..3 {
            call(&world, target, "GET").await;
        }
        assert!(
            !are_fresh(target),
            "a repeatable request may reuse a connection"
        );
    }
    // The same rule for endpoints.
    for (method, is_fresh) in [("POST", true), ("GET", false), ("PUT", true)] {
        for _ in 0..3 {
            let ask = Ask::new(method.parse().unwrap(), "/v1/endpoints/silent/");
            world
                .api
                .send(ask.key(&world.caller))
                .await
                .expect_status(200);
        }
        assert_eq!(are_fresh(&silent), is_fresh, "{method}");
    }
}
