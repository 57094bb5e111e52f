//! The control socket on Unix: both sides.

use super::exchange::{
    ACCEPT_RETRY, Handler, REQUEST_TIMEOUT, REQUESTS_MAX, parse_response, request_line, respond,
};
use crate::control::message::{ControlError, ControlRequest, ControlResponse, RESPONSE_MAX_BYTES};
use crate::identity::IDENTITY_FILE;
use runtime::shortage::in_words;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The socket's name in the data directory.
const SOCKET: &str = "control.sock";

/// Longest path that fits into a socket address on every Unix: `sun_path` has 104 bytes on macOS and the
/// BSDs, 108 on Linux.
const PATH_MAX_BYTES: usize = 100;

/// A short path to the socket in a directory whose own path may have any length. It leads through the open
/// directory, so it is valid as long as the value lives.
struct ShortPath {
    path: PathBuf,
    _dir: Option<File>,
}

impl ShortPath {
    fn of(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(SOCKET);
        if path.as_os_str().len() <= PATH_MAX_BYTES {
            return Ok(Self { path, _dir: None });
        }
        let dir = File::open(data_dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()));
        Ok(Self {
            path,
            _dir: Some(dir),
        })
    }
}

/// Returns a path to the socket for the client side, through a descriptor of its file where the system can.
/// Root may run a command on the directory of another user, which that user could have prepared with a link
/// to another program's socket; the descriptor is opened without following links.
#[cfg(target_os = "linux")]
fn socket(data_dir: &Path) -> io::Result<(PathBuf, Option<rustix::fd::OwnedFd>)> {
    let dir = runtime::files::Dir::open(data_dir)?;
    let socket = dir.open_socket(SOCKET)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd()));
    Ok((path, Some(socket)))
}

#[cfg(not(target_os = "linux"))]
fn socket(data_dir: &Path) -> io::Result<(PathBuf, Option<rustix::fd::OwnedFd>)> {
    use std::os::unix::fs::FileTypeExt as _;
    let path = data_dir.join(SOCKET);
    if !std::fs::symlink_metadata(&path)?.file_type().is_socket() {
        return Err(io::Error::other("not a socket"));
    }
    Ok((path, None))
}

/// The listening side. Dropping it removes the socket's file.
pub(crate) struct Server {
    listener: UnixListener,
    file: PathBuf,
    owner: u32,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Opens the socket. This process has locked the data directory, so a file that exists there was left over by
/// a process that has ended.
///
/// # Errors
/// The system's error.
pub(crate) fn listen(data_dir: &Path) -> io::Result<Server> {
    let file = data_dir.join(SOCKET);
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let short = ShortPath::of(data_dir)?;
    let listener = UnixListener::bind(&short.path)?;
    make_private(data_dir, &file)?;
    let owner = std::fs::metadata(&file)?.uid();
    Ok(Server {
        listener,
        file,
        owner,
    })
}

/// Restricts the socket's file to its own user.
fn make_private(data_dir: &Path, file: &Path) -> io::Result<()> {
    let (path, _socket) = socket(data_dir).unwrap_or_else(|_| (file.to_owned(), None));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

impl Server {
    /// Serves requests for as long as it is polled.
    pub(crate) async fn serve(self, handler: Arc<Handler>) {
        let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
        loop {
            // Before `accept`: further clients wait in the system's queue. Fails only if the semaphore is
            // closed, which does not happen.
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            };
            // The file's mode restricts access, but some systems ignore the mode of a socket.
            let peer = stream.peer_cred().map(|peer| peer.uid());
            if !peer.is_ok_and(|uid| uid == self.owner || uid == 0) {
                tracing::warn!("rejected a request of another user on the control socket");
                continue;
            }
            let handler = handler.clone();
            tokio::spawn(async move {
                let _permit = permit;
                let (read, write) = stream.into_split();
                let _ = timeout(REQUEST_TIMEOUT, respond(read, write, handler)).await;
            });
        }
    }
}

/// Sends a request and waits for the response.
pub(super) fn send(
    data_dir: &Path,
    request: &ControlRequest,
) -> Result<ControlResponse, ControlError> {
    let not_running = |error: io::Error| not_running(data_dir, &error);
    let no_response = |error: io::Error| ControlError::NoResponse(in_words(&error));
    // The descriptor must live until the connection is made: the path leads through it.
    let (path, _socket) = socket(data_dir).map_err(not_running)?;
    let mut stream = UnixStream::connect(&path).map_err(not_running)?;
    let limit = Some(REQUEST_TIMEOUT);
    stream.set_read_timeout(limit).map_err(no_response)?;
    stream.set_write_timeout(limit).map_err(no_response)?;
    let text = request_line(request).map_err(no_response)?;
    stream.write_all(&text).map_err(no_response)?;
    let mut line = String::new();
    let mut read = BufReader::new(stream.take(RESPONSE_MAX_BYTES));
    read.read_line(&mut line).map_err(no_response)?;
    parse_response(&line)
}

/// Returns why there is no connection to the socket, and what to do.
fn not_running(data_dir: &Path, error: &io::Error) -> ControlError {
    const START: &str = "start it, or name the config with which it runs (--config)";
    let socket = data_dir.join(SOCKET);
    let (cause, remedy) = match error.kind() {
        io::ErrorKind::NotFound if data_dir.join(IDENTITY_FILE).exists() => {
            (format!("there is no {}", socket.display()), START)
        }
        io::ErrorKind::NotFound => (
            format!("there is no {}", socket.display()),
            "this bridge is not paired yet; run `integration-bridge pair`, or name the config of the running bridge \
             (--config)",
        ),
        // The file is left over from a bridge that was killed.
        io::ErrorKind::ConnectionRefused => {
            (format!("nothing listens at {}", socket.display()), START)
        }
        io::ErrorKind::NotADirectory => (
            format!("{} is a file", data_dir.display()),
            "bridge.data_dir must be a directory",
        ),
        _ => {
            return ControlError::NotReachable {
                path: socket.display().to_string(),
                cause: in_words(error),
            };
        }
    };
    ControlError::NotRunning { cause, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[tokio::test]
    async fn socket_works_at_a_path_of_any_length() {
        for name in ["short", &"long and ünüsual ".repeat(10)] {
            let dir = TempDir::new(name);
            let server = listen(dir.path()).unwrap();
            let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o600);
            let serving = tokio::spawn(server.serve(Arc::new(|request| match request {
                ControlRequest::Reload => ControlResponse::Done,
                other => ControlResponse::Failed(format!("{other:?}")),
            })));
            let path = dir.path().to_owned();
            let sending = move || {
                (
                    super::super::send(&path, &ControlRequest::Reload),
                    send(&path, &ControlRequest::Status),
                )
            };
            let (done, failed) = tokio::task::spawn_blocking(sending).await.unwrap();
            assert!(matches!(done, Ok(ControlResponse::Done)));
            assert!(matches!(failed, Ok(ControlResponse::Failed(_))));
            serving.abort();
            let _ = serving.await;
            let stopped = send(dir.path(), &ControlRequest::Status);
            assert!(matches!(stopped, Err(ControlError::NotRunning { .. })));
        }
    }

    #[test]
    fn missing_bridge_is_reported_with_its_cause_first() {
        let dir = TempDir::new("stopped");
        let text = |path: &Path| send(path, &ControlRequest::Status).unwrap_err().to_string();
        let unpaired = text(dir.path());
        assert!(
            unpaired.starts_with("no bridge runs with this config (there is no "),
            "{unpaired}"
        );
        assert!(unpaired.contains("not paired yet"), "{unpaired}");
        std::fs::write(dir.path().join(IDENTITY_FILE), "{}").unwrap();
        assert!(text(dir.path()).contains("start it"));
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
        let killed = text(dir.path());
        assert!(killed.contains("nothing listens at"), "{killed}");
        let file = text(&dir.path().join(IDENTITY_FILE));
        assert!(file.contains("is a file"), "{file}");
        for shown in [unpaired, killed, file] {
            assert!(!shown.contains("os error"), "{shown}");
        }
    }
}
