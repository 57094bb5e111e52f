//! One exchange, from whichever way in, through whichever tunnel.
//!
//! An ingress brings a head and a body; this opens a stream on the tunnel that the router
//! chooses, and hands back the answer's head and its body. A request that may be made again, and
//! whose body is still whole, is tried on another tunnel. Dropping anything here takes the request
//! back.
//!
//! `places`: who may begin one; `memory`: how many bytes of bodies may be in memory, and whose; `upload`: the
//! body on its way.

mod concurrency;
mod memory;
mod upload;

pub use concurrency::{Capacity, ExchangePermit, Exchanges};
pub use memory::{BodyMemory, KeyMemory, NoMemory, Reservation, TenantMemory};

pub(crate) use upload::pump;

use crate::access::Principal;
use crate::audit::recorder::Sum;
use crate::registry::TunnelEntry;
use crate::routing::select_tunnel::{self, RouteTarget};
use crate::state::State;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use protocol::frame::{RequestHead, ResponseHead, TimeLeft};
use protocol::session::OpenError;
use protocol::{Code, Execution, Failure};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use transport::RecvStream;
use upload::{Expected, Upload};

/// Tunnels that one request is tried on.
const ATTEMPTS_MAX: usize = 3;

/// The side whose word on the time being over shall not be heard first has so much more.
const TIME_GRACE: Duration = Duration::from_secs(2);

/// How long a cancelled request waits for the bridge's word on how far it came.
pub(crate) const WORD_WAIT: Duration = Duration::from_secs(2);

/// How often it is looked for another way while a lost tunnel's word is waited for.
const LOOK_FOR_WAY: Duration = Duration::from_millis(50);

/// How long the caller of a request whose tunnel was lost waits for the bridge's word on it: a
/// bridge that lives redials within half a second.
const AFTERMATH_WAIT: Duration = Duration::from_secs(3);

/// What a request's body is.
#[derive(Debug)]
pub enum Outbound<B> {
    /// All of it, at most 16 KiB: travels with the head.
    Whole(Bytes),
    /// Still on its way from the caller.
    Streaming {
        /// The body.
        body: B,
        /// How long the caller may send nothing of it; `None` for without a limit.
        idle: Option<Duration>,
    },
}

impl<B> Outbound<B> {
    /// How many bytes it is, where all of it is there.
    pub fn known_bytes(&self) -> Option<u64> {
        match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Streaming { .. } => None,
        }
    }
}

/// What a caller asks for.
#[derive(Debug)]
pub struct ExchangeRequest<'a> {
    /// The call's id, for the log.
    pub call: Option<&'a str>,
    /// Who asks.
    pub principal: &'a Principal,
    /// Through this bridge and no other.
    pub bridge: Option<&'a str>,
    /// Where it goes, for the router.
    pub wanted: RouteTarget<'a>,
    /// The head for the bridge.
    pub head: RequestHead,
}

/// The answer's head, and its body on the way.
#[derive(Debug)]
pub struct TunnelResponse {
    /// The final head.
    pub head: ResponseHead,
    /// The body.
    pub body: TunnelBody,
    /// The tunnel that it came through.
    pub through: Arc<TunnelEntry>,
}

/// The answer's body. An error breaks it off.
#[derive(Debug)]
pub struct TunnelBody {
    recv: RecvStream,
    state: Arc<State>,
    sum: Option<Arc<Sum>>,
    place: ExchangePermit,
}

impl TunnelBody {
    /// The exchange's place, for what outlives the body.
    pub(crate) fn permit(&self) -> ExchangePermit {
        self.place.clone()
    }

    /// Both directions have come to their end here; what is on its way of the request still arrives.
    pub fn both_ended(self) {
        self.place.detach();
    }

    /// Counts what comes from here on.
    pub fn count_into(&mut self, sum: Arc<Sum>) {
        self.sum = Some(sum);
    }
}

impl Body for TunnelBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let frame = std::task::ready!(Pin::new(&mut self.recv).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let bytes = data.len() as u64;
            self.state.metrics.bytes_down(bytes);
            if let Some(sum) = &self.sum {
                sum.received(bytes);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.recv.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.recv.size_hint()
    }
}

/// Sends a request through a tunnel and waits for the answer's head.
///
/// # Errors
/// The failure, with how far the request came.
pub async fn run<B>(
    state: &Arc<State>,
    asked: ExchangeRequest<'_>,
    body: Outbound<B>,
    place: ExchangePermit,
) -> Result<TunnelResponse, Failure>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    let mut counted = Counted {
        state,
        outcome: Code::Cancelled.as_str(),
    };
    let (principal, call, began) = (asked.principal, asked.call, Instant::now());
    let result = attempts(state, asked, body, place).await;
    if let Err(failure) = &result {
        log_failure(state, principal, call, failure, began);
    }
    counted.outcome = match &result {
        Ok(_) => Execution::Executed.as_str(),
        Err(failure) => failure.code.as_str(),
    };
    result
}

/// One line for a request that failed: enough to find it by what its caller was told.
fn log_failure(
    state: &State,
    principal: &Principal,
    call: Option<&str>,
    failure: &Failure,
    began: Instant,
) {
    if state.failed_requests.allow() {
        let took_ms = began.elapsed().as_secs_f64() * 1e3;
        tracing::info!(
            tenant = %principal.tenant_name,
            key = %principal.client_id,
            call,
            code = %failure.code,
            execution = %failure.execution,
            detail = failure.detail,
            took_ms = format!("{took_ms:.1}"),
            suppressed = state.failed_requests.suppressed(),
            "request failed"
        );
    }
}

/// Counts an exchange when it is over; one that is dropped was cancelled by its caller.
struct Counted<'a> {
    state: &'a State,
    outcome: &'static str,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.state.metrics.outcome(self.outcome);
    }
}

/// Attempts until one is answered, or none may follow. A later attempt that did not come as far as one
/// before says less than that.
async fn attempts<B>(
    state: &Arc<State>,
    asked: ExchangeRequest<'_>,
    body: Outbound<B>,
    place: ExchangePermit,
) -> Result<TunnelResponse, Failure>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    let mut lost = None;
    let result = try_tunnels(state, asked, body, place, &mut lost).await;
    match (result, lost) {
        (Err(failure), Some(lost)) if failure.execution.is_safe_to_repeat() => {
            tracing::debug!(code = %failure.code, "a repeat failed, too");
            Err(lost)
        }
        (result, _) => result,
    }
}

/// As [`attempts`]; `lost` is an attempt that may have been executed before the last one.
async fn try_tunnels<B>(
    state: &Arc<State>,
    mut asked: ExchangeRequest<'_>,
    body: Outbound<B>,
    place: ExchangePermit,
    lost: &mut Option<Failure>,
) -> Result<TunnelResponse, Failure>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    let given = asked.head.time_left;
    let began = Instant::now();
    let mut tried: Vec<Arc<TunnelEntry>> = Vec::new();
    let mut last = None;
    let (whole, upload) = match body {
        Outbound::Whole(bytes) => (bytes, None),
        Outbound::Streaming { body, idle } => {
            let counting = state.clone();
            let counted = body.map_frame(move |frame| {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                counting.metrics.bytes_up(bytes as u64);
                frame
            });
            let upload = Upload::new(place.memory(), counted, idle);
            (Bytes::new(), Some(upload))
        }
    };
    loop {
        let entry = match choose(state, &asked, &tried) {
            Ok(entry) => entry,
            // Having tried says more than having nothing left to try.
            Err(failure) => way_back(state, &asked, &tried, last.take())
                .await
                .map_err(|last| last.unwrap_or(failure))?,
        };
        let (head_limit, told) = share_time(left_of(given, began.elapsed())?);
        asked.head.time_left = told;
        let opened = entry.session.open(&asked.head, &whole, upload.is_none());
        let (send, mut recv) = match opened {
            Ok(streams) => streams,
            Err(error) => {
                last = Some(not_opened(&error)?);
                tried.push(entry);
                if tried.len() < ATTEMPTS_MAX {
                    continue;
                }
                return Err(last.unwrap_or_else(|| Failure::not_sent(Code::Overloaded, "")));
            }
        };
        place.attach(recv.cutter());
        // Revoked since it was checked: the cut that came then did not see this exchange.
        if !state.directory.principal_may_stay(asked.principal) {
            let detail = "the API key is no longer valid";
            let failure = Failure::possibly_executed(Code::Unauthorized, detail);
            return Err(recv.cancel(failure, WORD_WAIT).await);
        }
        let (mut pumped, mut go_ahead) = (None, None);
        match &upload {
            None => state.metrics.bytes_up(whole.len() as u64),
            Some(upload) if asked.head.expect_continue => {
                let (go, went) = oneshot::channel();
                go_ahead = Some(go);
                let expected = Expected::new(went, upload.reader());
                pumped = Some(tokio::spawn(pump(send, expected)));
            }
            Some(upload) => pumped = Some(tokio::spawn(pump(send, upload.reader()))),
        }
        match final_head(&mut recv, head_limit, pumped, go_ahead).await {
            Ok(head) => {
                if let Some(upload) = upload {
                    upload.release();
                }
                let body = TunnelBody {
                    recv,
                    state: state.clone(),
                    sum: None,
                    place,
                };
                return Ok(TunnelResponse {
                    head,
                    body,
                    through: entry,
                });
            }
            Err(failure) => {
                let is_whole = upload.as_ref().is_none_or(Upload::take_back);
                let may_repeat = is_whole && tried.len() + 1 < ATTEMPTS_MAX;
                tried.push(entry);
                let failed = Failed {
                    state,
                    asked: &asked,
                    tried: &tried,
                    recv: &recv,
                };
                let (failure, again) = failed.settle(failure, may_repeat).await;
                if !again {
                    return Err(failure);
                }
                if failure.execution == Execution::PossiblyExecuted {
                    *lost = Some(failure.clone());
                }
                last = Some(failure);
            }
        }
    }
}

/// The tunnel for the next attempt.
fn choose(
    state: &State,
    asked: &ExchangeRequest<'_>,
    tried: &[Arc<TunnelEntry>],
) -> Result<Arc<TunnelEntry>, Failure> {
    select_tunnel::choose(
        &state.registry,
        &*state.directory,
        &asked.principal.tenant,
        asked.bridge,
        asked.wanted,
        asked.principal.scope.bridges(),
        tried,
    )
}

/// The same, without a word on why there is none.
fn find(
    state: &State,
    asked: &ExchangeRequest<'_>,
    tried: &[Arc<TunnelEntry>],
) -> Option<Arc<TunnelEntry>> {
    select_tunnel::find(
        &state.registry,
        &asked.principal.tenant,
        asked.bridge,
        asked.wanted,
        asked.principal.scope.bridges(),
        tried,
    )
}

/// The next tunnel of a bridge whose last one was just lost with the attempt before: one that lives redials
/// within half a second.
async fn way_back(
    state: &State,
    asked: &ExchangeRequest<'_>,
    tried: &[Arc<TunnelEntry>],
    last: Option<Failure>,
) -> Result<Arc<TunnelEntry>, Option<Failure>> {
    let is_lost = |last: &Failure| matches!(last.code, Code::TunnelLost | Code::BridgeOffline);
    if !last.as_ref().is_some_and(is_lost) {
        return Err(last);
    }
    let until = Instant::now() + AFTERMATH_WAIT;
    while Instant::now() < until {
        tokio::time::sleep(LOOK_FOR_WAY).await;
        if let Some(entry) = find(state, asked, tried) {
            return Ok(entry);
        }
    }
    Err(last)
}

/// An attempt that came to no answer.
struct Failed<'a> {
    state: &'a State,
    asked: &'a ExchangeRequest<'a>,
    /// The tunnels that were tried, its own last.
    tried: &'a [Arc<TunnelEntry>],
    recv: &'a RecvStream,
}

impl Failed<'_> {
    /// How far it came, and whether it is made again: what provably was not dispatched is, and what a lost
    /// tunnel left open where that does nothing twice (W-68).
    async fn settle(&self, failure: Failure, may_repeat: bool) -> (Failure, bool) {
        let is_lost = failure.code == Code::TunnelLost;
        if !is_lost || failure.execution != Execution::PossiblyExecuted {
            let elsewhere = is_lost || failure.code == Code::Overloaded;
            let again = may_repeat && elsewhere && failure.execution.is_safe_to_repeat();
            return (failure, again);
        }
        let method = &*self.asked.head.method;
        let is_safe = may_repeat && matches!(method, "GET" | "HEAD" | "OPTIONS");
        let (Some(entry), Some(stream)) = (self.tried.last(), self.recv.wire_id()) else {
            return (failure, is_safe);
        };
        // A request that changes nothing goes as soon as there is another way; others wait for the word
        // that the bridge is done with them.
        let other_way = async {
            while !is_safe || find(self.state, self.asked, self.tried).is_none() {
                tokio::time::sleep(LOOK_FOR_WAY).await;
            }
        };
        let word = tokio::select! {
            biased;
            () = other_way => return (failure, true),
            word = self.state.registry.word_on(entry, stream, AFTERMATH_WAIT) => word,
        };
        match word {
            Some(true) => {
                let failure = Failure {
                    execution: Execution::NotDispatched,
                    ..failure
                };
                (failure, may_repeat)
            }
            Some(false) => {
                let opted_in =
                    may_repeat && matches!(method, "PUT" | "DELETE") && self.is_repeatable();
                (failure, is_safe || opted_in)
            }
            None => (failure, false),
        }
    }

    /// Whether a PUT or DELETE may be made twice, as both bridges say: the one that had it, and the one
    /// that would get it.
    fn is_repeatable(&self) -> bool {
        let RouteTarget::Endpoint(name) = self.asked.wanted else {
            return false;
        };
        let next = find(self.state, self.asked, self.tried);
        let both = [self.tried.last(), next.as_ref()];
        both.iter()
            .all(|entry| entry.is_some_and(|entry| entry.offer().is_repeatable(name)))
    }
}

/// A tunnel that was lost leaves open how far its requests came. The bridge knows, and tells with
/// its next session; the caller gets the better word if that comes soon.
pub(crate) async fn settle_lost(
    state: &State,
    entry: &TunnelEntry,
    recv: &RecvStream,
    failure: Failure,
) -> Failure {
    if failure.code != Code::TunnelLost || failure.execution != Execution::PossiblyExecuted {
        return failure;
    }
    let Some(stream) = recv.wire_id() else {
        return failure;
    };
    match state.registry.word_on(entry, stream, AFTERMATH_WAIT).await {
        Some(true) => Failure {
            execution: Execution::NotDispatched,
            ..failure
        },
        Some(false) | None => failure,
    }
}

/// What it means that a stream was not opened: a failure to try elsewhere, or (`Err`) for good.
pub(crate) fn not_opened(error: &OpenError) -> Result<Failure, Failure> {
    match error {
        OpenError::Ended | OpenError::Draining => Ok(Failure::not_sent(
            Code::BridgeOffline,
            "the bridge is just leaving",
        )),
        OpenError::Full => Ok(Failure::not_sent(
            Code::Overloaded,
            "the bridge has as many requests running as it takes",
        )),
        OpenError::Head(error) => Err(Failure::not_sent(
            Code::HeadersTooLarge,
            format!("the request's head does not fit the tunnel: {error}"),
        )),
    }
}

/// How long the relay waits for the head, and what the bridge is told. The time of a call is its
/// caller's, so the relay says `timeout` first; where no caller gave a time, the bridge says
/// `target_timeout` first. The other's limit is there in case that no word comes.
fn share_time(given: TimeLeft) -> (Option<Duration>, TimeLeft) {
    if given.total().is_none() {
        return (given.head().map(|limit| limit + TIME_GRACE), given);
    }
    let grace = u32::try_from(TIME_GRACE.as_millis()).unwrap_or(u32::MAX);
    // Zero means no limit, and stays.
    let later = |ms: u32| if ms == 0 { 0 } else { ms.saturating_add(grace) };
    let told = TimeLeft {
        head_ms: later(given.head_ms),
        idle_ms: later(given.idle_ms),
        total_ms: later(given.total_ms),
    };
    (given.head(), told)
}

/// What is left of the time that a request was given, when some of it has passed.
fn left_of(given: TimeLeft, passed: Duration) -> Result<TimeLeft, Failure> {
    if given.total().is_none() {
        return Ok(given);
    }
    let passed_ms = u32::try_from(passed.as_millis()).unwrap_or(u32::MAX);
    let left = |ms: u32| match ms {
        0 => Ok(0),
        ms => ms
            .checked_sub(passed_ms)
            .filter(|left| *left > 0)
            .ok_or_else(|| {
                Failure::not_sent(Code::Timeout, "the time was over before the request left")
            }),
    };
    Ok(TimeLeft {
        head_ms: left(given.head_ms)?,
        idle_ms: given.idle_ms,
        total_ms: left(given.total_ms)?,
    })
}

/// Waits for the head that is not informational, within the limit. The limit runs from the end of
/// the request: an upload may take longer than an answer.
pub(crate) async fn final_head(
    recv: &mut RecvStream,
    limit: Option<Duration>,
    upload: Option<JoinHandle<()>>,
    mut go_ahead: Option<oneshot::Sender<()>>,
) -> Result<ResponseHead, Failure> {
    let waiting = async {
        loop {
            let head = recv.head().await?;
            let is_final = !head.is_informational();
            // An answer that is no error may come while its request goes on.
            let is_wanted = head.status == 100 || (is_final && head.status < 400);
            if is_wanted && let Some(go) = go_ahead.take() {
                // A request that has ended meanwhile needs no word.
                let _ = go.send(());
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
            // However it ended: the answer tells.
            let _ = upload.await;
        }
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        biased;
        result = waiting => return result,
        () = over => {}
    }
    let detail = format!("no answer within {} ms", limit.as_millis());
    let failure = Failure::possibly_executed(Code::Timeout, detail);
    Err(recv.cancel(failure, WORD_WAIT).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_attempt_has_what_is_left_of_the_time() {
        let given = TimeLeft {
            head_ms: 300,
            idle_ms: 50,
            total_ms: 300,
        };
        let left = left_of(given, Duration::from_millis(100)).unwrap();
        assert_eq!((left.head_ms, left.idle_ms, left.total_ms), (200, 50, 200));
        let over = left_of(given, Duration::from_millis(300)).unwrap_err();
        assert_eq!(
            (over.code, over.execution),
            (Code::Timeout, Execution::NotSent)
        );
        let endless = TimeLeft {
            total_ms: 0,
            ..given
        };
        assert_eq!(left_of(endless, Duration::from_secs(9)), Ok(endless));
    }

    #[test]
    fn the_time_of_a_call_ends_at_the_relay_and_that_of_an_endpoint_at_the_bridge() {
        let call = TimeLeft {
            head_ms: 300,
            idle_ms: 0,
            total_ms: 300,
        };
        let (limit, told) = share_time(call);
        assert_eq!(limit, call.head());
        assert!(told.head() > limit && told.total() > limit);
        assert_eq!(told.idle(), None);
        let endpoint = TimeLeft {
            total_ms: 0,
            ..call
        };
        let (limit, told) = share_time(endpoint);
        assert_eq!(told, endpoint);
        assert!(limit > told.head());
        assert_eq!(share_time(TimeLeft::default()), (None, TimeLeft::default()));
    }
}
