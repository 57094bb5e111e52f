//! The steps by HTTP/1.1: all are processed first, and then the response is sent at once.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use super::record::{BodyEnd, Ended, Note, Shared};
use super::script::{Head, Step, fields_of, map_of};

/// Serves a connection to its end.
pub(super) async fn serve<S>(stream: S, connection: u64, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| answer(request, connection, Arc::clone(&shared)));
    // Some scripts end their connection with an error on purpose.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Takes the steps.
///
/// # Errors
/// A step ends the connection, or the client has left.
async fn answer(
    request: Request<Incoming>,
    connection: u64,
    shared: Arc<Shared>,
) -> io::Result<Response<Pieces>> {
    let (head, mut body) = request.into_parts();
    let (note, steps) = shared.begin(&head, connection);
    let mut answer = Response::new(Pieces::default());
    for step in steps {
        match step {
            Step::ReadBody => read(&mut body, &note).await?,
            Step::Inform(_) | Step::GoAway | Step::End => {}
            Step::Head(head) | Step::Bodiless(head) => put(&head, &mut answer),
            Step::Send(bytes) => {
                let frame = Frame::data(Bytes::from(bytes));
                answer.body_mut().0.push_back(frame);
            }
            Step::Trailers(fields) => {
                let frame = Frame::trailers(map_of(&fields));
                answer.body_mut().0.push_back(frame);
            }
            // hyper drops this when the client has left.
            Step::Pause(time) => sleep(time).await,
            Step::Reset(_) | Step::Close => {
                note.change(|seen| seen.ended = Ended::Broken);
                return Err(io::Error::other("the script ends the connection"));
            }
        }
    }
    read(&mut body, &note).await?;
    note.change(|seen| seen.ended = Ended::Answered);
    Ok(answer)
}

fn put(head: &Head, answer: &mut Response<Pieces>) {
    let (parts, ()) = head.response().into_parts();
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
}

/// Reads what is left of a body.
async fn read(body: &mut Incoming, note: &Note) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                let end = BodyEnd::BrokenOff(error.to_string());
                note.change(|seen| seen.body_end = end);
                return Err(io::Error::other(error));
            }
        };
        note.change(|seen| {
            if let Some(data) = frame.data_ref() {
                seen.body.extend_from_slice(data);
            } else if let Some(trailers) = frame.trailers_ref() {
                seen.trailers = fields_of(trailers);
            }
        });
    }
    note.change(|seen| seen.body_end = BodyEnd::Whole);
    Ok(())
}

/// The body of a response. Its head states the length.
#[derive(Debug, Default)]
struct Pieces(VecDeque<Frame<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}
