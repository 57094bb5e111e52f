//! Credentials: named secrets that stay on this machine. The relay knows only their names.
//!
//! ```text
//! credential set  --> store: sealed in credentials.json, under a key file
//! a request       --> policy --> which credential? --> may it go to this origin? --> inject --> target
//! the response    <-- fields that reveal the secret, in any form, are removed <-----------------'
//! ```
//!
//! An endpoint names its credential in the config. A call to a URL may name one. In either case the credential
//! itself lists the origins that it may be sent to, so that neither the relay nor a mistake in the config can
//! send it elsewhere.

pub(crate) mod alm;
mod inject;
mod origin;
mod own_key;
pub(crate) mod store;

pub(crate) use inject::{Cleaner, Injection};
pub(crate) use origin::Origin;
pub(crate) use store::{OWN_KEY_FILE, Store, StoreError};

use crate::config::{Config, FilePath};
use crate::redact::Forms;
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;
use http_client::ClientCert;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Credentials in one store.
pub(crate) const CREDENTIALS_MAX: usize = 256;

/// Origins of one credential.
pub(crate) const ORIGINS_MAX: usize = 64;

/// Shortest form of a secret that a response field must not have, in bytes. Shorter ones would match in any field.
const FORM_MIN_BYTES: usize = 6;

/// Shortest part of a header field's value that counts as a secret of its own, in bytes: a shorter one may be an
/// ordinary word.
const PART_MIN_BYTES: usize = 8;

/// The kind of a credential, with its secret.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// `Authorization: Bearer` (RFC 6750).
    Bearer {
        /// The token.
        token: Secret,
    },
    /// A header field of its own.
    Header {
        /// Its name.
        name: HeaderName,
        /// Its value.
        value: Secret,
    },
    /// A client certificate in TLS.
    Certificate(Arc<ClientCert>),
    /// The sign-in of ALM: cookies and XSRF token, kept here and renewed when they expire.
    Alm {
        /// The login.
        login: alm::Login,
        /// The open sessions, shared by all requests.
        sessions: Arc<alm::Sessions>,
    },
}

impl Kind {
    /// Returns its name on the command line and in the file.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Basic { .. } => "basic",
            Self::Bearer { .. } => "bearer",
            Self::Header { .. } => "header",
            Self::Certificate(_) => "certificate",
            Self::Alm { .. } => "alm",
        }
    }

    /// Returns its secrets, for redaction.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        match self {
            Self::Basic { user, password } => with_pair(user, password),
            Self::Alm { login, .. } => with_pair(login.name(), login.secret()),
            Self::Bearer { token } => vec![token.clone()],
            Self::Header { value, .. } => with_parts(value),
            Self::Certificate(certificate) => vec![Secret::new(certificate.key_pem())],
        }
    }

    /// Returns the user, for people.
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Self::Basic { user, .. } => Some(user),
            Self::Alm { login, .. } => Some(login.name()),
            Self::Bearer { .. } | Self::Header { .. } | Self::Certificate(_) => None,
        }
    }
}

/// Returns a secret, and the pair with its user as `Authorization: Basic` has it.
fn with_pair(user: &str, secret: &Secret) -> Vec<Secret> {
    let pair = Secret::new(&format!("{user}:{}", secret.expose()));
    vec![secret.clone(), pair]
}

/// Returns the value of a header field, and the part after its scheme (RFC 9110, 11.4), such as that of `Token abc`: a
/// target may repeat that part alone. Of `Basic`, the password is one more.
fn with_parts(value: &Secret) -> Vec<Secret> {
    let mut all = vec![value.clone()];
    let Some((scheme, part)) = value.expose().trim().split_once([' ', '\t']) else {
        return all;
    };
    let part = part.trim();
    if part.len() >= PART_MIN_BYTES {
        all.push(Secret::new(part));
    }
    if scheme.eq_ignore_ascii_case("basic")
        && let Ok(pair) = STANDARD.decode(part)
        && let Ok(pair) = String::from_utf8(pair)
        && let Some((_, password)) = pair.split_once(':')
    {
        all.push(Secret::new(password));
        all.push(Secret::owned(pair));
    }
    all
}

/// A credential.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) origins: Vec<Origin>,
    /// What no response may show. Made once, because each response is searched for it.
    forms: Arc<Forms>,
}

impl Credential {
    pub(crate) fn new(name: String, kind: Kind, origins: Vec<Origin>) -> Self {
        let mut forms = Forms::default();
        match &kind {
            Kind::Basic { .. } | Kind::Bearer { .. } | Kind::Header { .. } | Kind::Alm { .. } => {
                for secret in kind.secrets() {
                    let secret = secret.expose();
                    forms.add(secret.as_bytes(), FORM_MIN_BYTES);
                    // A field's value has no blanks at its ends (RFC 9110, 5.5).
                    if secret.trim() != secret {
                        forms.add(secret.trim().as_bytes(), FORM_MIN_BYTES);
                    }
                }
            }
            // Its key is never sent.
            Kind::Certificate(_) => {}
        }
        Self {
            name,
            kind,
            origins,
            forms: Arc::new(forms),
        }
    }

    /// Returns its secrets in all their forms.
    pub(crate) fn forms(&self) -> &Arc<Forms> {
        &self.forms
    }
}

/// All credentials, by name.
#[derive(Default)]
pub(crate) struct Credentials(BTreeMap<String, Arc<Credential>>);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Credentials {
    pub(crate) fn new(all: Vec<Credential>) -> Self {
        // Shared: an exchange keeps its credential when a reload replaces it.
        let named = |one: Credential| (one.name.clone(), Arc::new(one));
        Self(all.into_iter().map(named).collect())
    }

    /// Returns the same credentials with the open sessions of the earlier ones, where the credential has not
    /// changed.
    pub(crate) fn adopting(&self, before: &Self) -> Self {
        let all = self.all().map(|one| {
            let mut one = Credential::clone(one);
            alm::adopt(&mut one, before);
            one
        });
        Self::new(all.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Credential>> {
        self.0.get(name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Credential>> {
        self.0.values()
    }
}

/// Loads the credentials from the data directory of a config.
///
/// # Errors
/// [`StoreError`] if the store or its key cannot be read.
pub(crate) fn load(config: &Config) -> Result<Arc<Credentials>, StoreError> {
    let key_file = config.bridge.key_file.as_ref().map(FilePath::get);
    let store = Store::of_bridge(&config.bridge, key_file)?;
    Ok(Arc::new(store.load()?))
}
