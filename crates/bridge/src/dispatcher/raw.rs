//! A raw stream to a target (CONNECT): bytes both ways, each direction with its own end.

use super::exchange::Exchange;
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use policy::Candidate;
use protocol::frame::{BodyLength, Headers, ResponseHead};
use protocol::{Code, Execution, Failure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout_at;
use transport::session::INLINE_MAX_BYTES;
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
    let (read, write) = stream.into_split();
    let both = async { tokio::try_join!(down(&mut exchange.send, read), up(recv, write)) };
    match timeout_at(exchange.times.end_by, both).await {
        Ok(result) => result.map(|_| ()),
        Err(_) => Err(lost(Code::TargetTimeout, "the time for the stream ended")),
    }
}

fn lost(code: Code, detail: impl Into<String>) -> Failure {
    Failure::new(code, Execution::Executed, detail)
}

/// From the target to the relay.
async fn down(send: &mut SendStream, mut read: OwnedReadHalf) -> Result<(), Failure> {
    loop {
        let mut buffer = BytesMut::with_capacity(INLINE_MAX_BYTES);
        let bytes = tokio::select! {
            failure = send.closed() => return Err(failure),
            bytes = read.read_buf(&mut buffer) => bytes,
        };
        match bytes {
            Ok(0) => return send.finish(),
            Ok(_) => match send.data(buffer.freeze()).await? {
                PumpEnd::Finished => {}
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
async fn up(mut recv: RecvStream, mut write: OwnedWriteHalf) -> Result<(), Failure> {
    while let Some(frame) = recv.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if write.write_all(&data).await.is_err() {
            // It takes no more; what it still sends comes.
            recv.stop();
            return Ok(());
        }
    }
    let _ = write.shutdown().await;
    Ok(())
}
