//! `[kerberos]`: the user and the servers for proxies that ask for Negotiate.

use runtime::config::{FilePath, Mistake};
use runtime::from_text;
use runtime::value::shown;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// The port of a KDC (RFC 4120, 7.2.2).
const PORT: u16 = 88;

/// Servers that are tried.
const KDC_MAX: usize = 8;

/// `[kerberos]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KerberosSection {
    /// The Kerberos servers (KDCs) of the user's realm, which are tried in this order. Defaults to the name of the
    /// realm, which in Active Directory leads to its domain controllers.
    pub kdc: Vec<KdcAddress>,
    /// The keytab of the user, in place of a password. Defaults to none.
    pub keytab_file: Option<FilePath>,
    /// The user whose keys are in the keytab, `name@REALM`. Defaults to the first one.
    pub principal: Option<PrincipalName>,
    /// The credential cache that another program renews, such as `kinit`, in place of a password. Defaults to none.
    pub cache_file: Option<FilePath>,
}

impl KerberosSection {
    /// Checks what the keys mean together.
    pub(super) fn validate(&self) -> Result<(), Mistake> {
        let reject = |key, why: String| Err(Mistake::of_key(key, why));
        match (&self.keytab_file, &self.cache_file, &self.principal) {
            (Some(_), Some(_), _) => reject(
                "kerberos.cache_file",
                "and kerberos.keytab_file exclude each other: write one of them".into(),
            ),
            (None, _, Some(_)) => reject(
                "kerberos.principal",
                "chooses a user of a keytab: write kerberos.keytab_file, too".into(),
            ),
            _ if self.kdc.len() > KDC_MAX => reject(
                "kerberos.kdc",
                format!("has {} servers: write at most {KDC_MAX}", self.kdc.len()),
            ),
            _ => Ok(()),
        }
    }
}

/// Where a KDC is. Without a port it is 88.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KdcAddress {
    host: String,
    port: u16,
}

impl KdcAddress {
    /// Returns the one whose name is that of a realm.
    #[cfg(any(test, feature = "proxy-auth"))]
    pub(crate) fn of_realm(realm: &str) -> Self {
        Self {
            host: realm.to_ascii_lowercase(),
            port: PORT,
        }
    }

    /// Returns its name or address, without brackets, and its port.
    #[cfg(feature = "proxy-auth")]
    pub(crate) fn parts(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl fmt::Display for KdcAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for KdcAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let text = shown(text);
            format!("{text} is not a KDC: write host or host:port, like \"dc1.corp.example:88\"")
        };
        // Brackets, and more than one colon, are those of an IPv6 address.
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, ""))) => (host, None),
            Some(Some((host, rest))) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
            Some(None) => return Err(wrong()),
            None if text.matches(':').count() > 1 => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(is_host) {
            return Err(wrong());
        }
        let port = match port {
            None => PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(wrong)?,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// A user with its realm: `name@REALM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalName(String);

impl PrincipalName {
    /// Returns the text.
    #[cfg(any(test, feature = "proxy-auth"))]
    pub(crate) fn get(&self) -> &str {
        &self.0
    }
}

impl FromStr for PrincipalName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once('@') {
            Some((name, realm)) if !name.is_empty() && !realm.is_empty() => {
                Ok(Self(text.to_owned()))
            }
            Some(_) | None => Err(format!(
                "{} is not a user with its realm: write name@REALM, like \"bridge@CORP.EXAMPLE\"",
                shown(text)
            )),
        }
    }
}

from_text! {
    KdcAddress, "a host in quotes, like \"dc1.corp.example\"";
    PrincipalName, "a user with its realm in quotes, like \"bridge@CORP.EXAMPLE\"";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kdc_has_a_host_and_perhaps_a_port() {
        for (text, expected) in [
            ("dc1", "dc1:88"),
            ("dc1.corp.example:750", "dc1.corp.example:750"),
            ("10.0.0.1", "10.0.0.1:88"),
            ("fd00::1", "[fd00::1]:88"),
            ("[fd00::1]", "[fd00::1]:88"),
            ("[fd00::1]:750", "[fd00::1]:750"),
        ] {
            let kdc: KdcAddress = text.parse().unwrap();
            assert_eq!(kdc.to_string(), expected);
        }
        for wrong in [
            "",
            ":88",
            "dc1:",
            "dc1:0",
            "dc1:99999",
            "[fd00::1",
            "[fd00::1]88",
            "a b",
            "tcp://dc1",
        ] {
            assert!(wrong.parse::<KdcAddress>().is_err(), "{wrong}");
        }
        assert_eq!(
            KdcAddress::of_realm("CORP.EXAMPLE").to_string(),
            "corp.example:88"
        );
    }

    #[test]
    fn principal_has_a_realm() {
        assert_eq!("a/b@R".parse::<PrincipalName>().unwrap().get(), "a/b@R");
        for wrong in ["", "me", "@R", "me@"] {
            assert!(wrong.parse::<PrincipalName>().is_err(), "{wrong}");
        }
    }
}
