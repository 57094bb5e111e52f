//! The licences of the code by others that is in a program. Most of them require that their text comes with it.

use super::crates::{Crate, Crates, Id};
use super::native::Native;
use super::target::Program;
use super::tree;
use crate::step::Failed;
use std::collections::BTreeMap;

/// The name of the file.
pub(super) const FILE: &str = "THIRD-PARTY-LICENSES.txt";

/// Beginnings of the names of files with a licence, in lower case.
const NAMES: [&str; 6] = [
    "license",
    "licence",
    "copying",
    "copyright",
    "notice",
    "unlicense",
];

/// Returns the text for a program.
pub(super) fn text(
    program: &Program,
    crates: &Crates,
    native: &[Native],
) -> Result<String, Failed> {
    let linked = crates.linked(program);
    // The workspace's own crates have the licence of the program.
    let others = linked
        .into_iter()
        .filter(|(_, found)| found.checksum.is_some());
    let others: Vec<_> = others.collect();
    let mut list = format!(
        "{} contains code of these projects. Their licences follow.\n\n",
        program.name
    );
    for part in native {
        list.push_str(&format!(
            "{} {}: {}\n",
            part.name, part.version, part.licence
        ));
    }
    for ((name, version), found) in &others {
        list.push_str(&format!("{name} {version}: {}\n", found.licence));
    }
    // Many crates have the same text.
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for part in native {
        texts
            .entry(part.notice.to_owned())
            .or_default()
            .push(format!("{} {}", part.name, part.version));
    }
    for (id, found) in others {
        for text in licences(id, found)? {
            texts
                .entry(text)
                .or_default()
                .push(format!("{} {}", id.0, id.1));
        }
    }
    let mut texts: Vec<_> = texts.into_iter().collect();
    texts.sort_by(|(_, left), (_, right)| left.cmp(right));
    for (text, names) in texts {
        let line = "=".repeat(78);
        list.push_str(&format!(
            "\n{line}\n{}\n{line}\n\n{text}\n",
            names.join(", ")
        ));
    }
    Ok(list)
}

/// Returns the texts in a crate's directory, or a line that names its licence if it has none.
fn licences((name, version): &Id, found: &Crate) -> Result<Vec<String>, Failed> {
    let mut texts = Vec::new();
    for file in tree::names_in(&found.directory)? {
        let path = found.directory.join(&file);
        let file = file.to_lowercase();
        if path.is_file() && NAMES.iter().any(|name| file.starts_with(name)) {
            // Not all are UTF-8.
            let text = String::from_utf8_lossy(&tree::read(&path)?).into_owned();
            texts.push(without_line_ends(&text));
        }
    }
    if texts.is_empty() {
        texts.push(format!(
            "The sources of {name} {version} have no file with their licence, which is {}.",
            found.licence
        ));
    }
    Ok(texts)
}

/// Returns the text without what differs between copies of one licence: white space at the end of lines.
fn without_line_ends(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_one_licence_are_equal() {
        assert_eq!(
            without_line_ends("\n  MIT \r\n\r\ntext\r\n"),
            without_line_ends("  MIT\n\ntext\n\n")
        );
    }
}
