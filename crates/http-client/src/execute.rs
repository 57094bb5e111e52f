//! Sends a request, on another connection where that is safe. The only request loop.
//!
//! ```text
//! open --> head --> dispatch --> send --> response
//!            ^                    |
//!            |                    | the connection failed
//!            |                    v
//!            |   gave the request back (nothing was sent)         Replay::IfUnsent, IfIdempotent
//!            +-- HTTP/2 target refused it untouched, body is here Replay::IfUnsent, IfIdempotent
//!            +-- idle connection was closed, body is here         Replay::IfIdempotent, once
//!                otherwise: SendError
//! ```

use crate::client::Client;
use crate::connection::Connection;
use crate::error::{self, SendError, closed_before_response, untouched};
use crate::http2::{Refused, refused};
use crate::pool::Reuse;
use crate::request_body::{Progress, RequestBody};
use crate::reuse::PoolKey;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use policy::{Approved, Candidate};
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::time::Duration;

/// When a request may be sent on another connection.
#[derive(Debug)]
pub enum Replay {
    /// Never, whatever the connection reports.
    Never,
    /// If the target did nothing with it: the connection gave the request back, or an HTTP/2 target refused
    /// it untouched. The latter needs the whole body.
    IfUnsent(Option<Bytes>),
    /// In addition, once if a reused connection was closed before a response. The target may have executed
    /// the request then, so it must be one that does nothing twice (RFC 9110, 9.2.2).
    IfIdempotent(Bytes),
}

impl Replay {
    fn reuse(&self) -> Reuse {
        match self {
            Self::Never | Self::IfUnsent(_) => Reuse::Once,
            Self::IfIdempotent(_) => Reuse::Repeatable,
        }
    }

    fn buffered_body(&self) -> Option<&Bytes> {
        match self {
            Self::Never => None,
            Self::IfUnsent(body) => body.as_ref(),
            Self::IfIdempotent(body) => Some(body),
        }
    }
}

/// The attempts that one request has left. They outlive a call of [`Client::execute`], for a caller that
/// sends the request again after its own look at the response.
#[derive(Debug)]
pub struct Attempts {
    replay: Replay,
    /// As the replay rule was at first: a used-up replay must not change how connections are pooled.
    reuse: Reuse,
    left: u32,
    may_have_left: bool,
}

impl Attempts {
    /// Allows `max` attempts.
    pub fn new(replay: Replay, max: u32) -> Self {
        Self {
            reuse: replay.reuse(),
            replay,
            left: max,
            may_have_left: false,
        }
    }

    /// Returns which idle connections the request may use.
    pub fn reuse(&self) -> Reuse {
        self.reuse
    }

    /// Returns whether there is another attempt.
    pub fn has_more(&self) -> bool {
        self.left > 0
    }

    /// Returns how far the request came, for a failure before its next attempt is sent: `reported` unless an
    /// earlier attempt may have been executed.
    pub fn execution(&self, reported: Execution) -> Execution {
        match self.may_have_left {
            true => Execution::PossiblyExecuted,
            false => reported,
        }
    }

    /// Returns the result of a failure before the next attempt is sent. What an earlier attempt may have done
    /// stays true: a `not_dispatched` of this one must not hide it.
    fn failed_before_send(&self, failure: Failure) -> SendError {
        let failure = Failure {
            execution: self.execution(failure.execution),
            ..failure
        };
        match self.may_have_left {
            true => SendError::ConnectionClosed {
                reused: true,
                failure,
            },
            false => SendError::NotSent(failure),
        }
    }

    /// Decides on a response that is the proxy's own: the body for an attempt with another address of the target,
    /// or the result.
    fn body_after_proxy(
        &self,
        failure: Failure,
        may_differ: bool,
        body_length: protocol::frame::BodyLength,
    ) -> Result<RequestBody, SendError> {
        if may_differ
            && self.left > 0
            && let Some(bytes) = self.replay.buffered_body()
        {
            return Ok(RequestBody::from_bytes(bytes.clone(), body_length));
        }
        let failure = Failure {
            execution: self.execution(failure.execution),
            ..failure
        };
        Err(match failure.execution.is_safe_to_repeat() {
            true => SendError::Untouched(failure),
            false => SendError::ConnectionClosed {
                reused: false,
                failure,
            },
        })
    }

    /// Decides on the error of a connection: the body for the next attempt, or the result.
    fn next_body(
        &mut self,
        mut error: TrySendError<Request<RequestBody>>,
        (body_length, reused): (protocol::frame::BodyLength, bool),
        refused: Option<Refused>,
    ) -> Result<RequestBody, SendError> {
        let returned = error.take_message();
        let error = error.error();
        // On an idle connection it is a farewell, such as a 408; on a new one it is another protocol.
        if returned.is_some() && !reused && error::target_spoke_first(error) {
            let failure = error::not_http();
            return Err(SendError::Protocol(Failure {
                execution: self.execution(failure.execution),
                ..failure
            }));
        }
        let may_resend = self.left > 0 && !matches!(self.replay, Replay::Never);
        if may_resend {
            // hyper gives a request back only if no byte of it was written.
            if let Some(request) = returned {
                return Ok(request.into_body());
            }
            if refused.is_some()
                && let Some(bytes) = self.replay.buffered_body()
            {
                return Ok(RequestBody::from_bytes(bytes.clone(), body_length));
            }
        }
        // Only the last attempt was untouched; an earlier one may have been executed.
        if refused == Some(Refused::Untouched) && !self.may_have_left {
            return Err(SendError::Untouched(untouched()));
        }
        if may_resend
            && reused
            && closed_before_response(error)
            && let Replay::IfIdempotent(bytes) = &self.replay
        {
            // Once: the target closes idle connections, but a request that closes every connection must
            // not be sent over and over. What can follow is a replay of an unsent request.
            let bytes = bytes.clone();
            self.replay = Replay::IfUnsent(Some(bytes.clone()));
            self.may_have_left = true;
            return Ok(RequestBody::from_bytes(bytes, body_length));
        }
        Err(SendError::of(error, reused))
    }
}

/// Where a request goes, and which connections it may use.
#[derive(Debug)]
pub struct RequestPlan<'a> {
    /// The request as the policy allowed it.
    pub candidate: &'a Candidate,
    /// The pool's key.
    pub pool_key: PoolKey,
    /// Used where `pool_key` is for HTTP/1.1 only, and the target supports only HTTP/2.
    pub any_protocol_key: Option<PoolKey>,
    /// For a new connection, instead of the client's own.
    pub connect_timeout: Option<Duration>,
    /// Whether the request may switch protocols: a proxy is then asked for a tunnel first.
    pub is_upgrade: bool,
}

impl<'a> RequestPlan<'a> {
    /// Plans a request on connections with this key.
    pub fn new(candidate: &'a Candidate, pool_key: PoolKey) -> Self {
        Self {
            candidate,
            pool_key,
            any_protocol_key: None,
            connect_timeout: None,
            is_upgrade: false,
        }
    }
}

/// Why no response arrived on one connection.
#[derive(Debug)]
pub enum NoResponse {
    /// The connection failed. The error may hold the request.
    Connection(Box<TrySendError<Request<RequestBody>>>),
    /// The caller ended the exchange, or its deadline passed.
    Ended(SendError),
}

/// A request, as [`Client::execute`] sends it. The implementor knows the deadlines, and notices when the
/// caller is gone.
pub trait Outgoing: Send + Sync {
    /// Returns the addresses that a new connection may go to.
    fn approved(&self) -> impl Future<Output = Result<Vec<Approved>, Failure>> + Send;

    /// Builds the request's head for the address that it goes to.
    ///
    /// # Errors
    /// A request that is not valid HTTP; nothing was dispatched.
    fn head(&self, approved: &Approved) -> Result<Request<()>, Failure>;

    /// Runs work before anything is dispatched. Returns early when the caller is gone or the deadline passed.
    fn before_dispatch<T: Send>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> impl Future<Output = Result<T, Failure>> + Send {
        work
    }

    /// Is called immediately before each attempt is sent.
    fn dispatch(&mut self) -> impl Future<Output = Result<(), Failure>> + Send {
        std::future::ready(Ok(()))
    }

    /// Sends the request and waits for the response's head.
    fn response(
        &mut self,
        connection: &mut Connection,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> impl Future<Output = Result<Response<Incoming>, NoResponse>> + Send {
        let _ = progress;
        async move {
            let response = connection.send(request).await;
            response.map_err(|error| NoResponse::Connection(Box::new(error)))
        }
    }
}

/// A response's head, and the connection that its body arrives on.
#[derive(Debug)]
pub struct Executed {
    /// The head, and the body apart from its connection.
    pub response: Response<Incoming>,
    /// The connection.
    pub connection: Connection,
    /// How much of the request was sent: a response may arrive before the request's end.
    pub progress: Arc<Progress>,
}

impl Client {
    /// Takes an idle connection for a request, or connects.
    ///
    /// # Errors
    /// What failed; nothing was dispatched.
    pub async fn open<O: Outgoing>(
        &self,
        plan: &RequestPlan<'_>,
        outgoing: &O,
        reuse: Reuse,
    ) -> Result<(Approved, Connection), Failure> {
        match self.take_idle(&plan.pool_key, reuse, plan.candidate) {
            Some(pooled) => Ok(pooled),
            // Boxed: most exchanges find an idle connection, and their future stays small.
            None => Box::pin(self.open_new(plan, outgoing, reuse)).await,
        }
    }

    /// Connects for a request.
    ///
    /// # Errors
    /// What failed; nothing was dispatched.
    pub async fn open_new<O: Outgoing>(
        &self,
        plan: &RequestPlan<'_>,
        outgoing: &O,
        reuse: Reuse,
    ) -> Result<(Approved, Connection), Failure> {
        let connecting = async {
            let approved = outgoing.approved().await?;
            let timeout = (plan.connect_timeout, plan.is_upgrade);
            // The addresses are cloned only for the rare plan with a second key.
            let Some(any_protocol_key) = &plan.any_protocol_key else {
                return self.connect(approved, &plan.pool_key, timeout).await;
            };
            match self
                .connect(approved.clone(), &plan.pool_key, timeout)
                .await
            {
                // A target without HTTP/1.1 ends the TLS handshake (no_application_protocol).
                Err(failure) if failure.code == Code::TargetTls => {
                    self.connect(approved, any_protocol_key, timeout).await
                }
                connected => connected,
            }
        };
        let (approved, mut connection) = outgoing.before_dispatch(connecting).await?;
        if reuse == Reuse::Once {
            connection.mark_for_once();
        }
        Ok((approved, connection))
    }

    /// Sends a request on this connection, and on others as `attempts` allows.
    ///
    /// # Errors
    /// [`SendError`]: why there is no response, and whether the request may have been executed.
    pub async fn execute<O: Outgoing>(
        &self,
        plan: &RequestPlan<'_>,
        (mut approved, mut connection): (Approved, Connection),
        outgoing: &mut O,
        mut body: RequestBody,
        attempts: &mut Attempts,
    ) -> Result<Executed, SendError> {
        let body_length = body.length();
        loop {
            // Before `dispatch`: a head that cannot be sent must not count as dispatched.
            let head = outgoing.head(&approved);
            let head = head.and_then(|head| connection.check(&head).map(|()| head));
            let head = head.map_err(|failure| attempts.failed_before_send(failure))?;
            // Counted before it is sent: a caller may go on with the attempts that are left.
            attempts.left = attempts.left.saturating_sub(1);
            let dispatched = outgoing.dispatch().await;
            dispatched.map_err(|failure| attempts.failed_before_send(failure))?;
            // Of the body of this attempt: a replayed body has a progress of its own.
            let progress = body.progress();
            body.set_overrides(approved.overrides());
            let request = head.map(|()| body);
            let sent = outgoing.response(&mut connection, request, &progress);
            let error = match sent.await {
                Ok(response) => {
                    if let Some((failure, may_differ)) = connection.proxy_failure(&response) {
                        drop(connection);
                        body = attempts.body_after_proxy(failure, may_differ, body_length)?;
                        let opening = Box::pin(self.open_new(plan, outgoing, attempts.reuse)).await;
                        (approved, connection) =
                            opening.map_err(|failure| attempts.failed_before_send(failure))?;
                        continue;
                    }
                    return Ok(Executed {
                        response,
                        connection,
                        progress,
                    });
                }
                Err(NoResponse::Ended(error)) => return Err(error),
                Err(NoResponse::Connection(error)) => error,
            };
            let reused = connection.is_reused();
            // Closed before the next one is opened: a target may allow only one.
            drop(connection);
            let refused = refused(error.error());
            if let Some(refused) = refused {
                self.note(&plan.pool_key, refused);
            }
            body = attempts.next_body(*error, (body_length, reused), refused)?;
            let opening = Box::pin(self.open_new(plan, outgoing, attempts.reuse)).await;
            (approved, connection) =
                opening.map_err(|failure| attempts.failed_before_send(failure))?;
        }
    }

    /// Connects, and sends a request of the program itself.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn execute_own<F>(
        &self,
        plan: &RequestPlan<'_>,
        mut own: OwnRequest<F>,
        body: RequestBody,
        mut attempts: Attempts,
    ) -> Result<Executed, SendError>
    where
        F: Fn(&Approved) -> Result<Request<()>, Failure> + Send + Sync,
    {
        let opened = self.open_new(plan, &own, attempts.reuse).await;
        let opened = opened.map_err(SendError::NotSent)?;
        self.execute(plan, opened, &mut own, body, &mut attempts)
            .await
    }
}

/// A request of the program itself: a sign-in, a health probe, an export. Its caller drops it at the
/// deadline.
#[derive(Debug)]
pub struct OwnRequest<F> {
    /// The addresses that it may go to.
    pub approved: Vec<Approved>,
    /// Builds its head.
    pub head: F,
}

impl<F> Outgoing for OwnRequest<F>
where
    F: Fn(&Approved) -> Result<Request<()>, Failure> + Send + Sync,
{
    async fn approved(&self) -> Result<Vec<Approved>, Failure> {
        Ok(self.approved.clone())
    }

    fn head(&self, approved: &Approved) -> Result<Request<()>, Failure> {
        (self.head)(approved)
    }
}

#[cfg(test)]
mod tests;
