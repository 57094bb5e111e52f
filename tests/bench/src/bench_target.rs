//! The target that the benchmark measures against, as a process of its own: `GET /small` answers
//! 200 bytes of JSON, `GET /bytes/N` that many bytes, and `POST /sink` takes any body. It prints
//! where it listens and runs until it is killed.

use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// 200 bytes, with the usual few members of a small answer.
const BODY: &str = concat!(
    r#"{"id":471,"type":"defect","state":"closed","severity":"high","owner":"jane.doe","#,
    r#""name":"The list does not remember how it was sorted","release":"25.4","#,
    r#""detected":"2025-03-14T09:26:53Z","tags":[1,2,3]}"#,
);
const _: () = assert!(BODY.len() == 200);

/// What a large body is made of.
static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// A body of that many bytes.
struct Large {
    left: u64,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", listener.local_addr()?)?;
    stdout.flush()?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(
            http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer)),
        );
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<Either<Full<Bytes>, Large>>, Infallible> {
    let path = request.uri().path();
    if let Some(left) = path
        .strip_prefix("/bytes/")
        .and_then(|left| left.parse().ok())
    {
        return Ok(Response::new(Either::Right(Large { left })));
    }
    let is_known = matches!(path, "/small" | "/sink");
    let mut body = request.into_body();
    // A body that breaks off ends the connection; no client is left to respond to.
    while let Some(Ok(_)) = body.frame().await {}
    let mut response = Response::new(Either::Left(Full::new(Bytes::from_static(BODY.as_bytes()))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if !is_known {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    Ok(response)
}

impl Body for Large {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = usize::try_from(self.left).map_or(PIECE.len(), |left| left.min(PIECE.len()));
        self.left -= piece as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE[..piece])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
