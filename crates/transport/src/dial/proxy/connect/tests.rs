//! Logins on real sockets, with a proxy that follows a script.

use super::super::fake::fake;
use super::super::login::{Scheme, SchemeChoice};
use super::super::{Proxy, UrlLogin};
use super::*;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

const FIRST: &str = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nProxy-Authenticate: NTLM\r\n\
                     Content-Length: 5\r\n\r\nlogin";
const CHALLENGE: &str = "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM dHdv\r\nTransfer-Encoding: chunked\r\n\r\n\
                         5;x=y\r\nlogin\r\n0\r\nx: y\r\n\r\n";
const CLOSES: &str =
    "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nProxy-Connection: close\r\n\r\nlogin";
const OLD: &str = "HTTP/1.0 407 No\r\nProxy-Authenticate: NTLM\r\nContent-Length: 5\r\n\r\nlogin";
const OPEN: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// What the proxy got: the method, and the value of `Proxy-Authorization`.
type Requests = Arc<Mutex<Vec<(usize, String)>>>;

/// Starts a proxy that sends these responses: a list for each connection, which it then closes.
async fn scripted(script: Vec<Vec<&'static str>>) -> (SocketAddr, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        for (connection, responses) in script.into_iter().enumerate() {
            let (mut stream, _) = listener.accept().await.unwrap();
            for response in responses {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let method = head.split(' ').next().unwrap();
                let mut lines = head.lines();
                let value = lines.find_map(|line| line.strip_prefix("Proxy-Authorization: "));
                let shown = format!("{method} {}", value.unwrap_or("-"));
                seen.lock().unwrap().push((connection, shown));
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        }
    });
    (address, requests)
}

fn proxy(address: SocketAddr) -> Proxy {
    let url = format!("http://me:sesame@{address}");
    let proxy = Proxy::from_url("relay.proxy", &url).unwrap();
    proxy.with_schemes(SchemeChoice::Auto, vec![fake(Scheme::Ntlm, false)])
}

async fn connect(proxy: &Proxy) -> Result<TcpStream, ProxyError> {
    let server = proxy.server_for("relay.example.com", 443).unwrap();
    server
        .tunnel("relay.example.com:443", Duration::from_secs(5))
        .await
}

fn taken(requests: &Requests) -> Vec<(usize, String)> {
    std::mem::take(&mut *requests.lock().unwrap())
}

fn expected(list: &[(usize, &str)]) -> Vec<(usize, String)> {
    list.iter()
        .map(|(at, text)| (*at, (*text).to_owned()))
        .collect()
}

#[tokio::test]
async fn messages_of_a_login_share_a_connection() {
    let script = vec![vec![FIRST, CHALLENGE, OPEN], vec![CHALLENGE, OPEN]];
    let (address, requests) = scripted(script).await;
    let proxy = proxy(address);
    connect(&proxy).await.unwrap();
    let all = [
        (0, "CONNECT -"),
        (0, "CONNECT NTLM b25l"),
        (0, "CONNECT NTLM b3d0"),
    ];
    assert_eq!(taken(&requests), expected(&all));
    // The next connection begins with the scheme that worked, also by another copy of the proxy.
    connect(&proxy.clone()).await.unwrap();
    let all = [(1, "CONNECT NTLM b25l"), (1, "CONNECT NTLM b3d0")];
    assert_eq!(taken(&requests), expected(&all));
    let seen = proxy.server_for("x", 1).unwrap().seen();
    assert_eq!(seen.offered, ["NTLM"]);
    assert_eq!(seen.used, Some(Scheme::Ntlm));
}

#[tokio::test]
async fn closed_connection_is_replaced_before_a_challenge() {
    // Announced, by the rules of HTTP/1.0, or without a word.
    for first in [CLOSES, OLD, FIRST] {
        let (address, requests) = scripted(vec![vec![first], vec![CHALLENGE, OPEN]]).await;
        connect(&proxy(address)).await.unwrap();
        let all = [
            (0, "CONNECT -"),
            (1, "CONNECT NTLM b25l"),
            (1, "CONNECT NTLM b3d0"),
        ];
        assert_eq!(taken(&requests), expected(&all), "{first}");
    }
}

#[tokio::test]
async fn closed_connection_between_messages_fails() {
    let challenge = "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM dHdv\r\nConnection: close\r\n\r\n";
    let (address, requests) = scripted(vec![vec![FIRST, challenge], vec![OPEN]]).await;
    let error = connect(&proxy(address)).await.unwrap_err();
    assert!(
        error.to_string().contains("between the messages"),
        "{error}"
    );
    assert!(!error.to_string().contains("sesame"), "{error}");
    assert_eq!(taken(&requests).len(), 2);
}

#[tokio::test]
async fn proxy_that_always_closes_is_given_up() {
    let script = vec![vec![FIRST], vec![], vec![], vec![], vec![]];
    let (address, requests) = scripted(script).await;
    let error = connect(&proxy(address)).await.unwrap_err();
    assert!(matches!(error, ProxyError::Io { .. }), "{error}");
    assert_eq!(taken(&requests).len(), 1);
}

#[tokio::test]
async fn body_without_end_is_not_read() {
    let endless =
        "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nContent-Length: 99999999\r\n\r\nx";
    let bad =
        "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    for first in [endless, bad] {
        let (address, requests) = scripted(vec![vec![first], vec![CHALLENGE, OPEN]]).await;
        connect(&proxy(address)).await.unwrap();
        assert_eq!(taken(&requests).len(), 3);
    }
}

#[tokio::test]
async fn login_without_a_tunnel_needs_a_request_to_nowhere() {
    let script = vec![vec![FIRST, CHALLENGE, OPEN]];
    let (address, requests) = scripted(script).await;
    let by_url = proxy(address);
    let server = by_url.server_for("a.example", 80).unwrap();
    let opened = server.open_for_urls(Duration::from_secs(5)).await;
    let (_, login) = opened.unwrap();
    assert_eq!(
        login,
        UrlLogin::First(Scheme::Ntlm, Secret::new("NTLM b3d0"))
    );
    let all = [(0, "CONNECT -"), (0, "CONNECT NTLM b25l")];
    assert_eq!(taken(&requests), expected(&all));

    // With Basic alone, nothing is asked.
    let (address, requests) = scripted(vec![vec![]]).await;
    let url = format!("http://me:sesame@{address}");
    let basic = Proxy::from_url("targets.proxy", &url).unwrap();
    let server = basic.server_for("a.example", 80).unwrap();
    let opened = server.open_for_urls(Duration::from_secs(5)).await;
    let (_, login) = opened.unwrap();
    assert_eq!(login, UrlLogin::Each(Secret::new("Basic bWU6c2VzYW1l")));
    assert!(taken(&requests).is_empty());
}
