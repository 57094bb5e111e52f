//! NTLM at a proxy, with a user and a password.

use super::pause::Pause;
use crate::secret::Secret;
use proxy_auth::ntlm::{self, Account, Occasion};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::future::Future;
use std::pin::Pin;
use transport::dial::{Begun, Exchange, Mechanism, MechanismError, Scheme};

/// Seconds from 1601, where the clock of NTLM begins, to 1970.
const EPOCH_S: u64 = 11_644_473_600;

/// Units of that clock in a second.
const UNITS_PER_S: u64 = 10_000_000;

/// A user.
#[derive(Debug)]
pub(super) struct Ntlm {
    account: Account,
    pause: Pause,
}

impl Ntlm {
    /// Returns `None` for a user or password that NTLM cannot have.
    pub(super) fn new(user: &str, password: &Secret) -> Option<Self> {
        let account = Account::new(user, password.expose())?;
        Some(Self {
            account,
            pause: Pause::default(),
        })
    }

    fn begun(&self, proxy_host: &str) -> Result<Begun, MechanismError> {
        self.pause.check()?;
        let negotiate = ntlm::negotiate();
        let running = Running {
            account: self.account.clone(),
            negotiate: negotiate.clone(),
            service: format!("HTTP/{proxy_host}"),
            is_answered: false,
        };
        Ok((negotiate, Box::new(running)))
    }
}

impl Mechanism for Ntlm {
    fn scheme(&self) -> Scheme {
        Scheme::Ntlm
    }

    fn begin<'a>(
        &'a self,
        proxy_host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Begun, MechanismError>> + Send + 'a>> {
        Box::pin(std::future::ready(self.begun(proxy_host)))
    }

    fn rejected(&self) {
        self.pause.rejected();
    }

    fn accepted(&self) {
        self.pause.accepted();
    }
}

/// One authentication.
struct Running {
    account: Account,
    negotiate: Vec<u8>,
    service: String,
    is_answered: bool,
}

impl Exchange for Running {
    fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, MechanismError> {
        if std::mem::replace(&mut self.is_answered, true) {
            return Err(MechanismError("it sends a second challenge".into()));
        }
        let mut random = [0; 8];
        let drawn = SystemRandom::new().fill(&mut random);
        drawn.map_err(|_| MechanismError("the system has no random numbers".into()))?;
        let occasion = Occasion {
            service: &self.service,
            random,
            filetime: (runtime::time::now_s() + EPOCH_S).saturating_mul(UNITS_PER_S),
        };
        let message = ntlm::authenticate(&self.negotiate, challenge, &self.account, &occasion);
        message.map_err(|error| MechanismError(error.to_string()))
    }
}
