//! One exchange, from whichever way in, through whichever tunnel.
//!
//! An ingress brings a head and a body; this opens a stream on the tunnel that the router
//! chooses, and hands back the answer's head and its body. A request that provably was not
//! dispatched, and whose body is still whole, is tried on another tunnel. Dropping anything here
//! takes the request back.

use crate::auditing::Sum;
use crate::auth::Principal;
use crate::registry::Entry;
use crate::router::{self, Wanted};
use crate::state::State;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use protocol::frame::{RequestHead, ResponseHead, TimeLeft};
use protocol::session::OpenError;
use protocol::{Code, Execution, Failure};
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use transport::{Cutter, PumpError, RecvStream, SendStream};

/// Tunnels that one request is tried on.
const ATTEMPTS_MAX: usize = 3;

/// The side whose word on the time being over shall not be heard first has so much more.
const TIME_GRACE: Duration = Duration::from_secs(2);

/// How long a cancelled request waits for the bridge's word on how far it came.
const WORD_WAIT: Duration = Duration::from_secs(2);

/// How long the bridge's word is waited for that the target wants a body; it has one after a second.
const GO_AHEAD_WAIT: Duration = Duration::from_secs(3);

/// How long the caller of a request whose tunnel was lost waits for the bridge's word on it: a
/// bridge that lives redials within half a second.
const AFTERMATH_WAIT: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
struct Running {
    next: u64,
    all: BTreeMap<u64, (Principal, Option<Cutter>)>,
    of_tenant: HashMap<Arc<str>, u32>,
    of_key: HashMap<Arc<str>, u32>,
}

/// Takes one away, and what has none left.
fn less(counts: &mut HashMap<Arc<str>, u32>, of: &Arc<str>) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

/// The exchanges that run: counted by tenant and by key, and cut when their key is revoked.
#[derive(Debug)]
pub struct Exchanges {
    running: Mutex<Running>,
    per_tenant_max: u32,
    per_key_max: u32,
}

impl Exchanges {
    /// None yet, with a bound for each tenant, and one for each key: what one caller leaves open is there
    /// for the others.
    pub fn new(per_tenant_max: u32, per_key_max: u32) -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            per_tenant_max,
            per_key_max,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for an exchange of this caller.
    ///
    /// # Errors
    /// `overloaded` when the tenant has as many as it may.
    pub fn begin(self: &Arc<Self>, principal: &Principal) -> Result<Place, Failure> {
        let mut running = self.lock();
        let Running {
            of_tenant, of_key, ..
        } = &mut *running;
        let of_tenant = of_tenant.entry(principal.tenant.clone()).or_default();
        let of_key = of_key.entry(principal.client_id.clone()).or_default();
        let full = |what: &str, max: u32| {
            let detail = format!("the {what} has {max} requests running, its limit");
            Failure::not_sent(Code::Overloaded, detail)
        };
        if *of_tenant >= self.per_tenant_max {
            let failure = full("tenant", self.per_tenant_max);
            if *of_key == 0 {
                running.of_key.remove(&principal.client_id);
            }
            return Err(failure);
        }
        if *of_key >= self.per_key_max {
            return Err(full("key", self.per_key_max));
        }
        *of_tenant += 1;
        *of_key += 1;
        running.next += 1;
        let id = running.next;
        running.all.insert(id, (principal.clone(), None));
        Ok(Place {
            exchanges: self.clone(),
            id,
        })
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.lock().all.len()
    }

    /// Cuts every exchange whose caller may no longer have one.
    pub fn cut(&self, may_stay: impl Fn(&Principal) -> bool) -> usize {
        let cutters: Vec<Cutter> = self
            .lock()
            .all
            .values()
            .filter(|(principal, _)| !may_stay(principal))
            .filter_map(|(_, cutter)| cutter.clone())
            .collect();
        for cutter in &cutters {
            let detail = "the API key was revoked while the request ran";
            cutter.cut(Failure::possibly_executed(Code::Unauthorized, detail));
        }
        cutters.len()
    }
}

/// A running exchange's place; given back when dropped, and the exchange taken back with it.
#[derive(Debug)]
pub struct Place {
    exchanges: Arc<Exchanges>,
    id: u64,
}

impl Place {
    fn attach(&self, cutter: Cutter) {
        if let Some((_, slot)) = self.exchanges.lock().all.get_mut(&self.id) {
            *slot = Some(cutter);
        }
    }

    /// What is queued of the exchange shall still leave: dropping this takes nothing back.
    fn detach(&self) {
        if let Some((_, slot)) = self.exchanges.lock().all.get_mut(&self.id) {
            *slot = None;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.exchanges.lock();
        let Some((principal, cutter)) = running.all.remove(&self.id) else {
            return;
        };
        less(&mut running.of_tenant, &principal.tenant);
        less(&mut running.of_key, &principal.client_id);
        drop(running);
        if let Some(cutter) = cutter {
            // Nothing happens to an exchange that is over.
            cutter.cut(Failure::possibly_executed(
                Code::Cancelled,
                "the caller went away",
            ));
        }
    }
}

/// What a request's body is.
#[derive(Debug)]
pub enum Outbound<B> {
    /// All of it, at most 16 KiB: travels with the head.
    Whole(Bytes),
    /// Still on its way from the caller.
    Streaming(B),
}

impl<B> Outbound<B> {
    /// How many bytes it is, where all of it is there.
    pub fn known_bytes(&self) -> Option<u64> {
        match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Streaming(_) => None,
        }
    }
}

/// What a caller asks for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The call's id, for the log.
    pub call: Option<&'a str>,
    /// Who asks.
    pub principal: &'a Principal,
    /// Through this bridge and no other.
    pub bridge: Option<&'a str>,
    /// Where it goes, for the router.
    pub wanted: Wanted<'a>,
    /// The head for the bridge.
    pub head: RequestHead,
}

/// The answer's head, and its body on the way.
#[derive(Debug)]
pub struct Answer {
    /// The final head.
    pub head: ResponseHead,
    /// The body.
    pub body: AnswerBody,
    /// The tunnel that it came through.
    pub through: Arc<Entry>,
}

/// The answer's body. An error breaks it off.
#[derive(Debug)]
pub struct AnswerBody {
    recv: RecvStream,
    state: Arc<State>,
    sum: Option<Arc<Sum>>,
    place: Place,
}

impl AnswerBody {
    /// Both directions have come to their end here; what is on its way of the request still arrives.
    pub fn both_ended(self) {
        self.place.detach();
    }

    /// Counts what comes from here on.
    pub fn count_into(&mut self, sum: Arc<Sum>) {
        self.sum = Some(sum);
    }
}

impl Body for AnswerBody {
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
    asked: Asked<'_>,
    body: Outbound<B>,
    place: Place,
) -> Result<Answer, Failure>
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
    if state.failed_requests.may_speak() {
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

async fn attempts<B>(
    state: &Arc<State>,
    mut asked: Asked<'_>,
    mut body: Outbound<B>,
    place: Place,
) -> Result<Answer, Failure>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    let given = asked.head.time_left;
    let began = Instant::now();
    let mut tried: Vec<Arc<Entry>> = Vec::new();
    let mut last = None;
    loop {
        let chosen = router::choose(
            &state.registry,
            &*state.directory,
            &asked.principal.tenant,
            asked.bridge,
            asked.wanted,
            asked.principal.scope.bridges(),
            &tried,
        );
        let entry = match chosen {
            Ok(entry) => entry,
            // Having tried says more than having nothing left to try.
            Err(failure) => return Err(last.unwrap_or(failure)),
        };
        let (head_limit, told) = share_time(left_of(given, began.elapsed())?);
        asked.head.time_left = told;
        let (inlined, end): (&[u8], bool) = match &body {
            Outbound::Whole(bytes) => (bytes, true),
            Outbound::Streaming(_) => (&[], false),
        };
        let (send, mut recv) = match entry.session.open(&asked.head, inlined, end) {
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
        let replayable = match body {
            Outbound::Whole(bytes) => {
                state.metrics.bytes_up(bytes.len() as u64);
                Some(bytes)
            }
            Outbound::Streaming(source) => {
                let counting = state.clone();
                let counted = source.map_frame(move |frame| {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    counting.metrics.bytes_up(bytes as u64);
                    frame
                });
                pumped = Some(if asked.head.expect_continue {
                    let (go, went) = oneshot::channel();
                    go_ahead = Some(go);
                    tokio::spawn(pump(send, Expected::new(went, counted)))
                } else {
                    tokio::spawn(pump(send, counted))
                });
                None
            }
        };
        match final_head(&mut recv, head_limit, pumped, go_ahead).await {
            Ok(head) => {
                let body = AnswerBody {
                    recv,
                    state: state.clone(),
                    sum: None,
                    place,
                };
                return Ok(Answer {
                    head,
                    body,
                    through: entry,
                });
            }
            Err(failure) => {
                let failure = settle_lost(state, &entry, &recv, failure).await;
                tried.push(entry);
                let elsewhere = matches!(failure.code, Code::TunnelLost | Code::Overloaded)
                    && failure.execution.is_safe_to_repeat();
                match replayable {
                    Some(bytes) if elsewhere && tried.len() < ATTEMPTS_MAX => {
                        body = Outbound::Whole(bytes);
                        last = Some(failure);
                    }
                    _ => return Err(failure),
                }
            }
        }
    }
}

/// A tunnel that was lost leaves open how far its requests came. The bridge knows, and tells with
/// its next session; the caller gets the better word if that comes soon.
pub(crate) async fn settle_lost(
    state: &State,
    entry: &Entry,
    recv: &RecvStream,
    failure: Failure,
) -> Failure {
    if failure.code != Code::TunnelLost || failure.execution != Execution::PossiblyExecuted {
        return failure;
    }
    let Some(stream) = recv.wire_id() else {
        return failure;
    };
    let registry = &state.registry;
    if !registry
        .was_not_dispatched(entry, stream, AFTERMATH_WAIT)
        .await
    {
        return failure;
    }
    Failure {
        execution: Execution::NotDispatched,
        ..failure
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

/// Passes a body on from the caller. If the caller breaks off, so does the request.
pub(crate) async fn pump<B>(mut send: SendStream, source: B)
where
    B: Body<Data = Bytes>,
{
    match send.pump(source).await {
        Ok(_) | Err(PumpError::Stream(_)) => {}
        Err(PumpError::Body(_)) => send.reset(Failure::possibly_executed(
            Code::Cancelled,
            "the caller broke off its body",
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

/// A body that its caller holds back until the target wants it (RFC 9110, 10.1.1). Asking for it makes the
/// HTTP library say 100.
struct Expected<B> {
    wanted: Wanting,
    /// The bridge does not let the caller wait without end; nor does the relay, should it be silent.
    latest: Pin<Box<tokio::time::Sleep>>,
    body: Pin<Box<B>>,
}

/// Whether a body is wanted.
enum Wanting {
    NotYet(oneshot::Receiver<()>),
    Yes,
    /// An error came instead. The stream is told when nobody takes the body any more.
    No,
}

impl<B> Expected<B> {
    fn new(word: oneshot::Receiver<()>, body: B) -> Self {
        Self {
            wanted: Wanting::NotYet(word),
            latest: Box::pin(tokio::time::sleep(GO_AHEAD_WAIT)),
            body: Box::pin(body),
        }
    }
}

impl<B: Body<Data = Bytes>> Body for Expected<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if let Wanting::NotYet(word) = &mut this.wanted {
            this.wanted = match Pin::new(word).poll(cx) {
                Poll::Ready(Ok(())) => Wanting::Yes,
                Poll::Ready(Err(_)) => Wanting::No,
                Poll::Pending => {
                    std::task::ready!(this.latest.as_mut().poll(cx));
                    Wanting::Yes
                }
            };
        }
        match this.wanted {
            Wanting::Yes => this.body.as_mut().poll_frame(cx),
            Wanting::No | Wanting::NotYet(_) => Poll::Pending,
        }
    }
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
