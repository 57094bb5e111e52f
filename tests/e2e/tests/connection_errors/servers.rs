//! Servers that fail a connection in one way each.

use super::pki::Pair;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use support::{TIMEOUT, ThrowawayCa, eventually, ports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A running `openssl s_server`, which ends with the value.
pub(crate) struct OpensslServer {
    child: Child,
    pub(crate) port: u16,
}

impl OpensslServer {
    /// Starts one with a certificate and further arguments.
    pub(crate) async fn start(pair: &Pair, args: &[&str]) -> Self {
        let port = ports::free();
        let mut command = Command::new("openssl");
        command.args([
            "s_server",
            "-www",
            "-quiet",
            "-accept",
            &format!("127.0.0.1:{port}"),
        ]);
        command
            .arg("-cert")
            .arg(&pair.cert)
            .arg("-key")
            .arg(&pair.key);
        let child = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        eventually(TIMEOUT, "openssl to listen", async || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .is_ok()
        })
        .await;
        Self { child, port }
    }
}

impl Drop for OpensslServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a raw server does with a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Raw {
    /// Sends these bytes at once, and keeps the connection.
    Greets(&'static [u8]),
    /// Sends these bytes after the client's first ones, and closes.
    Answers(&'static [u8]),
    /// Sends these bytes after the client's first ones, and keeps the connection.
    Stalls(&'static [u8]),
    /// Closes at once.
    Closes,
    /// Closes after the client's first bytes.
    ClosesLater,
    /// Resets after the client's first bytes.
    Resets,
    /// Sends nothing.
    Silent,
}

/// Starts a raw server. It runs until the test ends.
pub(crate) async fn raw(raw: Raw) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, raw));
        }
    });
    port
}

/// Starts a TLS server in the place of a relay, which sends these bytes after the client's first ones, and closes.
pub(crate) async fn tls_answers(ca: &ThrowawayCa, answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = TlsAcceptor::from(ca.server_config(&["localhost"], &["http/1.1"]));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let mut stream = tls.accept(stream).await?;
                let mut request = vec![0; 16 * 1024];
                if stream.read(&mut request).await? > 0 {
                    stream.write_all(answer).await?;
                }
                stream.shutdown().await
            });
        }
    });
    port
}

async fn serve(mut stream: TcpStream, raw: Raw) -> std::io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    let waits_for_client = match raw {
        Raw::Greets(_) | Raw::Closes | Raw::Silent => false,
        Raw::Answers(_) | Raw::Stalls(_) | Raw::ClosesLater | Raw::Resets => true,
    };
    if waits_for_client && stream.read(&mut bytes).await? == 0 {
        return Ok(());
    }
    match raw {
        Raw::Greets(greeting) => stream.write_all(greeting).await?,
        Raw::Answers(answer) => {
            stream.write_all(answer).await?;
            return stream.shutdown().await;
        }
        Raw::Stalls(begin) => stream.write_all(begin).await?,
        Raw::Closes => return Ok(()),
        Raw::ClosesLater => return stream.shutdown().await,
        Raw::Resets => {
            transport::tcp::will_reset(&stream);
            return Ok(());
        }
        Raw::Silent => {}
    }
    // Until the client gives up.
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// A port whose queue of new connections is full: the system drops further attempts, as a firewall does.
pub(crate) struct Blackhole {
    pub(crate) address: SocketAddr,
    _held: Vec<TcpStream>,
    _listener: TcpListener,
}

impl Blackhole {
    pub(crate) async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        let limit = std::time::Duration::from_millis(300);
        while let Ok(Ok(stream)) = tokio::time::timeout(limit, TcpStream::connect(address)).await {
            held.push(stream);
        }
        Self {
            address,
            _held: held,
            _listener: listener,
        }
    }
}
