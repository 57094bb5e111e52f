//! A TCP proxy before PostgreSQL that parses its messages as far as needed to lose a COMMIT, or its response.

use crate::wait::{TIMEOUT, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{io, net::SocketAddr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};

/// The code of an SSLRequest, which is followed by another first message.
const SSL_REQUEST: u32 = 80_877_103;

/// What happens to the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server gets it, and its response is lost with the connection.
    Response,
    /// It is lost with the connection.
    Request,
    /// It is lost, and the server does not notice that its client is gone.
    Held,
    /// As [`Self::Response`], and the server cannot be reached until [`CommitProxy::come_back`].
    Away,
}

/// A proxy, until it is dropped.
#[derive(Debug)]
pub struct CommitProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: String,
    next: Mutex<Option<Cut>>,
    is_away: AtomicBool,
    /// Raised to cut every connection.
    cut: watch::Sender<u64>,
    cuts: AtomicU64,
    held: Mutex<Vec<(OwnedReadHalf, OwnedWriteHalf)>>,
}

impl CommitProxy {
    /// Begins to listen on loopback, before the server of a URL.
    ///
    /// # Panics
    /// When the URL has no host and port, or no socket is free.
    pub async fn start(url: &str) -> (Self, String) {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (origin, path) = rest.split_once('/').expect("a URL with a database");
        let (user, server) = origin.split_once('@').expect("a URL with a user");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            next: Mutex::default(),
            is_away: AtomicBool::new(false),
            cut: watch::Sender::new(0),
            cuts: AtomicU64::new(0),
            held: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        let through = format!("{scheme}://{user}@{address}/{path}");
        let proxy = Self {
            address,
            shared,
            task,
        };
        (proxy, through)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happens to the next COMMIT.
    pub async fn cut_next(&self, cut: Cut) {
        *self.shared.next.lock().await = Some(cut);
    }

    /// How many COMMITs were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Acquire)
    }

    /// The server can be reached again.
    pub fn come_back(&self) {
        self.shared.is_away.store(false, Ordering::Release);
    }

    /// Cuts every connection, and waits until all are closed.
    ///
    /// # Panics
    /// When one is still open after [`TIMEOUT`].
    pub async fn cut_all(&self) {
        self.begin_cut();
        // Each connection's task has a receiver, and drops it after its sockets.
        eventually(TIMEOUT, "the end of every connection", async || {
            self.shared.cut.receiver_count() == 0
        })
        .await;
    }

    fn begin_cut(&self) {
        self.shared.cut.send_modify(|cut| *cut += 1);
    }
}

impl Drop for CommitProxy {
    fn drop(&mut self) {
        self.task.abort();
        self.begin_cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.is_away.load(Ordering::Acquire) {
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut cut = shared.cut.subscribe();
            tokio::select! {
                _ = cut.changed() => {}
                _ = pass(&shared, client) => {}
            }
        });
    }
}

async fn pass(shared: &Shared, client: TcpStream) -> io::Result<()> {
    let server = TcpStream::connect(&shared.server).await?;
    let (mut from_server, mut to_server) = server.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let mut is_first = true;
    let cut = {
        let back = async {
            tokio::io::copy(&mut from_server, &mut to_client)
                .await
                .map(drop)
        };
        let forth = async {
            loop {
                let message = read_message(&mut from_client, &mut is_first).await?;
                if message.starts_with(b"Q")
                    && message[5..].starts_with(b"COMMIT")
                    && let Some(cut) = shared.next.lock().await.take()
                {
                    return Ok::<_, io::Error>((cut, message));
                }
                to_server.write_all(&message).await?;
            }
        };
        tokio::select! {
            ended = back => return ended,
            cut = forth => cut?,
        }
    };
    let (cut, message) = cut;
    match cut {
        Cut::Response | Cut::Away => {
            to_server.write_all(&message).await?;
            // Any message of the server means that it has committed.
            let _ = from_server.read(&mut [0; 64]).await?;
        }
        Cut::Request => {}
        Cut::Held => shared.held.lock().await.push((from_server, to_server)),
    }
    shared.cuts.fetch_add(1, Ordering::AcqRel);
    if cut == Cut::Away {
        shared.is_away.store(true, Ordering::Release);
        shared.cut.send_modify(|cut| *cut += 1);
    }
    drop((from_client, to_client));
    Ok(())
}

/// One message with its head. The first ones have no type.
async fn read_message(from: &mut OwnedReadHalf, is_first: &mut bool) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    if !*is_first {
        message.push(from.read_u8().await?);
    }
    let length = from.read_u32().await?;
    message.extend(length.to_be_bytes());
    let start = message.len();
    message.resize(start + (length as usize).saturating_sub(4), 0);
    from.read_exact(&mut message[start..]).await?;
    if *is_first {
        *is_first = message.get(4..8) == Some(&SSL_REQUEST.to_be_bytes()[..]);
    }
    Ok(message)
}
