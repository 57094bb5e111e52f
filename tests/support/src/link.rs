//! A TCP proxy that imitates a long network link: a round trip, a rate, a bounded amount in flight.
//!
//! ```text
//! sender ──> reads at the rate ──> in flight for half a round trip ──> writes ──> receiver
//! ```
//!
//! The rate belongs to the link, each way, whatever number of connections share it; propagation
//! takes the same time at any rate. What is in flight, or delivered and not taken, is bounded by
//! the bandwidth-delay product: then nothing more is read, and the sender feels it. In front of
//! the link stands a short queue, the receive buffer of its socket.
//!
//! Threads that block, not tasks: their clock is finer than the runtime's millisecond, and they
//! do not share a thread with the measuring code. For a network that misbehaves see
//! [`FlakyProxy`](crate::FlakyProxy).

mod way;

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use socket2::SockRef;

use way::{Lane, Way};

/// The queue in front of the link: the kernel doubles what it is asked for, which makes 2 ms at
/// 1 Gbit/s.
const QUEUE_BYTES: usize = 128 * 1024;

/// What a link is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// There and back, without any load.
    pub round_trip: Duration,
    /// Each way.
    pub bytes_per_s: u64,
}

/// The link; everything it carries breaks off when it is dropped.
#[derive(Debug)]
pub struct Link {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    line: Line,
    upstream: SocketAddr,
    over: AtomicBool,
    /// Towards the upstream address, and back.
    lanes: [Lane; 2],
    carried: Mutex<Vec<Carried>>,
}

/// A connection, to be broken off.
#[derive(Debug)]
struct Carried {
    sockets: [TcpStream; 2],
    ways: [Arc<Way>; 2],
}

impl Line {
    /// A line of this round trip with 1 Gbit/s each way.
    pub fn gigabit(round_trip: Duration) -> Self {
        Self {
            round_trip,
            bytes_per_s: 125_000_000,
        }
    }

    /// Bytes that one round trip has room for.
    pub fn bandwidth_delay_bytes(&self) -> u64 {
        let byte_nanos = u128::from(self.bytes_per_s) * self.round_trip.as_nanos();
        u64::try_from(byte_nanos / Duration::from_secs(1).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Link {
    /// Listens on loopback and carries every connection to `upstream`.
    ///
    /// # Panics
    ///
    /// Where it cannot listen.
    pub fn start(upstream: SocketAddr, line: Line) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        // Connections inherit it.
        SockRef::from(&listener)
            .set_recv_buffer_size(QUEUE_BYTES)
            .expect("a receive buffer");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            line,
            upstream,
            over: AtomicBool::new(false),
            lanes: [Lane::new(line.bytes_per_s), Lane::new(line.bytes_per_s)],
            carried: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if accepting.over.load(Ordering::Acquire) {
                    return;
                }
                // An upstream that does not answer closes the connection, like a dead server.
                let _ = carry(client, &accepting);
            }
        });
        Self { addr, shared }
    }

    /// Where to connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Dials, and lets two pairs of threads carry the connection.
fn carry(client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let server = TcpStream::connect(shared.upstream)?;
    SockRef::from(&server).set_recv_buffer_size(QUEUE_BYTES)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ways = [(); 2].map(|()| Arc::new(Way::new(&shared.line)));
    shared
        .carried
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Carried {
            sockets: [client.try_clone()?, server.try_clone()?],
            ways: ways.clone(),
        });
    let ends = [(client.try_clone()?, server.try_clone()?), (server, client)];
    for (lane, (way, (from, to))) in ways.into_iter().zip(ends).enumerate() {
        let reading = Arc::clone(&way);
        let lanes = Arc::clone(shared);
        thread::spawn(move || reading.read(from, &lanes.lanes[lane]));
        thread::spawn(move || way.write(to));
    }
    Ok(())
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.addr);
        let carried = &self.shared.carried;
        for carried in carried
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            for way in &carried.ways {
                way.end();
            }
            for socket in &carried.sockets {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }
}
