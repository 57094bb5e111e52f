//! Pairing: registers this bridge's public key with a relay, under a name, by an API key.
//!
//! ```text
//! POST https://relay/v1/pair      Authorization: Basic client id:client secret
//! {name, public_key, instance, host, software, proof}  ->  {tenant, tenant_id, bridge_id, name}
//! ```
//!
//! `proof` is the signature of a [`PairingTranscript`]: it shows that whoever pairs has the private
//! key. The API key is used for this one request and is kept nowhere.

use crate::config::{Config, ConfigError};
use crate::connection_counter::ConnectionCounter;
use crate::credentials::{self, Credentials, ProxyCredentialError, StoreError, with_credential};
use crate::data_dir::{DataDir, DataDirError};
use crate::identity::{self, Identity, IdentityError, Key};
pub use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use protocol::opening::PairingTranscript;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;
use transport::dial::{DialError, Dialer, ProxyError, RelayUrl};
use transport::tls::{ClientTls, TlsSetupError};

/// Longest answer that is read, in bytes.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// From the request's first byte to the answer's last.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// An API key with the role `bridge`.
#[derive(Clone)]
pub struct ApiKey {
    /// Its client id; not a secret.
    pub client_id: String,
    /// Its client secret.
    pub client_secret: Secret,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// Why pairing failed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The identity cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The proxy setting cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The proxy's credential cannot be used.
    #[error(transparent)]
    ProxyCredential(#[from] ProxyCredentialError),
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] StoreError),
    /// Certificates cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The relay was not reached.
    #[error("the relay {relay} was not reached")]
    Dial {
        /// The relay.
        relay: String,
        /// Which step failed.
        source: DialError,
    },
    /// The connection failed before the answer.
    #[error("the relay {relay} did not answer the pairing request: {detail}")]
    NoAnswer {
        /// The relay.
        relay: String,
        /// What happened.
        detail: String,
    },
    /// The relay said no.
    #[error("the relay refused the pairing (HTTP {status}): {advice}{detail}")]
    Refused {
        /// The status.
        status: u16,
        /// What to do.
        advice: &'static str,
        /// The relay's own words, if it has any.
        detail: String,
    },
    /// Something else than an integration relay answered.
    #[error(
        "the answer to the pairing request is not that of an integration relay; check relay.url"
    )]
    NotRelay,
}

#[derive(Serialize)]
struct PairRequest<'a> {
    name: &'a str,
    public_key: String,
    instance: String,
    host: String,
    software: String,
    proof: String,
}

#[derive(Deserialize)]
struct PairResponse {
    tenant: String,
    tenant_id: String,
    bridge_id: String,
    name: String,
}

#[derive(Deserialize)]
struct Problem {
    detail: Option<String>,
}

/// Pairs this bridge and keeps its identity in the data directory.
///
/// Again with the same relay the key pair is used again, so that nothing changes for who it is
/// already; another relay gets a key pair of its own. A relay that moved to another port of its
/// host is the same.
///
/// # Errors
/// [`PairError`]; what was there before is still there.
pub async fn pair(config: &Config, api_key: &ApiKey) -> Result<Identity, PairError> {
    let data_dir = DataDir::open(config.bridge.data_dir.get())?;
    let relay = config.relay.url.to_string();
    let key = match Identity::load(&data_dir) {
        Ok(identity) if is_same(&identity.relay, &config.relay.url) => identity.key,
        Ok(_) | Err(IdentityError::NotPaired { .. }) => Key::generate()?,
        Err(error) => return Err(error.into()),
    };
    let dialer = dialer(config, &*credentials::load(config)?)?;
    let body = request_body(&key, &config.bridge.name, &api_key.client_id);
    let answer = timeout(ANSWER_WITHIN, post(&dialer, api_key, body))
        .await
        .map_err(|_| PairError::NoAnswer {
            relay: relay.clone(),
            detail: format!("nothing within {ANSWER_WITHIN:?}"),
        })??;
    let identity = Identity {
        relay,
        tenant: answer.tenant,
        tenant_id: answer.tenant_id,
        bridge_id: answer.bridge_id,
        name: answer.name,
        key,
    };
    identity.save(&data_dir)?;
    // The relay has forgotten them, too.
    ConnectionCounter::reset_all(&data_dir)?;
    Ok(identity)
}

/// Whether a relay that was paired with before is this one.
fn is_same(before: &str, now: &RelayUrl) -> bool {
    let before = before.parse::<RelayUrl>();
    before.is_ok_and(|before| before.host().eq_ignore_ascii_case(now.host()))
}

/// Knows the way to the config's relay.
pub(crate) fn dialer(config: &Config, credentials: &Credentials) -> Result<Dialer, PairError> {
    let extra: Vec<_> = config
        .relay
        .ca_file
        .iter()
        .map(|file| file.get().to_owned())
        .collect();
    let tls = ClientTls {
        ca_files: &extra,
        oldest: config.relay.tls_min.oldest(),
        ..ClientTls::default()
    }
    .config()?;
    let name = config.relay.proxy_credential.as_deref();
    let proxy = with_credential(config.relay.proxy.resolve()?, name, credentials)?;
    Ok(Dialer::new(config.relay.url.clone(), &tls, proxy))
}

fn request_body(key: &Key, name: &str, client_id: &str) -> Bytes {
    let transcript = PairingTranscript {
        client_id,
        name,
        public_key: key.public(),
        instance: &key.instance(),
    };
    let proof = transcript.sign(key.pair());
    let request = PairRequest {
        name,
        public_key: STANDARD.encode(key.public()),
        instance: STANDARD.encode(key.instance()),
        host: identity::host_name(),
        software: identity::software(),
        proof: STANDARD.encode(proof),
    };
    serde_json::to_vec(&request)
        .expect("strings are always JSON")
        .into()
}

async fn post(dialer: &Dialer, api_key: &ApiKey, body: Bytes) -> Result<PairResponse, PairError> {
    let relay = dialer.relay().to_string();
    let no_answer = |error: &dyn fmt::Display| PairError::NoAnswer {
        relay: relay.clone(),
        detail: error.to_string(),
    };
    let stream = dialer.connect().await.map_err(|source| PairError::Dial {
        relay: relay.clone(),
        source,
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| no_answer(&error))?;
    let connection = tokio::spawn(connection);
    let request = pair_request(&dialer.relay().authority(), api_key, body)?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| no_answer(&error))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES)
        .collect()
        .await;
    connection.abort();
    let body = body.map_err(|error| no_answer(&error))?.to_bytes();
    if (200..300).contains(&status) {
        return serde_json::from_slice(&body).map_err(|_| PairError::NotRelay);
    }
    let detail = serde_json::from_slice::<Problem>(&body)
        .ok()
        .and_then(|problem| problem.detail)
        .map(|detail| format!(" (the relay says: {detail})"));
    Err(PairError::Refused {
        status,
        advice: advice(status),
        detail: detail.unwrap_or_default(),
    })
}

fn pair_request(
    authority: &str,
    api_key: &ApiKey,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, PairError> {
    let basic = format!("{}:{}", api_key.client_id, api_key.client_secret.expose());
    let basic = format!("Basic {}", STANDARD.encode(basic));
    let mut authorization = HeaderValue::try_from(basic).expect("base64 is visible ASCII");
    authorization.set_sensitive(true);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/v1/pair");
    let headers = request.headers_mut();
    headers.insert(
        HOST,
        HeaderValue::try_from(authority).map_err(|_| PairError::NotRelay)?,
    );
    headers.insert(AUTHORIZATION, authorization);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(request)
}

fn advice(status: u16) -> &'static str {
    match status {
        401 => "the client id or the client secret is wrong, or the API key was revoked",
        403 => {
            "this API key may not pair bridges; it needs the role bridge, in a tenant that is active"
        }
        404 => "there is no pairing at this URL; check relay.url",
        409 => {
            "another bridge has this name; choose another name, or use an API key that was created \
             with `--existing join` (to stand beside it) or `--existing replace` (to take its place)"
        }
        429 | 503 => "the relay is busy; try again in a minute",
        400 | 422 => {
            "the relay does not take the request; are bridge and relay of the same version?"
        }
        _ => "the relay could not do it; try again, and ask its operator if it stays so",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_proves_that_the_private_key_is_here() {
        let key = Key::generate().unwrap();
        let body = request_body(&key, "berlin", "id");
        let request: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let bytes = |field: &str| STANDARD.decode(request[field].as_str().unwrap()).unwrap();
        let instance = key.instance();
        let transcript = |client_id| PairingTranscript {
            client_id,
            name: "berlin",
            public_key: key.public(),
            instance: &instance,
        };
        assert_eq!(bytes("public_key"), key.public());
        assert!(transcript("id").is_proved_by(&bytes("proof")));
        assert!(!transcript("other").is_proved_by(&bytes("proof")));
    }

    #[test]
    fn a_relay_is_the_same_on_another_port_and_another_on_another_host() {
        let now: RelayUrl = "https://relay.example:8443".parse().unwrap();
        for (before, same) in [
            ("https://relay.example", true),
            ("https://RELAY.example:9", true),
            ("https://other.example:8443", false),
            ("", false),
        ] {
            assert_eq!(is_same(before, &now), same, "{before}");
        }
    }

    #[test]
    fn secrets_are_silent() {
        let key = ApiKey {
            client_id: "id".into(),
            client_secret: Secret::new("sesame\n"),
        };
        assert_eq!(key.client_secret.expose(), "sesame");
        assert!(!format!("{key:?} {:?}", key.client_secret).contains("sesame"));
        let request = pair_request("relay:443", &key, Bytes::new()).unwrap();
        assert!(!format!("{request:?}").contains("Basic"));
    }
}
