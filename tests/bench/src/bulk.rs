//! Large bodies, down or up, on a keep-alive connection: a thread that blocks, so that it takes
//! little from those that are measured and nothing from the measurement of concurrent small requests.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// One read or write.
const PIECE_BYTES: usize = 256 * 1024;

/// Which way the body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Down,
    Up,
}

/// Where large bodies are: `GET {prefix}/bytes/N` and `POST {prefix}/sink` of the target.
#[derive(Debug, Clone)]
pub(crate) struct Bulk {
    pub(crate) addr: SocketAddr,
    pub(crate) prefix: String,
    pub(crate) authorization: Option<String>,
}

/// A connection that carries one body after the other.
#[derive(Debug)]
pub(crate) struct Carrier {
    bulk: Bulk,
    socket: TcpStream,
    space: Vec<u8>,
}

/// Bodies one after the other on connections of their own, until it is dropped or stopped.
#[derive(Debug)]
pub(crate) struct Stream {
    over: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Bulk {
    pub(crate) fn connect(&self) -> io::Result<Carrier> {
        let socket = TcpStream::connect(self.addr)?;
        socket.set_nodelay(true)?;
        // A transfer that hangs is an error, not a measurement that never ends.
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Carrier {
            bulk: self.clone(),
            socket,
            space: vec![0; PIECE_BYTES],
        })
    }

    /// Bodies of this size on so many connections at once.
    pub(crate) fn keep_going(&self, way: Way, bytes: u64, connections: usize) -> Stream {
        let over = Arc::new(AtomicBool::new(false));
        let moved = Arc::new(AtomicU64::new(0));
        let threads = (0..connections)
            .map(|_| {
                let (bulk, over, moved) = (self.clone(), Arc::clone(&over), Arc::clone(&moved));
                thread::spawn(move || {
                    let mut carrier = bulk.connect()?;
                    while !over.load(Ordering::Relaxed) {
                        carrier.transfer(way, bytes)?;
                        moved.fetch_add(bytes, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        Stream {
            over,
            bytes: moved,
            threads,
        }
    }
}

impl Stream {
    /// Lets the last bodies come to their end; the bytes of all.
    pub(crate) fn stop(self) -> io::Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| io::Error::other("a bulk thread panicked"))??;
        }
        Ok(self.bytes.load(Ordering::Relaxed))
    }
}

impl Carrier {
    /// One body, from the first byte of its request to the last of its response.
    pub(crate) fn transfer(&mut self, way: Way, bytes: u64) -> io::Result<Duration> {
        let began = Instant::now();
        let Bulk {
            addr,
            prefix,
            authorization,
        } = &self.bulk;
        let authorization = authorization
            .as_ref()
            .map_or(String::new(), |value| format!("Authorization: {value}\r\n"));
        let line = match way {
            Way::Down => format!("GET {prefix}/bytes/{bytes} HTTP/1.1\r\n"),
            Way::Up => format!("POST {prefix}/sink HTTP/1.1\r\nContent-Length: {bytes}\r\n"),
        };
        let head = format!("{line}Host: {addr}\r\n{authorization}\r\n");
        self.socket.write_all(head.as_bytes())?;
        if way == Way::Up {
            self.send(bytes)?;
        }
        let expected = match way {
            Way::Down => Some(bytes),
            Way::Up => None,
        };
        self.answer(expected)?;
        Ok(began.elapsed())
    }

    fn send(&mut self, bytes: u64) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let piece = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            self.socket.write_all(&self.space[..piece])?;
            left -= piece as u64;
        }
        Ok(())
    }

    fn answer(&mut self, expected: Option<u64>) -> io::Result<()> {
        let mut filled = 0;
        let head_bytes = loop {
            filled += self.fill(filled)?;
            let came = &self.space[..filled];
            if let Some(at) = came.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = String::from_utf8_lossy(&self.space[..head_bytes]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| {
            line.strip_prefix("content-length:")?
                .trim()
                .parse::<u64>()
                .ok()
        });
        let good =
            head.starts_with("http/1.1 200 ") && expected.is_none_or(|bytes| length == Some(bytes));
        let (true, Some(length)) = (good, length) else {
            return Err(io::Error::other(format!("an unexpected answer: {head}")));
        };
        let mut left = length.saturating_sub((filled - head_bytes) as u64);
        while left > 0 {
            left = left.saturating_sub(self.fill(0)? as u64);
        }
        Ok(())
    }

    fn fill(&mut self, from: usize) -> io::Result<usize> {
        match self.socket.read(&mut self.space[from..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// MiB a second.
pub(crate) fn mib_per_s(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 20) / took.as_secs_f64()
}
