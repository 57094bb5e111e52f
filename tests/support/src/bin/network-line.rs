//! A line between two network namespaces that loses and delays packets: `network-line SETTINGS` makes two
//! TUN devices, `line0` and `line1`, in the namespace that it runs in, prints `ready`, and carries packets
//! between them. The caller moves the devices to where they belong; they stay connected to it.
//!
//! SETTINGS is a file with three numbers: packets lost in a thousand, the delay one way in milliseconds, and the
//! largest packet that is carried, in bytes (without it any). It is read again all the time.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use tun_rs::{DeviceBuilder, SyncDevice};

/// Packets in flight, each way; what comes on top is lost, as on any line.
const IN_FLIGHT_MAX: usize = 1000;
/// The largest packet that is carried.
const PACKET_MAX_BYTES: usize = 2048;
/// How often the settings are read.
const READ_EVERY: Duration = Duration::from_millis(20);

/// What the line is like now.
#[derive(Debug, Default)]
struct Settings {
    lost_permille: AtomicU64,
    delay_ms: AtomicU64,
    packet_max: AtomicU64,
}

/// A packet, and when it arrives.
type Packet = (Instant, Vec<u8>);

fn main() -> io::Result<()> {
    let file = std::env::args()
        .nth(1)
        .ok_or_else(|| io::Error::other("usage: network-line SETTINGS"))?;
    let ends = ["line0", "line1"].map(|name| DeviceBuilder::new().name(name).build_sync());
    let [here, there] = ends.map(|end| end.map(Arc::new));
    let (here, there) = (here?, there?);
    let settings = Arc::new(Settings::default());
    for (from, to) in [(here.clone(), there.clone()), (there, here)] {
        let (sender, receiver) = sync_channel(IN_FLIGHT_MAX);
        let settings = Arc::clone(&settings);
        thread::spawn(move || read(&from, &settings, &sender));
        thread::spawn(move || write(&to, &receiver));
    }
    let mut out = io::stdout();
    writeln!(out, "ready")?;
    loop {
        settings.read(Path::new(&file));
        thread::sleep(READ_EVERY);
    }
}

impl Settings {
    fn read(&self, file: &Path) {
        let Ok(text) = std::fs::read_to_string(file) else {
            return;
        };
        let mut numbers = text.split_whitespace().map(str::parse);
        if let (Some(Ok(lost)), Some(Ok(delay))) = (numbers.next(), numbers.next()) {
            self.lost_permille.store(lost, Ordering::Relaxed);
            self.delay_ms.store(delay, Ordering::Relaxed);
            let packet_max = numbers.next().and_then(Result::ok).unwrap_or(u64::MAX);
            self.packet_max.store(packet_max, Ordering::Relaxed);
        }
    }
}

fn read(from: &SyncDevice, settings: &Settings, line: &SyncSender<Packet>) {
    let dice = RandomState::new();
    let mut buffer = [0; PACKET_MAX_BYTES];
    let mut count: u64 = 0;
    // A device is down until it has been moved.
    loop {
        let Ok(length) = from.recv(&mut buffer) else {
            thread::sleep(READ_EVERY);
            continue;
        };
        // Lost without a notice, as by a firewall that drops ICMP.
        if length as u64 > settings.packet_max.load(Ordering::Relaxed) {
            continue;
        }
        count += 1;
        let mut thrown = dice.build_hasher();
        thrown.write_u64(count);
        if thrown.finish() % 1000 < settings.lost_permille.load(Ordering::Relaxed) {
            continue;
        }
        let delay = Duration::from_millis(settings.delay_ms.load(Ordering::Relaxed));
        let _ = line.try_send((Instant::now() + delay, buffer[..length].to_vec()));
    }
}

fn write(to: &SyncDevice, line: &Receiver<Packet>) {
    while let Ok((due, packet)) = line.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let _ = to.send(&packet);
    }
}
