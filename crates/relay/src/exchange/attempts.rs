//! The retry loop of an exchange: chooses a tunnel, opens a stream, waits for the head.

use super::outcome::{FailedAttempt, RECHECK_INTERVAL, REPORT_TIMEOUT, not_opened};
use super::time::{left_of, share_time};
use super::upload::{Upload, UploadError, expect_continue, pump};
use super::{ExchangeContext, ExchangeRequest, Outbound, TunnelBody, TunnelResponse};
use crate::capacity::ExchangePermit;
use crate::progress::Progress;
use crate::registry::TunnelEntry;
use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt as _;
use protocol::frame::{ResponseHead, TimeLeft};
use protocol::session::OpenError;
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use transport::handle::AbortHandle;
use transport::{RecvStream, SendStream};

/// Tunnels that one request is tried on.
const ATTEMPTS_MAX: usize = 3;

/// How long a cancelled request waits for the bridge's acknowledgement, which has its execution status.
pub(crate) const RESET_ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs attempts until one gets a response, or none may follow.
///
/// # Errors
/// The failure of the attempt that may have come furthest.
pub(super) async fn run<B>(
    context: &Arc<ExchangeContext>,
    request: ExchangeRequest<'_>,
    body: Outbound<B>,
    permit: ExchangePermit,
    progress: &Progress,
) -> Result<TunnelResponse, Failure>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<UploadError> + Send,
{
    let (inline, upload) = match body {
        Outbound::Whole(bytes) => (bytes, None),
        Outbound::Streaming(body) => {
            let metrics = context.metrics.clone();
            let counted = body.map_frame(move |frame| {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                metrics.bytes_up(bytes as u64);
                frame
            });
            let upload = Upload::new(permit.memory(), counted);
            (Bytes::new(), Some(upload))
        }
    };
    let mut attempts = Attempts {
        context,
        time: request.head.time_left,
        request,
        permit,
        inline,
        upload,
        started: Instant::now(),
        tried: Vec::new(),
        progress,
        last: None,
        possibly_executed: None,
    };
    let result = attempts.try_tunnels().await;
    match (result, attempts.possibly_executed) {
        // A retry that provably did nothing does not tell about an earlier attempt that may have been
        // executed: the caller must see the earlier one.
        (Err(failure), Some(earlier)) if failure.execution.is_safe_to_repeat() => {
            tracing::debug!(code = %failure.code, "the retry failed as well");
            Err(earlier)
        }
        (result, _) => result,
    }
}

/// The attempts of one request.
struct Attempts<'a, B> {
    context: &'a Arc<ExchangeContext>,
    request: ExchangeRequest<'a>,
    /// The time that the caller gave.
    time: TimeLeft,
    permit: ExchangePermit,
    /// The body, if it travels with the head.
    inline: Bytes,
    /// The body, if the caller still sends it.
    upload: Option<Upload<B>>,
    started: Instant,
    /// The tunnels that were tried.
    tried: Vec<Arc<TunnelEntry>>,
    /// How far the request has come.
    progress: &'a Progress,
    /// The failure of the last attempt.
    last: Option<Failure>,
    /// The failure of an attempt before the last one that may have been executed.
    possibly_executed: Option<Failure>,
}

/// The stream of an attempt. Dropped with the attempt, which its caller may cancel at any time, it notes how far the
/// attempt came. It must be dropped before the stream.
struct NotedStream<'a> {
    stream: AbortHandle,
    progress: &'a Progress,
}

impl Drop for NotedStream<'_> {
    fn drop(&mut self) {
        let mut execution = self.stream.execution();
        if execution == Some(Execution::NotSent) {
            // OPEN may leave at any moment. It is withdrawn first, so that the request certainly was not sent.
            let detail = "the caller left before the request was sent";
            self.stream
                .abort(Failure::not_sent(Code::Cancelled, detail));
            execution = self.stream.execution();
        }
        self.progress
            .note(execution.unwrap_or(Execution::PossiblyExecuted));
    }
}

/// The end of one attempt.
enum AttemptEnd {
    Response(TunnelResponse),
    /// Another tunnel may be tried.
    Retry,
}

impl<B> Attempts<'_, B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<UploadError> + Send,
{
    async fn try_tunnels(&mut self) -> Result<TunnelResponse, Failure> {
        loop {
            let entry = match self.context.choose(&self.request, &self.tried) {
                Ok(entry) => entry,
                // The failure of an attempt explains more than that there is no tunnel left to try.
                Err(failure) => self
                    .wait_for_reconnect()
                    .await
                    .map_err(|last| last.unwrap_or(failure))?,
            };
            let left = left_of(self.time, self.started.elapsed())?;
            let (head_limit, for_bridge) = share_time(left);
            self.request.head.time_left = for_bridge;
            self.progress.begin(entry.owner.name.clone());
            if !entry.reads_context {
                self.request.head.headers.split_context();
            }
            let opened =
                entry
                    .session
                    .open(&self.request.head, &self.inline, self.upload.is_none());
            let streams = match opened {
                Ok(streams) => streams,
                // Without the context the head may fit: no request fails for what is only for people.
                Err(OpenError::Head(_)) if self.request.head.headers.has_context() => {
                    self.request.head.headers.split_context();
                    continue;
                }
                Err(error) => {
                    let failure = not_opened(&error)?;
                    self.tried.push(entry);
                    if self.tried.len() >= ATTEMPTS_MAX {
                        return Err(failure);
                    }
                    self.last = Some(failure);
                    continue;
                }
            };
            match self.attempt(entry, streams, head_limit).await? {
                AttemptEnd::Response(response) => return Ok(response),
                AttemptEnd::Retry => {}
            }
        }
    }

    /// Waits for the response on an open stream.
    ///
    /// # Errors
    /// The failure, if no attempt may follow.
    async fn attempt(
        &mut self,
        entry: Arc<TunnelEntry>,
        (send, mut recv): (SendStream, RecvStream),
        head_limit: Option<Duration>,
    ) -> Result<AttemptEnd, Failure> {
        let noted = NotedStream {
            stream: recv.abort_handle(),
            progress: self.progress,
        };
        // Attached first: from here on a revocation aborts this stream.
        self.permit.attach(recv.abort_handle());
        // The key may have been revoked between its check and `attach`. The abort for that revocation did
        // not see this exchange, so the key is checked again.
        if let Err(failure) = self.check_principal() {
            return Err(recv.cancel(failure, RESET_ACK_TIMEOUT).await);
        }
        let (upload_task, go_ahead) = self.start_upload(send);
        let result = await_response_head(&mut recv, head_limit, upload_task, go_ahead).await;
        drop(noted);
        match result {
            Ok(head) => {
                self.progress.note(Execution::Executed);
                // With a response there is no retry: the beginning of the body need not be kept any more.
                if let Some(upload) = &self.upload {
                    upload.release();
                }
                let metrics = self.context.metrics.clone();
                Ok(AttemptEnd::Response(TunnelResponse {
                    head,
                    body: TunnelBody::new(recv, metrics, self.permit.clone()),
                    through: entry,
                }))
            }
            Err(failure) => {
                let failure = self.reason_of(failure);
                self.failed(entry, &recv, failure).await
            }
        }
    }

    /// Checks that the caller's key is still valid.
    fn check_principal(&self) -> Result<(), Failure> {
        let identities = &self.context.identities;
        identities.check_principal(self.request.principal)
    }

    /// Returns the failure with its reason: a suspended tenant loses its tunnels too, and the loss may be seen first.
    fn reason_of(&self, failure: Failure) -> Failure {
        match failure.code {
            Code::TunnelLost => match self.check_principal() {
                Ok(()) => failure,
                Err(reason) => Failure {
                    execution: failure.execution,
                    ..reason
                },
            },
            _ => failure,
        }
    }

    /// Starts to send the body. Returns the task, and the trigger for a body that its caller holds back.
    fn start_upload(
        &self,
        send: SendStream,
    ) -> (Option<JoinHandle<()>>, Option<oneshot::Sender<()>>) {
        let Some(upload) = &self.upload else {
            self.context.metrics.bytes_up(self.inline.len() as u64);
            return (None, None);
        };
        if !self.request.head.expect_continue {
            return (Some(tokio::spawn(pump(send, upload.reader()))), None);
        }
        let (go_ahead, requested) = oneshot::channel();
        let body = expect_continue(upload.reader(), requested);
        (Some(tokio::spawn(pump(send, body))), Some(go_ahead))
    }

    async fn failed(
        &mut self,
        entry: Arc<TunnelEntry>,
        recv: &RecvStream,
        failure: Failure,
    ) -> Result<AttemptEnd, Failure> {
        // The body is taken from this attempt's reader before anything is awaited, so that the upload task
        // cannot read more of it than is kept.
        let is_complete = self.upload.as_ref().is_none_or(Upload::reclaim);
        let may_retry = is_complete && self.tried.len() + 1 < ATTEMPTS_MAX;
        self.tried.push(entry);
        let failed = FailedAttempt {
            context: self.context,
            request: &self.request,
            tried: &self.tried,
            recv,
        };
        let (failure, retry) = failed.settle(failure, may_retry).await;
        self.progress.end_attempt(failure.execution);
        if !retry {
            return Err(failure);
        }
        if failure.execution == Execution::PossiblyExecuted {
            self.possibly_executed = Some(failure.clone());
        }
        self.last = Some(failure);
        Ok(AttemptEnd::Retry)
    }

    /// Waits for the next tunnel of a bridge that was lost with the last attempt.
    ///
    /// # Errors
    /// The failure of the last attempt, if there was one.
    async fn wait_for_reconnect(&mut self) -> Result<Arc<TunnelEntry>, Option<Failure>> {
        let last = self.last.take();
        let is_lost = |last: &Failure| matches!(last.code, Code::TunnelLost | Code::BridgeOffline);
        if !last.as_ref().is_some_and(is_lost) {
            return Err(last);
        }
        let until = Instant::now() + REPORT_TIMEOUT;
        while Instant::now() < until {
            tokio::time::sleep(RECHECK_INTERVAL).await;
            if let Some(entry) = self.context.find(&self.request, &self.tried) {
                return Ok(entry);
            }
        }
        Err(last)
    }
}

/// Waits for the final (not informational) head, within the limit. The limit runs from the end of the
/// upload: an upload may take longer than a response.
pub(crate) async fn await_response_head(
    recv: &mut RecvStream,
    limit: Option<Duration>,
    upload: Option<JoinHandle<()>>,
    mut go_ahead: Option<oneshot::Sender<()>>,
) -> Result<ResponseHead, Failure> {
    let waiting = async {
        loop {
            let head = recv.head().await?;
            let is_final = !head.is_informational();
            // A response that is no error may come while its request goes on (RFC 9110, 10.1.1), so it
            // releases the body as a 100 does. After an error the body is not wanted.
            let wants_body = head.status == 100 || (is_final && head.status < 400);
            if wants_body && let Some(go_ahead) = go_ahead.take() {
                // The receiver is gone if the upload has ended meanwhile.
                let _ = go_ahead.send(());
            }
            if is_final {
                return Ok(head);
            }
        }
    };
    let Some(limit) = limit else {
        return waiting.await;
    };
    let over = async {
        if let Some(upload) = upload {
            // A failed upload resets the stream, which the waiting side sees by itself.
            let _ = upload.await;
        }
        tokio::time::sleep(limit).await;
    };
    // Biased: a head that has arrived counts, even if the limit has passed in the same moment.
    tokio::select! {
        biased;
        result = waiting => return result,
        () = over => {}
    }
    let detail = format!("no response within {} ms", limit.as_millis());
    let failure = Failure::possibly_executed(Code::Timeout, detail);
    Err(recv.cancel(failure, RESET_ACK_TIMEOUT).await)
}
