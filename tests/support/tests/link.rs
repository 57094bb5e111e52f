//! What a link does to bytes: their time, their rate, their number under way.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use support::link::{Line, Link};

/// A pair of sockets with the link between them.
fn through(line: Line) -> (Link, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let link = Link::start(listener.local_addr().expect("bound"), line);
    let near = TcpStream::connect(link.addr()).expect("the link listens");
    let (far, _) = listener.accept().expect("the link dials");
    (link, near, far)
}

#[test]
fn link_delays_by_half_a_round_trip() {
    let round_trip = Duration::from_millis(60);
    for bytes_per_s in [100_000, 125_000_000] {
        let (_link, mut near, mut far) = through(Line {
            round_trip,
            bytes_per_s,
        });
        let began = Instant::now();
        near.write_all(b"x").expect("write");
        far.read_exact(&mut [0]).expect("read");
        assert!(began.elapsed() >= round_trip / 2, "{:?}", began.elapsed());
        far.write_all(b"y").expect("write");
        near.read_exact(&mut [0]).expect("read");
        assert!(began.elapsed() >= round_trip, "{:?}", began.elapsed());
        assert!(began.elapsed() < 2 * round_trip, "{:?}", began.elapsed());
    }
}

#[test]
fn link_passes_both_directions_at_its_rate() {
    let line = Line {
        round_trip: Duration::from_millis(40),
        bytes_per_s: 20_000_000,
    };
    let (_link, near, far) = through(line);
    let sent: Vec<u8> = (0..10_000_000_u32).map(|at| (at % 251) as u8).collect();
    let began = Instant::now();
    thread::scope(|scope| {
        for (from, to) in [(&near, &far), (&far, &near)] {
            let sent = &sent;
            scope.spawn(move || {
                let mut from = from;
                from.write_all(sent).expect("write");
                from.shutdown(std::net::Shutdown::Write).expect("end");
            });
            scope.spawn(move || {
                let mut to = to;
                let mut came = Vec::new();
                to.read_to_end(&mut came).expect("read");
                assert!(came == *sent, "other bytes came");
            });
        }
    });
    let took = began.elapsed().as_secs_f64();
    assert!(
        (0.5..1.0).contains(&took),
        "{took} s for half a second's bytes"
    );
}

#[test]
fn link_applies_backpressure() {
    let line = Line {
        round_trip: Duration::from_millis(20),
        bytes_per_s: 125_000_000,
    };
    let (_link, mut near, far) = through(line);
    near.set_write_timeout(Some(Duration::from_millis(300)))
        .expect("a timeout");
    let piece = vec![0; 64 * 1024];
    let mut sent = 0_u64;
    while near.write_all(&piece).is_ok() {
        sent += piece.len() as u64;
        assert!(sent < 200_000_000, "nothing holds the sender back");
    }
    assert!(sent >= line.bandwidth_delay_bytes());
    drop(far);
}
