//! The work that is measured: what an exchange costs apart from sockets, in rounds that are all
//! alike. Instructions and allocations of a round are held by `cargo xtask gate`; the time that it
//! takes is measured by `cargo xtask bench micro`. Both go through [`all`].
//!
//! ```text
//! session   a relay's and a bridge's session back to back
//! codec     one frame to bytes and back
//! policy    one decision and its address
//! headers   a header map to the wire and back
//! samples   the heads and bodies of all of them
//! ```
//!
//! Nothing here may depend on time, on random numbers or on addresses: two runs must count the
//! same.

mod codec;
mod headers;
mod policy;
mod samples;
mod session;

/// One kind of work.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// `group/name`, as the baseline and the benchmarks call it.
    pub name: &'static str,
    /// What a round consists of, in the singular.
    pub unit: &'static str,
    /// How many of them.
    pub units: u32,
    /// Rounds that are enough to count it: half a second under valgrind.
    pub rounds: u32,
    start: fn() -> Round,
}

/// Does one round. What it needs was made before the first.
pub type Round = Box<dyn FnMut()>;

impl Work {
    /// Makes what the rounds need.
    pub fn start(&self) -> Round {
        (self.start)()
    }
}

/// Everything that is measured.
pub fn all() -> Vec<Work> {
    [
        session::works(),
        codec::works(),
        policy::works(),
        headers::works(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::all;
    use std::collections::HashSet;

    #[test]
    fn work_does_its_rounds() {
        for work in all() {
            let mut round = work.start();
            for _ in 0..50 {
                round();
            }
        }
    }

    #[test]
    fn work_names_are_unique() {
        let works = all();
        let names: HashSet<_> = works.iter().map(|work| work.name).collect();
        assert_eq!(names.len(), works.len());
        assert!(works.iter().all(|work| work.units > 0 && work.rounds > 0));
    }
}
