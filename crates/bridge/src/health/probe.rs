//! One look at one endpoint, step by step, as far as it goes.

use super::PROBE_WITHIN;
use crate::credentials::Injection;
use crate::credentials::alm::Over;
use crate::dispatcher::{Active, resolve};
use crate::upstream::{
    Connection, RequestBody, Upstream, refused as refused_by_target, request_failure, request_head,
};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use hyper::client::conn::TrySendError;
use policy::{Approved, Target};
use protocol::frame::{BodyLength, Class, Headers, RequestHead, RequestTarget, TimeLeft};
use protocol::{Code, Failure};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::time::timeout;

/// What a look found, up to where it ended.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    /// What the host's name resolved to.
    pub(crate) addresses: Vec<IpAddr>,
    /// Where a connection (and TLS, if the URL has it) was made to.
    pub(crate) connected: Option<SocketAddr>,
    /// What it answered with, where a request was made.
    pub(crate) status: Option<u16>,
    /// Where it ended, and why; none when it went through.
    pub(crate) failure: Option<Failure>,
}

/// Looks at an endpoint: resolves, connects, and asks for its `health_path` if it has one. With `asks`, it
/// asks in any case, for the base URL where there is no such path. The endpoint's credential goes with
/// the request.
pub(crate) async fn probe(active: &Arc<Active>, name: &str, asks: bool) -> Probe {
    let mut probe = Probe::default();
    let looked = timeout(PROBE_WITHIN, probe_path(active, name, asks, &mut probe)).await;
    let late = || {
        let detail = format!("it took longer than {PROBE_WITHIN:?}");
        Err(Failure::not_dispatched(Code::TargetTimeout, detail))
    };
    probe.failure = looked.unwrap_or_else(|_| late()).err();
    probe
}

async fn probe_path(
    active: &Arc<Active>,
    name: &str,
    asks: bool,
    probe: &mut Probe,
) -> Result<(), Failure> {
    let settings = active.config.rules.settings(name);
    let path = settings.and_then(|settings| settings.health_path.as_deref());
    let asks = asks || path.is_some();
    let path = path.unwrap_or_default();
    let head = RequestHead {
        class: Class::Bulk,
        share: protocol::frame::CallerWeight::default(),
        target: RequestTarget::Endpoint {
            name: name.to_owned(),
            path_and_query: path.to_owned(),
        },
        method: "GET".into(),
        headers: Headers::default(),
        body: BodyLength::None,
        expect_continue: false,
        time_left: TimeLeft::default(),
        call: None,
        credential: None,
    };
    let candidate = active
        .policy
        .decide_own(name, "GET", path)
        .map_err(|refusal| refused(&refusal))?;
    probe.addresses = resolve(candidate.target().host()).await?;
    let approved = candidate
        .approve_any(probe.addresses.clone())
        .map_err(|refusal| refused(&refusal))?;
    let mut injection = injection(active, name, candidate.target())?;
    let ca_file = settings.and_then(|settings| settings.ca_file.as_deref());
    let own = injection.as_ref().and_then(Injection::client_cert);
    let key = Upstream::key(candidate.target(), ca_file, own);
    let connecting = active.upstream.connect(approved.clone(), &key, None);
    let (used, connection) = connecting.await?;
    probe.connected = Some(used.socket_addr());
    if !asks {
        return Ok(());
    }
    if let Some(injection) = &mut injection
        && let Some(sign_in) = injection.sign_in()
    {
        injection.signed_in(sign_in.at(&active.access, name).await?);
    }
    let injection = injection.as_ref();
    let asked = match ask(&used, &head, injection, connection).await? {
        Err(error) if let Some(refused) = refused_by_target(error.error()) => {
            active.upstream.note(&key, refused);
            let connecting = active.upstream.connect(approved, &key, None);
            let (used, connection) = connecting.await?;
            ask(&used, &head, injection, connection).await?
        }
        asked => asked,
    };
    let response = asked.map_err(|error| request_failure(error.error()))?;
    probe.status = Some(response.status().as_u16());
    if let Some((sign_in, jar)) = injection.and_then(|own| own.sign_in().zip(own.jar())) {
        let is_whole = jar.follow(response.headers());
        if response.status() == StatusCode::UNAUTHORIZED {
            sign_in.end_session(&active.access, name, jar, Over::Unauthorized);
        } else if !is_whole {
            sign_in.end_session(&active.access, name, jar, Over::Deleted);
        }
    }
    Ok(())
}

/// The endpoint's credential.
fn injection(active: &Active, name: &str, target: &Target) -> Result<Option<Injection>, Failure> {
    let settings = active.config.rules.settings(name);
    let Some(credential) = settings.and_then(|settings| settings.credential.as_deref()) else {
        return Ok(None);
    };
    let Some(credential) = active.credentials.get(credential) else {
        let detail = format!(
            "there is no credential named {credential}: set it with `integration-bridge credential set \
             {credential}`"
        );
        return Err(Failure::not_dispatched(Code::InvalidRequest, detail));
    };
    Injection::new(credential.clone(), target, "GET").map(Some)
}

/// The head of a response, or why there is none.
type Asked = Result<Response<()>, TrySendError<http::Request<RequestBody>>>;

/// Makes the request. The response's body is not read; the connection is closed.
async fn ask(
    approved: &Approved,
    head: &RequestHead,
    injection: Option<&Injection>,
    mut connection: Connection,
) -> Result<Asked, Failure> {
    let mut request = request_head(approved, head)?;
    if let Some(injection) = injection {
        injection.apply(&Method::GET, request.headers_mut())?;
    }
    let request = request.map(|()| RequestBody::of_whole(Bytes::new(), BodyLength::None));
    let answer = connection.send(request).await;
    Ok(answer.map(|response| response.map(drop)))
}

fn refused(refusal: &policy::Refusal) -> Failure {
    Failure::not_dispatched(Code::RefusedByPolicy, refusal.to_string())
}
