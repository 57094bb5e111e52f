//! The load that all measurements share: one request over and over, on keep-alive connections, with as little work around it
//! as possible.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// A request, or several that are taken in turn, ready to be sent, and where to.
#[derive(Clone)]
pub(crate) struct Load {
    addr: SocketAddr,
    requests: Arc<[Vec<u8>]>,
}

struct Connection {
    socket: TcpStream,
    requests: Arc<[Vec<u8>]>,
    /// Which of them is next.
    next: usize,
    answer: Vec<u8>,
}

impl Load {
    pub(crate) fn get(addr: SocketAddr, path: &str, authorization: Option<&str>) -> Self {
        let authorization =
            authorization.map_or(String::new(), |value| format!("Authorization: {value}\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n{authorization}\r\n");
        Self {
            addr,
            requests: vec![request.into_bytes()].into(),
        }
    }

    /// The same request with each of these in turn.
    pub(crate) fn get_as(addr: SocketAddr, path: &str, authorizations: &[String]) -> Self {
        let one = |authorization: &String| {
            let Self { requests, .. } = Self::get(addr, path, Some(authorization));
            requests.to_vec()
        };
        Self {
            addr,
            requests: authorizations.iter().flat_map(one).collect(),
        }
    }

    pub(crate) fn post(addr: SocketAddr, path: &str, authorization: &str, json: &str) -> Self {
        let length = json.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: {authorization}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
        );
        Self {
            addr,
            requests: vec![request.into_bytes()].into(),
        }
    }

    /// The latency of each exchange of one connection, for this long.
    pub(crate) async fn latencies(&self, duration: Duration) -> io::Result<Vec<Duration>> {
        let mut connection = self.connect().await?;
        let began = Instant::now();
        let mut latencies = Vec::new();
        let mut sent = began;
        while sent - began < duration {
            connection.exchange().await?;
            let answered = Instant::now();
            latencies.push(answered - sent);
            sent = answered;
        }
        Ok(latencies)
    }

    /// The latency of exchanges of one connection that begin at a fixed rate, so that the programs sleep in between.
    pub(crate) async fn spaced(
        &self,
        per_second: u32,
        duration: Duration,
    ) -> io::Result<Vec<Duration>> {
        let mut connection = self.connect().await?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let began = Instant::now();
        let mut latencies = Vec::new();
        while began.elapsed() < duration {
            ticks.tick().await;
            let sent = Instant::now();
            connection.exchange().await?;
            latencies.push(sent.elapsed());
        }
        Ok(latencies)
    }

    /// How many exchanges that many connections complete in this time, and the time it really was.
    pub(crate) async fn requests(
        &self,
        connections: usize,
        duration: Duration,
    ) -> io::Result<(u64, Duration)> {
        let mut ready = Vec::with_capacity(connections);
        for _ in 0..connections {
            ready.push(self.connect().await?);
        }
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for mut connection in ready {
            tasks.spawn(async move {
                let mut requests = 0;
                while began.elapsed() < duration {
                    connection.exchange().await?;
                    requests += 1;
                }
                io::Result::Ok(requests)
            });
        }
        let mut requests: u64 = 0;
        while let Some(done) = tasks.join_next().await {
            requests += done.map_err(io::Error::other)??;
        }
        Ok((requests, began.elapsed()))
    }

    async fn connect(&self) -> io::Result<Connection> {
        let socket = TcpStream::connect(self.addr).await?;
        socket.set_nodelay(true)?;
        Ok(Connection {
            socket,
            requests: Arc::clone(&self.requests),
            next: 0,
            answer: Vec::with_capacity(16 * 1024),
        })
    }

    /// The latency of every exchange of that many connections in this time, and the time it really
    /// was.
    pub(crate) async fn at_once(
        &self,
        connections: usize,
        duration: Duration,
    ) -> io::Result<(Vec<Duration>, Duration)> {
        let mut ready = Vec::with_capacity(connections);
        for number in 0..connections {
            let mut connection = self.connect().await?;
            // Each begins elsewhere.
            connection.next = number * self.requests.len() / connections;
            ready.push(connection);
        }
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for mut connection in ready {
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                let mut sent = Instant::now();
                while began.elapsed() < duration {
                    connection.exchange().await?;
                    let answered = Instant::now();
                    latencies.push(answered - sent);
                    sent = answered;
                }
                io::Result::Ok(latencies)
            });
        }
        let mut latencies = Vec::new();
        while let Some(done) = tasks.join_next().await {
            latencies.extend(done.map_err(io::Error::other)??);
        }
        Ok((latencies, began.elapsed()))
    }

    /// The latency of exchanges of one connection after the other, each with a connection of its
    /// own, its making included.
    pub(crate) async fn first_latencies(&self, duration: Duration) -> io::Result<Vec<Duration>> {
        let began = Instant::now();
        let mut latencies = Vec::new();
        while began.elapsed() < duration {
            let sent = Instant::now();
            self.connect().await?.exchange().await?;
            latencies.push(sent.elapsed());
        }
        Ok(latencies)
    }
}

impl Connection {
    /// Sends the request and reads one response. Anything but a whole 200 is an error: a number of
    /// failures a second means nothing.
    async fn exchange(&mut self) -> io::Result<()> {
        let request = &self.requests[self.next % self.requests.len()];
        self.next += 1;
        self.socket.write_all(request).await?;
        self.answer.clear();
        let mut whole = None;
        while whole.is_none_or(|whole| self.answer.len() < whole) {
            if self.socket.read_buf(&mut self.answer).await? == 0 {
                return Err(self.unexpected("the connection closed"));
            }
            if whole.is_none() {
                whole = self.whole()?;
            }
        }
        Ok(())
    }

    /// The length of the response with its head, once the head is there.
    fn whole(&self) -> io::Result<Option<usize>> {
        let Some(head) = self.answer.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let is_good = [&b"HTTP/1.1 200 "[..], b"HTTP/1.1 202 "]
            .iter()
            .any(|line| self.answer.starts_with(line));
        if !is_good {
            return Err(self.unexpected("neither 200 nor 202"));
        }
        let head_bytes = head + 4;
        let length = self.answer[..head_bytes]
            .split(|byte| *byte == b'\n')
            .find_map(|line| {
                let (name, value) = line.split_at_checked(b"content-length:".len())?;
                name.eq_ignore_ascii_case(b"content-length:")
                    .then(|| value.trim_ascii())
            })
            .and_then(|value| str::from_utf8(value).ok()?.parse::<usize>().ok());
        match length {
            Some(length) => Ok(Some(head_bytes + length)),
            None => Err(self.unexpected("an answer without a length")),
        }
    }

    fn unexpected(&self, what: &str) -> io::Error {
        let answer = String::from_utf8_lossy(&self.answer);
        io::Error::other(format!("{what}: {answer:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Load;
    use std::time::Duration;
    use support::Target;

    #[tokio::test]
    async fn load_counts_complete_responses_only() {
        let target = Target::start().await;
        let a_moment = Duration::from_millis(50);
        let small = Load::get(target.addr(), "/small", None);
        assert!(
            !small
                .latencies(a_moment)
                .await
                .expect("latencies")
                .is_empty()
        );
        let before = target.requests();
        let (requests, _) = small.requests(8, a_moment).await.expect("requests");
        assert_eq!(target.requests() - before, requests);
        for path in ["/status/500", "/truncated", "/close", "/chunked/10"] {
            let load = Load::get(target.addr(), path, None);
            assert!(load.latencies(a_moment).await.is_err(), "{path}");
        }
        let echo = Load::post(target.addr(), "/echo", "Basic eA==", "{}");
        assert!(echo.requests(2, a_moment).await.expect("echoes").0 > 0);
    }
}
