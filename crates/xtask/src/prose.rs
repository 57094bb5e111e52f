//! The project's language: words that the style guide replaces, links between documents, and the length
//! of sentences. `CONTRIBUTING.md` has the rules.
//!
//! Not here: spelling, which `typos` checks (see `ci`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use crate::step::{Failed, root};
use crate::tree::tracked_files;

/// A word that the style guide replaces, and what to write.
struct Word {
    old: &'static str,
    write: &'static str,
}

/// The words, in lower case. A space stands for any white space on one line.
const WORDS: &[Word] = &[
    word("anew", "again"),
    word("are told", "get, receive"),
    word("beside", "next to, in addition to"),
    word("configuration file", "config"),
    word("in force", "active"),
    word("is told", "gets, receives"),
    word("kept library", "maintained library"),
    word("let go of", "closed, released"),
    word("lets go of", "closes, releases"),
    word("looked at", "checked"),
    word("nobody", "no caller, no client, no task"),
    word("shall", "must, will"),
    word("somebody", "the caller, the operator"),
    word("taken back", "cancelled"),
    word("takes back", "cancels"),
    word("the crowd", "contending clients"),
    word("turned away", "rejected"),
    word("whoever", "any client that, the operator"),
];

/// Files whose text is data: captured traffic, golden bytes, licences.
const DATA: &[&str] = &[
    "Cargo.lock",
    "LICENSE",
    // Their checksums are in databases that exist.
    "crates/relay/migrations/",
    "crates/store/migrations/",
    "crates/xtask/src/prose.rs",
    "proto/vectors/",
    "tests/fuzz/corpus/",
];

/// What is checked by its name's end.
const TEXTS: &[&str] = &[
    ".rs",
    ".md",
    ".toml",
    ".json",
    ".yaml",
    ".yml",
    ".env",
    ".service",
    ".sh",
    "Dockerfile",
    ".sql",
];

/// Documents whose sentences are counted, and the mean number of words that they may have.
const WORDS_MEAN_MAX: f64 = 20.0;

const fn word(old: &'static str, write: &'static str) -> Word {
    Word { old, write }
}

/// Checks words, links and sentences of all tracked files.
///
/// # Errors
/// The number of findings; each is printed with its file and line.
pub(crate) fn check() -> Result<(), Failed> {
    println!(
        "== prose: words that the style guide replaces, links between documents, length of sentences"
    );
    let began = Instant::now();
    let files = tracked_files()?;
    let mut findings = Vec::new();
    let mut documents = BTreeMap::new();
    for name in &files {
        if DATA.iter().any(|data| name.starts_with(data)) || !is_text(name) {
            continue;
        }
        // A file that was deleted and not yet committed is listed as well.
        let Ok(text) = fs::read_to_string(root().join(name)) else {
            continue;
        };
        for (line, found) in replaced_words(&text) {
            findings.push(format!(
                "{name}:{line}: \"{}\": write {}",
                found.old, found.write
            ));
        }
        if name.ends_with(".md") {
            documents.insert(name.clone(), text);
        }
    }
    findings.extend(broken_links(&documents));
    for (name, text) in documents.iter().filter(|(name, _)| is_guide(name)) {
        let (sentences, words) = sentence_lengths(text);
        let mean = words as f64 / sentences.max(1) as f64;
        println!("   {name}: {mean:.1} words a sentence");
        if mean > WORDS_MEAN_MAX {
            findings.push(format!(
                "{name}: {mean:.1} words a sentence, at most {WORDS_MEAN_MAX}"
            ));
        }
    }
    for finding in &findings {
        eprintln!("   {finding}");
    }
    if findings.is_empty() {
        println!("   done in {:.1} s", began.elapsed().as_secs_f64());
        return Ok(());
    }
    Err(Failed::new(format!("prose: {} findings", findings.len())))
}

fn is_text(name: &str) -> bool {
    TEXTS.iter().any(|end| name.ends_with(end))
}

fn is_guide(name: &str) -> bool {
    !name.contains('/') && name != "CHANGELOG.md"
        || name.starts_with("deploy/")
        || name == "proto/WIRE.md"
}

/// Returns the lines that hold one of [`WORDS`], counted from 1.
fn replaced_words(text: &str) -> Vec<(usize, &'static Word)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .to_lowercase();
        found.extend(
            WORDS
                .iter()
                // The list of key words of RFC 2119 is in upper case and in quotes.
                .filter(|word| {
                    holds(&line, word.old) && !line.contains(&format!("\"{}\"", word.old))
                })
                .map(|word| (index + 1, word)),
        );
    }
    found
}

/// Returns whether `line` holds `word` between characters that belong to no word or name.
fn holds(line: &str, word: &str) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    line.match_indices(word).any(|(at, _)| {
        let before = line.as_bytes()[..at].last();
        let after = line.as_bytes().get(at + word.len());
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Returns each link to a file or heading that does not exist.
fn broken_links(documents: &BTreeMap<String, String>) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, text) in documents {
        for (line, target) in links(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => PathBuf::from(name),
                path => normal(&Path::new(name).parent().unwrap_or(Path::new("")).join(path)),
            };
            if !root().join(&file).exists() {
                broken.push(format!("{name}:{line}: no file {}", file.display()));
                continue;
            }
            let target_text = file.to_str().and_then(|file| documents.get(file));
            if let Some(target_text) = target_text
                && !anchor.is_empty()
                && !anchors(target_text).any(|known| known == anchor)
            {
                broken.push(format!(
                    "{name}:{line}: no heading #{anchor} in {}",
                    file.display()
                ));
            }
        }
    }
    broken
}

/// Returns the targets of Markdown links outside code, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        for rest in line.split("](").skip(1) {
            if let Some((target, _)) = rest.split_once(')') {
                found.push((index + 1, target));
            }
        }
    }
    found
}

/// Returns the anchors of the headings, as forges derive them: lower case, spaces to hyphens, and only
/// letters, digits, hyphens and underscores.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter_map(|char| match char {
            ' ' => Some('-'),
            '-' | '_' => Some(char),
            char => char.is_alphanumeric().then_some(char),
        });
        kept.collect()
    })
}

fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => out.push(part),
        }
    }
    out
}

/// Returns how many sentences and words the running text has. Code, tables and headings do not count; a
/// list's item ends a sentence.
fn sentence_lengths(text: &str) -> (usize, usize) {
    let mut blocks = vec![String::new()];
    let mut is_code = false;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("```") {
            is_code = !is_code;
            continue;
        }
        let is_prose = !is_code && !line.starts_with(['|', '#']);
        let is_item = line.starts_with("- ")
            || line.split_once(". ").is_some_and(|(number, _)| {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            });
        if !is_prose || line.is_empty() || is_item {
            blocks.push(String::new());
        }
        if is_prose && let Some(block) = blocks.last_mut() {
            block.push_str(line);
            block.push(' ');
        }
    }
    let mut sentences = 0;
    let mut words = 0;
    for block in blocks {
        for sentence in block.split_inclusive(['.', '!', '?']).fold(
            vec![String::new()],
            |mut sentences: Vec<String>, part| {
                // A dot inside a name (`relay.toml`) ends no sentence.
                let is_new = sentences
                    .last()
                    .is_some_and(|last| last.ends_with(['.', '!', '?']) && part.starts_with(' '));
                if is_new {
                    sentences.push(part.to_owned());
                } else if let Some(last) = sentences.last_mut() {
                    last.push_str(part);
                }
                sentences
            },
        ) {
            let count = sentence
                .split_whitespace()
                .filter(|word| word.chars().any(char::is_alphanumeric))
                .count();
            if count > 0 {
                sentences += 1;
                words += count;
            }
        }
    }
    (sentences, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_match_whole_words_only() {
        let text = "besides\nstands Beside it\n\n// is  told\nlet beside_path = 1;";
        let found: Vec<_> = replaced_words(text)
            .into_iter()
            .map(|(line, word)| (line, word.old))
            .collect();
        assert_eq!(found, [(2, "beside"), (4, "is told")]);
    }

    #[test]
    fn links_outside_code_are_found() {
        let text = "[a](b.md#c) and [d](e)\n```\n[f](g)\n```\n";
        assert_eq!(links(text), [(1, "b.md#c"), (1, "e")]);
    }

    #[test]
    fn anchors_follow_the_headings() {
        let anchors: Vec<_> =
            anchors("# Bridges, endpoint names\n\n### target_dns\ntext").collect();
        assert_eq!(anchors, ["bridges-endpoint-names", "target_dns"]);
    }

    #[test]
    fn sentences_end_at_dots_and_list_items() {
        let text = "# Title\n\nOne two `a.toml` four.\nFive six.\n\n- seven\n- eight nine\n\n| no | no |\n";
        assert_eq!(sentence_lengths(text), (4, 9));
    }
}
