//! How this program authenticates at a proxy.
//!
//! Basic is known here. Other schemes are [`Mechanism`]s: the program that has their users and keys makes them, so
//! that one without them has no code of theirs.

use super::offers::Offers;
use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An authentication scheme (RFC 9110, 11.1). The order is that of their strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// User and password in clear text (RFC 7617).
    Basic,
    /// The proof of a password ([MS-NTHT]).
    Ntlm,
    /// A ticket of Kerberos (RFC 4559).
    Negotiate,
}

impl Scheme {
    /// All schemes, the strongest first.
    pub(super) const ALL: [Self; 3] = [Self::Negotiate, Self::Ntlm, Self::Basic];

    /// Returns its registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Basic => "Basic",
            Self::Ntlm => "NTLM",
            Self::Negotiate => "Negotiate",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which schemes may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SchemeChoice {
    /// The strongest that the proxy offers and that there is a login for.
    #[default]
    Auto,
    /// This one alone.
    Only(Scheme),
}

impl SchemeChoice {
    pub(super) fn allows(self, scheme: Scheme) -> bool {
        match self {
            Self::Auto => true,
            Self::Only(only) => only == scheme,
        }
    }
}

/// Why a mechanism has no message. The text is for the administrator, and has no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MechanismError(pub String);

/// The first message of an authentication, and what answers the proxy's challenges to it.
pub type Begun = (Vec<u8>, Box<dyn Exchange>);

/// A scheme other than Basic, with the user that it authenticates.
pub trait Mechanism: fmt::Debug + Send + Sync {
    /// Returns the scheme.
    fn scheme(&self) -> Scheme;

    /// Begins an authentication at a proxy. May ask a server for a ticket, within a time limit of its own.
    fn begin<'a>(&'a self, proxy_host: &'a str) -> BoxFuture<'a, Result<Begun, MechanismError>>;

    /// Is called when the proxy rejected a message: what was kept for the next ones may be outdated.
    fn rejected(&self);

    /// Is called when the proxy accepted the user.
    fn accepted(&self);
}

/// A running authentication. It belongs to one connection.
pub trait Exchange: Send {
    /// Returns the message that answers a challenge.
    ///
    /// # Errors
    /// [`MechanismError`] when the challenge is not valid, or is one too many.
    fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, MechanismError>;
}

/// The logins at a proxy, and what is known of the proxy from earlier connections.
#[derive(Debug, Default)]
pub(super) struct Login {
    pub(super) choice: SchemeChoice,
    pub(super) mechanisms: Vec<Arc<dyn Mechanism>>,
    seen: Mutex<Seen>,
}

/// What a proxy offered, and what it accepted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The names of the schemes of its last 407.
    pub offered: Vec<String>,
    /// The scheme that it accepted last.
    pub used: Option<Scheme>,
}

impl Login {
    pub(super) fn new(choice: SchemeChoice, mechanisms: Vec<Arc<dyn Mechanism>>) -> Self {
        Self {
            choice,
            mechanisms,
            seen: Mutex::default(),
        }
    }

    /// Returns the mechanism for a scheme, if it may be used.
    pub(super) fn mechanism(&self, scheme: Scheme) -> Option<&Arc<dyn Mechanism>> {
        let mut all = self.mechanisms.iter();
        all.find(|one| one.scheme() == scheme && self.choice.allows(scheme))
    }

    pub(super) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    pub(super) fn note_offered(&self, offers: &Offers) {
        self.lock().offered = offers.names();
    }

    pub(super) fn note_used(&self, scheme: Scheme) {
        if let Some(mechanism) = self.mechanism(scheme) {
            mechanism.accepted();
        }
        self.lock().used = Some(scheme);
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was seen of the proxy does not count.
impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.mechanisms.iter().zip(&other.mechanisms);
        self.choice == other.choice
            && self.mechanisms.len() == other.mechanisms.len()
            && pairs
                .into_iter()
                .all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

impl Eq for Login {}
