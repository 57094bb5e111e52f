//! Windows grow if the path needs it, the reader keeps up, and the budget allows it.

use super::support::{Body, KIB, Link, MILLI, Pair, Users, config, request, response};
use protocol::frame::{Class, Windows};
use protocol::session::{Budget, Config, Side};
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = KIB * KIB;

/// How the relay reads a response.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    Promptly,
    /// At a number of bytes per second.
    Slowly(u64),
    /// All available bytes at intervals: a burst arrives faster than a task is woken.
    Every(Duration),
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

/// Downloads over a link with a round trip of 100 ms.
fn download(budget: &Arc<Budget>, cap: u64, rate: u64, bytes: u64, reading: Reading) -> Download {
    answer(session(budget, cap, rate), budget, bytes, reading)
}

/// A session on such a link.
fn session(budget: &Arc<Budget>, cap: u64, rate: u64) -> Pair {
    let link = Link::new(50 * MILLI, rate);
    let bridge = config(Side::Bridge, Windows::default());
    let mut pair = Pair::configured(link, relay_config(budget, cap), bridge);
    pair.keep_frames = false;
    pair
}

/// One response of a session, from its OPEN.
fn answer(mut pair: Pair, budget: &Arc<Budget>, bytes: u64, reading: Reading) -> Download {
    let before = budget.left();
    let start = pair.now;
    let id = pair.opened(&request(Class::Bulk));
    pair.bridge
        .send_head(id, &response(200), b"", false)
        .unwrap();
    let (mut relay, mut bridge) = (Users::default(), Users::default());
    bridge.write(id, Body { key: 1, bytes });
    relay.read(id, 1);
    let mut borrowed_at_most = 0;
    let mut looks_at = start;
    while !relay.are_done() {
        pair.settle();
        relay.wake(pair.take_relay_events());
        bridge.wake(pair.take_bridge_events());
        let pieces = match reading {
            Reading::Promptly => 1,
            Reading::Slowly(rate) => {
                let passed = (pair.now - start).as_millis();
                usize::from(u128::from(relay.readers[&id].got) < passed * u128::from(rate) / 1000)
            }
            Reading::Every(period) if pair.now >= looks_at => {
                looks_at = pair.now + period;
                usize::MAX
            }
            Reading::Every(_) => 0,
        };
        bridge.act(pair.now, &mut pair.bridge, 0);
        relay.act(pair.now, &mut pair.relay, pieces.min(10_000));
        borrowed_at_most = borrowed_at_most.max(before - budget.left());
        pair.settle();
        let waits = relay.readers[&id].waits;
        if waits || pieces == 0 {
            let clock =
                (pieces == 0 || matches!(reading, Reading::Every(_))).then_some(pair.now + MILLI);
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
fn window_grows_to_the_needs_of_the_path() {
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
fn window_does_not_exceed_its_cap() {
    let budget = Budget::new(64 * MIB);
    let cap = MIB + 17;
    let done = download(&budget, cap, 50 * MIB, 20 * MIB, Reading::Promptly);
    assert_eq!(done.borrowed_at_most, cap - 256 * KIB);
}

#[test]
fn sufficient_window_does_not_grow() {
    let budget = Budget::new(64 * MIB);
    let done = download(&budget, 38 * MIB, MIB, 4 * MIB, Reading::Promptly);
    assert_eq!(done.borrowed_at_most, 0);
}

#[test]
fn window_does_not_grow_for_a_slow_reader() {
    let budget = Budget::new(64 * MIB);
    let done = download(&budget, 38 * MIB, 50 * MIB, 3 * MIB, Reading::Slowly(MIB));
    assert_eq!(done.borrowed_at_most, 0);
}

#[test]
fn exhausted_budget_stops_growth_only() {
    let budget = Budget::new(300 * KIB);
    let done = download(&budget, 38 * MIB, 50 * MIB, 10 * MIB, Reading::Promptly);
    assert_eq!(done.borrowed_at_most, 256 * KIB);
}

#[test]
fn growth_returns_to_the_budget_with_the_stream() {
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
fn growth_returns_to_the_budget_with_the_session() {
    let budget = Budget::new(64 * MIB);
    let done = download(&budget, 38 * MIB, 50 * MIB, 20 * MIB, Reading::Promptly);
    assert!(budget.left() < 64 * MIB);
    drop(done);
    assert_eq!(budget.left(), 64 * MIB);
}

#[test]
fn bursty_reader_keeps_up() {
    let budget = Budget::new(64 * MIB);
    let often = Reading::Every(20 * MILLI);
    let done = download(&budget, 38 * MIB, 50 * MIB, 40 * MIB, often);
    assert!(done.took < Duration::from_secs(3), "{:?}", done.took);
}

#[test]
fn second_transfer_starts_with_the_needed_window() {
    let budget = Budget::new(64 * MIB);
    let mut first = download(&budget, 38 * MIB, 50 * MIB, 40 * MIB, Reading::Promptly);
    first.pair.release(first.id);
    let mut second = answer(first.pair, &budget, 40 * MIB, Reading::Promptly);
    // 0.8 s at the path's rate, and its round trip.
    assert!(
        second.took < Duration::from_millis(950),
        "{:?}",
        second.took
    );
    // The path holds 5 MiB.
    assert!(
        second.borrowed_at_most <= 10 * MIB,
        "{}",
        second.borrowed_at_most
    );
    second.pair.release(second.id);
    assert_eq!(budget.left(), 64 * MIB);
}

#[test]
fn only_one_stream_gets_window_in_advance() {
    let budget = Budget::new(64 * MIB);
    let mut first = download(&budget, 38 * MIB, 50 * MIB, 40 * MIB, Reading::Promptly);
    first.pair.release(first.id);
    let mut pair = first.pair;
    let opened: Vec<u32> = (0..3).map(|_| pair.opened(&request(Class::Bulk))).collect();
    let one = 64 * MIB - budget.left();
    assert!((MIB..=10 * MIB).contains(&one), "{one}");
    for id in opened {
        pair.release(id);
    }
    assert_eq!(budget.left(), 64 * MIB);
}

#[test]
fn advance_keeps_half_of_the_budget() {
    let budget = Budget::new(64 * MIB);
    let mut first = download(&budget, 38 * MIB, 50 * MIB, 40 * MIB, Reading::Promptly);
    first.pair.release(first.id);
    let others = budget.left() - 4 * MIB;
    assert!(budget.try_take(others));
    first.pair.opened(&request(Class::Bulk));
    assert_eq!(budget.left(), 4 * MIB);
}

#[test]
fn slow_reader_resets_the_needed_window() {
    let budget = Budget::new(64 * MIB);
    let mut fast = download(&budget, 38 * MIB, 50 * MIB, 40 * MIB, Reading::Promptly);
    fast.pair.release(fast.id);
    let reading = Reading::Slowly(4 * MIB);
    let mut slow = answer(fast.pair, &budget, 40 * MIB, reading);
    slow.pair.release(slow.id);
    slow.pair.opened(&request(Class::Bulk));
    let lent = 64 * MIB - budget.left();
    assert!(lent <= MIB, "{lent}");
}
