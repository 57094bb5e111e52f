//! The proxy on the route to targets.
//!
//! ```text
//! https target, raw stream      CONNECT address:port                                   (RFC 9110, 9.3.6)
//! http target                   CONNECT address:port; if the proxy refuses that:
//!                               GET http://address/path                                (RFC 9112, 3.2.2)
//! http target with `names`      GET http://name/path
//! ```
//!
//! Many proxies refuse CONNECT to ports other than 443. In the absolute form a proxy must replace `Host` by what
//! the URL has. So the bridge asks for CONNECT first, which keeps `Host`, and falls back to the address. It gives
//! the proxy a name only where the config asks for it: the proxy would resolve it again, and could reach an
//! address that the policy never saw.
//!
//! Requests in the absolute form carry the proxy's own credential: each one with Basic, and the first one of a connection
//! with NTLM and Negotiate, which authenticate the connection. It goes to the proxy and no further: `Proxy-Authorization`
//! is a field of one hop, and it is added when a request is sent on a connection to the proxy, nowhere else.
//!
//! A proxy that gets requests in the absolute form may write a response of its own before or after the target has
//! executed the request ([`Absolute::own_failure`]).

use http::header::{HeaderValue, PROXY_AUTHORIZATION};
use http::{Request, Response, StatusCode, Uri};
use policy::{Approved, Host};
use protocol::{Code, Failure};
use runtime::secret::Secret;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use transport::dial::{Proxy, ProxyServer, Scheme, UrlLogin};

/// Addresses that the proxy is remembered to refuse CONNECT to. A full set is cleared.
const REFUSED_MAX: usize = 256;

/// How a proxy is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// A tunnel.
    Tunnel,
    /// A tunnel. If the proxy refuses it: the absolute form.
    TunnelFirst,
    /// The absolute form.
    Absolute,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// TLS, or raw bytes.
    Bytes,
    /// Plain HTTP requests.
    Http,
    /// A plain HTTP request that may switch protocols, which few proxies pass on.
    Upgrade,
}

/// The proxy for targets, and what is known about it.
#[derive(Debug)]
pub(crate) struct TargetProxy {
    proxy: Proxy,
    /// Whether it gets the names of http targets.
    names: bool,
    refused: Mutex<BTreeSet<SocketAddr>>,
}

impl TargetProxy {
    pub(crate) fn new(proxy: Proxy, names: bool) -> Self {
        Self {
            proxy,
            names,
            refused: Mutex::default(),
        }
    }

    /// Returns the proxy on the route to this target, if there is one.
    pub(crate) fn server_for(&self, approved: &Approved) -> Option<&ProxyServer> {
        let target = approved.target();
        self.proxy
            .server_for(&target.host().to_string(), target.port())
    }

    pub(crate) fn method(&self, approved: &Approved, purpose: Purpose) -> Method {
        let has_name = self.names && matches!(approved.target().host(), Host::Name(_));
        match purpose {
            Purpose::Bytes => Method::Tunnel,
            Purpose::Upgrade => Method::TunnelFirst,
            Purpose::Http if has_name || self.lock().contains(&approved.socket_addr()) => {
                Method::Absolute
            }
            Purpose::Http => Method::TunnelFirst,
        }
    }

    /// Remembers that the proxy refuses CONNECT to an address. Not by port: a proxy that knows nothing but CONNECT
    /// may refuse one host and not another.
    pub(crate) fn note_refused(&self, approved: &Approved) {
        let mut refused = self.lock();
        if refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        if refused.insert(approved.socket_addr()) {
            drop(refused);
            tracing::info!(
                authority = approved.target().authority(),
                address = %approved.socket_addr(),
                "the proxy for targets refuses CONNECT to this http target: it is requested by URL, with its \
                 address; if it needs its name in Host, set targets.proxy_names = true"
            );
        }
    }

    /// Returns the authority in the URLs of requests to the target, on a connection to the proxy.
    pub(crate) fn authority(&self, approved: &Approved) -> String {
        let target = approved.target();
        let address = approved.socket_addr();
        match target.host() {
            Host::Name(_) if self.names => target.authority().to_owned(),
            _ if address.port() == 80 => match address.ip() {
                std::net::IpAddr::V4(address) => address.to_string(),
                std::net::IpAddr::V6(address) => format!("[{address}]"),
            },
            _ => address.to_string(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<SocketAddr>> {
        let refused = self.refused.lock();
        refused.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes requests for a proxy, and tells its own responses from those of the target.
#[derive(Debug)]
pub(crate) struct Absolute {
    authority: String,
    server: ProxyServer,
    login: Login,
}

/// The login on one connection. `HeaderValue` shows no value that is marked as sensitive.
#[derive(Debug)]
enum Login {
    None,
    /// Each request carries it.
    Each(HeaderValue),
    /// The first request carries it. NTLM and Negotiate authenticate a connection.
    First {
        scheme: Scheme,
        value: HeaderValue,
        is_sent: AtomicBool,
        is_accepted: AtomicBool,
    },
}

impl Absolute {
    /// Prepares a connection with this login, for requests to `authority`.
    pub(crate) fn new(server: ProxyServer, authority: String, login: UrlLogin) -> Self {
        let sensitive = |text: &Secret| {
            let mut value = HeaderValue::from_str(text.expose()).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        let login = match login {
            UrlLogin::None => None,
            UrlLogin::Each(text) => sensitive(&text).map(Login::Each),
            UrlLogin::First(scheme, text) => sensitive(&text).map(|value| Login::First {
                scheme,
                value,
                is_sent: AtomicBool::new(false),
                is_accepted: AtomicBool::new(false),
            }),
        };
        Self {
            authority,
            server,
            // A value that is no field value is one of the config that no proxy accepts.
            login: login.unwrap_or(Login::None),
        }
    }

    /// Returns the field for the next request.
    fn authorization(&self) -> Option<&HeaderValue> {
        match &self.login {
            Login::None => None,
            Login::Each(value) => Some(value),
            Login::First { value, is_sent, .. } => {
                (!is_sent.swap(true, Ordering::Relaxed)).then_some(value)
            }
        }
    }

    /// Checks that a request can be written in the absolute form.
    ///
    /// # Errors
    /// `target_refused` for `OPTIONS *`. Its absolute form is a URL without a path (RFC 9112, 3.2.4), and hyper
    /// writes none: it adds `/`, which is another resource.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<(), Failure> {
        if request.uri().path() != "*" {
            return Ok(());
        }
        let (proxy, authority) = (&self.server, &self.authority);
        let detail = format!(
            "OPTIONS * needs a tunnel, and the proxy {proxy} gets requests for {authority} by URL: allow CONNECT to it \
             in the proxy, or exclude it with NO_PROXY"
        );
        Err(Failure::not_dispatched(Code::TargetRefused, detail))
    }

    /// Rewrites a request into the absolute form. It must have passed [`Self::check`].
    pub(crate) fn apply<B>(&self, request: &mut Request<B>) {
        let path = request.uri().path_and_query();
        let path = path.map_or("/", http::uri::PathAndQuery::as_str);
        if let Ok(uri) = Uri::try_from(format!("http://{}{path}", self.authority)) {
            *request.uri_mut() = uri;
        }
        match self.authorization() {
            Some(value) => request
                .headers_mut()
                .insert(PROXY_AUTHORIZATION, value.clone()),
            None => request.headers_mut().remove(PROXY_AUTHORIZATION),
        };
    }

    /// Returns the failure, if the response is the proxy's own, and whether another address of the target may be
    /// reached.
    ///
    /// A 407 always is (RFC 9110, 15.5.8). squid marks its error pages with `X-Squid-Error`. Pages of other
    /// proxies cannot be told from responses of the target, and are passed on.
    ///
    /// `not_dispatched` only where the proxy cannot have sent the request on: it asks for credentials first, or it
    /// has no connection to the target. squid writes all other pages after the request was sent as well:
    /// `ERR_ACCESS_DENIED` is also that of `http_reply_access`, and `ERR_TOO_BIG` that of `reply_body_max_size`. squid
    /// connects a second time only for a request without a body whose method is idempotent.
    ///
    /// An http target can forge both marks. It can thereby cause a repetition of a request that it has received,
    /// and free the nonce of a signed one, as an HTTP/2 target can with REFUSED_STREAM. No other target is
    /// affected: the signature has the target, and the other addresses that are tried are those of the same target.
    pub(crate) fn own_failure<B>(&self, response: &Response<B>) -> Option<(Failure, bool)> {
        let proxy = &self.server;
        if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            if let Login::First { scheme, .. } = &self.login {
                proxy.note_rejected(*scheme);
            }
            let why = match self.login {
                Login::Each(_) | Login::First { .. } => "does not accept the user and password",
                Login::None => "requires a user and password",
            };
            let detail = format!("the proxy {proxy} {why} (targets.proxy_credential)");
            let failure = Failure::not_dispatched(Code::TargetRefused, detail);
            return Some((failure, false));
        }
        if let Login::First {
            scheme,
            is_accepted,
            ..
        } = &self.login
            && !is_accepted.swap(true, Ordering::Relaxed)
        {
            proxy.note_accepted(*scheme);
        }
        let name = response.headers().get("x-squid-error")?.to_str().ok()?;
        if response.status().as_u16() < 400 {
            return None;
        }
        let name = name.split_ascii_whitespace().next().unwrap_or_default();
        let name: String = name.chars().take(48).collect();
        let status = response.status().as_u16();
        let detail = format!("the proxy {proxy} answered with {status} itself: {name}");
        let is_unreachable = matches!(&*name, "ERR_CONNECT_FAIL" | "ERR_CANNOT_FORWARD");
        let failure = match &*name {
            "ERR_DNS_FAIL" => Failure::not_dispatched(Code::TargetDns, detail),
            _ if is_unreachable => Failure::not_dispatched(Code::TargetRefused, detail),
            "ERR_READ_TIMEOUT" | "ERR_LIFETIME_EXP" => {
                Failure::possibly_executed(Code::TargetTimeout, detail)
            }
            _ => Failure::possibly_executed(Code::TargetClosed, detail),
        };
        Some((failure, is_unreachable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::{HostPattern, Methods, Policy, Rule};

    fn approved(host: &str) -> Approved {
        let mut rule = Rule::new(HostPattern::parse(host).unwrap(), Methods::Any);
        rule.ports = policy::Ports::parse(&[80, 8080]).unwrap();
        let policy = Policy::new(vec![rule], Vec::new()).unwrap();
        let url = format!("http://{host}:8080/");
        let candidate = policy.decide_url("GET", &url).unwrap();
        candidate.approve("10.0.0.1".parse().unwrap()).unwrap()
    }

    fn proxy(names: bool) -> TargetProxy {
        let proxy = Proxy::from_url("targets.proxy", "http://me:sesame@proxy:3128").unwrap();
        TargetProxy::new(proxy, names)
    }

    /// Returns a connection with Basic.
    fn absolute(proxy: &TargetProxy, approved: &Approved) -> Absolute {
        let server = proxy.server_for(approved).unwrap().clone();
        let login = UrlLogin::Each(Secret::new("Basic bWU6c2VzYW1l"));
        Absolute::new(server, proxy.authority(approved), login)
    }

    #[test]
    fn proxy_gets_names_only_where_configured() {
        for (host, names, method, authority) in [
            ("10.0.0.1", false, Method::TunnelFirst, "10.0.0.1:8080"),
            ("10.0.0.1", true, Method::TunnelFirst, "10.0.0.1:8080"),
            ("ci.corp", false, Method::TunnelFirst, "10.0.0.1:8080"),
            ("ci.corp", true, Method::Absolute, "ci.corp:8080"),
        ] {
            let (proxy, approved) = (proxy(names), approved(host));
            assert_eq!(proxy.method(&approved, Purpose::Http), method, "{host}");
            assert_eq!(proxy.method(&approved, Purpose::Bytes), Method::Tunnel);
            assert_eq!(
                proxy.method(&approved, Purpose::Upgrade),
                Method::TunnelFirst
            );
            assert_eq!(proxy.authority(&approved), authority);
            proxy.note_refused(&approved);
            assert_eq!(proxy.method(&approved, Purpose::Http), Method::Absolute);
        }
    }

    #[test]
    fn absolute_request_carries_the_proxy_credential() {
        let (proxy, approved) = (proxy(false), approved("10.0.0.1"));
        let absolute = absolute(&proxy, &approved);
        let mut request = Request::builder()
            .uri("/a%2Fb;c?x=%20")
            .header("proxy-authorization", "forged")
            .body(())
            .unwrap();
        absolute.apply(&mut request);
        assert_eq!(
            request.uri().to_string(),
            "http://10.0.0.1:8080/a%2Fb;c?x=%20"
        );
        assert_eq!(request.headers()[PROXY_AUTHORIZATION], "Basic bWU6c2VzYW1l");
        assert!(!format!("{absolute:?}").contains("bWU6"));
    }

    #[test]
    fn first_request_carries_the_login_of_a_connection() {
        let (proxy, approved) = (proxy(false), approved("10.0.0.1"));
        let server = proxy.server_for(&approved).unwrap().clone();
        let login = UrlLogin::First(Scheme::Ntlm, Secret::new("NTLM eA=="));
        let absolute = Absolute::new(server.clone(), proxy.authority(&approved), login);
        let value = |absolute: &Absolute| {
            let request = Request::builder()
                .uri("/")
                .header("proxy-authorization", "x");
            let mut request = request.body(()).unwrap();
            absolute.apply(&mut request);
            request.headers().get(PROXY_AUTHORIZATION).cloned()
        };
        assert_eq!(value(&absolute).unwrap(), "NTLM eA==");
        assert_eq!(value(&absolute), None);
        assert!(!format!("{absolute:?}").contains("eA=="));
        // It counts as accepted only once the proxy has let a request pass.
        assert_eq!(server.seen().used, None);
        let response = |status: u16| Response::builder().status(status).body(()).unwrap();
        assert!(absolute.own_failure(&response(407)).is_some());
        assert_eq!(server.seen().used, None);
        assert!(absolute.own_failure(&response(200)).is_none());
        assert_eq!(server.seen().used, Some(Scheme::Ntlm));
    }

    #[test]
    fn options_asterisk_has_no_absolute_form() {
        let (proxy, approved) = (proxy(false), approved("10.0.0.1"));
        let absolute = absolute(&proxy, &approved);
        let check = |uri: &str| {
            let request = Request::builder().method("OPTIONS").uri(uri);
            absolute.check(&request.body(()).unwrap())
        };
        for uri in ["/", "/*", "/?*"] {
            check(uri).unwrap();
        }
        let failure = check("*").unwrap_err();
        assert!(failure.execution.is_safe_to_repeat());
        assert!(
            failure.detail.contains("10.0.0.1:8080"),
            "{}",
            failure.detail
        );
        assert!(!failure.detail.contains("sesame"), "{}", failure.detail);
    }

    #[test]
    fn proxy_own_responses_are_failures() {
        let (proxy, approved) = (proxy(false), approved("10.0.0.1"));
        let absolute = absolute(&proxy, &approved);
        let failure = |status: u16, error: Option<&str>| {
            let mut response = Response::builder().status(status);
            if let Some(error) = error {
                response = response.header("x-squid-error", error);
            }
            let failure = absolute.own_failure(&response.body(()).unwrap());
            failure.map(|(failure, _)| (failure.code, failure.execution.is_safe_to_repeat()))
        };
        assert_eq!(failure(407, None), Some((Code::TargetRefused, true)));
        for (status, error, code, is_safe) in [
            (503, "ERR_CONNECT_FAIL 111", Code::TargetRefused, true),
            (503, "ERR_CANNOT_FORWARD 0", Code::TargetRefused, true),
            (503, "ERR_DNS_FAIL 0", Code::TargetDns, true),
            (502, "ERR_ZERO_SIZE_OBJECT 0", Code::TargetClosed, false),
            (504, "ERR_READ_TIMEOUT 110", Code::TargetTimeout, false),
            // Also written in place of the target's response.
            (403, "ERR_ACCESS_DENIED 0", Code::TargetClosed, false),
            (403, "ERR_TOO_BIG 0", Code::TargetClosed, false),
            (400, "ERR_INVALID_REQ 0", Code::TargetClosed, false),
            (503, "ERR_SHUTTING_DOWN 0", Code::TargetClosed, false),
            (500, "ERR_NEW 0", Code::TargetClosed, false),
        ] {
            assert_eq!(
                failure(status, Some(error)),
                Some((code, is_safe)),
                "{error}"
            );
        }
        assert_eq!(failure(503, None), None);
        assert_eq!(failure(200, Some("ERR_NONE 0")), None);
    }
}
