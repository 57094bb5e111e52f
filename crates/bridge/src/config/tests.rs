//! The config as files and variables give it.

use super::*;
use std::time::Duration;

const MINIMAL: &str = r#"
[relay]
url = "https://relay.example.com"
[bridge]
name = "berlin-dc1"
data_dir = "state"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("etc/bridge.toml"))
}

#[test]
fn minimal_config_has_documented_defaults() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.relay.connections.get(), 2);
    assert_eq!(config.relay.proxy, ProxySetting::Env);
    assert!(config.bridge.advertise_hosts);
    assert_eq!(config.targets.connect_timeout.get(), Duration::from_secs(5));
    assert_eq!(config.limits.streams_max.get(), 4096);
    assert_eq!(config.limits.window_budget.bytes(), 32 << 20);
    assert!(config.bridge.data_dir.get().is_absolute());
    assert!(config.bridge.data_dir.get().ends_with("etc/state"));
    assert!(config.rules.allow.is_empty() && config.rules.endpoints.is_empty());
}

#[test]
fn config_of_the_relay_is_named() {
    let relay = include_str!("../../../../deploy/examples/relay.toml");
    let error = parse(relay).unwrap_err().to_string();
    let end = "is a section of the config of integration-relay, not of integration-bridge: check --config";
    assert!(error.ends_with(end), "{error}");
    let variables = ENVIRONMENT.variables::<File>();
    let (_, own) = runtime::config::PROGRAM_SECTIONS[0];
    for name in own {
        let is_own = |key: &runtime::config::Key| key.section.unwrap_or(key.name) == *name;
        assert!(
            variables.iter().any(|variable| is_own(&variable.key)),
            "{name}"
        );
    }
}

#[test]
fn example_is_a_config() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/bridge.toml");
    let config = Config::load(&path).unwrap();
    assert_eq!(config.rules.endpoints.len(), 1);
    assert_eq!(config.rules.allow.len(), 2);
    assert_eq!(config.rules.serves(true).endpoints.as_slice(), ["alm"]);
    assert_eq!(config.rules.serves(false).hosts, None);
}

/// What is added to [`MINIMAL`], the line of the mistake from there, and parts of the message.
#[test]
fn mistake_has_its_line_and_a_remedy() {
    let mistakes: &[(&str, usize, &[&str])] = &[
        ("[relais]\n", 1, &["relais", "relay"]),
        ("colour = 1\n", 1, &["colour", "data_dir"]),
        (
            "[limits]\nmemory_max = \"1KiB\"\n",
            2,
            &["limits.memory_max is 1KiB", "at least 32MiB"],
        ),
        (
            "[targets]\nproxy = \"http://127.0.0.1:99999\"\n",
            2,
            &["a number from 1 to 65535"],
        ),
        (
            "[targets]\nconnect_timeout = \"5\"\n",
            2,
            &["\"5\"", "\"30s\""],
        ),
        (
            "[targets]\nconnect_timeout = 5\n",
            2,
            &["a number", "\"30s\""],
        ),
        (
            "[targets]\nhead_timeout = \"2d\"\n",
            2,
            &["\"2d\"", "\"24h\""],
        ),
        (
            "[targets]\nidle_timeout = \"48h\"\n",
            2,
            &["\"48h\"", "\"24h\""],
        ),
        ("[targets]\nca_file = \"\"\n", 2, &["empty"]),
        (
            "[targets]\nca_file = \"C:\\corp\\ca.pem\"\n",
            2,
            &["single quotes"],
        ),
        (
            "[targets]\nca_file = \"C:\\temp\\ca.pem\"\n",
            2,
            &["single quotes"],
        ),
        (
            "[targets]\nhost = \"ci\"\n",
            2,
            &["belongs under [[allow]]"],
        ),
        ("[allow]\nhost = \"ci\"\n", 1, &["[[allow]]"]),
        ("[targets]\npool_idle_max = -1\n", 2, &["-1", "0 to 8192"]),
        (
            "[limits]\nwindow_budget = \"16MB\"\n",
            2,
            &["\"16MB\"", "\"1MiB\""],
        ),
        ("[limits]\nstreams_max = 0\n", 2, &["1 to 65536"]),
        ("[log]\nlevel = \"loud\"\n", 2, &["loud", "info"]),
        ("[log]\nformat = \"xml\"\n", 2, &["xml", "json"]),
        (
            "[[endpoint]]\nname = \"ALM\"\nurl = \"https://alm/\"\n",
            2,
            &["name", "a-z", "`alm`"],
        ),
        (
            "[[endpoint]]\nname = \"alm\"\nurl = \"ftp://alm/\"\n",
            3,
            &["url", "http"],
        ),
        (
            "[[endpoint]]\nurl = \"https://alm/\"\n",
            1,
            &["missing key", "name"],
        ),
        (
            "[[endpoint]]\nname = \"alm\"\nurl = \"https://alm/\"\ncredential = \"two words\"\n",
            4,
            &["credential", "letters"],
        ),
        (
            "[[endpoint]]\nname = \"a\"\nurl = \"https://a/\"\n[[endpoint]]\nname = \"a\"\nurl = \"https://b/\"\n",
            5,
            &["name", "already"],
        ),
        (
            "[[allow]]\nhost = \"*\"\nmethods = [\"*\"]\n",
            2,
            &["host", "*.corp.example"],
        ),
        (
            "[[allow]]\nhost = \"https://ci/\"\nmethods = [\"*\"]\n",
            2,
            &["host", "scheme"],
        ),
        (
            "[[allow]]\nhost = \"10.0.0.1/8\"\nmethods = [\"*\"]\n",
            2,
            &["10.0.0.0/8"],
        ),
        (
            "[[allow]]\nhost = \"ci\"\nmethods = [\"post\"]\n",
            3,
            &["methods", "POST"],
        ),
        ("[[allow]]\nhost = \"ci\"\n", 1, &["missing key", "methods"]),
        (
            "[[allow]]\nhost = \"ci\"\nmethods = [\"*\"]\nports = [70000]\n",
            4,
            &["65535"],
        ),
        (
            "[[allow]]\nhost = \"ci\"\nmethods = [\"*\"]\npaths = [\"hooks\"]\n",
            4,
            &["paths", "/"],
        ),
        (
            "[[allow]]\nhost = \"ci\"\nmethods = [\"*\"]\nschemes = [\"ftp\"]\n",
            4,
            &["https"],
        ),
        ("[bridge]\n", 1, &["twice", "bridge", "line 4"]),
        ("data_dir = \n", 1, &[]),
    ];
    for (added, line, words) in mistakes {
        let text = format!("{MINIMAL}{added}");
        let error = parse(&text).expect_err(added).to_string();
        let place = format!("etc/bridge.toml:{}: ", MINIMAL.lines().count() + line);
        assert!(
            error.starts_with(&place),
            "{added:?} gave {error:?}, not at {place:?}"
        );
        for word in *words {
            assert!(
                error.contains(word),
                "{added:?} gave {error:?} without {word:?}"
            );
        }
    }
}

#[test]
fn mistake_in_a_required_key_has_its_line() {
    for (right, mistaken, line, words) in [
        (
            "https://relay.example.com",
            "http://relay.example.com",
            3,
            &["https://"][..],
        ),
        (
            "https://relay.example.com",
            "https://relay.example.com/x",
            3,
            &["without a path"],
        ),
        (
            "[relay]",
            "[relay]\nproxy = \"http://u:sesame@p\"",
            3,
            &["HTTPS_PROXY"],
        ),
        (
            "[relay]",
            "[relay]\nproxy = \"ftp://p\"",
            3,
            &["\"none\"", "http://proxy"],
        ),
        ("[relay]", "[relay]\nconnections = 9", 3, &["9", "1 to 8"]),
        ("berlin-dc1", "", 5, &["1 to 64"]),
        ("berlin-dc1", "Berlin DC 1", 5, &["`Berlin-DC-1`"]),
        ("berlin-dc1", "Büro", 5, &["`Buero`"]),
        ("data_dir = \"state\"", "", 4, &["missing key", "data_dir"]),
    ] {
        let text = MINIMAL.replace(right, mistaken);
        let error = parse(&text).expect_err(mistaken).to_string();
        assert!(
            error.starts_with(&format!("etc/bridge.toml:{line}: ")),
            "{mistaken:?}: {error}"
        );
        assert!(!error.contains("sesame"), "a password is never repeated");
        for word in words {
            assert!(
                error.contains(word),
                "{mistaken:?} gave {error:?} without {word:?}"
            );
        }
    }
}

#[test]
fn missing_file_is_named() {
    let error = Config::load(Path::new("no/such/bridge.toml")).unwrap_err();
    assert!(error.to_string().contains("no/such/bridge.toml"), "{error}");
}

#[test]
fn environment_overrides_the_file() {
    let dir = crate::testing::TempDir::new("environment");
    let path = dir.path().join("bridge.toml");
    std::fs::write(&path, MINIMAL).unwrap();
    let load = |pairs: &'static [(&str, &str)], path: &Path| {
        let get = move |name: &str| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::load_with(path, get)
    };
    let config = load(
        &[
            ("BRIDGE_NAME", "from-env"),
            ("BRIDGE_RELAY_CONNECTIONS", "3"),
            (
                "BRIDGE_ALLOW",
                "[{host = \"ci.corp.example\", methods = [\"POST\"]}]",
            ),
        ],
        &path,
    )
    .unwrap();
    assert_eq!(config.bridge.name, "from-env");
    assert_eq!(config.relay.connections.get(), 3);
    assert_eq!(config.rules.allow.len(), 1);
    assert!(config.bridge.data_dir.get().ends_with("state"));

    // Without any file.
    let nowhere = dir.path().join("none.toml");
    let all: &[(&str, &str)] = &[
        ("BRIDGE_RELAY_URL", "https://relay.example.com"),
        ("BRIDGE_NAME", "b"),
        ("BRIDGE_DATA_DIR", "/data"),
    ];
    assert_eq!(load(all, &nowhere).unwrap().bridge.name, "b");
    assert!(matches!(load(&[], &nowhere), Err(ConfigError::Read { .. })));

    for (pairs, words) in [
        (
            &[("BRIDGE_RELAY_CONNECTIONS", "many")][..],
            &["BRIDGE_RELAY_CONNECTIONS", "many"][..],
        ),
        (
            &[("BRIDGE_RELAY_CONNECTIONS", "99")],
            &["BRIDGE_RELAY_CONNECTIONS", "99", "1 to 8"],
        ),
        (
            &[("BRIDGE_TARGETS_HEAD_TIMEOUT", "5")],
            &["BRIDGE_TARGETS_HEAD_TIMEOUT", "\"30s\""],
        ),
        (
            &[("BRIDGE_ENDPOINTS", "alm")],
            &["BRIDGE_ENDPOINTS", "inline tables"],
        ),
    ] {
        let error = load(pairs, &path).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{error}");
        }
    }
}

#[test]
fn environment_mistake_shows_no_text_value() {
    let dir = crate::testing::TempDir::new("environment-secret");
    let path = dir.path().join("bridge.toml");
    let proxy = "http://robot:canary@proxy.corp.example:3128";
    let load = |file: &str, variable: (&str, &str)| {
        std::fs::write(&path, file).unwrap();
        let get = |name: &str| (name == variable.0).then(|| variable.1.to_owned());
        Config::load_with(&path, get).unwrap_err()
    };
    // In the environment: the variable is named.
    let error = load(MINIMAL, ("BRIDGE_RELAY_PROXY", proxy));
    assert!(error.to_string().contains("BRIDGE_RELAY_PROXY"), "{error}");
    assert!(!error.to_string().contains("canary"), "{error}");
    assert!(!error.place().contains("canary"), "{}", error.place());
    // In the file: its line is named, also when the environment sets other keys.
    let file = MINIMAL.replace("[relay]\n", &format!("[relay]\nproxy = \"{proxy}\"\n"));
    let line = 1 + file[..file.find("proxy").unwrap()].matches('\n').count();
    let error = load(&file, ("BRIDGE_LOG_LEVEL", "debug"));
    assert!(!error.to_string().contains("canary"), "{error}");
    let place = format!("config rejected at line {line}");
    assert_eq!(error.place(), place, "{error}");
}

#[test]
fn wrong_list_in_a_variable_shows_its_own_form() {
    let dir = crate::testing::TempDir::new("environment-lists");
    let path = dir.path().join("bridge.toml");
    std::fs::write(&path, MINIMAL).unwrap();
    for (variable, form) in [
        ("BRIDGE_ALLOW", "[{host = "),
        ("BRIDGE_ENDPOINTS", "[{name = "),
    ] {
        let get = |name: &str| (name == variable).then(|| "alm".to_owned());
        let error = Config::load_with(&path, get).unwrap_err().to_string();
        assert!(error.contains(variable) && error.contains(form), "{error}");
    }
}

fn example(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    std::fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn examples_list_every_key() {
    let variables = ENVIRONMENT.variables::<File>();
    let problems = runtime::config::missing_from_examples(
        &variables,
        &example("bridge.toml"),
        &example("bridge.env"),
    );
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn change_that_needs_a_restart_is_named() {
    let old = parse(MINIMAL).unwrap();
    let change = |text: &str| runtime::config::first_change(&old, &parse(text).unwrap());
    let reloadable = format!(
        "{MINIMAL}paused = true\n[targets]\nhttp2 = false\n[limits]\nrequest_max = \"1MiB\"\n\
         [[allow]]\nhost = \"ci\"\nmethods = [\"*\"]\n"
    );
    assert_eq!(change(&reloadable), None);
    // The default, in other words.
    let same = format!("{MINIMAL}[audit]\nfile_max_age = \"1440m\"\n");
    assert_eq!(change(&same), None);
    for (added, key) in [
        ("[limits]\nstreams_max = 1\n", "limits.streams_max"),
        ("[audit]\nfile = \"a\"\n", "audit.file"),
        ("[deliveries]\nbody_max = \"2MiB\"\n", "deliveries.body_max"),
        ("[metrics]\nlisten = \"127.0.0.1:1\"\n", "metrics.listen"),
        ("[log]\nlevel = \"debug\"\n", "log.level"),
        ("[log]\nformat = \"json\"\n", "log.format"),
        ("[log]\nfile = \"bridge.log\"\n", "log.file"),
        ("[log]\nfiles = 9\n", "log.files"),
    ] {
        let changed = change(&format!("{MINIMAL}{added}"));
        assert_eq!(changed.as_deref(), Some(key));
    }
    let renamed = MINIMAL.replace("berlin-dc1", "berlin-dc2");
    assert_eq!(change(&renamed).as_deref(), Some("bridge.name"));
}
