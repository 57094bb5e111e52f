//! The authentication on one connection to a proxy: what is sent first, and what follows from each 407. No I/O.
//!
//! ```text
//!            first()                       rejected(offers)
//! Open ------------------> no field   ---> choose: Negotiate, then NTLM, then Basic
//!   |   scheme is known --> Exchange  ---> a challenge: answer it, at most ROUNDS_MAX times; none: rejected
//!   '-- Basic is known ---> Basic     ---> rejected
//! ```
//!
//! Against a downgrade: an attacker between this machine and the proxy can change the offers, and can thereby make a
//! client send its password with Basic. So Basic is never used where a stronger scheme failed on the same connection,
//! nor after a stronger scheme has succeeded, nor where the config chooses another scheme.

use super::login::{Exchange, Login, Mechanism, MechanismError, Scheme};
use super::offers::Offers;
use crate::failure::{Cause, Diagnosis};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runtime::secret::Secret;
use std::sync::Arc;

/// Challenges of one authentication. NTLM has one, and Kerberos none.
const ROUNDS_MAX: u32 = 4;

/// What to do next.
pub(super) enum Next {
    /// Send the request, with this value of `Proxy-Authorization`.
    Send(Option<Secret>),
    /// Begin with this mechanism, and pass its message to [`Handshake::begun`].
    Begin(Arc<dyn Mechanism>),
    /// There is no login.
    Fail(Diagnosis),
}

/// The state of one connection.
pub(super) struct Handshake<'a> {
    login: &'a Login,
    basic: Option<&'a Secret>,
    is_login_of_variable: bool,
    state: State,
    /// Schemes whose first message could not be made.
    failed: Vec<(Scheme, MechanismError)>,
    /// The offers of the last 407.
    offers: Offers,
}

/// What was sent last.
enum State {
    /// No proof.
    Open,
    /// User and password.
    Basic,
    /// A message of a mechanism.
    Exchange {
        mechanism: Arc<dyn Mechanism>,
        exchange: Box<dyn Exchange>,
        rounds: u32,
    },
}

impl<'a> Handshake<'a> {
    pub(super) fn new(
        login: &'a Login,
        basic: Option<&'a Secret>,
        is_login_of_variable: bool,
    ) -> Self {
        Self {
            login,
            // A choice of another scheme is also one against sending the password.
            basic: basic.filter(|_| login.choice.allows(Scheme::Basic)),
            is_login_of_variable,
            state: State::Open,
            failed: Vec::new(),
            offers: Offers::default(),
        }
    }

    /// Returns what the first request carries: nothing, unless the scheme is known. A proxy that wants a login says so,
    /// and a password is not sent to one that may accept a proof.
    pub(super) fn first(&mut self) -> Next {
        let known = self.login.seen().used;
        match known.map(|scheme| (scheme, self.login.mechanism(scheme))) {
            Some((_, Some(mechanism))) => Next::Begin(Arc::clone(mechanism)),
            Some((Scheme::Basic, None)) => self.send_basic(),
            // Without another scheme, the first 407 would only cost a round trip.
            None if self.login.mechanisms.is_empty() => self.send_basic(),
            Some((Scheme::Ntlm | Scheme::Negotiate, None)) | None => Next::Send(None),
        }
    }

    /// Takes the first message of the mechanism that [`Next::Begin`] named.
    pub(super) fn begun(
        &mut self,
        mechanism: Arc<dyn Mechanism>,
        begun: Result<(Vec<u8>, Box<dyn Exchange>), MechanismError>,
    ) -> Next {
        let scheme = mechanism.scheme();
        match begun {
            Ok((message, exchange)) => {
                self.state = State::Exchange {
                    mechanism,
                    exchange,
                    rounds: 0,
                };
                Next::Send(Some(value(scheme, &message)))
            }
            Err(error) => {
                tracing::warn!(%scheme, %error, "no message for the proxy could be made");
                self.failed.push((scheme, error));
                match self.offers.is_empty() {
                    // Before the first 407: the proxy may offer another scheme.
                    true => Next::Send(None),
                    false => self.choose(),
                }
            }
        }
    }

    /// Takes the offers of a 407.
    pub(super) fn rejected(&mut self, offers: Offers) -> Next {
        self.login.note_offered(&offers);
        self.offers = offers;
        match std::mem::replace(&mut self.state, State::Open) {
            State::Open => self.choose(),
            State::Basic => match self.strongest() {
                // The proxy no longer accepts Basic, or wants more for this host.
                Some(scheme) if scheme > Scheme::Basic => self.choose(),
                Some(_) | None => Next::Fail(self.login_rejected()),
            },
            State::Exchange {
                mechanism,
                mut exchange,
                rounds,
            } => {
                let scheme = mechanism.scheme();
                let Some(challenge) = self.offers.challenge(scheme) else {
                    mechanism.rejected();
                    return Next::Fail(self.login_rejected());
                };
                let answer = match rounds < ROUNDS_MAX {
                    true => exchange.answer(challenge),
                    false => Err(MechanismError(format!(
                        "it asks for more than {ROUNDS_MAX} messages"
                    ))),
                };
                match answer {
                    Ok(message) => {
                        self.state = State::Exchange {
                            mechanism,
                            exchange,
                            rounds: rounds + 1,
                        };
                        Next::Send(Some(value(scheme, &message)))
                    }
                    Err(error) => {
                        mechanism.rejected();
                        Next::Fail(failed(scheme, &error))
                    }
                }
            }
        }
    }

    /// Notes that the proxy passed the request on.
    pub(super) fn accepted(&self) {
        if let Some(scheme) = self.scheme() {
            self.login.note_used(scheme);
        }
    }

    /// Whether what was sent last is bound to the connection, so that it cannot be continued on another one.
    pub(super) fn is_bound(&self) -> bool {
        match &self.state {
            State::Open | State::Basic => false,
            State::Exchange { rounds, .. } => *rounds > 0,
        }
    }

    /// Whether what was sent last is the whole proof, so that the proxy has nothing to ask.
    pub(super) fn is_complete(&self) -> bool {
        match &self.state {
            State::Open => !self.has_mechanisms(),
            State::Basic => true,
            State::Exchange {
                mechanism, rounds, ..
            } => *rounds > 0 || mechanism.scheme() == Scheme::Negotiate,
        }
    }

    /// Returns the scheme of what was sent last.
    pub(super) fn scheme(&self) -> Option<Scheme> {
        match &self.state {
            State::Open => None,
            State::Basic => Some(Scheme::Basic),
            State::Exchange { mechanism, .. } => Some(mechanism.scheme()),
        }
    }

    /// Whether more than one scheme is known here: then the connection should stay open for the next request.
    pub(super) fn has_mechanisms(&self) -> bool {
        !self.login.mechanisms.is_empty()
    }

    fn send_basic(&mut self) -> Next {
        if self.basic.is_some() {
            self.state = State::Basic;
        }
        Next::Send(self.basic.cloned())
    }

    /// Returns the strongest scheme that the proxy offers, and that was not tried in vain.
    fn strongest(&self) -> Option<Scheme> {
        Scheme::ALL.into_iter().find(|scheme| {
            let is_possible = match scheme {
                Scheme::Basic => self.basic.is_some(),
                Scheme::Ntlm | Scheme::Negotiate => self.login.mechanism(*scheme).is_some(),
            };
            let has_failed = self.failed.iter().any(|(failed, _)| failed == scheme);
            is_possible && !has_failed && self.offers.has(*scheme)
        })
    }

    fn choose(&mut self) -> Next {
        let used = self.login.seen().used;
        match self.strongest() {
            Some(Scheme::Basic) => {
                if let Some((scheme, error)) = self.failed.first() {
                    return Next::Fail(failed(*scheme, error));
                }
                if used.is_some_and(|used| used > Scheme::Basic) {
                    return Next::Fail(Cause::ProxyLoginDowngrade.into());
                }
                self.send_basic()
            }
            Some(scheme) => match self.login.mechanism(scheme) {
                Some(mechanism) => Next::Begin(Arc::clone(mechanism)),
                None => Next::Fail(self.no_scheme()),
            },
            None => match self.failed.first() {
                Some((scheme, error)) => Next::Fail(failed(*scheme, error)),
                None => Next::Fail(self.no_scheme()),
            },
        }
    }

    fn login_rejected(&self) -> Diagnosis {
        match self.is_login_of_variable {
            true => Cause::ProxyVariableLoginRejected.into(),
            false => Cause::ProxyLoginRejected.into(),
        }
    }

    /// Returns why no scheme can be used.
    fn no_scheme(&self) -> Diagnosis {
        let has_login = self.basic.is_some() || self.has_mechanisms();
        let knows_offer = Scheme::ALL
            .into_iter()
            .any(|scheme| self.offers.has(scheme));
        match has_login || !(knows_offer || self.offers.is_empty()) {
            // Some proxies send a 407 without any offer, to a login that they reject.
            true if self.offers.is_empty() => self.login_rejected(),
            true => self.with_offers(Cause::ProxyLoginScheme),
            false if self.offers.is_empty() => Cause::ProxyLoginMissing.into(),
            false => self.with_offers(Cause::ProxyLoginMissing),
        }
    }

    fn with_offers(&self, cause: Cause) -> Diagnosis {
        Diagnosis::new(
            cause,
            format!("it offers {}", self.offers.names().join(", ")),
        )
    }
}

fn failed(scheme: Scheme, error: &MechanismError) -> Diagnosis {
    Diagnosis::new(Cause::ProxyLoginFailed, format!("{scheme}: {error}"))
}

/// Returns the value of `Proxy-Authorization` for a message.
fn value(scheme: Scheme, message: &[u8]) -> Secret {
    Secret::owned(format!("{scheme} {}", STANDARD.encode(message)))
}

#[cfg(test)]
mod tests;
