//! `proto/WIRE.md` matches the code: its tables of limits and codes, its examples, and every rule that
//! the code cites.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod golden;

use bytes::Bytes;
use protocol::code::{Code, Execution};
use protocol::frame::Frame;
use protocol::limits;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn wire() -> String {
    std::fs::read_to_string(root().join("proto/WIRE.md")).unwrap()
}

/// Returns the cells of the table with this first heading.
fn table(heading: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect()
    };
    let wire = wire();
    let mut lines = wire
        .lines()
        .skip_while(|line| !line.starts_with('|') || cells(line)[0] != heading);
    assert!(lines.next().is_some(), "no table of {heading}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(cells)
        .collect()
}

trait Written {
    fn written(&self) -> String;
}

struct Count(u64);

impl Written for Count {
    fn written(&self) -> String {
        self.0.to_string()
    }
}

struct Bytes64(u64);

impl Written for Bytes64 {
    fn written(&self) -> String {
        format!("{} bytes", self.0)
    }
}

impl Written for Duration {
    fn written(&self) -> String {
        format!("{} ms", self.as_millis())
    }
}

/// Formats every limit as in the table. The unit is in its name.
macro_rules! limits {
    ($($name:ident as $kind:ident,)*) => {
        BTreeMap::from([$((stringify!($name).to_owned(), limits!(@ $kind $name).written()),)*])
    };
    (@ Duration $name:ident) => { limits::$name };
    (@ $kind:ident $name:ident) => { $kind(u64::try_from(limits::$name).unwrap()) };
}

#[test]
fn limits_in_the_document_match_the_code() {
    let in_code = limits! {
        HEADER_BYTES as Bytes64,
        DATA_MAX_BYTES as Bytes64,
        HEAD_MAX_BYTES as Bytes64,
        FRAME_MAX_BYTES as Bytes64,
        HEAD_MAX_BYTES_V1 as Bytes64,
        FRAME_MAX_BYTES_V1 as Bytes64,
        HEADERS_MAX as Count,
        NAME_MAX_BYTES as Bytes64,
        CONTEXT_ID_MAX_BYTES as Bytes64,
        CONTEXT_LABEL_MAX_BYTES as Bytes64,
        DETAIL_MAX_BYTES as Bytes64,
        VERSION_MAX_BYTES as Bytes64,
        SERVES_ENDPOINTS_MAX as Count,
        SERVES_HOSTS_MAX as Count,
        ABANDONED_MAX as Count,
        STREAM_RESERVE_BYTES as Bytes64,
        STREAM_WINDOW_INITIAL_BYTES as Bytes64,
        STREAM_WINDOW_MIN_BYTES as Bytes64,
        STREAM_WINDOW_CAP_BYTES as Bytes64,
        SESSION_WINDOW_BYTES as Bytes64,
        STREAMS_MAX as Count,
        SEND_QUEUE_STREAM_BYTES as Bytes64,
        SEND_QUEUE_STREAM_PIECES as Count,
        SEND_QUEUE_SESSION_BYTES as Bytes64,
        WRITE_BATCH_BYTES as Bytes64,
        DATA_SENT_BYTES as Bytes64,
        STREAM_ID_RENEW as Count,
        HEARTBEAT as Duration,
        DEAD_AFTER as Duration,
        WRITE_STALL as Duration,
        DISPATCHED_DELAY as Duration,
        OPENING_TIMEOUT as Duration,
        INFORMATIONAL_MAX as Count,
        RESULTS_QUEUED_MAX as Count,
    };
    let in_document: BTreeMap<String, String> = table("limit")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(in_document, in_code);

    let source = include_str!("../src/limits.rs");
    let declared: BTreeSet<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
        .collect();
    let listed: BTreeSet<&str> = in_code.keys().map(String::as_str).collect();
    assert_eq!(declared, listed, "a limit that this test does not know");
}

#[test]
fn codes_in_the_document_match_the_code() {
    let in_document: Vec<_> = table("code")
        .into_iter()
        .map(|row| row[..5].to_vec())
        .collect();
    let in_code: Vec<_> = Code::ALL
        .iter()
        .map(|code| {
            let (number, status) = (code.to_wire().to_string(), code.http_status().to_string());
            let (origin, retry) = (code.origin().as_str(), code.retry().as_str());
            vec![
                number,
                code.as_str().to_owned(),
                status,
                origin.to_owned(),
                retry.to_owned(),
            ]
        })
        .collect();
    assert_eq!(in_document, in_code);
}

#[test]
fn executions_in_the_document_match_the_code() {
    let in_document = table("execution");
    assert_eq!(in_document.len(), 4);
    for row in in_document {
        let execution = Execution::from_wire(row[0].parse().unwrap());
        assert_eq!(execution.to_wire().to_string(), row[0]);
        assert_eq!(execution.as_str(), row[1]);
        assert_eq!(
            execution.is_safe_to_repeat(),
            row[3] == "safe",
            "{execution}"
        );
    }
}

/// Finds the rules in a text: `W-` and a number.
fn rules(text: &str) -> BTreeSet<u32> {
    let number = |rest: &str| {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        rest[..digits].parse().ok()
    };
    text.split("W-").skip(1).filter_map(number).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn cited_rules_exist_and_are_unique() {
    let wire = wire();
    let stated: Vec<u32> = wire
        .lines()
        .filter_map(|line| line.strip_prefix("**W-")?.split("**").next()?.parse().ok())
        .collect();
    assert!(stated.is_sorted_by(|a, b| a < b), "{stated:?}");
    let stated = BTreeSet::from_iter(stated);
    assert!(
        rules(&wire).is_subset(&stated),
        "the document cites a rule that it does not have"
    );

    let mut files = Vec::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path().join("src");
        if folder.is_dir() {
            sources(&folder, &mut files);
        }
    }
    assert!(files.len() > 10);
    for file in files {
        for rule in rules(&std::fs::read_to_string(&file).unwrap()) {
            assert!(stated.contains(&rule), "W-{rule} in {}", file.display());
        }
    }
}

/// Reads the bytes on the left side of an example.
fn example(block: &str) -> Bytes {
    let is_byte = |word: &&str| {
        word.len() == 2 && word.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    let bytes = |line: &str| -> Vec<u8> {
        let words = line[..line.len().min(53)]
            .split_whitespace()
            .take_while(is_byte);
        words
            .map(|word| u8::from_str_radix(word, 16).unwrap())
            .collect()
    };
    block.lines().flat_map(bytes).collect()
}

#[test]
fn examples_in_the_document_are_golden_frames() {
    let golden: Vec<Bytes> = golden::file("valid.json")
        .iter()
        .map(|vector| golden::bytes(&vector["hex"]))
        .collect();
    let wire = wire();
    let (_, examples) = wire.split_once("## Examples").unwrap();
    let blocks: Vec<&str> = examples.split("```text\n").skip(1).collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        let bytes = example(block.split("```").next().unwrap());
        assert!(
            matches!(Frame::decode(bytes.clone()), Ok(Some(_))),
            "{bytes:02x?}"
        );
        assert!(golden.contains(&bytes), "{bytes:02x?}");
    }
}
