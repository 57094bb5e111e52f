//! Where a release comes from: files of this machine, or an HTTPS server.
//!
//! A server is reached like the relay: through `relay.proxy`, and by the certificates that are trusted for the relay.
//! Every read has a limit of bytes and of time. No redirect is followed: the administrator named the server.

use super::manifest::{MANIFEST_MAX_BYTES, SIGNATURE_MAX_BYTES};
use crate::config::Config;
use crate::credentials;
use crate::pairing::{PairError, dialer_to};
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Uri};
use http_body_util::BodyExt as _;
use http_client::{Connection, RequestBody, ResponseBody};
use runtime::files::open_given;
use runtime::shortage::in_words;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use transport::dial::{Dialer, RelayUrl};

/// The end of the name of a release's manifest.
const MANIFEST: &str = ".manifest";

/// The end of the name of a release's signatures.
const SIGNATURE: &str = ".sig";

/// Bytes that are read from a file at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Time from a request to the head of its response, and between two pieces of its body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for a whole file.
const FILE_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Where a release comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The path of the program.
    File(PathBuf),
    /// The URL of the program.
    Url(UpdateUrl),
}

/// An HTTPS URL of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpdateUrl {
    server: RelayUrl,
    path: String,
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let wrong = |why: &str| format!("not a URL of a file: {why}");
        let uri: Uri = text.parse().map_err(|_| wrong("it cannot be read"))?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong("it must begin with https://"));
        }
        let authority = uri.authority().map(|authority| authority.as_str());
        let authority = authority.unwrap_or_default();
        // A password on the command line is visible to every user. A query would not fit the names of the other files.
        if authority.contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(wrong("it must have no user, query or fragment"));
        }
        if uri.path().ends_with('/') {
            return Err(wrong("it must end with the name of the file"));
        }
        let server = format!("https://{authority}").parse::<RelayUrl>();
        let server = server.map_err(|error| wrong(&format!("it {error}")))?;
        Ok(Self::Url(UpdateUrl {
            server,
            path: uri.path().to_owned(),
        }))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => write!(f, "{}{}", url.server, url.path),
        }
    }
}

/// Why a file of a release could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// A file of this machine.
    #[error("cannot read {name}: {}", in_words(.error))]
    Read {
        /// The file.
        name: String,
        /// The system's error.
        error: io::Error,
    },
    /// A file of a server.
    #[error("cannot read {name}: {why}")]
    Download {
        /// The URL.
        name: String,
        /// What happened.
        why: String,
    },
    /// A file that is larger than it may be.
    #[error("{name} has more than {max} bytes")]
    TooLarge {
        /// The file.
        name: String,
        /// The limit.
        max: u64,
    },
    /// The program could not be written.
    #[error("cannot write the new program: {}", in_words(.0))]
    Write(io::Error),
    /// The server cannot be dialed with this config.
    #[error(transparent)]
    Config(#[from] PairError),
}

/// Takes the pieces of a file.
pub(crate) type Sink<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// A release that can be read.
pub(crate) struct Source {
    origin: Origin,
    /// For an HTTPS server.
    dialer: Option<Dialer>,
}

impl Source {
    /// Prepares to read.
    ///
    /// # Errors
    /// [`SourceError::Config`] if proxy, credentials or certificates of the config cannot be used.
    pub(crate) fn new(origin: Origin, config: &Config) -> Result<Self, SourceError> {
        let dialer = match &origin {
            Origin::File(_) => None,
            Origin::Url(url) => {
                let credentials = match config.bridge.data_dir.get().exists() {
                    true => credentials::load(config).map_err(PairError::from)?,
                    // Opening the store would create the directory, for the wrong user.
                    false => Arc::default(),
                };
                Some(dialer_to(url.server.clone(), config, &credentials)?)
            }
        };
        Ok(Self { origin, dialer })
    }

    /// Returns the manifest.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) async fn manifest(&self) -> Result<Vec<u8>, SourceError> {
        self.small(MANIFEST, MANIFEST_MAX_BYTES).await
    }

    /// Returns the signatures.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) async fn signatures(&self) -> Result<Vec<u8>, SourceError> {
        self.small(SIGNATURE, SIGNATURE_MAX_BYTES).await
    }

    /// Passes the program to `sink`, at most `size` bytes.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(crate) async fn program(&self, size: u64, sink: &mut Sink<'_>) -> Result<(), SourceError> {
        self.read("", size, sink).await
    }

    async fn small(&self, end: &str, max: usize) -> Result<Vec<u8>, SourceError> {
        let mut all = Vec::new();
        let mut sink = |piece: &[u8]| -> io::Result<()> {
            all.extend_from_slice(piece);
            Ok(())
        };
        self.read(end, max as u64, &mut sink).await?;
        Ok(all)
    }

    /// Passes a file to `sink`. Not more than `max` bytes are passed.
    async fn read(&self, end: &str, max: u64, sink: &mut Sink<'_>) -> Result<(), SourceError> {
        let name = format!("{}{end}", self.origin);
        let mut left = max;
        let mut bounded = |piece: &[u8]| {
            let Some(rest) = left.checked_sub(piece.len() as u64) else {
                let name = name.clone();
                return Err(SourceError::TooLarge { name, max });
            };
            left = rest;
            sink(piece).map_err(SourceError::Write)
        };
        match (&self.origin, &self.dialer) {
            (Origin::Url(url), Some(dialer)) => {
                let path = format!("{}{end}", url.path);
                let downloading = download(dialer, &path, &name, &mut bounded);
                let downloaded = timeout(FILE_TIMEOUT, downloading).await;
                downloaded.unwrap_or_else(|_| {
                    let why = format!("timed out after {} s", FILE_TIMEOUT.as_secs());
                    Err(SourceError::Download {
                        name: name.clone(),
                        why,
                    })
                })
            }
            (Origin::Url(_), None) => Err(SourceError::Download {
                name: name.clone(),
                why: "the server cannot be dialed".to_owned(),
            }),
            (Origin::File(path), _) => {
                // Not by `name`, which has replacement characters where the path is not UTF-8.
                let mut path = path.clone().into_os_string();
                path.push(end);
                let read = read_file(Path::new(&path), &mut bounded)?;
                read.map_err(|error| SourceError::Read {
                    name: name.clone(),
                    error,
                })
            }
        }
    }
}

/// Reads a file. The outer error is that of the sink.
fn read_file(
    path: &Path,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), SourceError>,
) -> Result<io::Result<()>, SourceError> {
    // Checked by its descriptor: a pipe that another user puts in its place would be waited for without end.
    let mut file = match open_given(path) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(Ok(())),
            Ok(read) => sink(&piece[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// Reads a file of a server.
async fn download(
    dialer: &Dialer,
    path: &str,
    name: &str,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let failed = |why: String| SourceError::Download {
        name: name.to_owned(),
        why,
    };
    let stream = dialer.connect().await.map_err(|error| {
        let why = error.diagnosis();
        failed(match why {
            Some(why) => format!("{error}; {}", why.remedy()),
            None => error.to_string(),
        })
    })?;
    let closed = "the server closed the connection before its response was complete";
    let connection = Connection::with_dialed(stream).await;
    let mut connection = connection.map_err(|_| failed(closed.to_owned()))?;
    let request = request(&dialer.relay().authority(), path)
        .ok_or_else(|| failed("its path has characters that a request cannot have".to_owned()))?;
    let late = || failed(format!("no data for {} s", IDLE_TIMEOUT.as_secs()));
    let response = timeout(IDLE_TIMEOUT, connection.send(request)).await;
    let response = response.map_err(|_| late())?;
    let (parts, incoming) = response
        .map_err(|_| failed(closed.to_owned()))?
        .into_parts();
    match parts.status.as_u16() {
        200 => {}
        status @ 300..400 => {
            return Err(failed(format!(
                "the server responds with HTTP {status}, and redirects are not followed: name the URL to which it leads"
            )));
        }
        status => return Err(failed(format!("the server responds with HTTP {status}"))),
    }
    let mut body = ResponseBody::new(incoming, &mut connection);
    loop {
        let frame = timeout(IDLE_TIMEOUT, body.frame())
            .await
            .map_err(|_| late())?;
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|_| failed(closed.to_owned()))?;
        if let Some(piece) = frame.data_ref() {
            sink(piece)?;
        }
    }
}

fn request(authority: &str, path: &str) -> Option<Request<RequestBody>> {
    let mut request = Request::new(RequestBody::empty());
    *request.uri_mut() = path.parse().ok()?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(authority).ok()?);
    let agent = HeaderValue::from_static(transport::dial::USER_AGENT);
    headers.insert(USER_AGENT, agent);
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn origin(text: &str) -> Result<Origin, String> {
        text.parse()
    }

    #[test]
    fn origin_is_a_path_or_an_https_url() {
        assert_eq!(
            origin("./bridge"),
            Ok(Origin::File(PathBuf::from("./bridge")))
        );
        let url = origin("https://Downloads.example:8443/v1/bridge").unwrap();
        assert_eq!(url.to_string(), "https://downloads.example:8443/v1/bridge");
        for wrong in [
            "http://a.example/bridge",
            "ftp://a.example/bridge",
            "https://user:pw@a.example/bridge",
            "https://a.example/bridge?token=1",
            "https://a.example/bridge#x",
            "https://a.example/",
            "https://a.example",
            "https:///bridge",
        ] {
            let error = origin(wrong).unwrap_err();
            assert!(!error.contains("pw"), "{error}");
        }
    }

    #[tokio::test]
    async fn file_above_its_limit_is_not_read_further() {
        let dir = TempDir::new("source");
        let path = dir.path().join("bridge");
        std::fs::write(&path, [7; 100]).unwrap();
        let source = Source {
            origin: Origin::File(path),
            dialer: None,
        };
        let read = async |max| {
            let mut all = Vec::new();
            let mut sink = |piece: &[u8]| -> io::Result<()> {
                all.extend_from_slice(piece);
                Ok(())
            };
            let result = source.program(max, &mut sink).await;
            (result, all.len())
        };
        assert!(matches!(read(100).await, (Ok(()), 100)));
        let (result, length) = read(99).await;
        assert!(matches!(result, Err(SourceError::TooLarge { max: 99, .. })));
        assert_eq!(length, 0);
        // The other files do not exist.
        assert!(matches!(
            source.manifest().await,
            Err(SourceError::Read { .. })
        ));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn pipe_and_directory_are_not_waited_for() {
        let dir = TempDir::new("source-pipe");
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        for path in [pipe, dir.path().to_owned()] {
            let source = Source {
                origin: Origin::File(path),
                dialer: None,
            };
            let read = source.program(10, &mut |_: &[u8]| Ok(())).await;
            assert!(matches!(read, Err(SourceError::Read { .. })), "{read:?}");
        }
    }
}
