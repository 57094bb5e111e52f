//! How a bridge reaches the relay, and the CA that it must trust: what a pairing file says of both.

use crate::config::{Config, Tls};
use runtime::pem::{self, Certificate};
use std::path::Path;
use transport::dial::RelayUrl;
use transport::tls::Trust;

/// The most certificates of a CA in a file. More are a list of public roots, which is not meant.
const CERTIFICATES_MAX: usize = 16;

/// Why a file cannot say how the relay is reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContactError {
    /// No URL, or one that bridges cannot dial.
    #[error("{0}")]
    Url(String),
    /// The CA cannot be read.
    #[error("{0}")]
    Ca(String),
}

/// How a bridge reaches the relay, and what it must trust.
#[derive(Debug)]
pub(crate) struct Contact {
    /// The URL that it dials.
    pub(crate) url: RelayUrl,
    /// The CA, if it is not a public one.
    pub(crate) ca_pem: Option<String>,
    /// Why the certificate may not be trusted with this CA.
    pub(crate) warning: Option<String>,
}

impl Contact {
    /// Returns the contact from the config; a given URL or CA file comes first. Reads files, so it blocks.
    ///
    /// # Errors
    /// [`ContactError`].
    pub(crate) fn of(
        config: &Config,
        url: Option<&str>,
        ca_file: Option<&Path>,
    ) -> Result<Self, ContactError> {
        let url = url_of(config, url).map_err(ContactError::Url)?;
        let ca_file = ca_file.or(config.listen.public_ca_file.as_deref());
        let (ca, warning) = match ca_file {
            Some(file) => (certificates(file)?, None),
            None => ca_of_listener(config)?,
        };
        if ca.len() > CERTIFICATES_MAX {
            return Err(ContactError::Ca(format!(
                "the CA file holds {} certificates, at most {CERTIFICATES_MAX} fit a pairing file: name the file with \
                 the CA of the relay's certificate alone",
                ca.len()
            )));
        }
        let texts = ca.iter().map(|one| pem::certificate_text(&one.der));
        Ok(Self {
            url,
            ca_pem: (!ca.is_empty()).then(|| texts.collect()),
            warning,
        })
    }
}

fn url_of(config: &Config, given: Option<&str>) -> Result<RelayUrl, String> {
    let listen = &config.listen;
    let url = match (given, &listen.public_url, listen.authorities.as_slice()) {
        // Without the value: it may have a password.
        (Some(given), ..) => given
            .parse::<RelayUrl>()
            .map_err(|error| format!("the relay's URL {error}"))?,
        (None, Some(url), _) => url.clone(),
        (None, None, [only]) => of_authority(config, only)?,
        (None, None, _) => {
            return Err(
                "the relay does not know the URL by which bridges dial it: set listen.public_url, for example to \
                 \"https://relay.example.com\", or give one with --relay-url (relay_url in the API)"
                    .to_owned(),
            );
        }
    };
    // By the rule of the opening of a tunnel: the authority, or its host.
    let is_listed = listen.authorities.is_empty()
        || listen
            .authorities
            .iter()
            .any(|name| name.eq_ignore_ascii_case(&url.authority()) || is_host(name, url.host()));
    match is_listed {
        true => Ok(url),
        false => Err(format!(
            "a bridge that dials {url} would be refused: listen.authorities has only {}",
            listen.authorities.join(", ")
        )),
    }
}

/// Returns whether the name of an authority, which has no port, is this host.
fn is_host(name: &str, host: &str) -> bool {
    // An IPv6 address has brackets in an authority alone.
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case(host)
}

/// Returns the URL of the only name by which bridges may dial.
fn of_authority(config: &Config, name: &str) -> Result<RelayUrl, String> {
    let url: RelayUrl = format!("https://{name}")
        .parse()
        .map_err(|error| format!("listen.authorities: the URL https://{name} {error}"))?;
    let public = config
        .listen
        .public
        .filter(|_| !config.listen.behind_balancer);
    // Without a port in the name, bridges dial the port that the relay listens on; a balancer has its own.
    match public {
        Some(public) if is_host(name, url.host()) => format!("https://{name}:{}", public.port())
            .parse()
            .map_err(|error| format!("listen.authorities: the URL https://{name} {error}")),
        Some(_) | None => Ok(url),
    }
}

fn certificates(file: &Path) -> Result<Vec<Certificate>, ContactError> {
    let found = pem::certificates(file).map_err(|error| ContactError::Ca(error.to_string()))?;
    let found = found
        .whole()
        .map_err(|detail| ContactError::Ca(format!("{}: {detail}", file.display())))?;
    Ok(found.all)
}

/// Returns the CA of the relay's own certificate, if it is not a public one, and a warning if it is not known.
fn ca_of_listener(config: &Config) -> Result<(Vec<Certificate>, Option<String>), ContactError> {
    // Behind a balancer, bridges see the balancer's certificate.
    let own = config
        .tls
        .as_ref()
        .filter(|_| !config.listen.behind_balancer);
    match own {
        None => Ok((Vec::new(), None)),
        Some(Tls::SelfSigned { dir, .. }) => {
            let file = dir.join("relay-ca.pem");
            if !file.exists() {
                return Err(ContactError::Ca(format!(
                    "{} does not exist yet: start the relay once, which makes it (tls.self_signed)",
                    file.display()
                )));
            }
            Ok((certificates(&file)?, None))
        }
        Some(Tls::Files { cert_file, .. }) => {
            let all = certificates(cert_file)?;
            let issuers: Vec<_> = all.iter().filter_map(Certificate::issuer).collect();
            let roots: Vec<Certificate> = all
                .into_iter()
                .filter(|one| one.issuer().is_none())
                .collect();
            if !roots.is_empty() {
                return Ok((roots, None));
            }
            let trust = Trust::read(&[]);
            let is_known = |(name, _): &(Vec<u8>, String)| {
                trust.as_ref().is_ok_and(|trust| trust.has_root(name))
            };
            let warning = (!issuers.iter().any(is_known)).then(|| {
                let name = issuers.last().map_or("an unknown CA", |(_, text)| text.as_str());
                format!(
                    "the certificate in {} was issued by \"{name}\", which is no root of this machine, and the pairing \
                     file has no CA: if it is a CA of your own, name its certificate with --ca-file or \
                     listen.public_ca_file",
                    cert_file.display()
                )
            });
            Ok((Vec::new(), warning))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn config(listen: &str, dir: &Path) -> Config {
        let text = format!(
            "[listen]\npublic = \"127.0.0.1:8443\"\n{listen}\n[tls]\nself_signed = true\n\
             [storage]\nurl = \"sqlite://relay.db\"\n"
        );
        Config::parse(&text, &dir.join("relay.toml")).unwrap()
    }

    #[test]
    fn url_comes_from_option_key_or_authority() {
        let dir = TempDir::new("contact-url");
        let url = |listen: &str, given: Option<&str>| {
            url_of(&config(listen, dir.path()), given).map(|url| url.to_string())
        };
        let key = "public_url = \"https://relay.example\"";
        let other = Some("https://other.example:1");
        assert_eq!(url(key, None).unwrap(), "https://relay.example:443");
        assert_eq!(url(key, other).unwrap(), "https://other.example:1");
        for (authorities, expected) in [
            ("[\"a.example\"]", "https://a.example:8443"),
            ("[\"a.example:9\"]", "https://a.example:9"),
            ("[\"[::1]\"]", "https://[::1]:8443"),
        ] {
            let listen = format!("authorities = {authorities}");
            assert_eq!(url(&listen, None).unwrap(), expected);
        }
        let balanced = "authorities = [\"a.example\"]\nbehind_balancer = true";
        assert_eq!(url(balanced, None).unwrap(), "https://a.example:443");
        for unknown in ["", "authorities = [\"a.example\", \"b.example\"]"] {
            let error = url(unknown, None).unwrap_err();
            assert!(error.contains("listen.public_url"), "{error}");
        }
        let refused = url("authorities = [\"a.example\"]", other).unwrap_err();
        assert!(refused.contains("would be refused"), "{refused}");
        let plain = url("", Some("http://user:secret@a.example")).unwrap_err();
        assert!(
            plain.contains("https://") && !plain.contains("secret"),
            "{plain}"
        );
    }

    #[test]
    fn ca_of_a_self_signed_relay_is_in_the_file() {
        let dir = TempDir::new("contact-ca");
        let config = config("public_url = \"https://localhost\"", dir.path());
        let missing = Contact::of(&config, None, None).unwrap_err();
        assert!(
            missing.to_string().contains("start the relay once"),
            "{missing}"
        );
        crate::listener::self_signed::ensure(dir.path(), &[]).unwrap();
        let contact = Contact::of(&config, None, None).unwrap();
        let ca = std::fs::read_to_string(dir.path().join("relay-ca.pem")).unwrap();
        let own = contact.ca_pem.unwrap();
        assert_eq!(
            own.split_whitespace().collect::<String>(),
            ca.split_whitespace().collect::<String>()
        );
        // A file with a key is no CA file, also if the option names it.
        let key = dir.path().join("relay-ca-key.pem");
        let wrong = Contact::of(&config, None, Some(&key))
            .unwrap_err()
            .to_string();
        assert!(
            wrong.contains("private key") && !wrong.contains("BEGIN"),
            "{wrong}"
        );
    }
}
