//! Negotiate at a proxy, with a ticket of Kerberos.
//!
//! ```text
//! password or keytab --AS--> ticket of the realm --TGS--> ticket of the proxy --> a token for each connection
//! credential cache ----------------'
//! ```
//!
//! Tickets are kept until shortly before their end. One task asks the KDC, and the others wait for it.

use super::{ProxyCredentialError, kdc, pause::Pause};
use crate::config::{KdcAddress, KerberosSection};
use crate::data_dir::{DataDirError, read_given};
use crate::secret::Secret;
use crate::text::error_chain;
use proxy_auth::SecretBytes;
use proxy_auth::kerberos::{
    AsExchange, AsStep, Cache, KerberosError, Keytab, Occasion, Principal, TgsExchange, Ticket,
    UserKey, token,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use transport::dial::{Begun, Exchange, Mechanism, MechanismError, Scheme};

/// Requests of one login at a realm: one without and one with a proof.
const REQUESTS_MAX: usize = 3;

/// Errors of a KDC that count as attempts with a wrong password (RFC 4120, 7.5.9): the user is unknown, locked, or has
/// another password.
const REJECTIONS: [u32; 4] = [6, 18, 23, 24];

/// A user of Kerberos.
#[derive(Debug)]
pub(super) struct Kerberos {
    source: Source,
    servers: Vec<KdcAddress>,
    kept: Mutex<Kept>,
    /// Whether the proxy rejected a ticket: its key may have changed.
    is_outdated: AtomicBool,
    pause: Pause,
}

/// Where the ticket of the realm comes from.
enum Source {
    Password(Principal, SecretBytes),
    /// Read again for each login, because another program may change it.
    Keytab(PathBuf, Principal),
    Cache(PathBuf),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(user, _) => write!(f, "Password({user})"),
            Self::Keytab(path, user) => write!(f, "Keytab({}, {user})", path.display()),
            Self::Cache(path) => write!(f, "Cache({})", path.display()),
        }
    }
}

/// The tickets.
#[derive(Debug, Default)]
struct Kept {
    realm: Option<Ticket>,
    proxy: Option<(String, Ticket)>,
}

impl Kerberos {
    /// Returns `None` where the config has no user of Kerberos.
    ///
    /// # Errors
    /// [`ProxyCredentialError`] when the keytab cannot be used.
    pub(super) fn of_config(
        section: &KerberosSection,
        login: Option<&(String, Secret)>,
    ) -> Result<Option<Self>, ProxyCredentialError> {
        let source = if let Some(file) = &section.cache_file {
            Source::Cache(file.get().to_owned())
        } else if let Some(file) = &section.keytab_file {
            let named = section.principal.as_ref();
            let named = named.and_then(|name| Principal::user(name.get()));
            let user = user_of(file.get(), named);
            let user = user.map_err(|error| ProxyCredentialError::Scheme(error.0))?;
            Source::Keytab(file.get().to_owned(), user)
        } else if let Some((user, password)) = login
            && let Some(user) = Principal::user(user)
        {
            Source::Password(user, SecretBytes::copied(password.expose().as_bytes()))
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            source,
            servers: section.kdc.clone(),
            kept: Mutex::default(),
            is_outdated: AtomicBool::new(false),
            pause: Pause::default(),
        }))
    }

    async fn begun(&self, proxy_host: &str) -> Result<Begun, MechanismError> {
        if proxy_host.parse::<IpAddr>().is_ok() {
            return Err(MechanismError(format!(
                "a ticket is for the name of the proxy, and the config has its address {proxy_host}"
            )));
        }
        let mut kept = self.kept.lock().await;
        if self.is_outdated.swap(false, Ordering::Relaxed) {
            *kept = Kept::default();
        }
        let now = runtime::time::now_s();
        let has_ticket =
            |(host, ticket): &(String, Ticket)| host == proxy_host && ticket.is_valid_at(now);
        let ticket = match &kept.proxy {
            Some(known) if has_ticket(known) => known.1.clone(),
            Some(_) | None => {
                let ticket = self.proxy_ticket(&mut kept.realm, proxy_host).await?;
                kept.proxy = Some((proxy_host.to_owned(), ticket.clone()));
                ticket
            }
        };
        drop(kept);
        Ok((token(&ticket, &occasion()?), Box::new(Complete)))
    }

    async fn proxy_ticket(
        &self,
        kept: &mut Option<Ticket>,
        proxy_host: &str,
    ) -> Result<Ticket, MechanismError> {
        let now = runtime::time::now_s();
        let service = |realm: &str| {
            let service = Principal::of_proxy(proxy_host, realm);
            service.ok_or_else(|| MechanismError("the name of the proxy is too long".into()))
        };
        let known = kept.take().filter(|ticket| ticket.is_valid_at(now));
        let realm_ticket = match (&self.source, known) {
            (Source::Password(..) | Source::Keytab(..), Some(known)) => known,
            (Source::Password(user, password), None) => {
                let key = UserKey::Password(password.clone());
                self.log_in(user, key).await?
            }
            (Source::Keytab(path, user), None) => {
                let keys = Keytab::parse(&read(path).await?).ok_or_else(|| no_keytab(path))?;
                let keys = keys.keys(user);
                self.log_in(user, UserKey::Keys(keys)).await?
            }
            (Source::Cache(path), _) => {
                let cache = cache(path).await?;
                let service = service(cache.client().realm())?;
                let own = cache.for_service(&service);
                if let Some(ticket) = own.filter(|ticket| ticket.is_valid_at(now)) {
                    return Ok(ticket.clone());
                }
                let realm = cache.for_realm().filter(|ticket| ticket.is_valid_at(now));
                let ended = || {
                    let path = path.display();
                    MechanismError(format!(
                        "the credential cache {path} has no valid ticket with an AES key: renew it with `kinit -k`"
                    ))
                };
                realm.cloned().ok_or_else(ended)?
            }
        };
        let realm = realm_ticket.client().realm().to_owned();
        let service = service(&realm)?;
        *kept = Some(realm_ticket.clone());
        let (exchange, request) = TgsExchange::begin(realm_ticket, service, &occasion()?);
        let reply = kdc::ask(&self.servers_of(&realm), &request).await?;
        exchange.reply(&reply).map_err(|error| of_kdc(&error))
    }

    /// Gets the ticket of the user's realm.
    async fn log_in(&self, user: &Principal, key: UserKey) -> Result<Ticket, MechanismError> {
        self.pause.check()?;
        let servers = self.servers_of(user.realm());
        let (mut exchange, mut request) = AsExchange::begin(user.clone(), key, &occasion()?);
        for _ in 0..REQUESTS_MAX {
            let reply = kdc::ask(&servers, &request).await?;
            match exchange.reply(&reply, &occasion()?) {
                Ok(AsStep::Request(next)) => request = next,
                Ok(AsStep::Done(ticket)) => {
                    self.pause.accepted();
                    tracing::debug!(%user, "got a ticket of Kerberos");
                    return Ok(*ticket);
                }
                Err(error) => {
                    if matches!(&error, KerberosError::Kdc(code) if REJECTIONS.contains(code)) {
                        self.pause.rejected();
                    }
                    return Err(of_kdc(&error));
                }
            }
        }
        Err(of_kdc(&KerberosError::Reply))
    }

    fn servers_of(&self, realm: &str) -> Vec<KdcAddress> {
        match self.servers.is_empty() {
            true => vec![KdcAddress::of_realm(realm)],
            false => self.servers.clone(),
        }
    }
}

impl Mechanism for Kerberos {
    fn scheme(&self) -> Scheme {
        Scheme::Negotiate
    }

    fn begin<'a>(
        &'a self,
        proxy_host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Begun, MechanismError>> + Send + 'a>> {
        Box::pin(self.begun(proxy_host))
    }

    fn rejected(&self) {
        self.is_outdated.store(true, Ordering::Relaxed);
    }

    fn accepted(&self) {}
}

/// An authentication that has only one message.
struct Complete;

impl Exchange for Complete {
    fn answer(&mut self, _: &[u8]) -> Result<Vec<u8>, MechanismError> {
        Err(MechanismError(
            "it rejects the ticket: its keytab may lack the key of its name".into(),
        ))
    }
}

fn of_kdc(error: &KerberosError) -> MechanismError {
    MechanismError(format!("the Kerberos server: {error}"))
}

fn occasion() -> Result<Occasion, MechanismError> {
    let mut random = [0; 32];
    let drawn = SystemRandom::new().fill(&mut random);
    drawn.map_err(|_| MechanismError("the system has no random numbers".into()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    Ok(Occasion {
        unix_s: now.as_secs(),
        micros: now.subsec_micros(),
        random,
    })
}

fn no_keytab(path: &Path) -> MechanismError {
    MechanismError(format!("{} is no keytab", path.display()))
}

fn user_of(path: &Path, named: Option<Principal>) -> Result<Principal, MechanismError> {
    let keytab = Keytab::parse(&given(path)?).ok_or_else(|| no_keytab(path))?;
    let user = named.or_else(|| keytab.first().cloned());
    match user {
        Some(user) if !keytab.keys(&user).is_empty() => Ok(user),
        Some(user) => Err(MechanismError(format!(
            "the keytab {} has no AES key of {user} (kerberos.principal)",
            path.display()
        ))),
        None => Err(MechanismError(format!(
            "the keytab {} has no AES key",
            path.display()
        ))),
    }
}

async fn cache(path: &Path) -> Result<Cache, MechanismError> {
    let not_one = || MechanismError(format!("{} is no credential cache", path.display()));
    Cache::parse(&read(path).await?).ok_or_else(not_one)
}

async fn read(path: &Path) -> Result<SecretBytes, MechanismError> {
    let own = path.to_owned();
    let read = tokio::task::spawn_blocking(move || given(&own)).await;
    read.map_err(|_| MechanismError(format!("reading {} was interrupted", path.display())))?
}

/// Reads a file that must be private: with it, others could be this user.
fn given(path: &Path) -> Result<SecretBytes, MechanismError> {
    let failed = |error: DataDirError| MechanismError(error_chain(&error));
    let missing = || MechanismError(format!("there is no file {}", path.display()));
    let bytes = read_given(path, |_| false).map_err(failed)?;
    bytes.map(SecretBytes::new).ok_or_else(missing)
}
