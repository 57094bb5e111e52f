//! The chain of lines on the disk: appended, rotated, and continued after a crash.
//!
//! Another program may rename or truncate the file, as logrotate does. The chain then continues in the file at the
//! name, with a line `continued` that says what happened. `names` has the names of rotated files, `resume` the
//! comparison with the head at opening.

mod names;
mod resume;

use super::head::{Head, HeadFile, Start};
use crate::identity::Key;
use crate::signed::fingerprint;
use crate::text::{hex, unhex};
use names::{close_gaps, numbers_in, rotated_name};
use resume::{End, Signer, broken_since, cut_half_line, first_line, last_line, read_head, signer};
use ring::digest::{SHA256, digest};
use runtime::files::{Dir, Owner, set_len};
use runtime::peer_text::escape;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(super) use names::{missing, numbers, rotated};

/// How often it is checked that the open file is the one at its name.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// When files are rotated, and how many are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keep {
    /// A larger file is rotated.
    pub(crate) file_max_bytes: u64,
    /// An older file is rotated.
    pub(crate) file_max_age: Duration,
    /// Rotated files that are kept.
    pub(crate) files: u32,
}

/// The open file, and the end of its chain.
pub(super) struct Lines {
    dir: Dir,
    name: String,
    keep: Keep,
    key: Key,
    file: File,
    bytes: u64,
    since: SystemTime,
    id: [u8; 16],
    seq: u64,
    hash: [u8; 32],
    check_at: Instant,
    /// The calls of `runtime::logging::reopen` that were followed.
    reopens: u64,
    /// The first line that has to exist; `None` in a file of an older version until a rotation removes lines.
    start: Option<Start>,
}

fn sha256(line: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, line).as_ref());
    hash
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn open(dir: &Dir, name: &str) -> io::Result<File> {
    dir.open_append(name, 0o600, Owner::Directory)
}

impl Lines {
    /// Opens a file and continues its chain. Half a line that a crash left is removed.
    ///
    /// Lines up to the signed head that are missing or changed are no reason to stop: the next line continues after the
    /// head, so that the gap stays visible to `audit verify`, and says what is wrong.
    ///
    /// # Errors
    /// The system's error, or that the file is not an audit file.
    pub(super) fn open(path: &Path, keep: Keep, key: &Key) -> io::Result<Self> {
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let dir = Dir::open(parent)?;
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name
            .ok_or_else(|| io::Error::other("the file name is not UTF-8"))?
            .to_owned();
        close_gaps(&dir, &name)?;
        let mut file = open(&dir, &name)?;
        let cut = cut_half_line(&mut file)?;
        let bytes = file.metadata()?.len();
        let mut last = last_line(&mut file, bytes)?;
        // A crash directly after a rotation leaves the new file empty; the chain continues all the same.
        if last.is_none()
            && let Ok(mut before) = dir.open_file(&rotated_name(&name, 1))
        {
            let bytes = before.metadata()?.len();
            last = last_line(&mut before, bytes)?;
        }
        let head = read_head(&dir, &name)?;
        if last.is_some() && head.is_none() {
            return Err(io::Error::other(
                "not an audit file, or its head is damaged; move both away",
            ));
        }
        let mut lines = Self {
            dir,
            name,
            keep,
            key: key.clone(),
            file,
            bytes,
            since: SystemTime::now(),
            id: transport::handshake::random()
                .map_err(|_| io::Error::other("the system's random generator failed"))?,
            seq: 0,
            hash: [0; 32],
            check_at: Instant::now() + CHECK_EVERY,
            reopens: runtime::logging::reopens(),
            start: None,
        };
        let mut opened = json!({
            "event": "opened", "half_line_bytes": cut, "public_key": hex(key.public()),
        });
        let mut is_key_new = false;
        match head {
            None => {
                lines.start = Some(lines.start_at(1, hex(&[0; 32])));
                // Before the first line: after a crash between the two, lines without a head would count as
                // damaged, and the bridge would not start.
                lines.sign_head()?;
            }
            Some((file, head)) => {
                lines.id = head.id;
                lines.start.clone_from(&file.start);
                let last = last.as_deref().and_then(End::of);
                let broken = broken_since(path, lines.keep.files, &head, last.as_ref());
                if let Some(broken) = &broken {
                    tracing::error!(
                        file = %path.display(), broken,
                        "the audit file was changed outside of the bridge; `audit verify` shows where"
                    );
                    opened["broken"] = json!(broken);
                }
                let former = match signer(&lines.dir, &lines.name, &file, key.public()) {
                    Signer::Own => None,
                    // After a pairing with another relay the bridge has another key.
                    Signer::Former(former) => Some(Some(fingerprint(&former))),
                    Signer::Unknown => Some(None),
                    Signer::Invalid => {
                        tracing::error!(
                            file = %path.display(),
                            "the signature in the audit file's head is not of the key that the lines name"
                        );
                        opened["head_key"] = json!("invalid");
                        None
                    }
                };
                if let Some(former) = former {
                    opened["key_changed"] =
                        json!({"from": former, "to": fingerprint(key.public())});
                    is_key_new = true;
                    // The same start: a beginning that was removed stays visible.
                    let start = file.start.as_ref();
                    lines.start = start.map(|start| lines.start_at(start.seq, start.prev.clone()));
                }
                match last {
                    Some(last) if broken.is_none() => {
                        lines.seq = last.seq;
                        lines.hash = last.hash;
                        lines.since = UNIX_EPOCH + Duration::from_millis(last.at);
                    }
                    // After the last line that existed, and chained to the head: no line with that hash is before it.
                    last => {
                        lines.seq = last.map_or(0, |last| last.seq).max(head.seq);
                        lines.hash = head.hash;
                    }
                }
            }
        }
        opened["id"] = json!(hex(&lines.id));
        lines.append(opened)?;
        if is_key_new {
            lines.sign_head()?;
        }
        Ok(lines)
    }

    fn start_at(&self, seq: u64, prev: String) -> Start {
        Start::signed(&self.key, &self.id, seq, prev)
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Appends a line, after a rotation if one is due.
    pub(super) fn append(&mut self, event: Value) -> io::Result<()> {
        if let Some(reason) = self.follow_name()? {
            self.append_line(json!({
                "event": "continued", "id": hex(&self.id), "reason": reason,
            }))?;
        }
        self.append_line(event)
    }

    /// Checks from time to time that the open file is the one at its name, and opens that one otherwise. Returns what
    /// another program did to the file.
    fn follow_name(&mut self) -> io::Result<Option<&'static str>> {
        let (now, reopens) = (Instant::now(), runtime::logging::reopens());
        if now < self.check_at && reopens == self.reopens {
            return Ok(None);
        }
        (self.check_at, self.reopens) = (now + CHECK_EVERY, reopens);
        let own = self.file.metadata()?;
        let is_at_name = match self.dir.open_file(&self.name) {
            Ok(file) => runtime::files::is_same(&file, &self.file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if is_at_name {
            let is_cut = own.len() < self.bytes;
            // Also a file that grew: the size decides when it is rotated.
            self.bytes = own.len();
            return Ok(is_cut.then_some("cut"));
        }
        self.file.sync_data()?;
        let file = open(&self.dir, &self.name)?;
        if file.metadata()?.len() > 0 {
            return Err(io::Error::other(
                "another program put a file with content in its place; move that file away",
            ));
        }
        self.file = file;
        self.bytes = 0;
        self.since = SystemTime::now();
        Ok(Some("moved"))
    }

    fn append_line(&mut self, event: Value) -> io::Result<()> {
        let now = SystemTime::now();
        let age = now.duration_since(self.since).unwrap_or_default();
        if self.bytes > 0
            && (self.bytes >= self.keep.file_max_bytes || age >= self.keep.file_max_age)
        {
            self.rotate()?;
        }
        let mut line = json!({"seq": self.seq + 1, "at": millis(now), "prev": hex(&self.hash)});
        if self.bytes == 0 {
            // Rotation may have removed the last line `opened`, which names the key as well.
            line["public_key"] = json!(hex(self.key.public()));
        }
        if let (Some(line), Value::Object(event)) = (line.as_object_mut(), event) {
            line.extend(event);
        }
        // JSON allows characters in strings that a terminal obeys, such as changes of direction. Escaped, it is the
        // same document, also where an event has a text that its author has not escaped.
        let text = serde_json::to_string(&line)?;
        let mut text = escape(&text).into_owned().into_bytes();
        let hash = sha256(&text);
        text.push(b'\n');
        if let Err(error) = self.file.write_all(&text) {
            // The rest of a failed write would become part of the next line.
            // It is never extended: another program may have cut the file.
            if self.file.metadata().is_ok_and(|own| own.len() > self.bytes) {
                let _ = set_len(&self.file, self.bytes);
            }
            return Err(error);
        }
        self.bytes += text.len() as u64;
        self.seq += 1;
        self.hash = hash;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        // The chain continues in the next file: this one must be complete on the disk first.
        self.file.sync_data()?;
        // A number that is free makes it unnecessary to remove a file.
        close_gaps(&self.dir, &self.name)?;
        self.remove_oldest()?;
        let numbered = |number| rotated_name(&self.name, number);
        // From the oldest on, so that no rename replaces a file that is still needed.
        for number in (1..self.keep.files).rev() {
            match self.dir.rename(&numbered(number), &numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        self.dir.rename(&self.name, &numbered(1))?;
        self.file = open(&self.dir, &self.name)?;
        self.bytes = 0;
        self.since = SystemTime::now();
        self.dir.sync()
    }

    /// Removes the files that the next rotation has no number for, and moves the signed start to the line after them.
    fn remove_oldest(&mut self) -> io::Result<()> {
        // Several if the config keeps fewer than before.
        let (mut kept, removed): (Vec<u32>, Vec<u32>) = numbers_in(&self.dir, &self.name)
            .into_iter()
            .partition(|number| *number < self.keep.files);
        if removed.is_empty() {
            return Ok(());
        }
        kept.reverse();
        let kept = kept
            .iter()
            .map(|number| rotated_name(&self.name, *number))
            .chain(std::iter::once(self.name.clone()));
        // The oldest file that has a line: the current one has.
        let first = kept
            .filter_map(|name| self.dir.open_file(&name).ok())
            .find_map(|file| first_line(file).ok().flatten());
        if let Some((seq, prev)) = first {
            // Before the removal: after a crash between the two, the file has more lines than it must have.
            self.start = Some(self.start_at(seq, prev));
            self.sign_head()?;
        }
        // From the oldest on: a crash leaves no number missing.
        for number in removed.into_iter().rev() {
            self.dir.remove(&rotated_name(&self.name, number))?;
        }
        Ok(())
    }

    /// Signs the head and writes its file, after the lines that it covers are on the disk. Returns it with its signature.
    pub(super) fn sign_head(&mut self) -> io::Result<(Head, Vec<u8>)> {
        // In this order: a head on the disk without its lines would look like a truncated file.
        self.file.sync_data()?;
        let head = Head {
            id: self.id,
            seq: self.seq,
            hash: self.hash,
        };
        let file = HeadFile::signed(&self.key, &head, self.start.clone());
        let text = serde_json::to_vec(&file)?;
        self.dir.replace(
            &resume::head_name(&self.name)?,
            &text,
            0o600,
            Owner::Directory,
        )?;
        Ok((head, unhex(&file.signature).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests;
