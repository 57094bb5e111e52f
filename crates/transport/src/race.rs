//! Connects to one of several addresses: they are tried in parallel, each a moment after the one before
//! (RFC 8305, "Happy Eyeballs").
//!
//! ```text
//! order: families in turn, silent addresses last
//!        first ----------------------------------x   its SYN is dropped somewhere
//!              | 250 ms, or the first has failed
//!              second -----> connected               the first is dropped, and remembered as silent
//! ```
//!
//! An address that did not respond while another one connected is asked last for some minutes. Without that,
//! each new connection would be late by the same moment.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Time between the beginnings of two attempts (RFC 8305, 5).
pub const STAGGER: Duration = Duration::from_millis(250);

/// The same, where an attempt takes a round trip to a proxy and its own connection. A shorter one would make
/// most attempts through a proxy two.
pub const STAGGER_PROXIED: Duration = Duration::from_secs(1);

/// Attempts at a time. When another one begins, the oldest is given up.
const RUNNING_MAX: usize = 16;

/// An address is not silent before this time.
const SILENT_AFTER_MIN: Duration = Duration::from_millis(200);

/// How long a silent address is asked last.
const SILENT_FOR: Duration = Duration::from_secs(10 * 60);

/// Silent addresses that are remembered. Above this many, the oldest is forgotten.
const SILENT_MAX: usize = 256;

static SILENT: SilentAddresses = SilentAddresses::new();

/// Why no address was connected to.
#[derive(Debug)]
pub struct Lost<E> {
    /// The attempts that failed, in the order of their failures.
    pub failed: Vec<(SocketAddr, E)>,
    /// The addresses that did not respond in time.
    pub silent: Vec<SocketAddr>,
}

/// An attempt that has not ended.
struct Attempt<A, F> {
    of: A,
    address: SocketAddr,
    since: Instant,
    connecting: Pin<Box<F>>,
}

/// Connects to the first of `all` that accepts, within `limit` for all of them together. Cancel safe: dropping
/// the future drops every attempt.
///
/// # Errors
/// [`Lost`]: how each of them failed.
pub async fn race<A, T, E, F>(
    all: Vec<A>,
    address_of: impl Fn(&A) -> SocketAddr,
    (stagger, limit): (Duration, Duration),
    connect: impl Fn(&A) -> F,
) -> Result<(A, T), Lost<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    // With little time or many addresses, the last one gets its turn, too.
    let stagger = stagger.min(limit / count.saturating_add(1).max(1));
    let mut waiting = VecDeque::from(in_order(all, &address_of, &SILENT));
    let mut running: VecDeque<Attempt<A, F>> = VecDeque::new();
    let mut lost = Lost {
        failed: Vec::new(),
        silent: Vec::new(),
    };
    let deadline = Instant::now() + limit;
    let mut alarm = pin!(sleep_until(deadline));
    // Each turn begins the next attempt: at first, when the alarm fires, and when another one has failed.
    loop {
        if let Some(of) = waiting.pop_front() {
            if running.len() >= RUNNING_MAX
                && let Some(oldest) = running.pop_front()
            {
                lost.silent.push(oldest.address);
            }
            running.push_back(Attempt {
                address: address_of(&of),
                since: Instant::now(),
                connecting: Box::pin(connect(&of)),
                of,
            });
            let next = match waiting.is_empty() {
                true => deadline,
                false => (Instant::now() + stagger).min(deadline),
            };
            alarm.as_mut().reset(next);
        }
        if running.is_empty() {
            return Err(lost);
        }
        let ended = poll_fn(|cx| {
            for (index, attempt) in running.iter_mut().enumerate() {
                if let Poll::Ready(result) = attempt.connecting.as_mut().poll(cx) {
                    return Poll::Ready(Some((index, result)));
                }
            }
            alarm.as_mut().poll(cx).map(|()| None)
        });
        match ended.await {
            Some((index, result)) => {
                let Some(Attempt { of, address, .. }) = running.remove(index) else {
                    continue;
                };
                match result {
                    Ok(connected) => {
                        // A short stagger is no sign of silence: the way may be long.
                        let time = stagger.max(SILENT_AFTER_MIN);
                        let is_late = |other: &&Attempt<A, F>| other.since.elapsed() >= time;
                        let late = running.iter().filter(is_late).map(|other| other.address);
                        SILENT.note(lost.silent.into_iter().chain(late), address);
                        return Ok((of, connected));
                    }
                    Err(error) => lost.failed.push((address, error)),
                }
            }
            None if Instant::now() >= deadline => {
                // Not remembered: where none responds, no order is better than the resolver's.
                lost.silent
                    .extend(running.iter().map(|attempt| attempt.address));
                return Err(lost);
            }
            None => {}
        }
    }
}

/// Asks an address last for a while, because a proxy reported that it does not reach it.
pub fn ask_last(address: SocketAddr) {
    SILENT.add(address);
}

/// Returns the addresses with their families in turn, and otherwise in their order; silent ones last.
fn in_order<A>(
    all: Vec<A>,
    address_of: &impl Fn(&A) -> SocketAddr,
    silent: &SilentAddresses,
) -> Vec<A> {
    if all.len() < 2 {
        return all;
    }
    let first_is_ipv6 = all.first().is_some_and(|first| address_of(first).is_ipv6());
    let (first, second): (Vec<A>, Vec<A>) = all
        .into_iter()
        .partition(|one| address_of(one).is_ipv6() == first_is_ipv6);
    let mut in_turn = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let (one, other) = (first.next(), second.next());
        if one.is_none() && other.is_none() {
            break;
        }
        in_turn.extend(one.into_iter().chain(other));
    }
    let known = silent.now();
    let (last, mut ordered): (Vec<A>, Vec<A>) = in_turn
        .into_iter()
        .partition(|one| known.contains(&address_of(one)));
    ordered.extend(last);
    ordered
}

/// Addresses that did not respond a moment ago, the oldest first.
struct SilentAddresses(Mutex<VecDeque<(SocketAddr, Instant)>>);

impl SilentAddresses {
    const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(SocketAddr, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns those that are still remembered.
    fn now(&self) -> Vec<SocketAddr> {
        let mut all = self.lock();
        all.retain(|(_, since)| since.elapsed() < SILENT_FOR);
        all.iter().map(|(address, _)| *address).collect()
    }

    /// Remembers the silent ones, and forgets the one that responded.
    fn note(&self, silent: impl Iterator<Item = SocketAddr>, responded: SocketAddr) {
        let silent: Vec<SocketAddr> = silent.collect();
        let mut all = self.lock();
        // The usual case: nothing to do for a connection to a healthy address.
        if silent.is_empty() && all.is_empty() {
            return;
        }
        all.retain(|(known, _)| *known != responded);
        drop(all);
        for address in silent {
            self.add(address);
        }
    }

    fn add(&self, address: SocketAddr) {
        let mut all = self.lock();
        all.retain(|(known, _)| *known != address);
        all.push_back((address, Instant::now()));
        let above = all.len().saturating_sub(SILENT_MAX);
        all.drain(..above);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Each port has a behaviour: 1 is silent, 2 refuses, others accept after 10 ms.
    async fn fake(address: SocketAddr) -> Result<u16, &'static str> {
        match address.port() {
            1 => pending().await,
            2 => Err("refused"),
            port => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(port)
            }
        }
    }

    async fn raced(texts: &[&str], limit: Duration) -> (Result<u16, Lost<&'static str>>, Duration) {
        let began = Instant::now();
        let racing = race(
            addresses(texts),
            |one| *one,
            (STAGGER, limit),
            |one| fake(*one),
        );
        let result = racing.await.map(|(_, port)| port);
        (result, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn silent_address_costs_a_moment_once() {
        let limit = Duration::from_secs(5);
        let all = ["192.0.2.1:1", "192.0.2.2:9"];
        let (result, took) = raced(&all, limit).await;
        assert_eq!(result.unwrap(), 9);
        assert!(took >= STAGGER && took < STAGGER * 2, "{took:?}");
        let (result, took) = raced(&all, limit).await;
        assert_eq!(result.unwrap(), 9);
        assert!(took < STAGGER, "{took:?}");
        tokio::time::advance(SILENT_FOR).await;
        let (_, took) = raced(&all, limit).await;
        assert!(took >= STAGGER, "it is asked first again: {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_starts_the_next_attempt_at_once() {
        let all = ["192.0.2.3:2", "192.0.2.3:2", "192.0.2.4:9"];
        let (result, took) = raced(&all, Duration::from_secs(5)).await;
        assert_eq!(result.unwrap(), 9);
        assert!(took < Duration::from_millis(50), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn short_limit_leaves_time_for_the_last_address() {
        let all = ["192.0.2.5:1", "192.0.2.6:1", "192.0.2.7:1", "192.0.2.8:9"];
        let limit = Duration::from_millis(500);
        let (result, took) = raced(&all, limit).await;
        assert_eq!(result.unwrap(), 9);
        assert!(took < limit, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn lost_race_names_every_address() {
        let all = ["192.0.2.9:1", "192.0.2.9:2"];
        let limit = Duration::from_secs(2);
        let (result, took) = raced(&all, limit).await;
        let lost = result.unwrap_err();
        assert_eq!(lost.failed, [("192.0.2.9:2".parse().unwrap(), "refused")]);
        assert_eq!(lost.silent, addresses(&["192.0.2.9:1"]));
        assert_eq!(took, limit);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_at_a_time_are_bounded() {
        let mut all: Vec<SocketAddr> = (0..40)
            .map(|number| SocketAddr::from(([198, 51, 100, number], 1)))
            .collect();
        all.push("198.51.100.99:9".parse().unwrap());
        let (running, most) = (Mutex::new(0), Mutex::new(0));
        struct Guard<'a>(&'a Mutex<usize>);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                *self.0.lock().unwrap() -= 1;
            }
        }
        let connect = |address: &SocketAddr| {
            let (address, running, most) = (*address, &running, &most);
            async move {
                let now = {
                    let mut running = running.lock().unwrap();
                    *running += 1;
                    *running
                };
                let _guard = Guard(running);
                {
                    let mut most = most.lock().unwrap();
                    *most = now.max(*most);
                }
                fake(address).await
            }
        };
        let limit = Duration::from_secs(5);
        let raced = race(all, |one| *one, (STAGGER, limit), connect).await;
        assert_eq!(raced.unwrap().1, 9);
        assert_eq!(*most.lock().unwrap(), RUNNING_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn families_are_tried_in_turn() {
        let silent = SilentAddresses::new();
        let all = addresses(&[
            "[2001:db8::1]:9",
            "[2001:db8::2]:9",
            "[2001:db8::3]:9",
            "192.0.2.1:9",
            "192.0.2.2:9",
        ]);
        let order = |all: &[SocketAddr], silent: &SilentAddresses| {
            in_order(all.to_vec(), &|one: &SocketAddr| *one, silent)
        };
        let expected = [all[0], all[3], all[1], all[4], all[2]];
        assert_eq!(order(&all, &silent), expected);
        silent.note([all[0], all[3]].into_iter(), all[4]);
        assert_eq!(
            order(&all, &silent),
            [all[1], all[4], all[2], all[0], all[3]]
        );
        // One that responds is as good as any other again.
        silent.note(std::iter::empty(), all[0]);
        assert_eq!(order(&all, &silent)[0], all[0]);
    }

    #[test]
    fn silent_addresses_are_bounded() {
        let silent = SilentAddresses::new();
        let responded = "192.0.2.1:9".parse().unwrap();
        for port in 1..=1000 {
            silent.note(
                [SocketAddr::from(([192, 0, 2, 2], port))].into_iter(),
                responded,
            );
        }
        assert_eq!(silent.now().len(), SILENT_MAX);
    }
}
