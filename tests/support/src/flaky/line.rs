//! One connection through the proxy: two directions, each a queue of bytes that are on their way.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Conditions, Direction, Ending, Shared};

/// One read.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// What a direction holds without any delay: about what a socket's buffer does.
const HELD_BYTES_BASE: usize = 256 * 1024;
/// What a delay adds: the bytes that are on a wire of 1 Gbit/s for that long.
const HELD_BYTES_PER_MS: usize = 125_000;
/// How long an orderly end goes on swallowing what the peers still send. Closing a socket that has
/// unread bytes sends a reset, which is another ending than the one asked for.
const LINGER: Duration = Duration::from_millis(100);

/// Counts a connection for as long as it is open.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Carries one connection, the `serial`th from 0, to its end.
pub(super) async fn run(client: TcpStream, serial: u64, shared: Arc<Shared>) {
    shared.live.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(Arc::clone(&shared));
    let mut conditions = shared.conditions.subscribe();
    let generation = conditions.borrow().generation;
    let mut ended = shared.conditions.subscribe();
    let mut client = client;
    let mut server = None;

    let ending = tokio::select! {
        biased;
        ending = ended_after(&mut ended, generation) => ending,
        carried = carry_both(&mut client, &mut server, serial, &mut conditions, &shared) => match carried {
            Ok(()) => return,
            Err(_) => Ending::Reset,
        },
    };
    match ending {
        Ending::Close => {
            let _ = tokio::join!(close(&mut client), async {
                if let Some(server) = server.as_mut() {
                    close(server).await;
                }
            });
        }
        Ending::Reset => {
            for socket in [Some(&client), server.as_ref()].into_iter().flatten() {
                let _ = socket.set_zero_linger();
            }
        }
    }
}

/// Waits until connections of this generation are to end. Safe to cancel.
async fn ended_after(conditions: &mut watch::Receiver<Conditions>, generation: u64) -> Ending {
    match conditions.wait_for(|now| now.generation > generation).await {
        Ok(now) => now.ending,
        Err(_) => Ending::Close,
    }
}

/// Dials and moves bytes until both directions have ended or one has failed.
async fn carry_both(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    serial: u64,
    conditions: &mut watch::Receiver<Conditions>,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    let upstream = match conditions
        .wait_for(|now| now.frozen != Some(Direction::Both))
        .await
    {
        Ok(now) => now.upstream,
        Err(_) => return Ok(()),
    };
    let server = server.insert(TcpStream::connect(upstream).await?);
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        Way::new(Direction::Upstream, serial, shared).carry(from_client, to_server),
        Way::new(Direction::Downstream, serial, shared).carry(from_server, to_client),
    )?;
    Ok(())
}

/// One direction of one connection.
struct Way {
    direction: Direction,
    serial: u64,
    shared: Arc<Shared>,
    conditions: watch::Receiver<Conditions>,
    /// When each piece is due at the other end.
    held: VecDeque<(Instant, Bytes)>,
    held_bytes: usize,
    /// When the rate allows the next write.
    free_at: Instant,
    ended: bool,
}

impl Way {
    fn new(direction: Direction, serial: u64, shared: &Arc<Shared>) -> Self {
        Self {
            direction,
            serial,
            shared: Arc::clone(shared),
            conditions: shared.conditions.subscribe(),
            held: VecDeque::new(),
            held_bytes: 0,
            free_at: Instant::now(),
            ended: false,
        }
    }

    async fn carry(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let mut space = vec![0; PIECE_BYTES_MAX];
        loop {
            let (frozen, delay, rate) = {
                let now = self.conditions.borrow_and_update();
                let frozen = self.serial < now.frozen_before
                    || now.frozen.is_some_and(|which| which.covers(self.direction));
                (frozen, now.delay, now.bytes_per_s)
            };
            if self.ended && self.held.is_empty() && !frozen {
                return to.shutdown().await;
            }
            let room = self.held_bytes < held_bytes_max(delay);
            let front = self.front(rate);
            let due = front.as_ref().map_or(self.free_at, |(due, _)| *due);
            let piece = front.map_or(Bytes::new(), |(_, piece)| piece);
            tokio::select! {
                changed = self.conditions.changed() => if changed.is_err() {
                    return Ok(());
                },
                read = from.read(&mut space), if !frozen && !self.ended && room => {
                    self.hold(&space[..read?], delay);
                }
                written = deliver(due, &piece, &mut to), if !frozen && !piece.is_empty() => {
                    self.delivered(written?, rate).await;
                }
            }
        }
    }

    /// The next bytes to write, and when.
    fn front(&self, rate: Option<u64>) -> Option<(Instant, Bytes)> {
        let (due, piece) = self.held.front()?;
        let allowed = self.shared.allowed_bytes(self.direction);
        // At a rate, as much as passes in 10 ms, so that it is a flow and not a series of bursts.
        let smooth = rate.map_or(u64::MAX, |rate| (rate / 100).max(1));
        let len = usize::try_from(allowed.min(smooth)).unwrap_or(usize::MAX);
        Some((
            (*due).max(self.free_at),
            piece.slice(..piece.len().min(len)),
        ))
    }

    fn hold(&mut self, read: &[u8], delay: Duration) {
        if read.is_empty() {
            self.ended = true;
        } else {
            self.held_bytes += read.len();
            self.held
                .push_back((Instant::now() + delay, Bytes::copy_from_slice(read)));
        }
    }

    async fn delivered(&mut self, written: usize, rate: Option<u64>) {
        self.held_bytes -= written;
        if let Some((_, front)) = self.held.front_mut() {
            front.advance(written);
            if front.is_empty() {
                self.held.pop_front();
            }
        }
        if let Some(rate) = rate {
            let took = Duration::from_secs_f64(written as f64 / rate as f64);
            self.free_at = self.free_at.max(Instant::now()) + took;
        }
        if self.shared.delivered(self.direction, written as u64) {
            // Those were the last bytes: the end is on its way to this connection.
            std::future::pending::<()>().await;
        }
    }
}

/// Writes some of `piece` once it is due. Safe to cancel: then nothing was written.
async fn deliver(due: Instant, piece: &[u8], to: &mut WriteHalf<'_>) -> io::Result<usize> {
    if due > Instant::now() {
        sleep_until(due).await;
    }
    match to.write(piece).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

fn held_bytes_max(delay: Duration) -> usize {
    let delay_ms = usize::try_from(delay.as_millis()).unwrap_or(usize::MAX);
    HELD_BYTES_BASE.saturating_add(delay_ms.saturating_mul(HELD_BYTES_PER_MS))
}

/// Ends our direction at once, and takes for a moment what still comes.
async fn close(socket: &mut TcpStream) {
    let _ = socket.shutdown().await;
    let mut rest = [0; 4096];
    let drain = async { while matches!(socket.read(&mut rest).await, Ok(read) if read > 0) {} };
    let _ = timeout(LINGER, drain).await;
}
