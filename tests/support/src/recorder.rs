//! HTTP/1.1 as bytes at both ends: a target that records each request and responds with bytes that the test
//! wrote, and a client that records each response.
//!
//! ```text
//! talk(RawRequest) ── bytes ──>  nothing, or a relay and a bridge  ── bytes ──>  Recorder
//!       Heard     <── bytes ──                                     <── Steps ──
//! ```
//!
//! No HTTP library is involved, so nothing is normalised unnoticed. The field [`CASE`] of a request selects the
//! script of the response, and the number under which the request is recorded.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::tasks::AbortOnDrop;

/// The field with the case of a request: a number from 1.
pub const CASE: &str = "x-case";
/// How long a closed connection is still read: closing with unread bytes sends a reset, which could discard
/// the response.
const SWALLOW: Duration = Duration::from_secs(1);
/// How long a client waits for bytes after a response whose connection stays open.
const LISTEN_ON: Duration = Duration::from_millis(500);

/// A field: its name in lower case, and its value without the white space around it.
pub type Field = (String, Vec<u8>);

/// How the end of a body is known (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Bodiless,
    /// By its length.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// A request or a response, possibly incomplete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The head as it came, with the empty line.
    pub head: Vec<u8>,
    /// The request line or the status line.
    pub first_line: Vec<u8>,
    /// The fields in their order.
    pub fields: Vec<Field>,
    /// How its body ends.
    pub framing: Framing,
    /// The bytes after the head.
    pub raw_body: Vec<u8>,
    /// The body without its chunks.
    pub body: Vec<u8>,
    /// The fields after the last chunk.
    pub trailers: Vec<Field>,
    /// Whether its end arrived.
    pub is_whole: bool,
}

/// What the target does with a request whose head it has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Reads the body, if there is any. Without this step it is read after the last one.
    ReadBody,
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Waits.
    Pause(Duration),
    /// Closes the connection.
    Close,
    /// Resets the connection.
    Reset,
}

/// The target. It keeps connections open for more requests, unless one has `Connection: close` or
/// its steps end it.
#[derive(Debug)]
pub struct Recorder {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _serving: AbortOnDrop,
}

#[derive(Debug, Default)]
struct Shared {
    steps: Mutex<HashMap<usize, Vec<Step>>>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    next: u64,
    /// By case: each with its serial number.
    requests: HashMap<usize, Vec<(u64, Message)>>,
}

impl Recorder {
    /// Listens on loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("loopback has a free port");
        let addr = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let serving = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            addr,
            shared,
            _serving: AbortOnDrop(serving),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT` and `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Sets the script for requests of this case.
    pub fn answer(&self, case: usize, steps: Vec<Step>) {
        lock(&self.shared.steps).insert(case, steps);
    }

    /// Takes the requests of this case that arrived since the last call, in their order.
    pub fn take(&self, case: usize) -> Vec<Message> {
        let requests = lock(&self.shared.seen).requests.remove(&case);
        let requests = requests.unwrap_or_default().into_iter();
        requests.map(|(_, request)| request).collect()
    }
}

impl Shared {
    /// Writes a request down. Its serial number is for [`Self::complete`].
    fn note(&self, case: usize, request: &Message) -> u64 {
        let mut seen = lock(&self.seen);
        let serial = seen.next;
        seen.next += 1;
        let requests = seen.requests.entry(case).or_default();
        requests.push((serial, request.clone()));
        serial
    }

    /// Adds the body of a request that was written down, unless it was taken meanwhile.
    fn complete(&self, case: usize, serial: u64, request: &Message) {
        let mut seen = lock(&self.seen);
        let mut requests = seen.requests.get_mut(&case).into_iter().flatten();
        if let Some((_, noted)) = requests.find(|(number, _)| *number == serial) {
            noted.clone_from(request);
        }
    }
}

impl Message {
    /// The values of a field, in their order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.fields.iter().filter(move |(own, _)| own == name);
        fields.map(|(_, value)| value.as_slice())
    }

    /// The status of a response; 0 where its first line has none.
    pub fn status(&self) -> u16 {
        let status = self.first_line.split(|byte| *byte == b' ').nth(1);
        let status = status.and_then(|status| std::str::from_utf8(status).ok());
        status.and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Whether it is the last on its connection.
    fn closes(&self) -> bool {
        self.values("connection")
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
    }

    /// The framing that its fields announce.
    fn announced(&self) -> Option<Framing> {
        let mut codings = self.values("transfer-encoding");
        if codings.any(|coding| coding.to_ascii_lowercase().ends_with(b"chunked")) {
            return Some(Framing::Chunked);
        }
        let length = self.values("content-length").next()?;
        let length = std::str::from_utf8(length).ok()?.split(',').next()?;
        length.trim().parse().ok().map(Framing::Length)
    }

    /// How the body of this response ends.
    fn answer_framing(&self, is_to_head: bool) -> Framing {
        match self.status() {
            100..200 | 204 | 304 => Framing::Bodiless,
            _ if is_to_head => Framing::Bodiless,
            _ => self.announced().unwrap_or(Framing::Close),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(serve(socket, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

/// How the target ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Close,
    Reset,
}

async fn serve(mut socket: TcpStream, shared: Arc<Shared>) {
    let _ = socket.set_nodelay(true);
    let (read, write) = socket.split();
    let ending = exchanges(Wire::new(read), write, &shared).await;
    match ending {
        Ending::Reset => {
            let _ = socket.set_zero_linger();
        }
        Ending::Close => {
            let _ = socket.shutdown().await;
            let mut space = vec![0; 16 * 1024];
            let swallow =
                async { while socket.read(&mut space).await.is_ok_and(|read| read > 0) {} };
            let _ = timeout(SWALLOW, swallow).await;
        }
    }
}

/// One request after the other, until one of the two sides ends it.
async fn exchanges<R, W>(mut wire: Wire<R>, mut write: W, shared: &Shared) -> Ending
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let Ok(mut request) = wire.head().await else {
            return Ending::Close;
        };
        request.framing = request.announced().unwrap_or(Framing::Bodiless);
        let case = case_of(&request);
        let serial = shared.note(case, &request);
        let steps = lock(&shared.steps).get(&case).cloned();
        let mut is_read = false;
        for step in steps.unwrap_or_else(|| vec![Step::Close]) {
            match step {
                Step::ReadBody => {
                    wire.body(&mut request).await;
                    shared.complete(case, serial, &request);
                    is_read = true;
                }
                Step::Send(bytes) => {
                    if write.write_all(&bytes).await.is_err() {
                        return Ending::Close;
                    }
                }
                Step::Pause(time) => sleep(time).await,
                Step::Close => return Ending::Close,
                Step::Reset => return Ending::Reset,
            }
        }
        if !is_read {
            wire.body(&mut request).await;
            shared.complete(case, serial, &request);
        }
        if request.closes() || !request.is_whole {
            return Ending::Close;
        }
    }
}

/// The case of a request; 0 where it has none.
fn case_of(request: &Message) -> usize {
    let case = request.values(CASE).next();
    let case = case.and_then(|case| std::str::from_utf8(case).ok());
    case.and_then(|case| case.parse().ok()).unwrap_or(0)
}

/// A request as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRequest {
    /// The head, with the empty line.
    pub head: Vec<u8>,
    /// The body in pieces, as they are written.
    pub body: Vec<Vec<u8>>,
    /// When they are.
    pub sending: Sending,
}

/// When the pieces of a body are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// At once.
    AtOnce,
    /// When a 100 came.
    OnContinue,
    /// The first at once, the others when a response came.
    OnAnswer,
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// The responds with a status of 1xx.
    pub informational: Vec<Message>,
    /// The response; `None` where not all of its head came.
    pub answer: Option<Message>,
    /// What belongs to none of these: bytes after the response, or of an incomplete head.
    pub rest: Vec<u8>,
}

impl Heard {
    /// All of it as it came.
    pub fn raw(&self) -> Vec<u8> {
        let messages = self.informational.iter().chain(&self.answer);
        let parts = messages.flat_map(|message| [&message.head, &message.raw_body]);
        parts.chain([&self.rest]).flatten().copied().collect()
    }
}

/// Sends a request on a connection of its own and hears all that comes back. With `connect`, these
/// bytes are sent first, and a status of 2xx is waited for.
///
/// # Errors
/// No connection, another response to `connect`, or more than `within` for all of it.
pub async fn talk(
    addr: SocketAddr,
    connect: Option<&[u8]>,
    request: &RawRequest,
    within: Duration,
) -> io::Result<Heard> {
    let talking = async {
        let mut socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        let (read, mut write) = socket.split();
        let mut wire = Wire::new(read);
        if let Some(connect) = connect {
            write.write_all(connect).await?;
            wire.has_opened().await?;
        }
        let (go, may_go) = oneshot::channel();
        tokio::select! {
            heard = wire.hear(request, go) => Ok(heard),
            never = send(&mut write, request, may_go) => match never {},
        }
    };
    timeout(within, talking).await.unwrap_or_else(|_| {
        let detail = format!("the exchange did not end within {within:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, detail))
    })
}

/// Sends all that may be sent, and then waits to be dropped. That the other side takes no more is
/// no failure: it may have answered.
async fn send<W>(write: &mut W, request: &RawRequest, may_go: oneshot::Receiver<()>) -> Infallible
where
    W: AsyncWrite + Unpin,
{
    let first = match request.sending {
        Sending::AtOnce => request.body.len(),
        Sending::OnContinue => 0,
        Sending::OnAnswer => request.body.len().min(1),
    };
    let (first, later) = request.body.split_at(first);
    let sending = async {
        write.write_all(&request.head).await?;
        for piece in first {
            write.write_all(piece).await?;
        }
        if may_go.await.is_ok() {
            for piece in later {
                write.write_all(piece).await?;
            }
        }
        io::Result::Ok(())
    };
    let _ = sending.await;
    pending().await
}

/// Reads messages, one after the other.
struct Wire<R> {
    source: BufReader<R>,
}

impl<R: AsyncRead + Unpin> Wire<R> {
    fn new(read: R) -> Self {
        Self {
            source: BufReader::new(read),
        }
    }

    /// Waits for a 2xx to CONNECT.
    async fn has_opened(&mut self) -> io::Result<()> {
        let head = match self.head().await {
            Ok(answer) if (200..300).contains(&answer.status()) => return Ok(()),
            Ok(answer) => answer.head,
            Err(bytes) => bytes,
        };
        let detail = format!("CONNECT was answered with {}", head.escape_ascii());
        Err(io::Error::other(detail))
    }

    /// Reads responses up to the final one. `go` fires when the other pieces of the body may be sent.
    async fn hear(&mut self, request: &RawRequest, go: oneshot::Sender<()>) -> Heard {
        let mut heard = Heard::default();
        let mut go = Some(go);
        let mut may_go = |sending: Sending| {
            if request.sending == sending
                && let Some(go) = go.take()
            {
                let _ = go.send(());
            }
        };
        loop {
            let mut answer = match self.head().await {
                Ok(answer) => answer,
                Err(bytes) => {
                    heard.rest = bytes;
                    return heard;
                }
            };
            answer.framing = answer.answer_framing(request.head.starts_with(b"HEAD "));
            self.body(&mut answer).await;
            if (100..200).contains(&answer.status()) {
                if answer.status() == 100 {
                    may_go(Sending::OnContinue);
                }
                heard.informational.push(answer);
            } else {
                may_go(Sending::OnAnswer);
                heard.answer = Some(answer);
                break;
            }
        }
        let _ = timeout(LISTEN_ON, self.source.read_to_end(&mut heard.rest)).await;
        heard
    }

    /// The next head; without all of one, the bytes that came.
    async fn head(&mut self) -> Result<Message, Vec<u8>> {
        let mut head = Vec::new();
        let Some(first_line) = self.line(&mut head).await else {
            return Err(head);
        };
        let Some(fields) = self.fields(&mut head).await else {
            return Err(head);
        };
        Ok(Message {
            head,
            first_line,
            fields,
            framing: Framing::Bodiless,
            raw_body: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            is_whole: false,
        })
    }

    /// Reads the body that a message's framing announces.
    async fn body(&mut self, message: &mut Message) {
        message.is_whole = match message.framing {
            Framing::Bodiless => true,
            Framing::Chunked => self.chunks(message).await.is_some(),
            Framing::Length(bytes) => {
                let is_whole = self.exactly(bytes, &mut message.raw_body).await;
                message.body.clone_from(&message.raw_body);
                is_whole
            }
            Framing::Close => {
                let end = self.source.read_to_end(&mut message.raw_body).await;
                message.body.clone_from(&message.raw_body);
                end.is_ok()
            }
        };
    }

    /// Chunks and trailers; `None` where they break off, or are none.
    async fn chunks(&mut self, message: &mut Message) -> Option<()> {
        loop {
            let bytes = chunk_bytes(&self.line(&mut message.raw_body).await?)?;
            if bytes == 0 {
                message.trailers = self.fields(&mut message.raw_body).await?;
                return Some(());
            }
            let start = message.raw_body.len();
            let is_whole = self.exactly(bytes, &mut message.raw_body).await;
            message.body.extend_from_slice(&message.raw_body[start..]);
            if !is_whole || !self.line(&mut message.raw_body).await?.is_empty() {
                return None;
            }
        }
    }

    /// Adds up to `bytes` bytes to `raw`. Returns whether all of them arrived.
    async fn exactly(&mut self, bytes: u64, raw: &mut Vec<u8>) -> bool {
        let read = (&mut self.source).take(bytes).read_to_end(raw).await;
        read.is_ok_and(|read| read as u64 == bytes)
    }

    /// Fields up to the empty line, which are added to `raw`, too.
    async fn fields(&mut self, raw: &mut Vec<u8>) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line(raw).await?;
            if line.is_empty() {
                return Some(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, value) = line.split_at(colon.unwrap_or(line.len()));
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            let value = value.strip_prefix(b":").unwrap_or(value);
            fields.push((name, value.trim_ascii().to_vec()));
        }
    }

    /// A line without its end; all of it is added to `raw`. `None` where it does not end.
    async fn line(&mut self, raw: &mut Vec<u8>) -> Option<Vec<u8>> {
        let start = raw.len();
        // What was read before a failure is in `raw`, and does not end.
        let _ = self.source.read_until(b'\n', raw).await;
        let line = raw[start..].strip_suffix(b"\n")?;
        Some(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
    }
}

/// The size in a chunk's first line.
fn chunk_bytes(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn direct(request: &str, steps: Vec<Step>) -> (Vec<Message>, Heard) {
        let recorder = Recorder::start().await;
        recorder.answer(7, steps);
        let (head, body) = request.split_once("\n\n").expect("a head and a body");
        let request = RawRequest {
            head: format!("{head}\r\nX-Case: 7\r\nConnection: close\r\n\r\n").into(),
            body: vec![body.into()],
            sending: Sending::AtOnce,
        };
        let heard = talk(recorder.addr(), None, &request, Duration::from_secs(10)).await;
        (recorder.take(7), heard.expect("an exchange"))
    }

    fn fields(fields: &[Field]) -> Vec<(&str, &[u8])> {
        let fields = fields.iter();
        fields.map(|(name, value)| (&**name, &**value)).collect()
    }

    #[tokio::test]
    async fn recorder_records_both_ends() {
        let sent = "HTTP/1.1 103 \r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nA: \t1 \r\nB:\r\n\
                    Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nC: 3\r\n\r\n";
        let steps = vec![Step::ReadBody, Step::Send(sent.into())];
        let request = "POST /a%2Fb HTTP/1.1\r\nContent-Length: 2\n\nhi";
        let (seen, heard) = direct(request, steps).await;
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].first_line, b"POST /a%2Fb HTTP/1.1");
        assert_eq!((&*seen[0].body, seen[0].is_whole), (&b"hi"[..], true));
        assert_eq!(heard.raw(), sent.as_bytes());
        assert_eq!(heard.informational[0].status(), 103);
        let answer = heard.answer.expect("an answer");
        assert_eq!((answer.status(), &*answer.body), (200, &b"abc"[..]));
        assert_eq!(
            fields(&answer.fields[..2]),
            [("a", &b"1"[..]), ("b", &b""[..])]
        );
        assert_eq!(fields(&answer.trailers), [("c", &b"3"[..])]);
        assert!(answer.is_whole);
    }

    #[tokio::test]
    async fn recorder_marks_aborted_messages() {
        for (sent, end) in [
            ("Content-Length: 9\r\n\r\nabc", Step::Close),
            (
                "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
                Step::Close,
            ),
            (
                "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
                Step::Close,
            ),
            ("\r\nabc", Step::Reset),
        ] {
            let sent = format!("HTTP/1.1 200 OK\r\n{sent}");
            let steps = vec![
                Step::Send(sent.into_bytes()),
                Step::Pause(Duration::from_millis(20)),
                end,
            ];
            let (_, heard) = direct("GET / HTTP/1.1\n\n", steps).await;
            let answer = heard.answer.expect("an answer");
            assert_eq!((&*answer.body, answer.is_whole), (&b"abc"[..], false));
        }
    }
}
