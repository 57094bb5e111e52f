//! Values that `[relay]` and `[targets]` share: the proxy, and the oldest TLS version.

use runtime::from_text;
use runtime::userinfo::UserinfoError;
use runtime::value::{self, Form};
use std::str::FromStr;
use transport::dial::{Proxy, ProxyError, Scheme, SchemeChoice};

/// The oldest TLS version that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMin {
    /// `"1.2"`.
    #[default]
    Tls12,
    /// `"1.3"`.
    Tls13,
}

impl TlsMin {
    /// Returns it as the transport has it.
    pub(crate) fn oldest(self) -> transport::tls::Oldest {
        match self {
            Self::Tls12 => transport::tls::Oldest::Tls12,
            Self::Tls13 => transport::tls::Oldest::Tls13,
        }
    }
}

impl FromStr for TlsMin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            _ => Err("not a supported TLS version: write \"1.2\" or \"1.3\"".into()),
        }
    }
}

/// The schemes by which the bridge authenticates at a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyAuth {
    /// `"auto"`: the strongest that the proxy offers and that there is a login for.
    #[default]
    Auto,
    /// `"basic"`: user and password in clear text, without waiting for the proxy to ask.
    Basic,
    /// `"ntlm"`.
    Ntlm,
    /// `"negotiate"`: Kerberos.
    Negotiate,
}

impl ProxyAuth {
    /// Returns it as the transport has it.
    pub(crate) fn choice(self) -> SchemeChoice {
        match self {
            Self::Auto => SchemeChoice::Auto,
            Self::Basic => SchemeChoice::Only(Scheme::Basic),
            Self::Ntlm => SchemeChoice::Only(Scheme::Ntlm),
            Self::Negotiate => SchemeChoice::Only(Scheme::Negotiate),
        }
    }
}

impl FromStr for ProxyAuth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "basic" => Ok(Self::Basic),
            "ntlm" => Ok(Self::Ntlm),
            "negotiate" => Ok(Self::Negotiate),
            _ => Err(
                "not an authentication scheme: write \"auto\", \"basic\", \"ntlm\" or \"negotiate\"".into(),
            ),
        }
    }
}

/// The proxy on a route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ProxySetting {
    /// `"env"`: as the variables `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` configure it.
    #[default]
    Env,
    /// `"system"`: as the system configures it. On Windows these are the settings of WinHTTP, then the Internet settings; on
    /// other systems it is `"env"`.
    System,
    /// `"none"`: no proxy.
    Direct,
    /// This proxy.
    Via(Proxy),
}

impl FromStr for ProxySetting {
    type Err = String;

    fn from_str(setting: &str) -> Result<Self, String> {
        match setting {
            "env" => Ok(Self::Env),
            "system" => Ok(Self::System),
            "none" => Ok(Self::Direct),
            // The message must not repeat the value: it has a password.
            url if url.contains('@') => {
                Err("no passwords in this file: name a credential in proxy_credential, or write \
                 proxy = \"env\" and give http://user:password@host:port in the environment variable \
                 HTTPS_PROXY"
                    .into())
            }
            url if runtime::userinfo::check(url) == Err(UserinfoError::Separator) => {
                Err("not a proxy: write :// after the scheme, as in \"http://proxy.example.com:3128\"".into())
            }
            // A user and password without a host.
            url if runtime::userinfo::check(url).is_err() => {
                Err("not a proxy: the port must be a number, as in \"http://proxy.example.com:3128\"".into())
            }
            url => match Proxy::from_url("relay.proxy", url) {
                Ok(proxy) => Ok(Self::Via(proxy)),
                // The reason does not repeat the value.
                Err(ProxyError::Setting { why, .. }) => Err(format!(
                    "not a proxy: the value {why}, or \"env\", \"system\" or \"none\""
                )),
                Err(_) => Err("not a proxy".into()),
            },
        }
    }
}

impl ProxySetting {
    /// Returns the proxy to use now.
    ///
    /// # Errors
    /// [`ProxyError`] when an environment variable is set and cannot be understood.
    pub fn resolve(&self) -> Result<Proxy, ProxyError> {
        match self {
            Self::Env => from_environment(),
            Self::System => from_system(),
            Self::Direct => Ok(Proxy::Direct),
            Self::Via(proxy) => Ok(proxy.clone()),
        }
    }
}

/// Reads the settings of the system.
#[cfg(windows)]
fn from_system() -> Result<Proxy, ProxyError> {
    use bridge_windows::proxy::{SystemProxy, system};
    match system() {
        SystemProxy::None => Ok(Proxy::Direct),
        SystemProxy::Named {
            servers,
            bypass,
            origin,
        } => Proxy::from_system(origin, &servers, &bypass),
        SystemProxy::Script { origin } => Err(ProxyError::Setting {
            name: origin.to_owned(),
            why: "name a script (PAC), which the bridge does not run: write the proxy's URL, or set it with `netsh winhttp \
                  set proxy`"
                .to_owned(),
        }),
    }
}

/// Reads the settings of the system, which are variables.
#[cfg(not(windows))]
fn from_system() -> Result<Proxy, ProxyError> {
    from_environment()
}

/// Reads the variables that other programs read, too. Their values have the same forms as those of the config.
fn from_environment() -> Result<Proxy, ProxyError> {
    let mut set = Vec::new();
    for name in Proxy::VARIABLES {
        let form = match name.eq_ignore_ascii_case("NO_PROXY") {
            true => Form::List,
            false => Form::Setting,
        };
        match value::variable(form, name) {
            Ok(text) => set.extend(text.map(|text| (name, text))),
            Err(error) => {
                let (name, why) = (name.to_owned(), format!("cannot be used: {error}"));
                return Err(ProxyError::Setting { name, why });
            }
        }
    }
    Proxy::from_env(|name| {
        let found = set.iter().find(|(own, _)| *own == name);
        found.map(|(_, text)| text.clone())
    })
}

from_text! {
    TlsMin, "a TLS version in quotes, \"1.2\" or \"1.3\"";
    ProxyAuth, "\"auto\", \"basic\", \"ntlm\" or \"negotiate\", in quotes";
    ProxySetting, "\"env\", \"system\", \"none\" or a URL in quotes";
}
