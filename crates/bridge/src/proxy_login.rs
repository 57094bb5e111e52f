//! The logins at proxies: who the bridge is there, and by which schemes it may prove it.
//!
//! ```text
//! user and password          Basic, NTLM
//! name@REALM and password    Basic, NTLM, Negotiate
//! keytab, credential cache   Negotiate
//! ```
//!
//! The crate `proxy_auth` has the messages, `transport` decides between the schemes. `ntlm` and `kerberos` connect both,
//! and `kdc` asks the Kerberos servers.

#[cfg(feature = "proxy-auth")]
mod kdc;
#[cfg(feature = "proxy-auth")]
mod kerberos;
#[cfg(feature = "proxy-auth")]
mod ntlm;
#[cfg(feature = "proxy-auth")]
mod pause;

use crate::config::{Config, KerberosSection, ProxyAuth, ProxySetting};
use crate::credentials::{Credentials, Kind};
use std::sync::Arc;
use transport::dial::{Mechanism, Proxy, ProxyError};

/// The keys of a route to a proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route<'a> {
    setting: &'a ProxySetting,
    credential: Option<&'a str>,
    auth: ProxyAuth,
    kerberos: &'a KerberosSection,
}

impl<'a> Route<'a> {
    /// Returns the route to the relay.
    pub(crate) fn to_relay(config: &'a Config) -> Self {
        Self {
            setting: &config.relay.proxy,
            credential: config.relay.proxy_credential.as_deref(),
            auth: config.relay.proxy_auth,
            kerberos: &config.kerberos,
        }
    }

    /// Returns the route to targets.
    pub(crate) fn to_targets(config: &'a Config) -> Self {
        Self {
            setting: &config.targets.proxy,
            credential: config.targets.proxy_credential.as_deref(),
            auth: config.targets.proxy_auth,
            kerberos: &config.kerberos,
        }
    }

    /// Returns the proxy with its logins.
    ///
    /// # Errors
    /// [`ProxyError`] when the proxy setting cannot be used.
    pub(crate) fn resolve(self) -> Result<Unauthenticated<'a>, ProxyError> {
        let proxy = self.setting.resolve()?;
        Ok(Unauthenticated { route: self, proxy })
    }
}

/// A proxy whose credential was not looked up yet.
#[derive(Debug)]
pub(crate) struct Unauthenticated<'a> {
    route: Route<'a>,
    proxy: Proxy,
}

impl Unauthenticated<'_> {
    /// Adds the credential that the config names, and the schemes that it can be used with.
    ///
    /// # Errors
    /// [`ProxyCredentialError`]: the credential cannot be used at a proxy, or not with the scheme of `proxy_auth`.
    pub(crate) fn with_login(
        self,
        credentials: &Credentials,
    ) -> Result<Proxy, ProxyCredentialError> {
        let route = self.route;
        let proxy = with_credential(self.proxy, route.credential, credentials)?;
        match &proxy {
            Proxy::Direct => Ok(proxy),
            Proxy::Via { .. } => {
                let mechanisms = mechanisms(&proxy, route)?;
                Ok(proxy.with_schemes(route.auth.choice(), mechanisms))
            }
        }
    }
}

fn with_credential(
    proxy: Proxy,
    name: Option<&str>,
    credentials: &Credentials,
) -> Result<Proxy, ProxyCredentialError> {
    let Some(name) = name else { return Ok(proxy) };
    match credentials.get(name).map(|credential| &credential.kind) {
        // The origins are not checked here: the config names the proxy and the credential together.
        Some(Kind::Basic { user, password }) => Ok(proxy.with_basic(user, password.expose())),
        Some(_) => Err(ProxyCredentialError::Kind(name.to_owned())),
        None => Err(ProxyCredentialError::Unknown(name.to_owned())),
    }
}

/// Why a proxy cannot have its credential.
#[derive(Debug, thiserror::Error)]
pub enum ProxyCredentialError {
    /// There is none of this name.
    #[error(
        "proxy_credential: there is no credential named {0}; set it with `integration-bridge credential \
         set {0} --user U --origin http://the-proxy:3128`"
    )]
    Unknown(String),
    /// It is of another kind.
    #[error("proxy_credential: {0} must be a `basic` credential: a user and a password")]
    Kind(String),
    /// It cannot be used with the scheme that the config chooses.
    #[error("proxy_auth: {0}")]
    Scheme(String),
}

/// Returns the mechanisms of a proxy: none for a choice of Basic.
#[cfg(feature = "proxy-auth")]
fn mechanisms(
    proxy: &Proxy,
    route: Route<'_>,
) -> Result<Vec<Arc<dyn Mechanism>>, ProxyCredentialError> {
    let login = proxy.user_and_password();
    let needed = |auth: ProxyAuth, what: &str| match route.auth == auth {
        true => Err(ProxyCredentialError::Scheme(what.to_owned())),
        false => Ok(()),
    };
    let mut all: Vec<Arc<dyn Mechanism>> = Vec::new();
    if matches!(route.auth, ProxyAuth::Auto | ProxyAuth::Negotiate) {
        match kerberos::Kerberos::of_config(route.kerberos, login.as_ref())? {
            Some(kerberos) => all.push(Arc::new(kerberos)),
            None => needed(
                ProxyAuth::Negotiate,
                "\"negotiate\" needs a user like name@REALM with a password (proxy_credential), or kerberos.keytab_file, or \
                 kerberos.cache_file",
            )?,
        }
    }
    if matches!(route.auth, ProxyAuth::Auto | ProxyAuth::Ntlm) {
        let ntlm = login.and_then(|(user, password)| ntlm::Ntlm::new(&user, &password));
        match ntlm {
            Some(ntlm) => all.push(Arc::new(ntlm)),
            None => needed(
                ProxyAuth::Ntlm,
                "\"ntlm\" needs a user like DOMAIN\\user with a password (proxy_credential)",
            )?,
        }
    }
    Ok(all)
}

/// This program was built with Basic alone.
#[cfg(not(feature = "proxy-auth"))]
fn mechanisms(
    _: &Proxy,
    route: Route<'_>,
) -> Result<Vec<Arc<dyn Mechanism>>, ProxyCredentialError> {
    let _ = route.kerberos;
    match route.auth {
        ProxyAuth::Auto | ProxyAuth::Basic => Ok(Vec::new()),
        ProxyAuth::Ntlm | ProxyAuth::Negotiate => Err(ProxyCredentialError::Scheme(
            "this program was built without NTLM and Negotiate (feature proxy-auth)".into(),
        )),
    }
}

#[cfg(all(test, feature = "proxy-auth"))]
mod tests {
    use super::*;
    use crate::credentials::Credential;
    use crate::secret::Secret;
    use std::path::Path;

    fn made(more: &str, user: &str) -> Result<Proxy, ProxyCredentialError> {
        let text = format!(
            "[relay]\nurl = \"https://relay.example\"\nproxy = \"http://proxy.example\"\nproxy_credential = \"p\"\n{more}\n\
             [bridge]\nname = \"b\"\ndata_dir = \"data\"\n"
        );
        let config = Config::parse(&text, Path::new("bridge.toml")).unwrap();
        let kind = Kind::Basic {
            user: user.to_owned(),
            password: Secret::new("sesame"),
        };
        let credential = Credential::new("p".into(), kind, Vec::new());
        let route = Route::to_relay(&config).resolve().unwrap();
        route.with_login(&Credentials::new(vec![credential]))
    }

    #[test]
    fn scheme_that_the_login_cannot_have_is_refused() {
        for (auth, user) in [
            ("auto", "me"),
            ("basic", "me"),
            ("ntlm", "CORP\\me"),
            ("ntlm", "me"),
            ("negotiate", "me@CORP.EXAMPLE"),
        ] {
            made(&format!("proxy_auth = \"{auth}\""), user).unwrap();
        }
        for (auth, user, words) in [
            ("negotiate", "CORP\\me", "name@REALM"),
            ("ntlm", "CORP\\", "DOMAIN\\user"),
        ] {
            let error = made(&format!("proxy_auth = \"{auth}\""), user).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert!(!error.to_string().contains("sesame"), "{error}");
        }
    }

    #[test]
    fn unreadable_keytab_is_found_at_the_start() {
        let more = "proxy_auth = \"negotiate\"\n[kerberos]\nkeytab_file = \"/nonexistent/keytab\"";
        let error = made(more, "me").unwrap_err().to_string();
        assert!(error.contains("/nonexistent/keytab"), "{error}");
    }
}
