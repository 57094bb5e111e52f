//! A mechanism for the tests: its first message is `one`, and it answers a challenge with its bytes in reverse.

use super::login::{Begun, Exchange, Login, Mechanism, MechanismError, Scheme, SchemeChoice};
use futures_util::future::{BoxFuture, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// One that works, or that never has a message.
#[derive(Debug)]
pub(super) struct Fake {
    scheme: Scheme,
    is_failing: bool,
    pub(super) rejections: AtomicU32,
}

struct Reverse;

impl Exchange for Reverse {
    fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, MechanismError> {
        match challenge {
            b"bad" => Err(MechanismError("its challenge is not valid".into())),
            other => Ok(other.iter().rev().copied().collect()),
        }
    }
}

impl Mechanism for Fake {
    fn scheme(&self) -> Scheme {
        self.scheme
    }

    fn begin<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Begun, MechanismError>> {
        Box::pin(ready(begin(self)))
    }

    fn rejected(&self) {
        self.rejections.fetch_add(1, Ordering::Relaxed);
    }

    fn accepted(&self) {
        self.rejections.store(0, Ordering::Relaxed);
    }
}

fn begin(fake: &Fake) -> Result<Begun, MechanismError> {
    match fake.is_failing {
        true => Err(MechanismError("no KDC answers".into())),
        false => Ok((b"one".to_vec(), Box::new(Reverse))),
    }
}

pub(super) fn fake(scheme: Scheme, is_failing: bool) -> Arc<Fake> {
    Arc::new(Fake {
        scheme,
        is_failing,
        rejections: AtomicU32::new(0),
    })
}

pub(super) fn login(choice: SchemeChoice, fakes: &[&Arc<Fake>]) -> Login {
    let mechanisms = fakes
        .iter()
        .map(|fake| Arc::clone(*fake) as Arc<dyn Mechanism>);
    Login::new(choice, mechanisms.collect())
}
