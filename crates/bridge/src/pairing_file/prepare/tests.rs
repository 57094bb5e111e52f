//! Configs that exist, that do not, and that have other values.

use super::*;
use crate::data_dir::DataDir;
use crate::identity::tests::example as identity;
use crate::pairing_file::tests::example;
use crate::testing::TempDir;
use serde_json::{Value as Json, json};
use std::fs;

fn file(changes: &[(&str, Json)]) -> PairingFile {
    example(Path::new("f"), changes).unwrap()
}

fn conflict_of(result: Result<Prepared, PrepareError>) -> (&'static str, String) {
    let error = result.unwrap_err();
    match &error {
        PrepareError::Conflict { key, .. } => (*key, error.to_string()),
        other => panic!("{other}"),
    }
}

#[test]
fn new_config_is_whole_and_stays_as_it_is() {
    let dir = TempDir::new("prepare new é");
    let path = dir.path().join("etc/bridge.toml");
    let first = prepare(&file(&[]), None, &path).unwrap();
    assert!(first.is_changed);
    let config = first.config;
    assert_eq!(
        config.relay.url.to_string(),
        "https://relay.example.com:443"
    );
    assert_eq!(config.bridge.name, "berlin-dc1");
    let data_dir = config.bridge.data_dir.get();
    assert_eq!(data_dir, dir.path().join("etc/data"));
    let ca = config.relay.ca_file.unwrap();
    assert_eq!(ca.get(), data_dir.join(CA_FILE));
    assert_eq!(fs::read_to_string(ca.get()).unwrap(), file(&[]).ca.unwrap());
    // It reaches nothing.
    assert!(config.rules.endpoints.is_empty());
    let text = fs::read(&path).unwrap();
    let again = prepare(&file(&[]), None, &path).unwrap();
    assert!(!again.is_changed);
    assert_eq!(fs::read(&path).unwrap(), text);
    // After a crash between the CA file and the config, and before the CA file.
    fs::remove_file(&path).unwrap();
    prepare(&file(&[]), None, &path).unwrap();
    fs::remove_file(ca.get()).unwrap();
    prepare(&file(&[]), None, &path).unwrap();
    assert!(ca.get().exists());
}

#[test]
fn missing_keys_are_added_to_their_sections() {
    let dir = TempDir::new("prepare-add");
    let path = dir.path().join("bridge.toml");
    let public = [("ca_pem", Json::Null)];
    for text in [
        "",
        "# none\n",
        "[relay]  # the relay\nconnections = 3\n",
        "[bridge]\npaused = true\n\n[[allow]]\nhost = \"a.example\"\nmethods = [\"GET\"]\n",
        "[bridge]\nname = \"berlin-dc1\"\n[relay]",
        "[relay]\r\nconnections = 3\r\n",
    ] {
        fs::write(&path, text).unwrap();
        let prepared = prepare(&file(&public), None, &path).unwrap();
        assert!(prepared.is_changed, "{text}");
        assert!(prepared.config.relay.ca_file.is_none());
        let (old, new): (Table, Table) = (
            text.parse().unwrap(),
            fs::read_to_string(&path).unwrap().parse().unwrap(),
        );
        for (section, keys) in old {
            let Some(keys) = keys.as_table() else {
                continue;
            };
            for (key, value) in keys {
                assert_eq!(new[&section].get(key), Some(value), "{text}");
            }
        }
        assert!(!prepare(&file(&public), None, &path).unwrap().is_changed);
    }
    // Forms to which a line cannot be added without reading TOML as a whole.
    for text in [
        "relay.connections = 3\n",
        "relay = { connections = 3 }\n",
        "[log]\nlevel = \"\"\"info\n[relay]\n\"\"\"\n",
    ] {
        fs::write(&path, text).unwrap();
        match prepare(&file(&public), None, &path) {
            Err(PrepareError::Form { lines, .. }) => {
                assert!(
                    lines.contains("url = \"https://relay.example.com:443\""),
                    "{lines}"
                );
                assert_eq!(fs::read_to_string(&path).unwrap(), text);
            }
            // Added as a section of its own, which is also right.
            Ok(_) | Err(PrepareError::Config(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn other_values_are_conflicts_and_nothing_is_written() {
    let dir = TempDir::new("prepare-conflict");
    let path = dir.path().join("bridge.toml");
    fs::write(dir.path().join("other.pem"), "").unwrap();
    for (line, key) in [
        ("[relay]\nurl = \"https://other.example\"", "relay.url"),
        ("[bridge]\nname = \"other\"", "bridge.name"),
        ("[relay]\nca_file = \"other.pem\"", "relay.ca_file"),
    ] {
        fs::write(&path, line).unwrap();
        let (found, text) = conflict_of(prepare(&file(&[]), None, &path));
        assert_eq!(found, key, "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), line);
        assert!(!dir.path().join("data").exists(), "{key}");
    }
    fs::write(&path, "[bridge]\nname = \"other\"").unwrap();
    let renamed = prepare(&file(&[]), Some("other"), &path).unwrap();
    assert_eq!(renamed.config.bridge.name, "other");
    let (key, _) = conflict_of(prepare(&file(&[]), Some("third"), &path));
    assert_eq!(key, "bridge.name");
}

#[test]
fn configured_ca_that_has_the_certificate_stays() {
    let dir = TempDir::new("prepare-ca");
    let path = dir.path().join("bridge.toml");
    fs::write(dir.path().join("corp.pem"), file(&[]).ca.unwrap()).unwrap();
    fs::write(&path, "[relay]\nca_file = \"corp.pem\"\n").unwrap();
    let prepared = prepare(&file(&[]), None, &path).unwrap();
    let ca = prepared.config.relay.ca_file.unwrap();
    assert_eq!(ca.get(), dir.path().join("corp.pem"));
    assert!(!dir.path().join("data").join(CA_FILE).exists());
}

#[test]
fn paired_bridge_gets_no_other_ca() {
    let dir = TempDir::new("prepare-paired");
    let path = dir.path().join("bridge.toml");
    prepare(&file(&[]), None, &path).unwrap();
    let data_dir = DataDir::open(&dir.path().join("data")).unwrap();
    let own = file(&[]).ca.unwrap();
    let stored = || data_dir.read_private(CA_FILE).unwrap().unwrap();
    // Of an earlier pairing file, which did not lead to a pairing.
    data_dir.write_private(CA_FILE, b"another").unwrap();
    prepare(&file(&[]), None, &path).unwrap();
    assert_eq!(stored(), own.as_bytes());
    identity().save(&data_dir).unwrap();
    prepare(&file(&[]), None, &path).unwrap();
    data_dir.write_private(CA_FILE, b"another").unwrap();
    let (key, text) = conflict_of(prepare(&file(&[]), None, &path));
    assert_eq!(key, "relay.ca_file", "{text}");
    assert_eq!(stored(), b"another");
    // As that message says.
    data_dir.remove(CA_FILE).unwrap();
    prepare(&file(&[]), None, &path).unwrap();
    assert_eq!(stored(), own.as_bytes());
    // A bridge that trusts the system's roots alone gets no CA, either.
    data_dir.remove(CA_FILE).unwrap();
    fs::write(&path, "[bridge]\nname = \"berlin-dc1\"\n").unwrap();
    let (key, text) = conflict_of(prepare(&file(&[]), None, &path));
    assert_eq!(key, "relay.ca_file", "{text}");
    assert!(data_dir.read_private(CA_FILE).unwrap().is_none());
}

#[test]
fn read_only_config_stays_as_it_is() {
    let dir = TempDir::new("prepare-keep");
    let path = dir.path().join("bridge.toml");
    let text = "[relay]\nconnections = 3\n[bridge]\ndata_dir = \"state\"\n";
    fs::write(&path, text).unwrap();
    let state = dir.path().join("state");
    // An earlier file, which named another relay, is forgotten.
    for url in ["https://first.example", "https://relay.example.com"] {
        let prepared = keep(&file(&[("relay_url", json!(url))]), &path).unwrap();
        let relay = prepared.config.relay;
        assert!(relay.url.to_string().starts_with(url), "{}", relay.url);
        assert_eq!(relay.ca_file.unwrap().get(), state.join(CA_FILE));
        assert_eq!(prepared.config.bridge.name, "berlin-dc1");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    let public = [("ca_pem", Json::Null)];
    let prepared = keep(&file(&public), &path).unwrap();
    assert!(prepared.config.relay.ca_file.is_none());
    keep(&file(&[]), &path).unwrap();
    identity().save(&DataDir::open(&state).unwrap()).unwrap();
    assert!(!keep(&file(&[]), &path).unwrap().is_changed);
    // Now it counts as the config.
    let other = file(&[("relay_url", json!("https://other.example"))]);
    for result in [keep(&other, &path), prepare(&other, None, &path)] {
        let (key, text) = conflict_of(result);
        assert_eq!(key, "relay.url", "{text}");
        assert!(text.contains(KEPT_FILE), "{text}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    // The config wins over what is kept.
    let own = "[relay]\nurl = \"https://own.example\"\n[bridge]\ndata_dir = \"state\"\n";
    fs::write(&path, own).unwrap();
    let (key, text) = conflict_of(keep(&file(&[]), &path));
    assert_eq!(key, "relay.url");
    assert!(
        text.contains("own.example") && text.contains("bridge.toml"),
        "{text}"
    );
}

#[test]
fn name_is_needed_and_may_be_given() {
    let dir = TempDir::new("prepare-name");
    let path = dir.path().join("bridge.toml");
    let nameless = file(&[("bridge", Json::Null)]);
    let none = prepare(&nameless, None, &path).unwrap_err();
    assert!(matches!(none, PrepareError::NoName), "{none}");
    let wrong = prepare(&nameless, Some("a b"), &path).unwrap_err();
    assert!(matches!(wrong, PrepareError::Name(_)), "{wrong}");
    assert!(!path.exists());
    let given = prepare(&nameless, Some("munich"), &path).unwrap();
    assert_eq!(given.config.bridge.name, "munich");
    // In the config from then on.
    prepare(&nameless, None, &path).unwrap();
    let other = file(&[("bridge", json!("rome"))]);
    assert_eq!(conflict_of(prepare(&other, None, &path)).0, "bridge.name");
}

#[test]
fn mistake_in_the_config_is_named_with_its_line() {
    let dir = TempDir::new("prepare-mistake");
    let path = dir.path().join("bridge.toml");
    fs::write(&path, "[relay]\nconnections = = 3\n").unwrap();
    let error = prepare(&file(&[]), None, &path).unwrap_err();
    assert!(matches!(error, PrepareError::Config(_)), "{error}");
    assert!(error.to_string().contains("bridge.toml:2"), "{error}");
}

#[test]
fn data_dir_is_that_of_the_installation() {
    for (base, expected) in [
        ("/etc/integration-bridge", "/var/lib/integration-bridge"),
        (
            "/home/a/.config/integration-bridge",
            "/home/a/.local/state/integration-bridge",
        ),
        ("/opt/bridge", "/opt/bridge/data"),
    ] {
        assert_eq!(default_data_dir(Path::new(base)), Path::new(expected));
    }
}

#[cfg(unix)]
#[test]
fn changed_config_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new("prepare-mode");
    let path = dir.path().join("bridge.toml");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    fs::write(&path, "[relay]\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    prepare(&file(&[]), None, &path).unwrap();
    assert_eq!(mode(), 0o640);
    // A link in its place is not replaced by a file.
    let link = dir.path().join("link.toml");
    std::os::unix::fs::symlink("elsewhere.toml", &link).unwrap();
    assert!(prepare(&file(&[]), None, &link).is_err());
    assert!(!dir.path().join("elsewhere.toml").exists());
}
