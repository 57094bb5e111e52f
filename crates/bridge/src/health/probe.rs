//! One look at one endpoint, step by step, as far as it goes.

use super::PROBE_WITHIN;
use crate::dispatcher::{Active, resolve};
use crate::upstream::{Connection, RequestBody, Upstream, request_failure, request_head};
use bytes::Bytes;
use policy::{Approved, Endpoint, Methods};
use protocol::frame::{BodyLength, Class, Headers, RequestHead, RequestTarget, TimeLeft};
use protocol::{Code, Failure};
use std::net::{IpAddr, SocketAddr};
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

/// Looks at an endpoint: resolves, connects, and asks for its `health_path` if it has one.
pub(crate) async fn probe(active: &Active, name: &str) -> Probe {
    let mut probe = Probe::default();
    let looked = timeout(PROBE_WITHIN, look(active, name, &mut probe)).await;
    let late = || {
        let detail = format!("it took longer than {PROBE_WITHIN:?}");
        Err(Failure::not_dispatched(Code::TargetTimeout, detail))
    };
    probe.failure = looked.unwrap_or_else(|_| late()).err();
    probe
}

async fn look(active: &Active, name: &str, probe: &mut Probe) -> Result<(), Failure> {
    let settings = active.config.rules.settings(name);
    let path = settings.and_then(|settings| settings.health_path.as_deref());
    let endpoint = active.policy.endpoints().iter().find(|e| e.name == name);
    let method = match path {
        Some(_) => "GET".to_owned(),
        None => endpoint.map_or_else(|| "GET".to_owned(), a_method_of),
    };
    let head = RequestHead {
        class: Class::Bulk,
        target: RequestTarget::Endpoint {
            name: name.to_owned(),
            path_and_query: path.unwrap_or_default().to_owned(),
        },
        method,
        headers: Headers::default(),
        body: BodyLength::None,
        expect_continue: false,
        time_left: TimeLeft::default(),
        call: None,
        credential: None,
    };
    let candidate = active
        .policy
        .decide_endpoint(name, &head.method, path.unwrap_or_default())
        .map_err(|refusal| refused(&refusal))?;
    probe.addresses = resolve(candidate.target().host()).await?;
    let approved = candidate
        .approve_any(probe.addresses.clone())
        .map_err(|refusal| refused(&refusal))?;
    let ca_file = settings.and_then(|settings| settings.ca_file.as_deref());
    let key = Upstream::key(candidate.target(), ca_file, None);
    let (approved, connection) = active.upstream.connect(approved, &key).await?;
    probe.connected = Some(approved.socket_addr());
    if path.is_some() {
        probe.status = Some(ask(&approved, &head, connection).await?);
    }
    Ok(())
}

/// Makes the request. The answer's body is not read; the connection is closed.
async fn ask(
    approved: &Approved,
    head: &RequestHead,
    mut connection: Connection,
) -> Result<u16, Failure> {
    let request = request_head(approved, head)?
        .map(|()| RequestBody::of_whole(Bytes::new(), BodyLength::None));
    let answer = connection.send(request).await;
    let response = answer.map_err(|error| request_failure(error.error()))?;
    Ok(response.status().as_u16())
}

fn refused(refusal: &policy::Refusal) -> Failure {
    Failure::not_dispatched(Code::RefusedByPolicy, refusal.to_string())
}

/// A method that the endpoint allows: without a request it only has to pass the policy.
fn a_method_of(endpoint: &Endpoint) -> String {
    match &endpoint.methods {
        Methods::Any => "GET".into(),
        Methods::Only(methods) => methods
            .first()
            .map_or_else(|| "GET".into(), ToString::to_string),
    }
}
