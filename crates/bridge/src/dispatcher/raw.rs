//! A raw stream to a target (CONNECT): bytes both ways, each direction with its own end.

use super::LONGEST;
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

/// Connects, says so with a 200, and carries bytes until both directions have ended.
pub(super) async fn serve(
    exchange: &mut Exchange,
    candidate: &Candidate,
    recv: RecvStream,
) -> Result<(), Failure> {
    let connecting = async {
        let approved = exchange.approved(candidate).await?;
        let within = exchange.connect_timeout(candidate);
        exchange.active.upstream.raw(approved, within).await
    };
    let stream = exchange.before_dispatch(connecting).await?;
    exchange.send.dispatched()?;
    let head = ResponseHead {
        status: 200,
        headers: Headers::default(),
        body: BodyLength::Unknown,
    };
    exchange.send.head(&head, &[], false)?;
    let idle = idle(exchange, candidate);
    let (mut read, mut write) = stream.into_split();
    let result = carry(exchange, recv, (&mut read, &mut write), idle).await;
    if result.is_err() {
        // What was broken off shall not look like an end.
        transport::tcp::will_reset(write.as_ref());
        write.forget();
    }
    result
}

/// How long nothing may pass: what the relay and the rule say. The rule's is for answers, too, and an
/// answer may not stand still as long as a stream: `[targets]` says nothing here.
pub(super) fn idle(exchange: &Exchange, candidate: &Candidate) -> Duration {
    let quota = exchange.active.quotas.of(candidate.rule());
    let own = quota.and_then(crate::quota::Quota::idle);
    let given = exchange.head.time_left.idle();
    own.into_iter().chain(given).min().unwrap_or(LONGEST)
}

/// Carries bytes until both directions have ended.
pub(super) async fn carry<R, W>(
    exchange: &mut Exchange,
    recv: RecvStream,
    (read, write): (&mut R, &mut W),
    idle: Duration,
) -> Result<(), Failure>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let moved = Moved::now();
    let end_by = exchange.times.end_by;
    let both = async {
        tokio::try_join!(
            down(&mut exchange.send, read, &moved),
            up(recv, write, &moved)
        )
    };
    tokio::select! {
        result = both => result.map(|_| ()),
        () = moved.stands_still_for(idle) => {
            Err(lost(Code::TargetTimeout, format!("nothing passed for {} s", idle.as_secs())))
        }
        () = sleep_until(end_by) => Err(lost(Code::TargetTimeout, "the time for the stream ended")),
    }
}

/// When something passed last.
struct Moved {
    began: Instant,
    after_ms: AtomicU64,
}

impl Moved {
    fn now() -> Self {
        Self {
            began: Instant::now(),
            after_ms: AtomicU64::new(0),
        }
    }

    fn note(&self) {
        let after = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after_ms.store(after, Ordering::Relaxed);
    }

    async fn stands_still_for(&self, idle: Duration) {
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
async fn down<R>(send: &mut SendStream, read: &mut R, moved: &Moved) -> Result<(), Failure>
where
    R: AsyncRead + Unpin,
{
    loop {
        let piece = tokio::select! {
            failure = send.closed() => return Err(failure),
            piece = transport::raw::piece(read) => piece,
        };
        match piece {
            Ok(piece) if piece.is_empty() => return send.finish(),
            Ok(piece) => match send.data(piece).await? {
                PumpEnd::Finished => moved.note(),
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
async fn up<W>(mut recv: RecvStream, write: &mut W, moved: &Moved) -> Result<(), Failure>
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
            // It takes no more; what it still sends comes.
            recv.stop();
            return Ok(());
        }
        moved.note();
    }
    let _ = write.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_moves_does_not_stand_still() {
        let moved = Moved::now();
        let (idle, began) = (Duration::from_secs(10), Instant::now());
        let moving = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(7)).await;
                moved.note();
            }
        };
        tokio::join!(moving, moved.stands_still_for(idle));
        assert_eq!(began.elapsed().as_secs(), 31);
    }
}
