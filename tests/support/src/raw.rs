//! A target without an HTTP library: it stores the request's bytes unchanged and responds with bytes that the
//! test wrote, well-formed or not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::tasks::AbortOnDrop;

/// The most of one request that is kept.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Answers each connection with the same bytes and closes it.
#[derive(Debug)]
pub struct RawTarget {
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    _serving: AbortOnDrop,
}

impl RawTarget {
    /// Listens on loopback. `answer` is written once a whole request (its head, and the body that
    /// a `Content-Length` or chunks announce) has been read.
    pub async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("loopback has a free port");
        let addr = listener
            .local_addr()
            .expect("a bound socket has an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let serving = tokio::spawn(serve(listener, answer.into().into(), Arc::clone(&requests)));
        Self {
            addr,
            requests,
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

    /// The bytes of each request so far, head and body, as they came.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The last request as text.
    ///
    /// # Panics
    ///
    /// Where none came.
    pub fn last_request(&self) -> String {
        let last = self
            .requests()
            .pop()
            .expect("no request has reached the raw target");
        String::from_utf8_lossy(&last).into_owned()
    }
}

async fn serve(listener: TcpListener, answer: Arc<[u8]>, requests: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(answer_one(
            socket,
            Arc::clone(&answer),
            Arc::clone(&requests),
        ));
        while connections.try_join_next().is_some() {}
    }
}

async fn answer_one(
    mut socket: TcpStream,
    answer: Arc<[u8]>,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !is_whole(&request) && request.len() < REQUEST_BYTES_MAX {
        if socket.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request);
    socket.write_all(&answer).await?;
    socket.shutdown().await?;
    // A close with unread bytes would be a reset, and could take the response with it.
    let drain = async { while socket.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), drain).await;
    Ok(())
}

/// Whether a head and the body that it announces are there.
fn is_whole(request: &[u8]) -> bool {
    let Some(head) = request.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let body = &request[head + 4..];
    let head = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    if header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        return body.starts_with(b"0\r\n") || body.windows(5).any(|five| five == b"\r\n0\r\n");
    }
    let length = header("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    body.len() >= length
}

#[cfg(test)]
mod tests {
    use super::is_whole;

    #[test]
    fn request_is_complete_with_its_body() {
        assert!(!is_whole(b"GET / HTTP/1.1\r\nHost: a\r\n"));
        assert!(is_whole(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!is_whole(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"));
        assert!(is_whole(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"));
        assert!(!is_whole(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
        ));
        assert!(is_whole(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        ));
    }
}
