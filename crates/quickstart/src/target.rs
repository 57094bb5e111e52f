//! The sample target: a small HTTP server on loopback in the place of an internal tool.
//!
//! It responds to `POST` with the received body as JSON, and to `GET` with a greeting, on every path.

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// Largest body that the sample target reads, in bytes.
const BODY_MAX_BYTES: usize = 1024 * 1024;

/// Starts the target on a free loopback port. It runs as long as the process.
///
/// # Errors
/// When no port can be bound.
pub(crate) async fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // A failed accept concerns one connection, and the demo must not end for it.
                continue;
            };
            tokio::spawn(async move {
                // The caller learns of a broken connection itself: nothing is left to report.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service_fn(respond))
                    .await;
            });
        }
    });
    Ok(address)
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // Bounded, because everything that arrives is repeated in the response.
    let body = Limited::new(request.into_body(), BODY_MAX_BYTES);
    let received = match body.collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => format!("(not read: {error})"),
    };
    let document = match method {
        Method::GET => json!({"hello": "I am the sample target inside the network", "path": path}),
        _ => json!({"received": received, "method": method.as_str(), "path": path}),
    };
    let mut response = Response::new(Full::from(format!("{document}\n")));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}
