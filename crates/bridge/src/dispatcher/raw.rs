//! A raw stream to a target (CONNECT): bytes in both directions, each of which is closed independently.

use super::TOTAL_MAX;
use super::exchange::Exchange;
use http_body_util::BodyExt as _;
use policy::Candidate;
use protocol::frame::{BodyLength, Headers, ResponseHead};
use protocol::{Code, Execution, Failure};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};
use transport::{PumpEnd, RecvStream, SendStream};

/// Connects, responds with 200, and carries bytes until both directions are closed.
pub(super) async fn serve(
    exchange: &mut Exchange,
    candidate: &Candidate,
    recv: RecvStream,
) -> Result<(), Failure> {
    let connecting = async {
        let approved = exchange.approved(candidate).await?;
        let timeout = exchange.connect_timeout(candidate);
        exchange.active.client.connect_raw(approved, timeout).await
    };
    let stream = exchange.before_dispatch(connecting).await?;
    exchange.send.dispatched()?;
    let head = ResponseHead {
        status: 200,
        headers: Headers::default(),
        body: BodyLength::Unknown,
    };
    exchange.send.head(&head, &[], false)?;
    let idle = idle_timeout(exchange, candidate);
    let (mut read, mut write) = stream.into_split();
    // The halves are borrowed: after an error, the socket is still needed for its reset.
    let result = relay_bytes(exchange, recv, (&mut read, &mut write), idle).await;
    if result.is_err() {
        // A reset: the target must not take an aborted stream for a complete one.
        transport::tcp::will_reset(write.as_ref());
        write.forget();
    }
    result
}

/// Returns how long a stream may be idle: the smaller of the relay's limit and the rule's. The default of
/// `[targets]` does not apply: it is for responses, and a stream may be idle for longer.
pub(super) fn idle_timeout(exchange: &Exchange, candidate: &Candidate) -> Duration {
    let quota = exchange.active.quotas.of(candidate.rule());
    let own = quota.and_then(crate::quota::Quota::idle_timeout);
    let given = exchange.head.time_left.idle();
    own.into_iter().chain(given).min().unwrap_or(TOTAL_MAX)
}

/// Carries bytes until both directions are closed.
pub(super) async fn relay_bytes<R, W>(
    exchange: &mut Exchange,
    recv: RecvStream,
    (read, write): (&mut R, &mut W),
    idle: Duration,
) -> Result<(), Failure>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let activity = Activity::now();
    let end_by = exchange.deadlines.end_by;
    let both = async {
        tokio::try_join!(
            down(&mut exchange.send, read, &activity),
            up(recv, write, &activity)
        )
    };
    tokio::select! {
        result = both => result.map(|_| ()),
        () = activity.idle_for(idle) => {
            Err(lost(Code::TargetTimeout, format!("the stream was idle for {} s", idle.as_secs())))
        }
        () = sleep_until(end_by) => Err(lost(Code::TargetTimeout, "the stream reached its total_timeout")),
    }
}

/// When bytes were carried last, in either direction.
struct Activity {
    began: Instant,
    after_ms: AtomicU64,
}

impl Activity {
    fn now() -> Self {
        Self {
            began: Instant::now(),
            after_ms: AtomicU64::new(0),
        }
    }

    fn note(&self) {
        // Relaxed: one late reading makes the timer check again.
        let after = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after_ms.store(after, Ordering::Relaxed);
    }

    async fn idle_for(&self, idle: Duration) {
        loop {
            let last = Duration::from_millis(self.after_ms.load(Ordering::Relaxed));
            let over = self.began + last + idle;
            if Instant::now() >= over {
                return;
            }
            sleep_until(over).await;
        }
    }
}

fn lost(code: Code, detail: impl Into<String>) -> Failure {
    Failure::new(code, Execution::Executed, detail)
}

/// From the target to the relay.
async fn down<R>(send: &mut SendStream, read: &mut R, activity: &Activity) -> Result<(), Failure>
where
    R: AsyncRead + Unpin,
{
    loop {
        let piece = tokio::select! {
            failure = send.closed() => return Err(failure),
            // A target may be silent for long; a reset by the relay must end the wait.
            piece = transport::raw::piece(read) => piece,
        };
        match piece {
            Ok(piece) if piece.is_empty() => return send.finish(),
            Ok(piece) => match send.data(piece).await? {
                PumpEnd::Finished => activity.note(),
                PumpEnd::Stopped => return Ok(()),
            },
            Err(error) => {
                let detail = format!("the connection to the target failed: {error}");
                return Err(lost(Code::TargetClosed, detail));
            }
        }
    }
}

/// From the relay to the target.
async fn up<W>(mut recv: RecvStream, write: &mut W, activity: &Activity) -> Result<(), Failure>
where
    W: AsyncWrite + Unpin,
{
    while let Some(frame) = recv.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let written = async {
            write.write_all(&data).await?;
            write.flush().await
        };
        if written.await.is_err() {
            // The target reads no more. The other direction goes on: it may still send (half-close).
            recv.stop();
            return Ok(());
        }
        activity.note();
    }
    // The relay has ended this direction. The other one stays open (half-close).
    let _ = write.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn moving_stream_is_not_idle() {
        let activity = Activity::now();
        let (idle, began) = (Duration::from_secs(10), Instant::now());
        let moving = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(7)).await;
                activity.note();
            }
        };
        tokio::join!(moving, activity.idle_for(idle));
        assert_eq!(began.elapsed().as_secs(), 31);
    }
}
