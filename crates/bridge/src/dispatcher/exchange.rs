//! One exchange: from the relay's request to the head of the target's response.
//!
//! ```text
//! run, deliver --> serve: decide, quota, signature --> dispatch --> response_head --> response
//!                                                                              \--> record
//! ```
//!
//! Whatever ends an exchange early becomes one [`Failure`], which resets the stream. A reset by the relay
//! drops what runs here, and with it the connection to the target.

mod dispatch;
mod record;
mod response_head;

pub(super) use dispatch::ExchangeRequest;

use super::deadlines::{Deadlines, timed_out};
use super::refusal::refused as refused_by;
use super::signed::{NonceReservation, NonceStore};
use super::{Active, Records, delivery, raw, upgrade};
use crate::credentials::Cleaner;
use crate::deliveries::Deliveries;
use crate::quota::{Quota, QuotaPermit};
use crate::target_access::{RESOLVER, lookup_owner, with_trust_keys};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use http_client::{AddressRule, RequestBody, ResolveError};
use policy::{Approved, Candidate, Refusal};
use protocol::frame::{RequestContext, RequestHead, RequestTarget};
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use transport::http::wire_upgrade;
use transport::{Incoming, RecvStream, SendStream};

/// Runs an exchange to its end.
pub(super) async fn run(active: Arc<Active>, records: &Records, incoming: Incoming) {
    let Incoming { head, send, recv } = incoming;
    let started = Instant::now();
    let mut exchange = Exchange::new(active, head, send);
    let result = exchange.serve(&records.nonces, recv).await;
    exchange.record(records, started.elapsed(), &result);
    exchange.log(started.elapsed(), &result);
    if let Err(failure) = result {
        exchange.send.reset(failure);
    }
}

/// Makes an attempt of a delivery, or responds with its known outcome.
pub(super) async fn deliver(
    active: Arc<Active>,
    deliveries: Arc<Deliveries>,
    records: &Records,
    incoming: Incoming,
) {
    let Incoming { head, send, recv } = incoming;
    let started = Instant::now();
    let Some(attempt) = head.call else { return };
    let mut exchange = Exchange::new(active, head, send);
    let result = delivery::serve(&mut exchange, &deliveries, &records.nonces, attempt, recv).await;
    // The nonce is released before the relay gets the failure: it may send the same attempt at once.
    exchange.nonce = None;
    exchange.record(records, started.elapsed(), &result);
    exchange.log(started.elapsed(), &result);
    if let Err(failure) = result {
        exchange.send.reset(failure);
    }
}

/// The state of one exchange.
pub(super) struct Exchange {
    pub(super) active: Arc<Active>,
    pub(super) head: RequestHead,
    /// What the relay and the caller call the request.
    pub(super) context: RequestContext,
    pub(super) send: SendStream,
    pub(super) deadlines: Deadlines,
    /// The status of the target's response.
    pub(super) status: Option<u16>,
    /// Bytes of a response body that are passed on.
    pub(super) response_max: Option<u64>,
    /// The nonce of a signed request.
    pub(super) nonce: Option<NonceReservation>,
    /// Removes the credential that this bridge adds from what the target sends back.
    pub(super) cleaner: Option<Cleaner>,
    /// Whether the log has the reason of its failure already.
    pub(super) is_logged: AtomicBool,
}

impl Exchange {
    fn new(active: Arc<Active>, mut head: RequestHead, send: SendStream) -> Self {
        // No target gets the context.
        let context = head.headers.split_context();
        Self {
            deadlines: Deadlines::new(&active, &head),
            active,
            head,
            context,
            send,
            status: None,
            response_max: None,
            nonce: None,
            cleaner: None,
            is_logged: AtomicBool::new(false),
        }
    }

    async fn serve(&mut self, nonces: &NonceStore, recv: RecvStream) -> Result<(), Failure> {
        let candidate = self.decide()?;
        // Held until the response was forwarded: the quota counts whole exchanges.
        let _permit = self.acquire_quota(&candidate)?;
        let served = self.serve_allowed(nonces, &candidate, recv).await;
        served.map_err(|failure| with_trust_keys(failure, candidate.rule(), &self.active.config))
    }

    /// Serves an exchange that the rules allow.
    async fn serve_allowed(
        &mut self,
        nonces: &NonceStore,
        candidate: &Candidate,
        recv: RecvStream,
    ) -> Result<(), Failure> {
        let is_connect = matches!(self.head.target, RequestTarget::Connect { .. });
        let protocols = wire_upgrade(&self.head.headers);
        let is_raw = is_connect || protocols.is_some();
        if self.must_be_signed() {
            if is_raw {
                let detail =
                    "a raw stream cannot be signed, and this bridge accepts signed requests only";
                return Err(Failure::not_dispatched(Code::RefusedByPolicy, detail));
            }
            // Boxed, as the two below: the future of a plain request stays small.
            return Box::pin(self.serve_signed(nonces, candidate, recv)).await;
        }
        if is_connect {
            return Box::pin(raw::serve(self, candidate, recv)).await;
        }
        if let Some(protocols) = protocols {
            return Box::pin(upgrade::serve(self, candidate, &protocols, recv)).await;
        }
        let bytes_max = self.request_max(candidate);
        let body = RequestBody::new(recv, self.head.body, bytes_max)?;
        self.dispatch(candidate, body).await
    }

    /// Returns how many bytes the body of the request may have.
    pub(super) fn request_max(&self, candidate: &Candidate) -> Option<u64> {
        let limits = &self.active.config.limits;
        let bytes_max = limits.request_max.map(|size| size.bytes());
        let quota = self.active.quotas.of(candidate.rule());
        quota.map_or(bytes_max, |quota| quota.request_max(bytes_max))
    }

    /// Serves an exchange that must be signed: its body is buffered until its digest is verified.
    async fn serve_signed(
        &mut self,
        nonces: &NonceStore,
        candidate: &Candidate,
        recv: RecvStream,
    ) -> Result<(), Failure> {
        let max = self.active.config.signed_calls.body_max.bytes();
        let body = self
            .collect_body(recv, (max, "signed_calls.body_max"))
            .await?;
        self.verify_signature(nonces, &body).await?;
        let body = RequestBody::from_bytes(body, self.head.body);
        let result = self.dispatch(candidate, body).await;
        self.settle_nonce(&result).await;
        result
    }

    /// Reads the whole body of the request, up to a limit, which is given with the config key that sets it.
    pub(super) async fn collect_body(
        &self,
        recv: RecvStream,
        (max, key): (u64, &str),
    ) -> Result<Bytes, Failure> {
        let max_bytes = usize::try_from(max).unwrap_or(usize::MAX);
        let reading = async {
            match Limited::new(recv, max_bytes).collect().await {
                Ok(body) => Ok(body.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => {
                    let detail = format!("the body is larger than {max} bytes ({key})");
                    Err(Failure::not_dispatched(Code::RequestTooLarge, detail))
                }
                Err(error) => Err(match error.downcast::<Failure>() {
                    // Whatever the stream reports, nothing was sent to the target yet.
                    Ok(failure) => Failure {
                        execution: Execution::NotDispatched,
                        ..*failure
                    },
                    Err(error) => Failure::not_dispatched(Code::Internal, error.to_string()),
                }),
            }
        };
        timeout_at(self.deadlines.end_by, reading)
            .await
            .unwrap_or_else(|_| {
                let detail = "the exchange timed out before its body had arrived";
                Err(timed_out(Execution::NotDispatched, detail))
            })
    }

    /// Acquires a permit of the quota of the entry that allows the request, and applies its limits.
    pub(super) fn acquire_quota(&mut self, candidate: &Candidate) -> Result<QuotaPermit, Failure> {
        let Some(quota) = self.active.quotas.of(candidate.rule()) else {
            return Ok(QuotaPermit::default());
        };
        let permit = quota.acquire(candidate.rule())?;
        self.deadlines.apply(self.head.time_left, quota);
        let limit = self.active.config.limits.response_max;
        self.response_max = quota.response_max(limit.map(|size| size.bytes()));
        Ok(permit)
    }

    /// Asks the policy whether the request is allowed, before its host is resolved.
    pub(super) fn decide(&self) -> Result<Candidate, Failure> {
        let (policy, method) = (&self.active.policy, &self.head.method);
        // Before the policy: a paused bridge makes no request, whatever its rules allow.
        if self.active.config.bridge.paused {
            let detail = "this bridge is paused by its administrator";
            return Err(Failure::not_dispatched(Code::Overloaded, detail));
        }
        match &self.head.target {
            RequestTarget::Url(url) => policy.decide_url(method, url),
            RequestTarget::Endpoint {
                name,
                path_and_query,
            } => policy.decide_endpoint(name, method, path_and_query),
            RequestTarget::Connect { host, port } => policy.decide_connect(host, *port),
        }
        .map_err(|refusal| self.refused(&refusal))
    }

    /// Returns the failure for a refusal of the policy, which is logged here.
    fn refused(&self, refusal: &Refusal) -> Failure {
        self.is_logged.store(true, Ordering::Relaxed);
        refused_by(refusal, &self.head, &self.context)
    }

    /// Resolves the candidate's host, and returns the addresses that may be connected to.
    pub(super) async fn approved(&self, candidate: &Candidate) -> Result<Vec<Approved>, Failure> {
        let owner = || lookup_owner(self.head.share.caller.to_string());
        let approved = RESOLVER.approved(candidate, AddressRule::Any, owner).await;
        approved.map_err(|error| match error {
            ResolveError::Lookup(failure) => failure,
            ResolveError::Refused(refusal) => self.refused(&refusal),
        })
    }

    /// Runs work before anything is dispatched. A reset by the relay or the deadline drops it.
    pub(super) async fn before_dispatch<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            // Biased: after a reset, no further work starts.
            biased;
            failure = self.send.closed() => Err(failure),
            result = timeout_at(self.deadlines.end_by, work) => result.unwrap_or_else(|_| {
                let detail = "the exchange timed out before the target was connected";
                Err(timed_out(Execution::NotDispatched, detail))
            }),
        }
    }

    /// Returns how long a connection may take, where the entry that allows the request limits it.
    pub(super) fn connect_timeout(&self, candidate: &Candidate) -> Option<Duration> {
        let quota = self.active.quotas.of(candidate.rule());
        quota.and_then(Quota::connect_timeout)
    }
}
