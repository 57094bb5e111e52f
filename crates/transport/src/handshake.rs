//! The opening of a tunnel, on both sides (W-10 and following).
//!
//! ```text
//! relay                                    bridge
//!   relay_opening: CHALLENGE  ------------>
//!   Candidate      <----------------------  HELLO + proof
//!     .verify      checks the proof
//!     .welcome     WELCOME  ------------->   -> Session and its driver, on both sides
//!     .refuse      REFUSED  ------------->   -> DialError::Refused
//! ```

use crate::driver::{Driver, end_reason};
use crate::handle::{Session, Settings, Shared};
use crate::socket::{Metered, Socket};
use crate::websocket;
use crate::websocket::Buffers;
use bytes::Bytes;
use protocol::frame::{
    Challenge, Frame, Hello, JournalMark, PROOF_BYTES, PreviousSession, Refused, RefusedCode,
    Serves, VERSION, VERSION_MIN, Welcome, Windows,
};
use protocol::limits::{HEAD_MAX_BYTES_V1, OPENING_TIMEOUT};
use protocol::opening::{CHANNEL_BINDING_BYTES, Transcript};
use protocol::session::{Config, EndReason, Side};
use protocol::version::AcceptedVersions;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::Ed25519KeyPair;
use runtime::peer_text::PeerText;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// Shortest heartbeat that a bridge accepts.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// The time for sending REFUSED to a peer that does not read.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that can carry a tunnel.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// The task of a session. The session lives while it is polled; it returns why the session ended.
pub type SessionDriver = Pin<Box<dyn Future<Output = EndReason> + Send>>;

/// Why an opening failed.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// It exceeded [`OPENING_TIMEOUT`].
    #[error("the opening timed out after {OPENING_TIMEOUT:?}")]
    Timeout,
    /// The connection failed.
    #[error("the opening failed: {reason}", reason = end_reason(.0))]
    WebSocket(Box<WsError>),
    /// The peer closed.
    #[error("the peer closed the connection during the opening")]
    Closed,
    /// The peer sent an unexpected or invalid frame.
    #[error("the peer broke the protocol in the opening: {0}")]
    Protocol(String),
    /// The relay refused the tunnel.
    #[error("the relay refused the tunnel: {code}", code = .0.code)]
    Refused(Refused),
    /// The relay refused the tunnel, because its operator accepts no bridge of this version any more (W-70).
    #[error("the relay refused the tunnel: bridge_too_old: {}", outdated(.versions))]
    TooOld {
        /// The versions that the relay named.
        versions: Box<AcceptedVersions>,
        /// When to retry, in milliseconds; with zero the bridge decides.
        retry_after_ms: u32,
    },
    /// The system returned no random bytes.
    #[error("the system returned no random bytes")]
    Random,
}

/// Returns what the operator accepts.
fn outdated(versions: &AcceptedVersions) -> String {
    let mut text = "its operator accepts bridges".to_owned();
    if let Some(oldest) = &versions.oldest {
        text.push_str(&format!(" from version {oldest} on"));
    }
    if let Some(newest) = &versions.newest {
        text.push_str(&format!("; the newest version is {newest}"));
    }
    text
}

impl From<WsError> for OpeningError {
    fn from(error: WsError) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

/// Returns fresh random bytes.
///
/// # Errors
/// [`OpeningError::Random`] when the system returns none.
pub fn random<const N: usize>() -> Result<[u8; N], OpeningError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| OpeningError::Random)?;
    Ok(bytes)
}

/// Receives the next frame, with the message that it came in.
async fn receive<IO: Io>(socket: &mut Socket<IO>) -> Result<(Frame, Bytes), OpeningError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(message))) => {
                let frame = Frame::decode(message.clone())
                    .map_err(|error| OpeningError::Protocol(error.to_string()))?;
                if let Some(frame) = frame {
                    return Ok((frame, message));
                }
            }
            // Balancers may send pings during the opening as well; tungstenite responds to them.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) | None => return Err(OpeningError::Closed),
            Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                let what = "a message that is not binary".to_owned();
                return Err(OpeningError::Protocol(what));
            }
            Some(Err(error)) => return Err(error.into()),
        }
    }
}

fn payload(message: &Bytes) -> Bytes {
    message.slice(protocol::limits::HEADER_BYTES..)
}

fn start<IO: Io>(
    socket: Socket<IO>,
    id: [u8; 16],
    config: Config,
    serves: Serves,
    settings: Settings,
) -> (Session, SessionDriver) {
    let session = protocol::session::Session::new(Instant::now(), config, serves);
    let shared = Shared::new(id, session, settings);
    let driver = Driver::new(socket, shared.clone());
    (Session::new(shared), Box::pin(driver))
}

fn config(
    (side, version): (Side, u16),
    welcome: &Welcome,
    settings: &Settings,
    peer: Windows,
    rtt: Duration,
) -> Config {
    // A bridge accepts the relay's values within bounds: a heartbeat of zero would be a flood of PINGs.
    let heartbeat = Duration::from_millis(welcome.heartbeat_ms.into()).max(HEARTBEAT_MIN);
    let dead_after = Duration::from_millis(welcome.dead_after_ms.into());
    Config {
        version,
        local: settings.windows,
        peer,
        heartbeat,
        // Always after the next PING: otherwise an idle session would die before it could be checked.
        dead_after: dead_after.max(heartbeat + HEARTBEAT_MIN),
        rtt,
        stream_window_cap: settings.stream_window_cap,
        budget: settings.budget.clone(),
        ..Config::new(side)
    }
}

// ---- the relay's side --------------------------------------------------------------------

/// What the relay compares the bridge's channel binding with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// The bridge must have signed this exporter of the relay's own TLS connection (RFC 9266).
    Exporter([u8; CHANNEL_BINDING_BYTES]),
    /// A balancer terminates TLS before the relay, by its config: the binding is not compared.
    EndsBefore,
}

/// A connection that claims to be a bridge and is not authenticated yet.
pub struct Candidate<IO> {
    socket: Socket<IO>,
    challenge: Challenge,
    challenge_payload: Bytes,
    hello: Box<Hello>,
    hello_body: Bytes,
    proof: [u8; PROOF_BYTES],
    rtt: Duration,
}

/// Sends CHALLENGE and waits for HELLO. `read_ahead` holds the bytes that came after the upgrade request.
///
/// # Errors
/// [`OpeningError`]; the connection is closed.
pub async fn relay_opening<IO: Io>(
    io: IO,
    read_ahead: Bytes,
    challenge: Challenge,
) -> Result<Candidate<IO>, OpeningError> {
    let opening = async {
        let config = Some(websocket::config(Buffers::Small));
        let io = Metered::new(io, read_ahead.len());
        let ws = if read_ahead.is_empty() {
            WebSocketStream::from_raw_socket(io, Role::Server, config).await
        } else {
            WebSocketStream::from_partially_read(io, read_ahead.into(), Role::Server, config).await
        };
        let mut socket = Socket::new(ws, Role::Server);
        let message = Frame::Challenge(challenge.clone())
            .encode()
            .map_err(|error| OpeningError::Protocol(error.to_string()))?;
        // The opening measures the first round trip, so that windows can grow from the first transfer on.
        let sent = Instant::now();
        socket.send(message.clone()).await?;
        let (frame, _) = receive(&mut socket).await?;
        let Frame::Hello { hello, body, proof } = frame else {
            return Err(OpeningError::Protocol("a frame other than HELLO".into()));
        };
        Ok(Candidate {
            socket,
            challenge,
            challenge_payload: payload(&message),
            hello,
            hello_body: body,
            proof,
            rtt: sent.elapsed(),
        })
    };
    timeout(OPENING_TIMEOUT, opening)
        .await
        .map_err(|_| OpeningError::Timeout)?
}

impl<IO: Io> Candidate<IO> {
    /// Returns the bridge's claims. Nothing of them is proved before [`Self::verify`].
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Checks that version and windows are usable, and that the proof is by `public_key` and for this
    /// connection.
    ///
    /// # Errors
    /// The code to refuse the tunnel with.
    pub fn verify(&self, public_key: &[u8], channel: ChannelBinding) -> Result<(), RefusedCode> {
        let hello = &self.hello;
        let versions = self.challenge.version_min..=self.challenge.version_max;
        if !versions.contains(&hello.version) || !hello.windows.are_usable() {
            return Err(RefusedCode::Version);
        }
        let transcript = Transcript {
            challenge: &self.challenge_payload,
            challenge_nonce: &self.challenge.nonce,
            hello_body: &self.hello_body,
            hello,
        };
        // The version is checked before: another version may have another transcript.
        if !transcript.is_proved_by(public_key, &self.proof) {
            return Err(RefusedCode::Unauthorized);
        }
        match channel {
            // The key is right and the connection is another one: a middlebox terminates TLS. This is
            // checked last, so that only the owner of the key learns of it.
            ChannelBinding::Exporter(exporter) if hello.channel != Some(exporter) => {
                Err(RefusedCode::ChannelBinding)
            }
            ChannelBinding::Exporter(_) | ChannelBinding::EndsBefore => Ok(()),
        }
    }

    /// Sends REFUSED and closes the connection.
    pub async fn refuse(self, refused: Refused) {
        self.refuse_with(None, refused).await;
    }

    /// Sends VERSIONS and REFUSED, because the bridge's program is older than the operator accepts (W-70), and closes
    /// the connection.
    pub async fn refuse_outdated(self, versions: AcceptedVersions, retry_after_ms: u32) {
        let refused = Refused {
            code: RefusedCode::Version,
            retry_after_ms,
        };
        let versions = Frame::Versions(Box::new(versions));
        self.refuse_with(Some(versions), refused).await;
    }

    async fn refuse_with(mut self, before: Option<Frame>, refused: Refused) {
        let refusal = async {
            if let Some(Ok(message)) = before.as_ref().map(Frame::encode) {
                let _ = self.socket.send(message).await;
            }
            if let Ok(message) = Frame::Refused(refused).encode() {
                let _ = self.socket.send(message).await;
                let _ = self.socket.close().await;
            }
        };
        let _ = timeout(REFUSAL_TIMEOUT, refusal).await;
    }

    /// Accepts the tunnel. The session lives while its driver is polled.
    ///
    /// # Errors
    /// [`OpeningError`] when WELCOME cannot be sent.
    pub async fn welcome(
        mut self,
        welcome: Welcome,
        settings: Settings,
    ) -> Result<(Session, SessionDriver), OpeningError> {
        let message = Frame::Welcome(welcome)
            .encode()
            .map_err(|error| OpeningError::Protocol(error.to_string()))?;
        timeout(OPENING_TIMEOUT, self.socket.send(message))
            .await
            .map_err(|_| OpeningError::Timeout)??;
        let peer = self.hello.windows;
        let side = (Side::Relay, self.hello.version);
        let config = config(side, &welcome, &settings, peer, self.rtt);
        let serves = self.hello.serves;
        Ok(start(
            self.socket,
            welcome.session,
            config,
            serves,
            settings,
        ))
    }
}

// ---- the bridge's side -------------------------------------------------------------------

/// The identity of a bridge.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The tenant that it was paired with.
    pub tenant: String,
    /// Its id, given at pairing.
    pub bridge: String,
    /// The id of this installation.
    pub instance: [u8; 16],
    /// The key that its proof is signed with.
    pub key: Arc<Ed25519KeyPair>,
    /// The program's version, for people.
    pub software: String,
    /// The host's name, for people.
    pub host: String,
}

/// What a bridge announces about one connection.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// The slot of the connection.
    pub slot: u8,
    /// The number of the connection among those of the slot; it only rises.
    pub epoch: u64,
    /// What the bridge serves.
    pub serves: Serves,
    /// The report about the slot's previous session.
    pub previous: Option<PreviousSession>,
    /// The mark of its delivery journal, if it keeps one.
    pub journal: Option<JournalMark>,
}

/// The connection that the bridge dialled.
#[derive(Debug, Clone)]
pub(crate) struct Dialled {
    /// `host:port` as configured.
    pub(crate) authority: String,
    /// The channel binding.
    pub(crate) channel: Option<[u8; CHANNEL_BINDING_BYTES]>,
}

/// Longest name of a node that is kept, in characters.
const NODE_MAX_CHARS: usize = 128;

/// A tunnel that the relay accepted.
pub struct Tunnel {
    /// A handle on its session.
    pub session: Session,
    /// Its task.
    pub driver: SessionDriver,
    /// The relay's WELCOME.
    pub welcome: Welcome,
    /// The name of the relay's node, as the relay gives it.
    pub node: PeerText,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("session", &self.session)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Waits for CHALLENGE, sends HELLO, and waits for WELCOME or REFUSED.
pub(crate) async fn bridge_opening<IO: Io>(
    ws: WebSocketStream<Metered<IO>>,
    dialled: Dialled,
    identity: &Identity,
    introduction: Introduction,
    settings: Settings,
) -> Result<Tunnel, OpeningError> {
    let mut socket = Socket::new(ws, Role::Client);
    let (frame, message) = receive(&mut socket).await?;
    // A relay sends nothing more before it has HELLO (W-11), so the read buffer is empty.
    socket.mark_all_decoded();
    let Frame::Challenge(challenge) = frame else {
        let what = "a frame other than CHALLENGE".to_owned();
        return Err(OpeningError::Protocol(what));
    };
    // The latest version that both support.
    let version = challenge.version_max.min(VERSION);
    if version < challenge.version_min.max(VERSION_MIN) || !challenge.windows.are_usable() {
        return Err(OpeningError::Refused(Refused {
            code: RefusedCode::Version,
            retry_after_ms: 0,
        }));
    }
    let mut hello = Hello {
        version,
        nonce: random()?,
        tenant: identity.tenant.clone(),
        bridge: identity.bridge.clone(),
        instance: identity.instance,
        slot: introduction.slot,
        epoch: introduction.epoch,
        authority: dialled.authority,
        channel: dialled.channel,
        software: identity.software.clone(),
        host: identity.host.clone(),
        windows: settings.windows,
        serves: introduction.serves,
        journal: introduction.journal,
        previous: introduction.previous,
    };
    let too_large = |error: protocol::frame::FrameError| OpeningError::Protocol(error.to_string());
    let encode = |hello: &Hello| {
        let body = protocol::frame::encode_hello_body(hello)?;
        match body.len() > HEAD_MAX_BYTES_V1 && version == VERSION_MIN {
            // A relay of version 1 would reject it (W-60).
            true => Err(protocol::frame::FrameError::TooLarge),
            false => Ok(body),
        }
    };
    let body = match encode(&hello) {
        Ok(body) => body,
        // The patterns do not fit a frame: without them the relay asks the bridge for each request (W-54).
        Err(_) => {
            hello.serves.hosts = None;
            encode(&hello).map_err(too_large)?
        }
    };
    let transcript = Transcript {
        challenge: &payload(&message),
        challenge_nonce: &challenge.nonce,
        hello_body: &body,
        hello: &hello,
    };
    // After the encoding: the signature covers the bytes that are sent.
    let proof = transcript.sign(&identity.key);
    let serves = hello.serves.clone();
    let hello = Box::new(hello);
    let frame = Frame::Hello { hello, body, proof };
    let sent = Instant::now();
    socket.send(frame.encode().map_err(too_large)?).await?;
    // Each one replaces the one before. How many there are is bounded by the time of the dial, as for frames that are
    // skipped.
    let mut versions = None;
    let reply = loop {
        match receive(&mut socket).await?.0 {
            Frame::Versions(named) => versions = Some(named),
            reply => break reply,
        }
    };
    match reply {
        Frame::Welcome(welcome) => {
            let rtt = sent.elapsed();
            let side = (Side::Bridge, version);
            let config = config(side, &welcome, &settings, challenge.windows, rtt);
            let (session, driver) = start(socket, welcome.session, config, serves, settings);
            Ok(Tunnel {
                session,
                driver,
                welcome,
                node: PeerText::bounded(&challenge.node, NODE_MAX_CHARS),
            })
        }
        Frame::Refused(refused) => Err(match versions {
            Some(versions) if versions.is_enforced && refused.code == RefusedCode::Version => {
                OpeningError::TooOld {
                    versions,
                    retry_after_ms: refused.retry_after_ms,
                }
            }
            Some(_) | None => OpeningError::Refused(refused),
        }),
        _ => Err(OpeningError::Protocol(
            "a frame other than WELCOME and REFUSED".into(),
        )),
    }
}
