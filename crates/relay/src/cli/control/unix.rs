//! The control socket on Unix: both sides.

use super::{ControlError, Request, Response, Tunnel, reload, socket_of};
use crate::config::Config;
use crate::running::RunningRelay;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream as AsyncStream};

/// Longest path that fits into a socket address on every Unix: `sun_path` has 104 bytes on macOS and the BSDs, 108 on
/// Linux.
const PATH_MAX_BYTES: usize = 100;

/// Longest request.
const REQUEST_MAX_BYTES: u64 = 4096;

/// Longest response: as many tunnels as a relay can have.
const RESPONSE_MAX_BYTES: u64 = 64 << 20;

/// How long a request may take, including its response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a connection that could not be accepted, usually for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A short path to the socket in a directory whose own path may have any length. It leads through the open
/// directory, so it is valid as long as the value lives.
struct ShortPath {
    path: PathBuf,
    _dir: Option<File>,
}

impl ShortPath {
    fn of(socket: &Path) -> io::Result<Self> {
        let dir = socket.parent().filter(|dir| !dir.as_os_str().is_empty());
        let (Some(dir), Some(name)) = (dir, socket.file_name()) else {
            return Ok(Self {
                path: socket.to_owned(),
                _dir: None,
            });
        };
        if socket.as_os_str().len() <= PATH_MAX_BYTES {
            return Ok(Self {
                path: socket.to_owned(),
                _dir: None,
            });
        }
        let dir = File::open(dir)?;
        let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
        Ok(Self {
            path: path.join(name),
            _dir: Some(dir),
        })
    }
}

/// The listening side. Dropping it removes the socket's file.
struct Server {
    listener: UnixListener,
    file: PathBuf,
    owner: u32,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

fn listen(file: &Path) -> io::Result<Server> {
    let short = ShortPath::of(file)?;
    match UnixStream::connect(&short.path) {
        // A standby on this machine with the same key file.
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            // Left over by a process that was killed.
            if fs::symlink_metadata(file)?.file_type().is_socket() {
                fs::remove_file(file)?;
            }
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(&short.path)?;
    fs::set_permissions(&short.path, fs::Permissions::from_mode(0o600))?;
    let owner = fs::metadata(file)?.uid();
    Ok(Server {
        listener,
        file: file.to_owned(),
        owner,
    })
}

/// Serves requests for as long as it is polled. Cancel safe: a request that is cancelled gets no response.
pub(in super::super) async fn serve(running: &RunningRelay, config: &Config, path: &Path) {
    let file = socket_of(config);
    let server = match listen(&file) {
        Ok(server) => server,
        Err(error) => {
            tracing::warn!(
                %error, socket = %file.display(),
                "no control socket: `integration-relay reload` does not work; SIGHUP does"
            );
            return std::future::pending().await;
        }
    };
    loop {
        let Ok((stream, _)) = server.listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        // The file's mode restricts access, but some systems ignore the mode of a socket.
        let peer = stream.peer_cred().map(|peer| peer.uid());
        if !peer.is_ok_and(|uid| uid == server.owner || uid == 0) {
            tracing::warn!("rejected a request of another user on the control socket");
            continue;
        }
        let responding = respond(stream, |request| match request {
            Request::Reload => reload(running, path),
            Request::Tunnels => Response::Tunnels(tunnels(running)),
        });
        // A client that does not read would otherwise keep later ones waiting.
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, responding).await;
    }
}

fn tunnels(running: &RunningRelay) -> Vec<Tunnel> {
    let all = running.state().data.registry.all();
    let tunnel = |entry: &std::sync::Arc<crate::registry::TunnelEntry>| Tunnel {
        bridge: entry.owner.bridge.to_string(),
        host: entry.host.to_string(),
        address: entry.peer.to_string(),
        software: entry.software.to_string(),
        up_s: entry.since.elapsed().as_secs(),
        draining: !entry.session.is_open(),
    };
    all.iter().map(tunnel).collect()
}

async fn respond(stream: AsyncStream, handler: impl FnOnce(Request) -> Response) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read.take(REQUEST_MAX_BYTES));
    read.read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => handler(request),
        Err(error) => Response::Error(format!("invalid control request: {error}")),
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.shutdown().await
}

/// Sends a request to the relay that runs with this config, and waits for the response. Blocks.
///
/// # Errors
/// [`ControlError`].
pub(in super::super) fn send(config: &Config, request: &Request) -> Result<Response, ControlError> {
    let file = socket_of(config);
    let not_running = |source| ControlError::NotRunning {
        path: file.display().to_string(),
        source,
    };
    let short = ShortPath::of(&file).map_err(not_running)?;
    let stream = UnixStream::connect(&short.path).map_err(not_running)?;
    let response = exchange(stream, request).map_err(ControlError::NoResponse)?;
    match response {
        Response::Error(why) => Err(ControlError::Refused(why)),
        response @ (Response::Done | Response::Tunnels(_)) => Ok(response),
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Response> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream.take(RESPONSE_MAX_BYTES)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[tokio::test]
    async fn socket_is_private_and_replaces_a_stale_one() {
        for name in ["control", &"control long ".repeat(12)] {
            let dir = TempDir::new(name);
            let file = dir.path().join("relay-secrets.sock");
            let first = listen(&file).unwrap();
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
            let Err(second) = listen(&file) else {
                panic!("a second process listens");
            };
            assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
            // As a killed process leaves it.
            let left = dir.path().join("left");
            fs::rename(&file, &left).unwrap();
            drop(first);
            fs::rename(&left, &file).unwrap();
            listen(&file).unwrap();
            assert!(!file.exists());
        }
    }
}
