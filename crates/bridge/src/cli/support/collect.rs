//! What a support bundle takes from files, from the journal, and from the running bridge. Each has a limit of time and size.

use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes from the end of a file, of the journal, and of the metrics.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Lines of the journal.
const JOURNAL_LINES: &str = "20000";

/// Time limit for the journal, which may be large or on a slow disk, and for the metrics.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the whole lines at the end of a file.
pub(super) fn tail(path: &Path) -> Result<String, String> {
    read_tail(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn read_tail(path: &Path) -> io::Result<String> {
    // Without following links: the bridge's own user could have linked to a file that only root can read.
    let mut file = runtime::files::open(path)?;
    let bytes = file.metadata()?.len();
    let from = bytes.saturating_sub(MAX_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let text = read_text(&file)?;
    // Half a line could be the second half of a secret, which no filter knows.
    let whole = match from {
        0 => 0,
        _ => text.find('\n').map_or(text.len(), |at| at + 1),
    };
    Ok(text[whole..].to_owned())
}

fn read_text(from: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the last lines of a unit in the journal of this machine.
pub(super) fn journal(unit: &str) -> Result<String, String> {
    let absent = |error: io::Error| {
        format!("journalctl does not run ({error}); add the log of the service by hand")
    };
    let mut child = Command::new("journalctl")
        .args(["--unit", unit, "--no-pager", "--lines", JOURNAL_LINES])
        .args(["--output", "short-iso"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(absent)?;
    let Some(out) = child.stdout.take() else {
        return Err("journalctl has no output".to_owned());
    };
    // On a thread: a pipe has no timeout.
    let (done, waiting) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let _ = done.send(read_last(out));
    });
    let read = waiting.recv_timeout(TIMEOUT);
    // It has ended, or it takes too long. Killing it ends the thread, too.
    let _ = child.kill();
    let _ = child.wait();
    match read {
        Ok(Ok(text)) if text.trim().is_empty() => {
            Err(format!("the journal has no lines of the unit {unit}"))
        }
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(format!("cannot read the output of journalctl: {error}")),
        Err(_) => Err(format!(
            "journalctl took longer than {} s",
            TIMEOUT.as_secs()
        )),
    }
}

/// Reads to the end and keeps the last [`MAX_BYTES`], in whole lines.
fn read_last(mut from: impl Read) -> io::Result<String> {
    let limit = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
    let mut kept = Vec::new();
    let mut is_cut = false;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..read]);
        // Twice the limit, so that bytes are moved once for each limit and not for each read.
        if kept.len() > 2 * limit {
            kept.drain(..kept.len() - limit);
            is_cut = true;
        }
    }
    if kept.len() > limit {
        kept.drain(..kept.len() - limit);
        is_cut = true;
    }
    let whole = match is_cut {
        true => kept
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1),
        false => 0,
    };
    Ok(String::from_utf8_lossy(&kept[whole..]).into_owned())
}

/// Returns the metrics of the running bridge.
pub(super) fn metrics(address: SocketAddr) -> Result<String, String> {
    scrape(address).map_err(|error| format!("no metrics at {address}: {error}"))
}

fn scrape(address: SocketAddr) -> io::Result<String> {
    let until = Instant::now() + TIMEOUT;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut response = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while (response.len() as u64) < MAX_BYTES {
        // A peer that sends one byte at a time must not prolong it.
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => response.extend_from_slice(&buffer[..read]),
        }
    }
    let text = String::from_utf8_lossy(&response).into_owned();
    match text.split_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.to_owned()),
        None => Err(io::Error::other("the response is not HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn tail_begins_with_a_whole_line() {
        let dir = TempDir::new("tail");
        let path = dir.path().join("log");
        let line = format!("{}\n", "x".repeat(1023));
        let count = usize::try_from(MAX_BYTES).unwrap() / line.len();
        std::fs::write(&path, format!("short\n{}", line.repeat(count))).unwrap();
        let text = tail(&path).unwrap();
        // `from` is at a border of lines, whose first line counts as cut.
        assert_eq!(text, line.repeat(count - 1));
        std::fs::write(&path, "short\n").unwrap();
        assert_eq!(tail(&path).unwrap(), "short\n");
        let text = format!("{}{}", "cut\n", line.repeat(count));
        let kept = read_last(text.as_bytes()).unwrap();
        assert_eq!(kept.len(), line.len() * (count - 1));
    }
}
