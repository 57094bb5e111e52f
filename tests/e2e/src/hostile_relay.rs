//! A relay in the hands of an attacker: it follows the wire protocol, and sends any request it likes.

use base64::Engine as _;
use protocol::frame::{
    BodyLength, Challenge, Class, HeadersBuilder, RequestHead, RequestTarget, TimeLeft, Welcome,
    Windows,
};
use protocol::session::Budget;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use support::ThrowawayCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use transport::handle::Settings;
use transport::handshake::relay_opening;
use transport::{RecvStream, SendStream, Session};

/// Listens, and hands over each session that a bridge opens.
pub struct HostileRelay {
    /// Where it listens.
    pub addr: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for HostileRelay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl HostileRelay {
    /// Shows a certificate of this CA for `localhost`.
    pub async fn start(ca: &ThrowawayCa) -> Self {
        Self::start_named(ca, "hostile").await
    }

    /// The same, with a name of its node.
    pub async fn start_named(ca: &ThrowawayCa, node: &str) -> Self {
        let node = std::sync::Arc::<str>::from(node);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tls = TlsAcceptor::from(ca.server_config(&["localhost"], &["http/1.1"]));
        let (opened, sessions) = mpsc::channel(8);
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, opened, node) = (tls.clone(), opened.clone(), node.clone());
                tokio::spawn(async move {
                    if let Some(session) = open(tcp, tls, &node).await {
                        let _ = opened.send(session).await;
                    }
                });
            }
        });
        Self {
            addr,
            sessions,
            serving,
        }
    }

    /// The next session.
    pub async fn session(&mut self) -> Session {
        let next = self.sessions.recv();
        let next = tokio::time::timeout(Duration::from_secs(60), next).await;
        next.expect("a bridge dials").unwrap()
    }
}

async fn open(tcp: TcpStream, tls: TlsAcceptor, node: &str) -> Option<Session> {
    let mut stream = tls.accept(tcp).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&head);
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then_some(value)
    })?;
    let key = accept(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: integration-bridge.v1\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.ok()?;
    let windows = Windows {
        streams_max: 100_000,
        stream_bytes: 256 * 1024,
        session_bytes: 4 * 1024 * 1024,
    };
    let challenge = Challenge {
        nonce: transport::handshake::random().ok()?,
        node: node.to_owned(),
        version_min: 1,
        version_max: 1,
        windows,
    };
    let candidate = relay_opening(stream, bytes::Bytes::new(), challenge)
        .await
        .ok()?;
    let welcome = Welcome {
        session: transport::handshake::random().ok()?,
        heartbeat_ms: 15_000,
        dead_after_ms: 25_000,
        nodes: 1,
    };
    let settings = Settings {
        windows,
        budget: Budget::new(64 << 20),
        stream_window_cap: 32 << 20,
        on_open: None,
        on_result: None,
        on_result_ack: None,
    };
    let (session, driver) = candidate.welcome(welcome, settings).await.ok()?;
    tokio::spawn(driver);
    Some(session)
}

/// RFC 6455, 4.2.2.
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(hash)
}

/// What an exchange came to: a status with the response's fields, or a code.
#[derive(Debug)]
pub enum Came {
    /// The target's answer.
    Answer {
        /// Its status.
        status: u16,
        /// Its fields, as text.
        fields: String,
    },
    /// The bridge rejected it, or it failed.
    Failed(protocol::Failure),
}

impl Came {
    /// The code of a failure.
    pub fn code(&self) -> Option<protocol::Code> {
        match self {
            Self::Failed(failure) => Some(failure.code),
            Self::Answer { .. } => None,
        }
    }
}

/// A request for a URL.
pub fn url(method: &str, url: &str) -> RequestHead {
    head(method, RequestTarget::Url(url.to_owned()))
}

/// A request for anything.
pub fn head(method: &str, target: RequestTarget) -> RequestHead {
    RequestHead {
        class: Class::Interactive,
        share: protocol::frame::CallerWeight::default(),
        target,
        method: method.to_owned(),
        headers: HeadersBuilder::default().build(),
        body: BodyLength::None,
        expect_continue: false,
        time_left: TimeLeft {
            head_ms: 10_000,
            idle_ms: 10_000,
            total_ms: 20_000,
        },
        call: None,
        credential: None,
    }
}

/// Opens an exchange.
pub fn begin(session: &Session, head: &RequestHead, end: bool) -> (SendStream, RecvStream) {
    session.open(head, &[], end).expect("a stream is free")
}

/// Opens an exchange and waits for what it comes to.
pub async fn ask(session: &Session, head: &RequestHead) -> Came {
    let (_send, recv) = begin(session, head, true);
    came(recv).await
}

/// Waits for what an exchange comes to.
pub async fn came(mut recv: RecvStream) -> Came {
    let waiting = tokio::time::timeout(Duration::from_secs(30), recv.head());
    match waiting.await.expect("every exchange comes to something") {
        Ok(head) => Came::Answer {
            status: head.status,
            fields: head
                .headers
                .iter()
                .map(|(name, value)| {
                    let (name, value) = (
                        String::from_utf8_lossy(name),
                        String::from_utf8_lossy(value),
                    );
                    format!("{name}: {value}\n")
                })
                .collect(),
        },
        Err(failure) => Came::Failed(failure),
    }
}
