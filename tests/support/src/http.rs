//! A small HTTP/1.1 client. A test controls what it sends, and sees the whole response.
//!
//! [`Ask`] is the request, [`Origin`] the server, and an [`Answer`] states of its body whether it
//! came whole. [`Reading`] is a response whose body is still on its way: dropping it hangs up.

mod answer;
mod ask;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::ca::ThrowawayCa;
use crate::tasks::AbortOnDrop;

pub use answer::{Answer, Digest, Reading, Truncated};
pub use ask::{ApiKey, Ask, AskBody};

/// A server to talk to.
#[derive(Clone)]
pub struct Origin {
    addr: SocketAddr,
    host: String,
    tls: Option<Arc<ClientConfig>>,
}

/// Why there is no response at all.
#[derive(Debug)]
pub enum Failure {
    /// No connection, or no TLS on it.
    Connect(io::Error),
    /// The connection ended, or what came was not HTTP.
    Exchange(hyper::Error),
    /// Nothing came in this time.
    Timeout(Duration),
}

/// One connection, for one request after the other.
pub struct Client {
    host: String,
    sender: SendRequest<AskBody>,
    connection: Arc<AbortOnDrop>,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Origin({})", self.url(""))
    }
}

impl Origin {
    /// Plain HTTP.
    pub fn http(addr: SocketAddr) -> Self {
        Self {
            addr,
            host: "127.0.0.1".to_owned(),
            tls: None,
        }
    }

    /// HTTPS, with a server that `ca` vouches for as `host`.
    pub fn https(addr: SocketAddr, host: &str, ca: &ThrowawayCa) -> Self {
        Self {
            addr,
            host: host.to_owned(),
            tls: Some(ca.client_config()),
        }
    }

    /// Its socket address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of `path` on it.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.authority())
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.addr.port())
    }

    /// Sends on a connection of its own and reads the whole response.
    ///
    /// # Panics
    ///
    /// Where no response comes. A body that breaks off is in the [`Answer`].
    pub async fn send(&self, ask: Ask) -> Answer {
        let what = ask.to_string();
        self.try_send(ask)
            .await
            .unwrap_or_else(|failure| self.fail(&what, &failure))
    }

    /// [`Self::send`], where having no response may be right.
    ///
    /// # Errors
    ///
    /// [`Failure`], before the head of a response came.
    pub async fn try_send(&self, ask: Ask) -> Result<Answer, Failure> {
        let within = ask.within;
        let all = async { Ok(self.try_open(ask).await?.read().await) };
        tokio::time::timeout(within, all)
            .await
            .unwrap_or(Err(Failure::Timeout(within)))
    }

    /// Sends on a connection of its own and returns with the head of the response.
    ///
    /// # Panics
    ///
    /// Where no response comes.
    pub async fn open(&self, ask: Ask) -> Reading {
        let what = ask.to_string();
        self.try_open(ask)
            .await
            .unwrap_or_else(|failure| self.fail(&what, &failure))
    }

    /// [`Self::open`], where having no response may be right. Dropping the future hangs up.
    ///
    /// # Errors
    ///
    /// [`Failure`], before the head of a response came.
    pub async fn try_open(&self, ask: Ask) -> Result<Reading, Failure> {
        let within = ask.within;
        let opened = async { self.client().await?.try_open(ask).await };
        tokio::time::timeout(within, opened)
            .await
            .unwrap_or(Err(Failure::Timeout(within)))
    }

    /// Opens a connection for several requests.
    ///
    /// # Errors
    ///
    /// [`Failure::Connect`], or what goes wrong in HTTP's own beginnings.
    pub async fn client(&self) -> Result<Client, Failure> {
        let socket = self.connect().await.map_err(Failure::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(Failure::Exchange)?;
        let connection = tokio::spawn(async move {
            // An error reaches the exchange that waits for a response.
            let _ = connection.await;
        });
        let connection = Arc::new(AbortOnDrop(connection));
        Ok(Client {
            host: self.authority(),
            sender,
            connection,
        })
    }

    /// Writes `bytes` as they are and returns what comes back until the server closes, or has been
    /// silent for `quiet`. For requests that no library would send.
    ///
    /// # Panics
    ///
    /// Where no connection can be made. A reset ends the response like a close.
    pub async fn raw(&self, bytes: &[u8], quiet: Duration) -> Vec<u8> {
        let mut socket = self
            .connect()
            .await
            .unwrap_or_else(|error| self.fail("raw bytes", &Failure::Connect(error)));
        // A server may refuse, answer and close before it has read all.
        let _ = socket.write_all(bytes).await;
        let mut answer = Vec::new();
        let mut piece = vec![0; 16 * 1024];
        while let Ok(Ok(read)) = tokio::time::timeout(quiet, socket.read(&mut piece)).await {
            if read == 0 {
                break;
            }
            answer.extend_from_slice(&piece[..read]);
        }
        answer
    }

    async fn connect(&self) -> io::Result<Box<dyn Socket>> {
        let socket = TcpStream::connect(self.addr).await?;
        socket.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(socket));
        };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let socket = TlsConnector::from(Arc::clone(tls))
            .connect(name, socket)
            .await?;
        Ok(Box::new(socket))
    }

    fn fail(&self, what: &str, failure: &Failure) -> ! {
        panic!("{what} at {}: {failure}", self.url(""))
    }
}

impl Client {
    /// Sends, and reads the whole response.
    ///
    /// # Panics
    ///
    /// Where no response comes.
    pub async fn send(&mut self, ask: Ask) -> Answer {
        let what = ask.to_string();
        let within = ask.within;
        let all = async { Ok(self.try_open(ask).await?.read().await) };
        tokio::time::timeout(within, all)
            .await
            .unwrap_or(Err(Failure::Timeout(within)))
            .unwrap_or_else(|failure| panic!("{what} at {}: {failure}", self.host))
    }

    /// Sends, and returns with the head of the response. The next request waits until its body has
    /// been read; leaving it unread closes the connection.
    ///
    /// # Errors
    ///
    /// [`Failure::Exchange`], before the head of a response came.
    pub async fn try_open(&mut self, ask: Ask) -> Result<Reading, Failure> {
        self.sender.ready().await.map_err(Failure::Exchange)?;
        let request = ask.into_request(&self.host);
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(Failure::Exchange)?;
        Ok(Reading::new(response, Arc::clone(&self.connection)))
    }
}

impl Failure {
    /// Whether the port was closed.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "no connection: {error}"),
            Self::Exchange(error) => f.write_str(&answer::chain(error)),
            Self::Timeout(within) => write!(f, "no answer within {within:?}"),
        }
    }
}

impl std::error::Error for Failure {}
