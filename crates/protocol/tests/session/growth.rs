//! Windows grow where the path needs it, the reader keeps up, and the process can afford it.

use super::support::{Body, KIB, Link, MILLI, Pair, Users, config, request, response};
use protocol::frame::{Class, Windows};
use protocol::session::{Budget, Config, Side};
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = KIB * KIB;

/// How the relay reads an answer.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    Promptly,
    /// So many bytes a second.
    Slowly(u64),
}

struct Download {
    took: Duration,
    borrowed_at_most: u64,
    pair: Pair,
    id: u32,
}

fn relay_config(budget: &Arc<Budget>, cap: u64) -> Config {
    Config {
        rtt: 100 * MILLI,
        budget: budget.clone(),
        stream_window_cap: cap,
        ..config(Side::Relay, Windows::default())
    }
}

/// Downloads over a link of 100 ms there and back.
fn download(budget: &Arc<Budget>, cap: u64, rate: u64, bytes: u64, reading: Reading) -> Download {
    let before = budget.left();
    let link = Link::new(50 * MILLI, rate);
    let bridge = config(Side::Bridge, Windows::default());
    let mut pair = Pair::configured(link, relay_config(budget, cap), bridge);
    pair.keep_frames = false;
    let id = pair.opened(&request(Class::Bulk));
    pair.bridge
        .send_head(id, &response(200), b"", false)
        .unwrap();
    let (mut relay, mut bridge) = (Users::default(), Users::default());
    bridge.write(id, Body { key: 1, bytes });
    relay.read(id, 1);
    let start = pair.now;
    let mut borrowed_at_most = 0;
    while !relay.are_done() {
        pair.settle();
        relay.wake(pair.take_relay_events());
        bridge.wake(pair.take_bridge_events());
        let may_read = match reading {
            Reading::Promptly => true,
            Reading::Slowly(rate) => {
                let passed = (pair.now - start).as_millis();
                u128::from(relay.readers[&id].got) < passed * u128::from(rate) / 1000
            }
        };
        bridge.act(pair.now, &mut pair.bridge, 0);
        relay.act(pair.now, &mut pair.relay, usize::from(may_read));
        borrowed_at_most = borrowed_at_most.max(before - budget.left());
        pair.settle();
        let waits = relay.readers[&id].waits;
        if waits || !may_read {
            let clock = (!may_read).then_some(pair.now + MILLI);
            pair.now = pair
                .next_move()
                .into_iter()
                .chain(clock)
                .min()
                .expect("a deadlock");
        }
    }
    assert_eq!(relay.readers[&id].got, bytes);
    Download {
        took: pair.now - start,
        borrowed_at_most,
        pair,
        id,
    }
}

#[test]
fn a_window_grows_to_what_the_path_holds() {
    let none = download(
        &Budget::new(0),
        38 * MIB,
        50 * MIB,
        40 * MIB,
        Reading::Promptly,
    );
    // 256 KiB in a round trip of 100 ms is 2.5 MiB a second.
    assert!(none.took > Duration::from_secs(14), "{:?}", none.took);
    assert_eq!(none.borrowed_at_most, 0);
    let grown = download(
        &Budget::new(64 * MIB),
        38 * MIB,
        50 * MIB,
        40 * MIB,
        Reading::Promptly,
    );
    assert!(grown.took < Duration::from_secs(3), "{:?}", grown.took);
    let path = 5 * MIB;
    assert!(grown.borrowed_at_most >= path, "{}", grown.borrowed_at_most);
    assert!(
        grown.borrowed_at_most <= 4 * path,
        "{}",
        grown.borrowed_at_most
    );
}

#[test]
fn a_window_does_not_grow_beyond_its_cap() {
    let budget = Budget::new(64 * MIB);
    let cap = MIB + 17;
    let done = download(&budget, cap, 50 * MIB, 20 * MIB, Reading::Promptly);
    assert_eq!(done.borrowed_at_most, cap - 256 * KIB);
}

#[test]
fn a_window_that_holds_the_path_does_not_grow() {
    let budget = Budget::new(64 * MIB);
    let done = download(&budget, 38 * MIB, MIB, 4 * MIB, Reading::Promptly);
    assert_eq!(done.borrowed_at_most, 0);
}

#[test]
fn a_window_does_not_grow_for_a_reader_that_does_not_keep_up() {
    let budget = Budget::new(64 * MIB);
    let done = download(&budget, 38 * MIB, 50 * MIB, 3 * MIB, Reading::Slowly(MIB));
    assert_eq!(done.borrowed_at_most, 0);
}

#[test]
fn an_exhausted_budget_grows_nothing_and_stops_nothing() {
    let budget = Budget::new(300 * KIB);
    let done = download(&budget, 38 * MIB, 50 * MIB, 10 * MIB, Reading::Promptly);
    assert_eq!(done.borrowed_at_most, 256 * KIB);
}

#[test]
fn what_was_borrowed_goes_back_with_the_stream() {
    let budget = Budget::new(64 * MIB);
    let mut done = download(&budget, 38 * MIB, 50 * MIB, 20 * MIB, Reading::Promptly);
    assert!(budget.left() < 64 * MIB);
    done.pair.release(done.id);
    assert_eq!(budget.left(), 64 * MIB);
    done.pair.assert_quiescent();
    drop(done);
    assert_eq!(budget.left(), 64 * MIB, "given back twice");
}

#[test]
fn what_was_borrowed_goes_back_with_the_session() {
    let budget = Budget::new(64 * MIB);
    let done = download(&budget, 38 * MIB, 50 * MIB, 20 * MIB, Reading::Promptly);
    assert!(budget.left() < 64 * MIB);
    drop(done);
    assert_eq!(budget.left(), 64 * MIB);
}
