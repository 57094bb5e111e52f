//! A caller's connection to the relay's HTTPS listener, which writes any bytes and records what comes
//! back.
//!
//! ```text
//! open          preface, SETTINGS ──>  <── SETTINGS   SETTINGS ACK ──>
//! send          writes, and reads meanwhile: neither side waits for the other
//! send_unread   writes, and lets the answers pile up
//! wait          reads until something is so, and acknowledges what wants it
//! ```

use super::frames::{self, FRAME_BYTES, PREFACE, setting};
use super::seen::Seen;
use bytes::BytesMut;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use support::TestEnv;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// The longest that one step may take on a loaded machine.
pub(crate) const WITHIN: Duration = Duration::from_secs(10);

/// An HTTP/2 connection.
pub(crate) struct Caller {
    read: ReadHalf<TlsStream<TcpStream>>,
    write: WriteHalf<TlsStream<TcpStream>>,
    /// What came and is not yet a whole frame.
    got: BytesMut,
    /// What has to be acknowledged.
    owed: Vec<u8>,
    is_mute: bool,
    seen: Seen,
}

/// A TLS connection to the relay that offers this protocol alone.
pub(crate) async fn connect(site: &TestEnv, protocol: &str) -> TlsStream<TcpStream> {
    let mut tls = (*site.ca.client_config()).clone();
    tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let connecting = async {
        let tcp = TcpStream::connect(site.relay.public().addr()).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
    };
    let connected = timeout(WITHIN, connecting).await;
    let connected = connected.expect("a handshake in time").expect("TLS");
    let agreed = connected.get_ref().1.alpn_protocol();
    assert_eq!(agreed, Some(protocol.as_bytes()));
    connected
}

impl Caller {
    /// Opens a connection with the usual settings.
    pub(crate) async fn open(site: &TestEnv) -> Self {
        Self::open_with(site, &[]).await
    }

    /// Opens one with more settings. They forbid a dynamic table in responses, so that decoding is simple.
    pub(crate) async fn open_with(site: &TestEnv, more: &[(u16, u32)]) -> Self {
        let (read, write) = tokio::io::split(connect(site, "h2").await);
        let mut caller = Self {
            read,
            write,
            got: BytesMut::new(),
            owed: Vec::new(),
            is_mute: false,
            seen: Seen::default(),
        };
        let own = [(setting::HEADER_TABLE_SIZE, 0), (setting::ENABLE_PUSH, 0)];
        let settings = frames::settings(&[&own[..], more].concat());
        caller.send(&[PREFACE, &settings].concat()).await;
        let has_settings = caller.wait(WITHIN, |seen| seen.has_settings).await;
        assert!(has_settings, "the relay sent no SETTINGS");
        caller
    }

    /// From now on nothing is acknowledged.
    pub(crate) fn mute(&mut self) {
        self.is_mute = true;
    }

    /// What came so far.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Writes all of this, and reads meanwhile. False where the relay did not take it.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(WITHIN, self.send_all(bytes)).await.unwrap_or(false)
    }

    async fn send_all(&mut self, bytes: &[u8]) -> bool {
        let mut left = bytes;
        while !self.seen.is_closed {
            self.got.reserve(FRAME_BYTES);
            let (write, read, got) = (&mut self.write, &mut self.read, &mut self.got);
            let writing = async {
                match left.is_empty() {
                    true => write.flush().await.map(|()| 0),
                    false => write.write(left).await,
                }
            };
            tokio::select! {
                wrote = writing => match wrote {
                    Ok(0) => return left.is_empty(),
                    Ok(wrote) => left = &left[wrote..],
                    // Why is still to be read.
                    Err(_) => return false,
                },
                read = read.read_buf(got) => self.took(&read),
            }
        }
        false
    }

    /// Writes without reading, for so long. How many bytes went.
    pub(crate) async fn send_unread(&mut self, bytes: &[u8], within: Duration) -> usize {
        let mut sent = 0;
        let sending = async {
            while sent < bytes.len() {
                match self.write.write(&bytes[sent..]).await {
                    Ok(wrote) if wrote > 0 => sent += wrote,
                    Ok(_) | Err(_) => return,
                }
            }
            let _ = self.write.flush().await;
        };
        let _ = timeout(within, sending).await;
        sent
    }

    /// Reads until it is so, the connection is closed, or the time is over. Whether it is so.
    pub(crate) async fn wait(&mut self, within: Duration, is_so: impl Fn(&Seen) -> bool) -> bool {
        let waiting = async {
            self.acknowledge().await;
            while !is_so(&self.seen) && !self.seen.is_closed {
                self.got.reserve(FRAME_BYTES);
                let read = self.read.read_buf(&mut self.got).await;
                self.took(&read);
                self.acknowledge().await;
            }
        };
        let _ = timeout(within, waiting).await;
        is_so(&self.seen)
    }

    fn took(&mut self, read: &io::Result<usize>) {
        if !matches!(read, Ok(1..)) {
            self.seen.is_closed = true;
        }
        while let Some(frame) = frames::take(&mut self.got) {
            self.owed
                .extend(self.seen.note(&frame).into_iter().flatten());
        }
    }

    async fn acknowledge(&mut self) {
        if self.is_mute || self.owed.is_empty() {
            return;
        }
        let owed = std::mem::take(&mut self.owed);
        // A connection that takes no more is read to its end.
        let _ = self.write.write_all(&owed).await;
        let _ = self.write.flush().await;
    }
}
