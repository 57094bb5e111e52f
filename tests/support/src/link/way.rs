//! One direction of one connection: a thread that reads at the link's rate, and one that writes
//! what has arrived.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Line;

/// One read: a quarter of a millisecond at 1 Gbit/s.
const PIECE_BYTES_MAX: usize = 32 * 1024;
/// What may be in flight in addition to the bandwidth-delay product: the socket buffers of a short link.
const IN_FLIGHT_BASE_BYTES: u64 = 256 * 1024;
/// A thread that was late makes good what it missed, as far as this: the link did not stop while
/// the machine did something else.
const LATE_MAX: Duration = Duration::from_millis(4);
/// Below it a sleep is not worth its call.
const SLEEP_MIN: Duration = Duration::from_micros(100);

/// The rate of one direction, shared by its connections.
#[derive(Debug)]
pub(super) struct Lane {
    bytes_per_s: u64,
    free_at: Mutex<Instant>,
}

/// What is under way in one direction of one connection.
#[derive(Debug)]
pub(super) struct Way {
    delay: Duration,
    bytes_max: u64,
    flight: Mutex<Flight>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Flight {
    /// When each piece is due at the other end. An empty one is the sender's end.
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: u64,
    over: bool,
}

impl Lane {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s,
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// When the last of these bytes is on its way, after all those before.
    fn pass(&self, bytes: usize) -> Instant {
        let took = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let began = now
            .checked_sub(LATE_MAX)
            .map_or(*free_at, |earliest| (*free_at).max(earliest));
        *free_at = began + took;
        (*free_at).max(now)
    }
}

impl Way {
    pub(super) fn new(line: &Line) -> Self {
        Self {
            delay: line.round_trip / 2,
            bytes_max: IN_FLIGHT_BASE_BYTES + line.bandwidth_delay_bytes(),
            flight: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Reads until the sender ends.
    pub(super) fn read(&self, mut from: TcpStream, lane: &Lane) {
        let mut space = vec![0; PIECE_BYTES_MAX];
        while self.wait_for_room() {
            // A failed connection ends for the other side, too.
            let Ok(read) = from.read(&mut space) else {
                break;
            };
            let leaves_at = lane.pass(read);
            self.depart(leaves_at + self.delay, space[..read].to_vec());
            if read == 0 {
                return;
            }
            sleep_until(leaves_at);
        }
        self.end();
    }

    /// Writes what is due until the sender's end, and that.
    pub(super) fn write(&self, mut to: TcpStream) {
        while let Some((due, piece)) = self.next() {
            sleep_until(due);
            if piece.is_empty() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            if to.write_all(&piece).is_err() {
                break;
            }
            self.flight().bytes -= piece.len() as u64;
            self.changed.notify_all();
        }
        let _ = to.shutdown(Shutdown::Both);
        self.end();
    }

    /// Carries nothing more.
    pub(super) fn end(&self) {
        self.flight().over = true;
        self.changed.notify_all();
    }

    fn depart(&self, due: Instant, piece: Vec<u8>) {
        let mut flight = self.flight();
        flight.bytes += piece.len() as u64;
        flight.pieces.push_back((due, piece));
        drop(flight);
        self.changed.notify_all();
    }

    /// `false`: it is over.
    fn wait_for_room(&self) -> bool {
        let flight = self
            .changed
            .wait_while(self.flight(), |flight| {
                !flight.over && flight.bytes >= self.bytes_max
            })
            .unwrap_or_else(PoisonError::into_inner);
        !flight.over
    }

    fn next(&self) -> Option<(Instant, Vec<u8>)> {
        let mut flight = self
            .changed
            .wait_while(self.flight(), |flight| {
                !flight.over && flight.pieces.is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        if flight.over {
            return None;
        }
        flight.pieces.pop_front()
    }

    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sleep_until(at: Instant) {
    let left = at.saturating_duration_since(Instant::now());
    if left >= SLEEP_MIN {
        sleep(left);
    }
}
