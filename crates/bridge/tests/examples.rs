//! Reads the bridge's configs in `deploy/examples`, including those inside Kubernetes manifests.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_bridge::Config;
use std::path::{Path, PathBuf};

/// Topics that have a config of the bridge.
const TOPICS: [&str; 5] = [
    "corporate-proxy",
    "tls-inspection",
    "signed-calls",
    "two-bridges",
    "kubernetes",
];

/// Returns the files in and below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Returns the block scalars of a manifest under a key, like `bridge.toml: |`, without their indentation.
fn blocks(manifest: &str, key: &str) -> Vec<String> {
    let opening = format!("{key}: |");
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = manifest.lines().collect();
    let starts = lines.iter().enumerate();
    let starts = starts.filter(|(_, line)| line.trim() == opening);
    starts
        .map(|(start, line)| {
            let body = lines[start + 1..].iter();
            let body = body
                .take_while(|own| own.trim().is_empty() || indent(own) > indent(line))
                .map(|own| own.get(indent(line) + 2..).unwrap_or_default());
            body.collect::<Vec<_>>().join("\n")
        })
        .collect()
}

#[test]
fn example_configs_of_the_bridge_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    let mut topics: Vec<String> = Vec::new();
    for file in files(&root) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let configs = match name.rsplit_once('.') {
            Some((stem, "toml")) if stem.starts_with("bridge") => vec![text],
            // The relay's test reads these. Another name would be read by neither.
            Some((stem, "toml")) => {
                assert!(stem.starts_with("relay"), "{}", file.display());
                continue;
            }
            Some((_, "yaml")) => blocks(&text, "bridge.toml"),
            Some(_) | None => continue,
        };
        for config in configs {
            if let Err(error) = Config::parse(&config, &file) {
                panic!("{error}");
            }
            let topic = file.parent().unwrap().file_name().unwrap();
            topics.push(topic.to_str().unwrap().to_owned());
        }
    }
    for topic in TOPICS {
        assert!(
            topics.iter().any(|own| own == topic),
            "no config in {topic}"
        );
    }
}

#[test]
fn block_of_a_manifest_ends_with_its_indentation() {
    let manifest = "data:\n  bridge.toml: |\n    [relay]\n\n    url = 1\n---\nkind: X\n";
    assert_eq!(blocks(manifest, "bridge.toml"), ["[relay]\n\nurl = 1"]);
}
