//! One probe of one endpoint, step by step, as far as it gets.

use super::PROBE_TIMEOUT;
use crate::credentials::Injection;
use crate::credentials::alm::SessionEnd;
use crate::dispatcher::Active;
use crate::target_access::{resolve, with_trust_keys};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_client::{Attempts, Client, OwnRequest, Replay, RequestBody, RequestPlan, request_head};
use policy::{Approved, Target};
use protocol::frame::{BodyLength, Class, HeadersBuilder, RequestHead, RequestTarget, TimeLeft};
use protocol::{Code, Failure};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::time::timeout;
use transport::dial::USER_AGENT;

/// Connections that the request is tried on, if it verifiably was not sent on the first.
const ATTEMPTS_MAX: u32 = 2;

/// The result of a probe, up to the step where it ended.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    /// The addresses of the host.
    pub(crate) addresses: Vec<IpAddr>,
    /// The address of the connection (with TLS, if the URL has it).
    pub(crate) connected: Option<SocketAddr>,
    /// The status of the response, where a request was sent.
    pub(crate) status: Option<u16>,
    /// Why it ended early. `None` when all steps succeeded.
    pub(crate) failure: Option<Failure>,
}

/// Probes an endpoint: resolves, connects, and requests its `health_path` if it has one. With `sends_request`,
/// it sends a request in any case, for the base URL where there is no such path. The endpoint's credential
/// goes with the request.
pub(crate) async fn probe(active: &Arc<Active>, name: &str, sends_request: bool) -> Probe {
    let mut probe = Probe::default();
    let probing = run(active, name, sends_request, &mut probe);
    let probed = timeout(PROBE_TIMEOUT, probing).await;
    let late = || {
        let detail = format!("the probe timed out after {PROBE_TIMEOUT:?}");
        Err(Failure::not_dispatched(Code::TargetTimeout, detail))
    };
    probe.failure = probed.unwrap_or_else(|_| late()).err();
    probe
}

async fn run(
    active: &Arc<Active>,
    name: &str,
    sends_request: bool,
    probe: &mut Probe,
) -> Result<(), Failure> {
    let settings = active.config.rules.settings(name);
    let path = settings.and_then(|settings| settings.health_path.as_deref());
    let sends_request = sends_request || path.is_some();
    let path = path.unwrap_or_default();
    let probe_request = probe_request(name, path);
    let candidate = active
        .policy
        .decide_own(name, "GET", path)
        .map_err(|refusal| refused(&refusal))?;
    probe.addresses = resolve(candidate.target().host()).await?;
    let approved = candidate
        .approve_any(probe.addresses.clone())
        .map_err(|refusal| refused(&refusal))?;
    let mut injection = injection(active, name, candidate.target())?;
    let ca_file = active.ca_file(candidate.rule());
    let client_cert = injection.as_ref().and_then(Injection::client_cert);
    let pool_key = Client::pool_key(candidate.target(), ca_file, client_cert);
    let plan = RequestPlan::new(&candidate, pool_key);
    let mut attempts = Attempts::new(Replay::IfUnsent(Some(Bytes::new())), ATTEMPTS_MAX);
    let connecting = OwnRequest {
        approved: approved.clone(),
        head: |approved: &Approved| request_head(approved, &probe_request),
    };
    // Always a new connection: an idle one would not show that the endpoint can be reached.
    let opening = active.client.open_new(&plan, &connecting, attempts.reuse());
    let opened = opening
        .await
        .map_err(|failure| with_trust_keys(failure, candidate.rule(), &active.config))?;
    probe.connected = Some(opened.0.socket_addr());
    if !sends_request {
        return Ok(());
    }
    if let Some(injection) = &mut injection
        && let Some(sign_in) = injection.sign_in()
    {
        injection.signed_in(sign_in.at(&active.access, name).await?);
    }
    let injection = injection.as_ref();
    let mut request = OwnRequest {
        approved,
        head: |approved: &Approved| {
            let mut request = request_head(approved, &probe_request)?;
            if let Some(injection) = injection {
                injection.apply(&Method::GET, request.headers_mut())?;
            }
            Ok(request)
        },
    };
    let body = RequestBody::empty();
    let executed = active
        .client
        .execute(&plan, opened, &mut request, body, &mut attempts)
        .await?;
    // The body is not read; the connection is closed.
    let response = executed.response;
    probe.status = Some(response.status().as_u16());
    if let Some((sign_in, jar)) = injection.and_then(|own| own.sign_in().zip(own.jar())) {
        let is_kept = jar.follow(response.headers());
        if response.status() == StatusCode::UNAUTHORIZED {
            sign_in.end_session(&active.access, name, jar, SessionEnd::Unauthorized);
        } else if !is_kept {
            sign_in.end_session(&active.access, name, jar, SessionEnd::Deleted);
        }
    }
    Ok(())
}

/// Returns the request of a probe.
fn probe_request(name: &str, path: &str) -> RequestHead {
    let mut headers = HeadersBuilder::default();
    let pushed = headers.push(b"user-agent", USER_AGENT.as_bytes());
    debug_assert!(pushed.is_ok(), "one short field is within the limits");
    let headers = headers.build();
    RequestHead {
        class: Class::Bulk,
        share: protocol::frame::CallerWeight::default(),
        target: RequestTarget::Endpoint {
            name: name.to_owned(),
            path_and_query: path.to_owned(),
        },
        method: "GET".into(),
        headers,
        body: BodyLength::None,
        expect_continue: false,
        time_left: TimeLeft::default(),
        call: None,
        credential: None,
    }
}

/// Returns the endpoint's credential.
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

fn refused(refusal: &policy::Refusal) -> Failure {
    Failure::not_dispatched(Code::RefusedByPolicy, refusal.to_string())
}
