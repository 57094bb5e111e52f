//! The login on a connection whose requests have the whole URL (RFC 9112, 3.2.2), instead of a tunnel.
//!
//! ```text
//! Basic       each request carries it
//! Negotiate   the first request carries it, and the proxy then knows the connection
//! NTLM        a request that leads nowhere, first message --> 407, a challenge; then as Negotiate
//! ```
//!
//! The first messages need a request, and it must reach no target: the policy has allowed none but the real one. So
//! it is a CONNECT to a name that never resolves (RFC 6761, 6.4), at port 443, which proxies allow. OPTIONS with
//! `Max-Forwards: 0` would be the better request, but squid answers it with 501 before it asks for a login.

use super::connect::{Line, connect_request};
use super::handshake::Next;
use super::login::Scheme;
use super::{ProxyError, ProxyServer};
use crate::failure::{Cause, Diagnosis};
use runtime::secret::Secret;
use std::time::Duration;
use tokio::net::TcpStream;

/// Where no request arrives.
const NOWHERE: &str = "login.invalid:443";

/// How requests are authenticated on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlLogin {
    /// Not at all.
    None,
    /// Each one, by this value of `Proxy-Authorization`.
    Each(Secret),
    /// The first one, by this value; the proxy remembers the connection.
    First(Scheme, Secret),
}

impl ProxyServer {
    /// Opens a connection for requests with the whole URL, whose own connection takes at most `limit`.
    ///
    /// # Errors
    /// [`ProxyError`] when the proxy cannot be reached, or there is no login for it.
    pub async fn open_for_urls(
        &self,
        limit: Duration,
    ) -> Result<(TcpStream, UrlLogin), ProxyError> {
        let mut line = Line::new(self, self.open(limit).await?);
        let mut handshake = self.handshake();
        let mut next = handshake.first();
        loop {
            let value = match next {
                Next::Send(value) => value,
                Next::Begin(mechanism) => {
                    let begun = mechanism.begin(self.host()).await;
                    next = handshake.begun(mechanism, begun);
                    continue;
                }
                Next::Fail(why) => return Err(self.login_failed(why)),
            };
            if handshake.is_complete() {
                let login = match (value, handshake.scheme()) {
                    (None, _) => UrlLogin::None,
                    (Some(value), None | Some(Scheme::Basic)) => UrlLogin::Each(value),
                    (Some(value), Some(scheme)) => UrlLogin::First(scheme, value),
                };
                return Ok((line.stream, login));
            }
            let request = connect_request(NOWHERE, value.as_ref(), true);
            let answer = match line.exchange(&request).await {
                // The proxy closed the connection after its 407, without announcing it.
                Err(ProxyError::Io { .. }) if line.has_served && !handshake.is_bound() => {
                    line.reconnect().await?;
                    next = Next::Send(value);
                    continue;
                }
                answer => answer?,
            };
            let is_kept = line.skip_body(&answer).await;
            if answer.status != 407 {
                // It wants no login, or refuses CONNECT before it asks for one.
                if !is_kept {
                    line.reconnect().await?;
                }
                return Ok((line.stream, UrlLogin::None));
            }
            next = handshake.rejected(answer.offers);
            if is_kept || matches!(next, Next::Fail(_)) {
                continue;
            }
            if handshake.is_bound() {
                let found = "it closes the connection between the messages of one login";
                return Err(self.login_failed(Diagnosis::new(Cause::ProxyLoginFailed, found)));
            }
            line.reconnect().await?;
        }
    }

    /// Notes that the proxy accepted the login of a connection.
    pub fn note_accepted(&self, scheme: Scheme) {
        self.login.note_used(scheme);
    }

    /// Notes that the proxy rejected the login of a connection.
    pub fn note_rejected(&self, scheme: Scheme) {
        if let Some(mechanism) = self.login.mechanism(scheme) {
            mechanism.rejected();
        }
    }

    fn login_failed(&self, why: Diagnosis) -> ProxyError {
        ProxyError::Login {
            proxy: self.to_string(),
            why,
        }
    }
}
