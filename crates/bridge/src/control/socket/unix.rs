//! The socket itself.

use super::{ANSWER_WITHIN, AskError, ControlRequest, LINE_MAX_BYTES, Reply, SOCKET};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream as AsyncStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest path that fits a socket's address on every Unix.
const PATH_MAX_BYTES: usize = 100;

/// Questions at once.
const ASKING_MAX: usize = 8;

/// Bytes of a question.
const QUESTION_MAX_BYTES: u64 = 4096;

/// A path that fits, to the socket in a directory whose own path may be of any length: through the
/// open directory, which lives as long as the value.
struct Place {
    path: PathBuf,
    _dir: Option<File>,
}

impl Place {
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

/// The socket that is asked, by the descriptor of its file where the system can: root asks in a directory of
/// another user, who could put a link to another program's socket there.
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
        return Err(io::Error::other("it is no socket"));
    }
    Ok((path, None))
}

/// The listening side. The socket's file goes with it.
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

/// Opens the socket. The data directory is locked by this process: what lies there is left over.
///
/// # Errors
/// What the system says.
pub(crate) fn listen(data_dir: &Path) -> io::Result<Server> {
    let file = data_dir.join(SOCKET);
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let place = Place::of(data_dir)?;
    let listener = UnixListener::bind(&place.path)?;
    make_private(data_dir, &file)?;
    let owner = std::fs::metadata(&file)?.uid();
    Ok(Server {
        listener,
        file,
        owner,
    })
}

/// Only its own user may ask, by the mode of the socket's file.
fn make_private(data_dir: &Path, file: &Path) -> io::Result<()> {
    let (path, _socket) = socket(data_dir).unwrap_or_else(|_| (file.to_owned(), None));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

impl Server {
    /// Answers for as long as it is polled.
    pub(crate) async fn serve(self, answer: Arc<dyn Fn(ControlRequest) -> Reply + Send + Sync>) {
        let places = Arc::new(Semaphore::new(ASKING_MAX));
        loop {
            // Nobody closes the semaphore.
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let peer = stream.peer_cred().map(|peer| peer.uid());
            if !peer.is_ok_and(|uid| uid == self.owner || uid == 0) {
                tracing::warn!("another user asked on the local socket, and was not answered");
                continue;
            }
            let answer = answer.clone();
            tokio::spawn(async move {
                let _place = place;
                let _ = timeout(ANSWER_WITHIN, reply(stream, answer)).await;
            });
        }
    }
}

async fn reply(
    stream: AsyncStream,
    answer: Arc<dyn Fn(ControlRequest) -> Reply + Send + Sync>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read.take(QUESTION_MAX_BYTES));
    read.read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        // Reading a config blocks for a moment.
        Ok(question) => tokio::task::spawn_blocking(move || answer(question))
            .await
            .unwrap_or_else(|_| Reply::Failed("the bridge failed to answer".into())),
        Err(error) => Reply::Failed(format!("the question is not understood: {error}")),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.shutdown().await
}

/// Asks, and waits for the answer.
pub(super) fn ask(data_dir: &Path, question: &ControlRequest) -> Result<Reply, AskError> {
    let not_running = |source| AskError::NotRunning {
        path: data_dir.join(SOCKET).display().to_string(),
        source,
    };
    let no_answer = |error: io::Error| AskError::NoAnswer(error.to_string());
    let (path, _socket) = socket(data_dir).map_err(not_running)?;
    let mut stream = UnixStream::connect(&path).map_err(not_running)?;
    let limit = Some(ANSWER_WITHIN);
    stream.set_read_timeout(limit).map_err(no_answer)?;
    stream.set_write_timeout(limit).map_err(no_answer)?;
    let mut text = serde_json::to_vec(question).map_err(|error| no_answer(error.into()))?;
    text.push(b'\n');
    stream.write_all(&text).map_err(no_answer)?;
    let mut line = String::new();
    let mut read = BufReader::new(stream.take(LINE_MAX_BYTES));
    read.read_line(&mut line).map_err(no_answer)?;
    serde_json::from_str(&line).map_err(|error| AskError::NoAnswer(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[tokio::test]
    async fn a_question_is_answered_over_a_path_of_any_length() {
        for name in ["short", &"long and ünüsual ".repeat(10)] {
            let dir = TempDir::new(name);
            let server = listen(dir.path()).unwrap();
            let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o600);
            let serving = tokio::spawn(server.serve(Arc::new(|question| match question {
                ControlRequest::Reload => Reply::Done,
                other => Reply::Failed(format!("{other:?}")),
            })));
            let path = dir.path().to_owned();
            let asking = move || {
                (
                    super::super::ask(&path, &ControlRequest::Reload),
                    ask(&path, &ControlRequest::Status),
                )
            };
            let (done, failed) = tokio::task::spawn_blocking(asking).await.unwrap();
            assert!(matches!(done, Ok(Reply::Done)));
            assert!(matches!(failed, Ok(Reply::Failed(_))));
            serving.abort();
            let _ = serving.await;
            let gone = ask(dir.path(), &ControlRequest::Status);
            assert!(matches!(gone, Err(AskError::NotRunning { .. })));
        }
    }
}
