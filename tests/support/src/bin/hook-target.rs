//! A target that can be killed: `hook-target PORT FILE [ADDRESS]` appends the `webhook-id` of every request
//! to a file, then answers 200 after a few milliseconds. The file outlives the process. It prints `accepted` for
//! each connection. ADDRESS is loopback's by default.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port = args.next().and_then(|port| port.parse().ok());
    let (Some(port), Some(file)) = (port, args.next()) else {
        return Err(io::Error::other("usage: hook-target PORT FILE [ADDRESS]"));
    };
    let address = args.next().and_then(|address| address.parse().ok());
    let address: Ipv4Addr = address.unwrap_or(Ipv4Addr::LOCALHOST);
    let seen = Arc::new(OpenOptions::new().create(true).append(true).open(file)?);
    let listener = TcpListener::bind((address, port)).await?;
    let mut count: u64 = 0;
    let mut out = io::stdout();
    writeln!(out, "listening")?;
    loop {
        let (stream, _) = listener.accept().await?;
        writeln!(out, "accepted")?;
        count += 1;
        let (seen, pause) = (seen.clone(), Duration::from_millis(count % 7 * 3));
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(request, seen.clone(), pause));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            let _ = serving.await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<File>,
    pause: Duration,
) -> io::Result<Response<Full<Bytes>>> {
    let id = request.headers().get("webhook-id").cloned();
    let body = request.into_body().collect().await;
    body.map_err(io::Error::other)?;
    if let Some(id) = id {
        let mut line = id.as_bytes().to_vec();
        line.push(b'\n');
        // One write, so that lines stay complete next to other writers.
        (&*seen).write_all(&line)?;
    }
    tokio::time::sleep(pause).await;
    Ok(Response::new(Full::new(Bytes::from_static(b"ok\n"))))
}
