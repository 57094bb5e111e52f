//! A simulated ALM: its sign-in, and a page that needs one.
//!
//! | route | does |
//! | --- | --- |
//! | `POST /qcbin/authentication-point/alm-authenticate` | 200 and `LWSSO_COOKIE_KEY`, or 401 |
//! | `POST /qcbin/rest/site-session` | with that cookie: 201 and `QCSession`, `XSRF-TOKEN`, `ALM_USER` |
//! | `GET /qcbin/rest/is-authenticated` | 200 with that cookie, or 401 |
//! | anything else below `/qcbin/rest` | with both cookies, and `X-XSRF-TOKEN` unless it is GET: what was asked, as JSON; else 401 |

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{COOKIE, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

use crate::tasks::AbortOnDrop;

/// A running ALM.
#[derive(Debug)]
pub struct Alm {
    addr: SocketAddr,
    seen: Arc<Seen>,
    _serving: AbortOnDrop,
}

#[derive(Debug, Default)]
struct Seen {
    user: String,
    password: Mutex<String>,
    sign_ins: AtomicU64,
    next: AtomicU64,
    /// The XSRF token, by `QCSession`.
    sessions: Mutex<HashMap<String, String>>,
}

impl Alm {
    /// With one user.
    ///
    /// # Panics
    ///
    /// Where loopback has no free port.
    pub async fn start(user: &str, password: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("loopback has a free port");
        let addr = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Seen {
            user: user.to_owned(),
            password: Mutex::new(password.to_owned()),
            ..Seen::default()
        });
        let serving = tokio::spawn(accept(listener, Arc::clone(&seen)));
        Self {
            addr,
            seen,
            _serving: AbortOnDrop(serving),
        }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}/qcbin/", self.addr)
    }

    /// Tries to sign in so far, good and bad.
    pub fn sign_ins(&self) -> u64 {
        self.seen.sign_ins.load(Ordering::Relaxed)
    }

    /// Ends every session.
    pub fn expire(&self) {
        self.seen.sessions().clear();
    }

    /// Takes another password from now on.
    pub fn set_password(&self, password: &str) {
        *self.seen.password() = password.to_owned();
    }
}

impl Seen {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn password(&self) -> std::sync::MutexGuard<'_, String> {
        self.password.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self, name: &str) -> String {
        format!("{name}-{:04}", self.next.fetch_add(1, Ordering::Relaxed))
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            return;
        };
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&seen)));
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(COOKIE);
    let crumbs = all.iter().filter_map(|value| value.to_str().ok());
    crumbs
        .flat_map(|value| value.split(';'))
        .filter_map(|crumb| crumb.trim().split_once('='))
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.to_owned())
}

fn reply(status: StatusCode, cookies: &[(&str, &str)], body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    for (name, value) in cookies {
        let text = format!("{name}={value}; Path=/; HttpOnly");
        let value = HeaderValue::from_str(&text).expect("visible ASCII");
        response.headers_mut().append(SET_COOKIE, value);
    }
    response
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Seen>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let denied = |why: &str| {
        let mut response = reply(
            StatusCode::UNAUTHORIZED,
            &[],
            json!({"Id": "qccore.general-error", "Title": why}).to_string(),
        );
        let challenge = HeaderValue::from_static("ALMAUTH");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        Ok(response)
    };
    let sso = cookie(&parts.headers, "LWSSO_COOKIE_KEY").filter(|key| key.starts_with("lwsso-"));
    let path = parts.uri.path();
    match path {
        "/qcbin/authentication-point/alm-authenticate" => {
            seen.sign_ins.fetch_add(1, Ordering::Relaxed);
            let wanted = format!(
                "<alm-authentication><user>{}</user><password>{}</password></alm-authentication>",
                seen.user,
                seen.password()
            );
            if body != wanted.as_bytes() {
                return denied("Authentication failed");
            }
            let key = seen.fresh("lwsso");
            Ok(reply(
                StatusCode::OK,
                &[("LWSSO_COOKIE_KEY", &key)],
                String::new(),
            ))
        }
        _ if sso.is_none() => denied("Not authenticated"),
        "/qcbin/rest/site-session" if parts.method == Method::POST => {
            let (session, token) = (seen.fresh("session"), seen.fresh("token"));
            seen.sessions().insert(session.clone(), token.clone());
            let user = seen.user.clone();
            let cookies = [
                ("QCSession", session.as_str()),
                ("XSRF-TOKEN", token.as_str()),
                ("ALM_USER", user.as_str()),
            ];
            Ok(reply(StatusCode::CREATED, &cookies, String::new()))
        }
        "/qcbin/rest/is-authenticated" => Ok(reply(StatusCode::OK, &[], String::new())),
        _ => {
            let session = cookie(&parts.headers, "QCSession").unwrap_or_default();
            let token = seen.sessions().get(&session).cloned();
            let Some(token) = token else {
                return denied("Session has expired");
            };
            let given = parts.headers.get("x-xsrf-token");
            if parts.method != Method::GET && given.is_none_or(|given| *given != *token) {
                return denied("Unauthorized request. XSRF token is missing");
            }
            let what = json!({
                "method": parts.method.as_str(),
                "path": path,
                "body": String::from_utf8_lossy(&body),
                "cookies": parts.headers.get(COOKIE).and_then(|value| value.to_str().ok()),
            });
            let renewed = seen.fresh("lwsso");
            Ok(reply(
                StatusCode::OK,
                &[("LWSSO_COOKIE_KEY", &renewed)],
                what.to_string(),
            ))
        }
    }
}
