//! Calls that the relay makes itself, to public URLs that a site administrator has enabled for the tenant.
//!
//! ```text
//! policy (the tenant's patterns, public addresses only) -> resolve -> every address approved
//!   -> connect to one of them -> request -> the response, bounded
//! ```
//!
//! A name with one address that is not public is refused as a whole: an outsider who controls the name's
//! addresses could otherwise choose which one is tried. The connection is not reused. Redirects are passed
//! back, not followed.

mod concurrency;
pub(crate) mod pattern;

use crate::capacity::{Reservation, Unread, collect_response};
use crate::config;
use crate::progress::Progress;
use bytes::Bytes;
use concurrency::ConcurrencyLimiter;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use http_client::{
    AddressRule, Attempts, Client, ClientOptions, Executed, OwnRequest, PoolLimits, Replay,
    RequestBody, RequestPlan, ResolveError, Resolver, ResponseBody,
};
use policy::{Approved, Candidate, Host, Policy};
use protocol::frame::BodyLength;
use protocol::{Code, Execution, Failure};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use transport::dial::Proxy;
use transport::lookup::Owner;
use transport::tls::Oldest;

/// How long a connection may take, and then its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of a response's body is read that the caller does not need, and for how long. The target is then
/// not cut off while it writes.
const DISCARDED_MAX_BYTES: usize = 256 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that the relay makes itself.
#[derive(Debug)]
pub(crate) struct DirectRequest {
    /// The tenant that makes it.
    pub tenant: Arc<str>,
    /// The tenant's caller that it is for.
    pub caller: Arc<str>,
    /// Its URL.
    pub url: String,
    /// Its method.
    pub method: String,
    /// Its header fields, without those of the connection.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The deadline of the whole call.
    pub deadline: Instant,
    /// Bytes of the response's body. A larger one is an error.
    pub response_max: u64,
    /// Memory for the response's body.
    pub memory: Reservation,
    /// The caller needs only the status and the header fields: however the response's body ends, the request
    /// was executed with that status.
    pub is_status_enough: bool,
    /// Where to note how far it came.
    pub progress: Option<Arc<Progress>>,
}

/// The response.
#[derive(Debug)]
pub(crate) struct DirectResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The memory that the body uses.
    pub memory: Reservation,
}

/// Makes direct calls.
#[derive(Debug)]
pub(crate) struct Direct {
    limiter: ConcurrencyLimiter,
    resolver: Resolver,
    client: Client,
}

impl Direct {
    /// Prepares calls as configured. Certificates are read with the first HTTPS call.
    pub(crate) fn new(config: config::Direct) -> Self {
        Self {
            limiter: ConcurrencyLimiter::new(config.concurrent_max, config.concurrent_per_tenant),
            resolver: Resolver::new(config.lookups_max as usize),
            client: Client::new(ClientOptions {
                ca_file: config.ca_file,
                tls_oldest: Oldest::default(),
                proxy: Proxy::Direct,
                proxy_names: false,
                connect_timeout: CONNECT_TIMEOUT,
                http2: false,
                title_case: true,
                pool: PoolLimits::default(),
            }),
        }
    }

    /// Returns every address of a host, looked up for this tenant's `caller`.
    ///
    /// # Errors
    /// `overloaded` where the relay or the tenant cannot look up one more name now, else `target_dns`.
    pub(crate) async fn resolve(
        &self,
        tenant: &Arc<str>,
        caller: &Arc<str>,
        host: &Host,
    ) -> Result<Vec<IpAddr>, Failure> {
        self.resolver.resolve(host, || owner(tenant, caller)).await
    }

    /// Returns every address of a host, or none where it cannot be looked up.
    pub(crate) async fn addresses(&self, tenant: &Arc<str>, host: &Host) -> Vec<IpAddr> {
        let caller = Arc::from("");
        self.resolve(tenant, &caller, host)
            .await
            .unwrap_or_default()
    }

    /// Returns whether there is an address, and all of them are on the public internet.
    pub(crate) fn are_public(addresses: &[IpAddr]) -> bool {
        !addresses.is_empty() && addresses.iter().all(|a| policy::address::is_public(*a))
    }

    /// Makes a call that the tenant's policy allows.
    ///
    /// # Errors
    /// The failure, with how far the call came.
    pub(crate) async fn call(
        &self,
        policy: &Policy,
        request: DirectRequest,
    ) -> Result<DirectResponse, Failure> {
        let candidate = policy
            .decide_url(&request.method, &request.url)
            .map_err(|refusal| refused(&refusal))?;
        // After the policy: a refused call must not use a permit.
        let _permit = self.limiter.acquire(&request.tenant)?;
        let deadline = request.deadline;
        let late = |execution| {
            let detail = "the call timed out before the target responded";
            Failure::new(Code::TargetTimeout, execution, detail)
        };
        let approving = self.approved(&candidate, &request);
        let approved = timeout_at(deadline, approving).await;
        let approved = approved.map_err(|_| late(Execution::NotDispatched))??;
        let (headers, is_empty) = (&request.headers, request.body.is_empty());
        let mut outgoing = OwnRequest {
            approved,
            head: |approved: &Approved| request_head(approved, headers, is_empty),
        };
        let plan = RequestPlan::new(&candidate, Client::pool_key(candidate.target(), None, None));
        // Once: whether a call may be repeated is for its caller to decide.
        let mut attempts = Attempts::new(Replay::Never, 1);
        let opening = self.client.open_new(&plan, &outgoing, attempts.reuse());
        let opened = timeout_at(deadline, opening).await;
        let opened = opened.map_err(|_| late(Execution::NotDispatched))??;
        let length = BodyLength::Known(request.body.len() as u64);
        let body = RequestBody::from_bytes(request.body.clone(), length);
        let note = |execution| {
            if let Some(progress) = &request.progress {
                progress.note(execution);
            }
        };
        // From here on, its first byte may have been sent.
        note(Execution::PossiblyExecuted);
        let executing = (self.client).execute(&plan, opened, &mut outgoing, body, &mut attempts);
        let executed = timeout_at(deadline, executing).await;
        let executed = executed.map_err(|_| late(Execution::PossiblyExecuted))??;
        note(Execution::Executed);
        timeout_at(deadline, collect(executed, request))
            .await
            .unwrap_or_else(|_| Err(late(Execution::PossiblyExecuted)))
    }

    /// Resolves the host, and has the policy approve every address.
    async fn approved(
        &self,
        candidate: &Candidate,
        request: &DirectRequest,
    ) -> Result<Vec<Approved>, Failure> {
        let owner = || owner(&request.tenant, &request.caller);
        let approving = self.resolver.approved(candidate, AddressRule::All, owner);
        let mut approved = approving.await.map_err(|error| match error {
            ResolveError::Lookup(failure) => failure,
            ResolveError::Refused(refusal) => refused(&refusal),
        })?;
        // IPv4 first: a relay without an IPv6 route would wait for those addresses in vain.
        approved.sort_unstable_by_key(Approved::socket_addr);
        Ok(approved)
    }
}

fn owner(tenant: &Arc<str>, caller: &Arc<str>) -> Owner {
    Owner {
        group: tenant.clone(),
        member: caller.clone(),
    }
}

fn refused(refusal: &policy::Refusal) -> Failure {
    Failure::not_dispatched(Code::RefusedByPolicy, refusal.to_string())
}

/// Builds the request's head. The fields of the caller's connection and its `Host` are left out.
fn request_head(
    approved: &Approved,
    headers: &HeaderMap,
    is_empty: bool,
) -> Result<Request<()>, Failure> {
    let invalid = |what: &str| Failure::not_dispatched(Code::InvalidRequest, what);
    let target = approved.target();
    let method = Method::from_bytes(approved.method().as_bytes());
    let uri = Uri::try_from(target.path_and_query());
    let host = HeaderValue::try_from(target.authority());
    let host = host.map_err(|_| invalid("the host cannot be put into a header field"))?;
    let mut request = Request::new(());
    *request.method_mut() = method.map_err(|_| invalid("the method is not valid HTTP"))?;
    *request.uri_mut() = uri.map_err(|_| invalid("the path cannot be put on a request line"))?;
    request.headers_mut().insert(header::HOST, host);
    for (name, value) in headers {
        // Those fields are about the caller's connection to the relay.
        if *name != header::HOST && !transport::http::is_hop_by_hop(name) {
            request.headers_mut().append(name.clone(), value.clone());
        }
    }
    // The HTTP library states the length of a body, but not that a POST has none.
    let length = transport::http::composed_length(approved.method(), 0);
    if is_empty && length == BodyLength::Known(0) {
        let none = HeaderValue::from_static("0");
        request.headers_mut().insert(header::CONTENT_LENGTH, none);
    }
    Ok(request)
}

/// Reads the response as far as its caller needs it, and closes the connection.
async fn collect(executed: Executed, request: DirectRequest) -> Result<DirectResponse, Failure> {
    let Executed {
        response,
        mut connection,
        progress,
    } = executed;
    if !progress.is_done() {
        // The response is early: the request must move on while this task waits for memory.
        connection.run_alone();
    }
    let (parts, incoming) = response.into_parts();
    let mut memory = request.memory;
    let body = ResponseBody::new(incoming, &mut connection);
    let body = if request.is_status_enough {
        let max = usize::try_from(request.response_max).unwrap_or(usize::MAX);
        let reading = Limited::new(body, max.min(DISCARDED_MAX_BYTES)).collect();
        // Until the call's deadline at most: after it, the status would be lost.
        let until = request.deadline.min(Instant::now() + DISCARD_TIMEOUT);
        let _ = timeout_at(until, reading).await;
        Bytes::new()
    } else {
        match collect_response(body, request.response_max, &mut memory).await {
            Ok(body) => body,
            Err(Unread::TooLarge) => {
                let max = request.response_max;
                let detail = format!(
                    "the target's response is larger than {max} bytes (limits.call_response_max)"
                );
                let executed = Execution::Executed;
                return Err(Failure::new(Code::ResponseTooLarge, executed, detail));
            }
            Err(Unread::Broken(error)) => return Err(error.into()),
        }
    };
    Ok(DirectResponse {
        status: parts.status,
        headers: parts.headers,
        body,
        memory,
    })
}

#[cfg(test)]
mod tests;
