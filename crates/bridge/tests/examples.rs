//! Reads the bridge's configs in `deploy/examples`, and those in the values of its Helm chart.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_bridge::Config;
use std::path::{Path, PathBuf};

/// Topics that have a config of the bridge.
const TOPICS: [&str; 4] = [
    "corporate-proxy",
    "tls-inspection",
    "signed-calls",
    "two-bridges",
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

/// Returns the block scalars of a YAML file under a key, like `config: |`, without their indentation.
fn blocks(yaml: &str, key: &str) -> Vec<String> {
    let opening = format!("{key}: |");
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = yaml.lines().collect();
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
        match name.rsplit_once('.') {
            Some((stem, "toml")) if stem.starts_with("bridge") => {}
            // The relay's test reads these. Another name would be read by neither.
            Some((stem, "toml")) => {
                assert!(stem.starts_with("relay"), "{}", file.display());
                continue;
            }
            Some(_) | None => continue,
        }
        if let Err(error) = Config::parse(&text, &file) {
            panic!("{error}");
        }
        let topic = file.parent().unwrap().file_name().unwrap();
        topics.push(topic.to_str().unwrap().to_owned());
    }
    for topic in TOPICS {
        assert!(
            topics.iter().any(|own| own == topic),
            "no config in {topic}"
        );
    }
}

/// The keys that a config must have, and which the chart sets by environment variables.
const SET_BY_THE_CHART: &str = "[relay]\nurl = \"https://relay.example.com\"\n\n[bridge]\nname = \"dc1\"\ndata_dir = \"/data\"\n\n";

#[test]
fn chart_configs_of_the_bridge_are_valid() {
    let chart =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/charts/integration-bridge");
    let mut configs = 0;
    for file in files(&chart.join("ci")) {
        let values = std::fs::read_to_string(&file).unwrap();
        for config in blocks(&values, "config") {
            if let Err(error) = Config::parse(&format!("{SET_BY_THE_CHART}{config}"), &file) {
                panic!("{error}");
            }
            configs += 1;
        }
    }
    assert!(configs > 0, "no values of the chart have a config");
}

#[test]
fn block_of_a_yaml_file_ends_with_its_indentation() {
    let values = "data:\n  config: |\n    [relay]\n\n    url = 1\n---\nkind: X\n";
    assert_eq!(blocks(values, "config"), ["[relay]\n\nurl = 1"]);
}
