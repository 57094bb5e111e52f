//! The steps by HTTP/2: each is a frame or two, so that what a library would not send can be sent.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::record::{BodyEnd, Ended, Note, Shared};
use super::script::{Head, Step, fields_of, map_of};

/// What a client may send of a body that is not read.
const STREAM_WINDOW_BYTES: u32 = 65_535;
/// The same for all bodies of a connection: more, so that one that is not read stops no other.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How long an exchange waits for the end of the connection that it closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// What an exchange wants of its connection.
#[derive(Debug, Clone, Copy)]
enum Control {
    GoAway,
    Close,
}

/// The client has left.
struct Left;

impl From<h2::Error> for Left {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

/// Serves a connection to its end.
pub(super) async fn serve<S>(stream: S, connection: u64, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake::<_, Bytes>(stream);
    let Ok(mut http) = handshake.await else {
        return;
    };
    let (control, mut controls) = mpsc::channel(8);
    let mut exchanges = JoinSet::new();
    loop {
        tokio::select! {
            accepted = http.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let control = control.clone();
                    let (head, body) = request.into_parts();
                    let (note, steps) = shared.begin(&head, connection);
                    let exchange = Exchange {
                        note,
                        body: Some(body),
                        respond,
                        stream: None,
                        control,
                    };
                    exchanges.spawn(exchange.run(steps));
                }
                Some(Err(_)) | None => break,
            },
            Some(control) = controls.recv() => match control {
                Control::GoAway => http.graceful_shutdown(),
                Control::Close => break,
            },
            Some(_) = exchanges.join_next() => {}
        }
    }
    // From here on the exchanges see that it is gone.
    drop(http);
    while exchanges.join_next().await.is_some() {}
}

/// A request that is being answered.
struct Exchange {
    note: Note,
    /// The request's body, until it was read.
    body: Option<RecvStream>,
    respond: SendResponse<Bytes>,
    /// The response, once its head was sent.
    stream: Option<SendStream<Bytes>>,
    control: mpsc::Sender<Control>,
}

impl Exchange {
    async fn run(mut self, steps: Vec<Step>) {
        let ended = self.take(steps).await.unwrap_or(Ended::Left);
        self.note.change(|seen| seen.ended = ended);
    }

    async fn take(&mut self, steps: Vec<Step>) -> Result<Ended, Left> {
        for step in steps {
            match step {
                Step::ReadBody => self.read_body().await?,
                Step::Inform(head) => self.respond.send_informational(head.response())?,
                Step::Head(head) => self.head(&head, false)?,
                Step::Bodiless(head) => self.head(&head, true)?,
                Step::Send(bytes) => self.send(bytes.into()).await?,
                Step::End => self.answer().send_data(Bytes::new(), true)?,
                Step::Trailers(fields) => self.answer().send_trailers(map_of(&fields))?,
                Step::Pause(time) => self.pause(time).await?,
                Step::GoAway => self.tell(Control::GoAway).await,
                Step::Reset(reason) => {
                    self.respond.send_reset(reason);
                    return Ok(Ended::Broken);
                }
                Step::Close => {
                    self.tell(Control::Close).await;
                    // Letting go of the stream before would reset it.
                    let _ = self.pause(CLOSED_WITHIN).await;
                    return Ok(Ended::Broken);
                }
            }
        }
        // The response is out, however the rest of the request ends.
        let _ = self.read_body().await;
        Ok(Ended::Answered)
    }

    async fn tell(&self, control: Control) {
        // A connection that is gone needs no telling.
        let _ = self.control.send(control).await;
    }

    async fn read_body(&mut self) -> Result<(), Left> {
        let Some(mut body) = self.body.take() else {
            return Ok(());
        };
        let read = self.read_pieces(&mut body).await;
        let (end, result) = match read {
            Ok(()) => (BodyEnd::Whole, Ok(())),
            Err(error) => (BodyEnd::BrokenOff(error.to_string()), Err(Left)),
        };
        self.note.change(|seen| seen.body_end = end);
        result
    }

    async fn read_pieces(&self, body: &mut RecvStream) -> Result<(), h2::Error> {
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            self.note.change(|seen| seen.body.extend_from_slice(&piece));
        }
        if let Some(trailers) = body.trailers().await? {
            self.note
                .change(|seen| seen.trailers = fields_of(&trailers));
        }
        Ok(())
    }

    fn head(&mut self, head: &Head, is_end: bool) -> Result<(), Left> {
        self.stream = Some(self.respond.send_response(head.response(), is_end)?);
        Ok(())
    }

    fn answer(&mut self) -> &mut SendStream<Bytes> {
        self.stream
            .as_mut()
            .expect("a script that sends the head first")
    }

    async fn send(&mut self, mut bytes: Bytes) -> Result<(), Left> {
        let stream = self.answer();
        while !bytes.is_empty() {
            stream.reserve_capacity(bytes.len());
            let mut capacity = stream.capacity();
            if capacity == 0 {
                let waiting = poll_fn(|cx| stream.poll_capacity(cx));
                capacity = waiting.await.ok_or(Left)??;
            }
            let piece = bytes.split_to(capacity.min(bytes.len()));
            stream.send_data(piece, false)?;
        }
        Ok(())
    }

    async fn pause(&mut self, time: Duration) -> Result<(), Left> {
        let leaving = poll_fn(|cx| match &mut self.stream {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        });
        tokio::select! {
            () = sleep(time) => Ok(()),
            _ = leaving => Err(Left),
        }
    }
}
