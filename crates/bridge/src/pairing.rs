//! Pairing: registers this bridge's public key with a relay, under a name, by an API key.
//!
//! ```text
//! POST https://relay/v1/pair      Authorization: Basic client id:client secret
//! {name, public_key, instance, host, software, proof}  ->  {tenant, tenant_id, bridge_id, name}
//! ```
//!
//! `proof` is the signature of a [`PairingTranscript`]: it shows that the sender has the private key. The API
//! key is used for this one request and is not stored.

use crate::config::{Config, ConfigError};
use crate::connection_counter::ConnectionCounter;
use crate::credentials::{self, Credentials, StoreError};
use crate::data_dir::DataDirError;
use crate::identity::{self, Identity, IdentityError, Key, PENDING_FILE};
use crate::proxy_login::{ProxyCredentialError, Route};
pub use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Limited};
use http_client::{Connection, RequestBody, ResponseBody, no_answer_of_relay};
use protocol::Code;
use protocol::frame::BodyLength;
use protocol::opening::PairingTranscript;
use runtime::peer_text::{PeerText, is_plain};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;
use transport::dial::{DialError, Dialer, ProxyError, RelayUrl};
use transport::failure::{Cause, Diagnosis, bounded, redirect};
use transport::tls::{ClientTls, TlsSetupError};

/// Bytes of the relay's own message that are shown.
const DETAIL_MAX_BYTES: usize = 300;

/// Bytes of the response that are read.
const RESPONSE_MAX_BYTES: usize = 64 * 1024;

/// Longest name or id in the response, in bytes.
const NAME_MAX_BYTES: usize = 256;

/// From the request's first byte to the response's last.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

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
    #[error("the relay {relay} was not reached: {source}{remedy}", remedy = remedy(.source))]
    Dial {
        /// The relay.
        relay: String,
        /// Which step failed.
        source: DialError,
    },
    /// The connection failed before the response.
    #[error("the relay {relay} did not respond to the pairing request: {detail}")]
    NoResponse {
        /// The relay.
        relay: String,
        /// What happened.
        detail: String,
    },
    /// A redirect came in place of the response.
    #[error(
        "the relay {relay} did not respond to the pairing request (HTTP {status}): {text}",
        text = .why.with_remedy()
    )]
    Redirected {
        /// The relay.
        relay: String,
        /// The status.
        status: u16,
        /// Where it leads, and what that means.
        why: Diagnosis,
    },
    /// The pairing file is of another tenant than the relay says, or than the bridge belongs to.
    #[error(
        "the pairing file is for the tenant {wanted}, and {whose} {found}: do not use this file, and ask its sender. To \
         move this bridge to another tenant, name a new bridge.data_dir first"
    )]
    OtherTenant {
        /// The tenant of the file.
        wanted: String,
        /// Whose the other tenant is.
        whose: &'static str,
        /// The other tenant.
        found: String,
    },
    /// The relay rejected it.
    #[error("the relay refused the pairing (HTTP {status}): {advice}{detail}")]
    Refused {
        /// The status.
        status: u16,
        /// What to do.
        advice: &'static str,
        /// The relay's own message, if it sent one.
        detail: String,
    },
    /// The server at this URL is not an integration relay.
    #[error(
        "the response to the pairing request is not that of an integration relay; check relay.url"
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

impl PairResponse {
    /// Returns whether all its texts are names: short, and without control characters.
    fn is_plain(&self) -> bool {
        [&self.tenant, &self.tenant_id, &self.bridge_id, &self.name]
            .iter()
            .all(|text| text.len() <= NAME_MAX_BYTES && text.chars().all(is_plain))
    }
}

#[derive(Default, Deserialize)]
struct Problem {
    code: Option<PeerText>,
    detail: Option<PeerText>,
}

/// Pairs this bridge and stores its identity in the data directory.
///
/// Pairing with the same relay again keeps the key pair, so that the bridge keeps its identity there. Another
/// relay gets another key pair. A relay on another port of its host is the same relay.
///
/// # Errors
/// [`PairError`]; an earlier identity stays valid.
pub async fn pair(config: &Config, api_key: &ApiKey) -> Result<Identity, PairError> {
    pair_in(config, api_key, None).await
}

/// Pairs this bridge like [`pair`], in the tenant that a pairing file names: a file that leads to another one is refused.
///
/// # Errors
/// As [`pair`].
pub(crate) async fn pair_in(
    config: &Config,
    api_key: &ApiKey,
    tenant: Option<&str>,
) -> Result<Identity, PairError> {
    let check = |whose, found: &str| match tenant {
        Some(wanted) if wanted != found => Err(PairError::OtherTenant {
            wanted: wanted.to_owned(),
            whose,
            found: found.to_owned(),
        }),
        Some(_) | None => Ok(()),
    };
    let data_dir = config.bridge.lock_data_dir()?;
    let relay = config.relay.url.to_string();
    let key = match Identity::load(&data_dir) {
        // The relay knows the bridge by this key.
        Ok(identity) if is_same(&identity.relay, &config.relay.url) => {
            // Before the request: its targets must not become reachable for another tenant of this relay.
            check("this bridge belongs to", &identity.tenant)?;
            identity.key
        }
        // Stored before the request: after a crash the same key pair asks again, and the relay knows it.
        Ok(_) | Err(IdentityError::NotPaired { .. }) => {
            Key::pending(&data_dir, &relay, |before| {
                is_same(before, &config.relay.url)
            })?
        }
        Err(error) => return Err(error.into()),
    };
    let dialer = dialer(config, &*credentials::load(config)?)?;
    let body = request_body(&key, &config.bridge.name, &api_key.client_id);
    let response = timeout(RESPONSE_TIMEOUT, post(&dialer, api_key, body))
        .await
        .map_err(|_| PairError::NoResponse {
            relay: relay.clone(),
            detail: format!("timed out after {RESPONSE_TIMEOUT:?}"),
        })??;
    check("its key is of", &response.tenant)?;
    let identity = Identity {
        relay,
        tenant: response.tenant,
        tenant_id: response.tenant_id,
        bridge_id: response.bridge_id,
        name: response.name,
        key,
    };
    identity.save(&data_dir)?;
    data_dir.remove(PENDING_FILE)?;
    // The relay forgot the counters of the earlier pairing, too.
    ConnectionCounter::reset_all(&data_dir)?;
    Ok(identity)
}

/// Returns whether an earlier pairing was with this relay.
fn is_same(before: &str, now: &RelayUrl) -> bool {
    let before = before.parse::<RelayUrl>();
    before.is_ok_and(|before| before.host().eq_ignore_ascii_case(now.host()))
}

/// Returns a dialer for the config's relay.
pub(crate) fn dialer(config: &Config, credentials: &Credentials) -> Result<Dialer, PairError> {
    dialer_to(config.relay.url.clone(), config, credentials)
}

/// Returns a dialer for another HTTPS server, which is reached and trusted like the relay.
pub(crate) fn dialer_to(
    server: RelayUrl,
    config: &Config,
    credentials: &Credentials,
) -> Result<Dialer, PairError> {
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
    let route = Route::to_relay(config).resolve()?;
    let proxy = route.with_login(credentials)?;
    Ok(Dialer::new(server, &tls, proxy))
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
    let no_response = |error: &dyn fmt::Display| PairError::NoResponse {
        relay: relay.clone(),
        detail: error.to_string(),
    };
    // The dialer, as for a tunnel: with a proxy, the relay's name may be known to the proxy only.
    let stream = dialer.connect().await.map_err(|source| PairError::Dial {
        relay: relay.clone(),
        source,
    })?;
    let connection = Connection::with_dialed(stream).await;
    let closed = Diagnosis::from(Cause::RelayClosedBeforeResponse).with_remedy();
    let mut connection = connection.map_err(|_| no_response(&closed))?;
    let request = pair_request(&dialer.relay().authority(), api_key, body)?;
    let response = connection.send(request).await;
    let response =
        response.map_err(|error| no_response(&no_answer_of_relay(error.error()).with_remedy()))?;
    let (parts, incoming) = response.into_parts();
    let status = parts.status.as_u16();
    let location = parts.headers.get(LOCATION).map(HeaderValue::as_bytes);
    if let Some(why) = redirect(status, location) {
        return Err(PairError::Redirected { relay, status, why });
    }
    let body = ResponseBody::new(incoming, &mut connection);
    let body = Limited::new(body, RESPONSE_MAX_BYTES).collect().await;
    let cut = "its response was not complete";
    let body = body.map_err(|_| no_response(&cut))?.to_bytes();
    if (200..300).contains(&status) {
        let response: PairResponse =
            serde_json::from_slice(&body).map_err(|_| PairError::NotRelay)?;
        // They are stored, sent in every HELLO, and shown. No relay has such names.
        return match response.is_plain() {
            true => Ok(response),
            false => Err(PairError::NotRelay),
        };
    }
    let problem = serde_json::from_slice::<Problem>(&body).unwrap_or_default();
    let detail = problem.detail.map(|detail| {
        let detail = bounded(detail.as_str(), DETAIL_MAX_BYTES);
        format!(" (the relay reports: {detail})")
    });
    let code = problem.code.as_ref().map(PeerText::as_str);
    Err(PairError::Refused {
        status,
        advice: match code == Some(Code::KeySpent.as_str()) {
            true => SPENT,
            false => advice(status),
        },
        detail: detail.unwrap_or_default(),
    })
}

fn pair_request(
    authority: &str,
    api_key: &ApiKey,
    body: Bytes,
) -> Result<Request<RequestBody>, PairError> {
    let basic = format!("{}:{}", api_key.client_id, api_key.client_secret.expose());
    let basic = format!("Basic {}", STANDARD.encode(basic));
    let mut authorization = HeaderValue::try_from(basic).expect("base64 is visible ASCII");
    // It is then redacted in `Debug`.
    authorization.set_sensitive(true);
    let length = BodyLength::Known(body.len() as u64);
    let mut request = Request::new(RequestBody::from_bytes(body, length));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/v1/pair");
    let headers = request.headers_mut();
    headers.insert(
        HOST,
        HeaderValue::try_from(authority).map_err(|_| PairError::NotRelay)?,
    );
    headers.insert(AUTHORIZATION, authorization);
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(transport::dial::USER_AGENT),
    );
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(request)
}

/// Returns the remedy of a failed dial, as the end of a sentence.
fn remedy(error: &DialError) -> String {
    let why = error.diagnosis();
    why.map_or_else(String::new, |why| format!("; {}", why.remedy()))
}

/// What to do when the relay refuses the key of a pairing file because it was used.
const SPENT: &str = "this pairing file was used already, and it pairs one bridge only. If it was not used on this machine, tell \
                     the relay's operator, because there is a copy of it; to pair this machine, ask for another file";

fn advice(status: u16) -> &'static str {
    match status {
        401 => {
            "the client id or the client secret is wrong, or the API key has expired or was revoked"
        }
        403 => {
            "this API key may not pair bridges; it needs the role bridge, in a tenant that is active"
        }
        404 => "there is no pairing at this URL; check relay.url",
        409 => {
            "another bridge has this name; choose another name, or use an API key that was created \
             with `--existing join` (to work next to it) or `--existing replace` (to replace it)"
        }
        429 | 503 => "the relay is busy; try again in a minute",
        400 | 422 => "the relay rejects the request; are bridge and relay of the same version?",
        _ => "the relay failed; try again, and ask its operator if the error persists",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairing_request_proves_the_private_key() {
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
    fn relay_is_the_same_on_another_port_of_its_host() {
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
    fn secrets_are_redacted_in_debug() {
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
