//! Whole sessions from one seed: users of both sides act at random within their contract, and all
//! invariants are checked after each step.
//!
//! `SIMULATION_SEED=n` runs that scenario alone, `SIMULATION_ROUNDS=n` runs n of them.

mod exchange;

use super::support::{KIB, Link, MILLI, Pair, config, windows};
use exchange::{Exchange, Rng};
use protocol::frame::GoAwayReason;
use protocol::session::{Budget, Config, Event, Side};
use std::sync::Arc;
use std::time::Duration;

const ROUNDS: u64 = 400;
const STEPS: u64 = 250;
const BUDGET: u64 = 1 << 20;

struct Simulation {
    rng: Rng,
    pair: Pair,
    budget: Arc<Budget>,
    exchanges: Vec<Exchange>,
    streams_max: u32,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let budget = Budget::new(BUDGET);
        let streams_max = rng.of(&[1, 3, 20, 60]);
        let stream_kib = rng.of(&[16, 17, 64, 256]);
        let session = rng.of(&[0, 1, 10_000, 100 * KIB, 4 * KIB * KIB]);
        let both = windows(streams_max, stream_kib, session);
        let link = Link {
            latency: u32::try_from(rng.of(&[0, 1, 20, 150])).unwrap() * MILLI,
            bytes_per_second: rng.of(&[None, Some(300_000), Some(20_000_000)]),
        };
        let make = |side| Config {
            rtt: 2 * link.latency,
            budget: budget.clone(),
            ..config(side, both)
        };
        let mut pair = Pair::configured(link, make(Side::Relay), make(Side::Bridge));
        pair.keep_frames = false;
        Self {
            rng,
            pair,
            budget,
            exchanges: Vec::new(),
            streams_max,
        }
    }

    /// Passes events to the exchanges that they concern.
    fn wake(&mut self) {
        for event in self.pair.take_relay_events() {
            for exchange in &mut self.exchanges {
                exchange.wake_relay(&event);
            }
        }
        for event in self.pair.take_bridge_events() {
            if let Event::Opened { id, head } = &event {
                let index: usize = head.credential.as_ref().unwrap().parse().unwrap();
                self.exchanges[index].arrived(*id);
            }
            for exchange in &mut self.exchanges {
                exchange.wake_bridge(&event);
            }
        }
    }

    fn settle(&mut self) {
        self.pair.settle();
        self.wake();
    }

    fn check(&mut self) {
        assert!(self.pair.relay.streams_live() <= self.streams_max);
        assert!(self.pair.bridge.streams_live() <= self.streams_max);
        for exchange in &mut self.exchanges {
            exchange.check(&self.pair.relay);
        }
    }

    fn pass_time(&mut self) {
        let step = u32::try_from(self.rng.below(40)).unwrap() * MILLI;
        if self.rng.one_in(2) {
            if let Some(at) = self.pair.next_move() {
                self.pair.now = at;
            }
        } else {
            self.pair.advance(step).unwrap();
        }
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..15 => {
                let index = self.exchanges.len();
                let opened = Exchange::open(index, &mut self.rng, &mut self.pair.relay);
                self.exchanges.extend(opened);
            }
            15..50 => self.pass_time(),
            50 if self.rng.one_in(20) => {
                self.pair
                    .bridge
                    .drain(GoAwayReason::Draining, Duration::ZERO);
            }
            51 if self.rng.one_in(20) => {
                self.pair.relay.drain(GoAwayReason::Renew, Duration::ZERO);
            }
            _ => {
                if !self.exchanges.is_empty() {
                    let index = self.rng.below(self.exchanges.len() as u64);
                    let index = usize::try_from(index).unwrap();
                    self.exchanges[index].act(&mut self.rng, &mut self.pair);
                }
            }
        }
        if self.rng.one_in(3) {
            self.settle();
        }
        self.check();
    }

    /// All users finish their work, driven by events only.
    fn complete(&mut self) {
        loop {
            self.settle();
            let (now, pair) = (self.pair.now, &mut self.pair);
            for exchange in &mut self.exchanges {
                exchange.go_on(now, pair);
            }
            let moved = self.pair.settle();
            self.wake();
            self.check();
            if moved || self.exchanges.iter().any(Exchange::is_busy) {
                continue;
            }
            match self.pair.next_move() {
                Some(at) => self.pair.now = at,
                None => break,
            }
        }
        for exchange in &self.exchanges {
            assert!(exchange.is_over(), "nothing moves any more: {exchange:#?}");
        }
    }

    fn finish(&mut self, lose: bool) {
        if lose {
            self.pair.lose();
            self.wake();
            self.check();
            for exchange in &mut self.exchanges {
                exchange.survive(self.pair.now, &mut self.pair.relay);
            }
        } else {
            self.complete();
        }
        for exchange in &mut self.exchanges {
            exchange.let_go(&mut self.pair);
        }
        self.pair.run();
        self.pair.assert_quiescent();
        assert_eq!(
            self.pair.relay.streams_live() + self.pair.bridge.streams_live(),
            0
        );
        assert_eq!(self.budget.left(), BUDGET, "borrowed and not given back");
    }
}

/// Names the scenario that failed.
struct Seed(u64);

impl Drop for Seed {
    #[expect(clippy::print_stderr, reason = "how to run a failed scenario again")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again with SIMULATION_SEED={}", self.0);
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn random_sessions_end_every_exchange_once() {
    let seeds = match variable("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("SIMULATION_ROUNDS").unwrap_or(ROUNDS),
    };
    for seed in seeds {
        let _told = Seed(seed);
        let mut simulation = Simulation::new(seed);
        for _ in 0..STEPS {
            simulation.step();
        }
        let lose = simulation.rng.one_in(3);
        simulation.finish(lose);
    }
}
