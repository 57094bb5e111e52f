//! An HTTP/2 caller that works on frames, so that no library changes a message unnoticed.

use super::case::Case;
use bytes::Bytes;
use h2::SendStream;
use h2::client::{Builder, ResponseFuture};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri, Version};
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::ThrowawayCa;
use support::recorder::{Field, Message, Sending};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// The flow-control window of a response.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// A server with TLS, and how a case is addressed to it.
pub(crate) struct Http2Caller {
    pub(crate) addr: SocketAddr,
    pub(crate) authority: String,
    /// What precedes a case's path.
    pub(crate) base: &'static str,
    /// Fields that a request has in addition to those of its case.
    pub(crate) own: Vec<Field>,
    tls: Arc<ClientConfig>,
}

/// A response, possibly incomplete.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<Field>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<Field>,
    /// Whether its end arrived.
    pub(crate) is_whole: bool,
}

impl From<Message> for Reply {
    fn from(answer: Message) -> Self {
        Self {
            status: answer.status(),
            fields: answer.fields,
            body: answer.body,
            trailers: answer.trailers,
            is_whole: answer.is_whole,
        }
    }
}

impl Http2Caller {
    /// A server that `ca` certifies as `localhost`.
    pub(crate) fn new(
        addr: SocketAddr,
        ca: &ThrowawayCa,
        base: &'static str,
        own: Vec<Field>,
    ) -> Self {
        let mut tls = (*ca.client_config()).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            addr,
            authority: addr.to_string(),
            base,
            own,
            tls: Arc::new(tls),
        }
    }

    /// Sends a case on a new connection and reads the whole response.
    ///
    /// # Errors
    /// No response, or an exchange that did not end within this time.
    pub(crate) async fn ask(
        &self,
        case: &Case,
        number: usize,
        within: Duration,
    ) -> Result<Reply, String> {
        let asking = self.talk(case, number);
        let late = |_| Err(format!("the exchange did not end within {within:?}"));
        tokio::time::timeout(within, asking)
            .await
            .unwrap_or_else(late)
    }

    async fn talk(&self, case: &Case, number: usize) -> Result<Reply, String> {
        let request = self.request(case, number)?;
        let stream = self.connect().await?;
        let mut builder = Builder::new();
        builder
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES);
        let (sender, connection) = builder
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| format!("no HTTP/2: {error}"))?;
        // It ends with this.
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            let _ = connection.await;
        });
        let sender = sender.ready().await;
        let mut sender = sender.map_err(|error| format!("no stream for a request: {error}"))?;
        let (answer, stream) = sender
            .send_request(request, case.is_bodiless())
            .map_err(|error| format!("the request cannot be sent: {error}"))?;
        let (go, may_go) = oneshot::channel();
        tokio::select! {
            heard = hear(answer, go) => heard,
            never = send(stream, case, may_go) => match never {},
        }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let connecting = async {
            let tcp = TcpStream::connect(self.addr).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").expect("a name");
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            connector.connect(name, tcp).await
        };
        let stream = connecting
            .await
            .map_err(|error: std::io::Error| format!("no connection: {error}"))?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Ok(stream),
            other => Err(format!("the server chose {other:?}")),
        }
    }

    fn request(&self, case: &Case, number: usize) -> Result<Request<()>, String> {
        let uri = Uri::builder()
            .scheme("https")
            .authority(self.authority.as_str())
            .path_and_query([self.base.as_bytes(), &case.path].concat().as_slice())
            .build()
            .map_err(|error| format!("a path that cannot be sent: {error}"))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::from_bytes(case.method.as_bytes())
            .map_err(|error| format!("{} is not a method: {error}", case.method))?;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri;
        let mut fields = case.fields(number);
        fields.extend(self.own.iter().cloned());
        *request.headers_mut() = map_of(&fields);
        Ok(request)
    }
}

fn map_of(fields: &[Field]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a field's name");
        let value = HeaderValue::from_bytes(value).expect("a field's value");
        map.append(name, value);
    }
    map
}

fn fields_of(map: &HeaderMap) -> Vec<Field> {
    let fields = map.iter();
    fields
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

/// Reads a response to its end. `go` fires when its head is there. A reset before the end aborts it, also
/// one without an error code (RFC 9113, 8.1).
async fn hear(answer: ResponseFuture, go: oneshot::Sender<()>) -> Result<Reply, String> {
    let answer = answer.await;
    let answer = answer.map_err(|error| format!("there is no response: {error}"))?;
    let _ = go.send(());
    let (head, mut body) = answer.into_parts();
    let mut reply = Reply {
        status: head.status.as_u16(),
        fields: fields_of(&head.headers),
        body: Vec::new(),
        trailers: Vec::new(),
        is_whole: false,
    };
    while let Some(piece) = body.data().await {
        let Ok(piece) = piece else {
            return Ok(reply);
        };
        let _ = body.flow_control().release_capacity(piece.len());
        reply.body.extend_from_slice(&piece);
    }
    if let Ok(trailers) = body.trailers().await {
        reply.trailers = trailers.as_ref().map(fields_of).unwrap_or_default();
        reply.is_whole = true;
    }
    Ok(reply)
}

/// Sends what follows the head, and then waits to be dropped. A receiver that takes no more may have
/// responded already, so that is not an error.
async fn send(
    mut stream: SendStream<Bytes>,
    case: &Case,
    may_go: oneshot::Receiver<()>,
) -> Infallible {
    if !case.is_bodiless() {
        let _ = send_body(&mut stream, case, may_go).await;
    }
    pending().await
}

/// Returns `None` where the receiver takes no more.
async fn send_body(
    stream: &mut SendStream<Bytes>,
    case: &Case,
    may_go: oneshot::Receiver<()>,
) -> Option<()> {
    let mut may_go = Some(may_go);
    for (index, piece) in case.pieces().iter().enumerate() {
        if case.sending == Sending::OnAnswer
            && index > 0
            && let Some(may_go) = may_go.take()
        {
            may_go.await.ok()?;
        }
        send_piece(stream, Bytes::copy_from_slice(piece)).await?;
    }
    let end = if case.trailers().is_empty() {
        stream.send_data(Bytes::new(), true)
    } else {
        stream.send_trailers(map_of(case.trailers()))
    };
    end.ok()
}

async fn send_piece(stream: &mut SendStream<Bytes>, mut piece: Bytes) -> Option<()> {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let mut capacity = stream.capacity();
        if capacity == 0 {
            let waiting = poll_fn(|cx| stream.poll_capacity(cx));
            capacity = waiting.await?.ok()?;
        }
        let part = piece.split_to(capacity.min(piece.len()));
        stream.send_data(part, false).ok()?;
    }
    Some(())
}
