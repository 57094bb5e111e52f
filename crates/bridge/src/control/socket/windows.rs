//! The control pipe on Windows: both sides.
//!
//! ```text
//! \\.\pipe\integration-bridge-<hash of the data directory>
//! ```
//!
//! A pipe has no place in a directory, so the hash connects the two. Its list lets administrators, the service and the
//! bridge's own user open it, and no client over the network. A client checks who made the pipe before it sends anything, and
//! does not let the server act in its name.

use super::exchange::{
    ACCEPT_RETRY, Handler, REQUEST_TIMEOUT, REQUESTS_MAX, parse_response, request_line, respond,
};
use crate::control::message::{ControlError, ControlRequest, ControlResponse, RESPONSE_MAX_BYTES};
use crate::identity::IDENTITY_FILE;
use crate::text::hex;
use bridge_windows::pipe;
use ring::digest::{SHA256, digest};
use runtime::shortage::in_words;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// `ERROR_PIPE_BUSY`: each instance of the pipe has a client.
const BUSY: i32 = 231;

/// Pause before the next attempt to get an instance.
const BUSY_RETRY: Duration = Duration::from_millis(20);

/// Bytes of the hash in the name.
const HASH_BYTES: usize = 16;

/// Returns the name of the pipe of a data directory.
fn name_of(data_dir: &Path) -> String {
    // One name for each way to write the path. Letters in another case are the same path here.
    let path = std::fs::canonicalize(data_dir).or_else(|_| std::path::absolute(data_dir));
    let path = path.unwrap_or_else(|_| data_dir.to_owned());
    let path = path.to_string_lossy().to_lowercase();
    let path = path.strip_prefix(r"\\?\").unwrap_or(&path);
    let hash = digest(&SHA256, path.as_bytes());
    let hash = hex(&hash.as_ref()[..HASH_BYTES]);
    format!(r"\\.\pipe\integration-bridge-{hash}")
}

/// The listening side.
pub(crate) struct Server {
    name: String,
    next: NamedPipeServer,
}

/// Opens the pipe.
///
/// # Errors
/// The system's error, for example that another program has a pipe of this name.
pub(crate) fn listen(data_dir: &Path) -> io::Result<Server> {
    let name = name_of(data_dir);
    let next = pipe::create(&name, true)?;
    Ok(Server { name, next })
}

impl Server {
    /// Serves requests for as long as it is polled.
    pub(crate) async fn serve(mut self, handler: Arc<Handler>) {
        let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
        loop {
            // Before a client is accepted: further clients find no free instance, and try again. Fails only if the
            // semaphore is closed, which does not happen.
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            if self.next.connect().await.is_err() {
                // The client has gone. The instance can serve another one.
                let _ = self.next.disconnect();
                sleep(ACCEPT_RETRY).await;
                continue;
            }
            // Before the request: without another instance the next client would find no pipe at all.
            let next = loop {
                match pipe::create(&self.name, false) {
                    Ok(next) => break next,
                    Err(_) => sleep(ACCEPT_RETRY).await,
                }
            };
            let stream = std::mem::replace(&mut self.next, next);
            let handler = handler.clone();
            tokio::spawn(async move {
                let _permit = permit;
                let _ = timeout(REQUEST_TIMEOUT, serve_one(stream, handler)).await;
            });
        }
    }
}

async fn serve_one(stream: NamedPipeServer, handler: Arc<Handler>) -> io::Result<()> {
    let (mut read, write) = tokio::io::split(stream);
    respond(&mut read, write, handler).await?;
    // The end of this side would discard a response that the client has not read yet. The client closes first.
    let _ = read.read(&mut [0]).await;
    Ok(())
}

/// Sends a request and waits for the response.
pub(super) fn send(
    data_dir: &Path,
    request: &ControlRequest,
) -> Result<ControlResponse, ControlError> {
    let no_response = |error: io::Error| ControlError::NoResponse(in_words(&error));
    // On a thread of its own: the caller may run inside of a runtime, as `doctor` does, where another one can neither start
    // nor end.
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(no_response)?;
            runtime.block_on(send_in_runtime(data_dir, request))
        });
        sending
            .join()
            .unwrap_or_else(|_| Err(no_response(io::ErrorKind::Other.into())))
    })
}

async fn send_in_runtime(
    data_dir: &Path,
    request: &ControlRequest,
) -> Result<ControlResponse, ControlError> {
    let no_response = |error: io::Error| ControlError::NoResponse(in_words(&error));
    let name = name_of(data_dir);
    let client = open(&name).await;
    let client = client.map_err(|error| not_running(data_dir, &name, &error))?;
    // Before anything is sent.
    let cause = match pipe::is_trusted(&client) {
        Ok(true) => None,
        Ok(false) => Some("another user made this pipe".to_owned()),
        Err(error) => Some(format!("its owner is not known: {}", in_words(&error))),
    };
    if let Some(cause) = cause {
        return Err(ControlError::NotReachable { path: name, cause });
    }
    let exchange = timeout(REQUEST_TIMEOUT, exchange(client, request));
    let line = exchange.await.map_err(|_| io::ErrorKind::TimedOut.into());
    parse_response(&line.and_then(|line| line).map_err(no_response)?)
}

async fn open(name: &str) -> io::Result<NamedPipeClient> {
    let until = Instant::now() + REQUEST_TIMEOUT;
    loop {
        // By default the server learns who the client is, and cannot act in its name.
        match ClientOptions::new().open(name) {
            Err(error) if error.raw_os_error() == Some(BUSY) && Instant::now() < until => {
                sleep(BUSY_RETRY).await;
            }
            opened => return opened,
        }
    }
}

async fn exchange(mut client: NamedPipeClient, request: &ControlRequest) -> io::Result<String> {
    client.write_all(&request_line(request)?).await?;
    let mut line = String::new();
    let mut read = BufReader::new(client.take(RESPONSE_MAX_BYTES));
    read.read_line(&mut line).await?;
    Ok(line)
}

/// Returns why there is no connection to the pipe, and what to do.
fn not_running(data_dir: &Path, name: &str, error: &io::Error) -> ControlError {
    let remedy = match data_dir.join(IDENTITY_FILE).exists() {
        true => "start it, or name the config with which it runs (--config)",
        // An ordinary user may not look into the directory.
        false => {
            "this bridge is not paired yet, or only an administrator may see its data directory; run `integration-bridge \
             pair`, or name the config of the running bridge (--config)"
        }
    };
    match error.kind() {
        io::ErrorKind::NotFound => ControlError::NotRunning {
            cause: format!("there is no {name}"),
            remedy,
        },
        _ => ControlError::NotReachable {
            path: name.to_owned(),
            cause: in_words(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[tokio::test]
    async fn pipe_carries_requests_and_ends_with_its_server() {
        let dir = TempDir::new("pipe ünüsual");
        let server = listen(dir.path()).unwrap();
        assert!(listen(dir.path()).is_err(), "one server has the name");
        let serving = tokio::spawn(server.serve(Arc::new(|request| match request {
            ControlRequest::Reload => ControlResponse::Done,
            other => ControlResponse::Failed(format!("{other:?}")),
        })));
        let path = dir.path().to_owned();
        let sending = move || {
            (
                send(&path, &ControlRequest::Reload),
                send(&path, &ControlRequest::Status),
            )
        };
        let (done, failed) = tokio::task::spawn_blocking(sending).await.unwrap();
        assert!(matches!(done, Ok(ControlResponse::Done)));
        assert!(matches!(failed, Ok(ControlResponse::Failed(_))));
        serving.abort();
        let _ = serving.await;
        let path = dir.path().to_owned();
        let sending = move || send(&path, &ControlRequest::Status);
        let stopped = tokio::task::spawn_blocking(sending).await.unwrap();
        assert!(matches!(stopped, Err(ControlError::NotRunning { .. })));
    }
}
