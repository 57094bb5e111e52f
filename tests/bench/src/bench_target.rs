//! The target that the benchmark measures against, as a process of its own: `GET /small` answers
//! 200 bytes of JSON. It prints where it listens and runs until it is killed.

use std::convert::Infallible;
use std::io::Write;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
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

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(BODY.as_bytes())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if request.uri().path() != "/small" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    Ok(response)
}
