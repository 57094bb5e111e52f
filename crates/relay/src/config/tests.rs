//! The config as files and variables give it.

use super::*;

fn in_etc(file: &str) -> PathBuf {
    std::path::absolute("etc").unwrap().join(file)
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("etc/relay.toml")).map_err(|error| error.to_string())
}

#[test]
fn example_shows_the_defaults() {
    let example = include_str!("../../../../deploy/examples/relay.toml");
    let config = parse(example).unwrap();
    let defaults = Limits::default();
    assert_eq!(config.listen.public.unwrap().port(), 8443);
    assert_eq!(config.limits, defaults);
    assert_eq!(config.tunnel, Tunnel::default());
    assert_eq!(config.log, LogSection::default());
    let deliveries = Deliveries::default();
    assert_eq!(
        format!("{:?}", config.deliveries),
        format!("{deliveries:?}")
    );
    assert_eq!(config.direct, Direct::default());
    assert_eq!(config.weights, Weights::default());
    assert_eq!(config.hops, Hops::default());
    assert_eq!(config.directory, Directory::default());
    assert_eq!(config.audit, Audit::default());
    assert_eq!(config.notices, Notices::default());
    assert_eq!(config.bridges, Bridges::default());
    assert_eq!(config.database, Database::Sqlite(in_etc("relay.db")));
}

#[test]
fn minimal_file_is_enough() {
    let config = parse("[listen]\npublic = \"0.0.0.0:8443\"\n[tls]\nself_signed = true").unwrap();
    assert_eq!(config.database, Database::Sqlite(in_etc("relay.db")));
    assert!(matches!(config.tls, Some(Tls::SelfSigned { dir, .. }) if dir == in_etc("")));
}

#[test]
fn config_of_a_bridge_is_named() {
    let bridge = include_str!("../../../../deploy/examples/bridge.toml");
    let error = parse(bridge).unwrap_err();
    let end = "is a section of the config of integration-bridge, not of integration-relay: check --config";
    assert!(error.ends_with(end), "{error}");
    let variables = ENVIRONMENT.variables::<File>();
    let (_, own) = runtime::config::PROGRAM_SECTIONS[1];
    for name in own {
        let is_own = |key: &runtime::config::Key| key.section.unwrap_or(key.name) == *name;
        assert!(
            variables.iter().any(|variable| is_own(&variable.key)),
            "{name}"
        );
    }
}

#[test]
fn mistake_names_file_line_and_remedy() {
    let cases = [
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[weights]\ntenants = { acme = 0 }",
            "relay.toml:4: ",
            "a weight is 1 to 255, not 0",
        ),
        (
            "[listen]\npublic = \"0.0.0.0:1\"\nproxies = \"127.0.0.1:2\"",
            "relay.toml:3: ",
            "unknown key `proxies`",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\nproxy = \"0.0.0.0:2\"",
            "relay.toml:3: ",
            "proxy_tls = true",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\nproxy_tls = true",
            "relay.toml:3: ",
            "[tls]",
        ),
        (
            "[listen]\npublic = \"localhost\"",
            "relay.toml:2: ",
            "127.0.0.1:8443",
        ),
        (
            "[listen]\npublic = \"0.0.0.0:1\"",
            "relay.toml:2: ",
            "insecure = true",
        ),
        (
            "[listen]\ninternal = \"10.0.0.1:1\"",
            "relay.toml:2: ",
            "insecure = true",
        ),
        (
            "[listen]\nadmin = \"127.0.0.1:1\"",
            "relay.toml:",
            "listen.public",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[tls]\n",
            "relay.toml",
            "self_signed = true",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[tls]\ncert_file = \"a\"",
            "relay.toml:4: ",
            "tls.key_file",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[tls]\ncert_file = \"a\"\nkey_file = \"b\"\nself_signed = true",
            "relay.toml:6: ",
            "either",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[storage]\nurl = \"mysql://db/relay\"",
            "relay.toml:4: ",
            "postgres://",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[storage]\nurl = \"relay.db\"",
            "relay.toml:4: ",
            "sqlite://relay.db",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\nbehind_balancer = true",
            "relay.toml:3: ",
            "authorities",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[limits]\ncall_timeout = 30",
            "relay.toml:4: ",
            "\"30s\"",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[limits]\ncall_timeout = \"30\"",
            "relay.toml:4: ",
            "\"30s\"",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[limits]\n\nsessions_max = 0",
            "relay.toml:5: ",
            "at least 1",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[limits]\nheader_bytes_max = \"1MiB\"",
            "relay.toml:4: ",
            "80KiB",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[tunnel]\ndead_after = \"5s\"",
            "relay.toml:4: ",
            "longer than tunnel.heartbeat",
        ),
        (
            "[listen]\npublic = \"127.0.0.1:1\"\n[directory]\nstale_max = \"0s\"",
            "relay.toml:4: ",
            "at least 1s",
        ),
        ("[log]\nlevel = \"loud\"", "relay.toml:2: ", "info"),
        ("[listen", "relay.toml:1: ", ""),
    ];
    for (text, line, remedy) in cases {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with("etc/relay.toml"), "{error}");
        assert!(error.contains(line), "{text}\n{error}");
        assert!(error.contains(remedy), "{text}\n{error}");
    }
}

#[test]
fn authority_is_host_or_host_and_port() {
    let with = |name: &str| {
        parse(&format!(
            "[listen]\npublic = \"127.0.0.1:1\"\nauthorities = [\"a.example\", \"{name}\"]"
        ))
    };
    for name in [
        "relay.example.com",
        "Relay.Example.com:8443",
        "relay_1",
        "xn--bcher-kva.example",
        "192.0.2.1",
        "192.0.2.1:443",
        "[2001:db8::1]",
        "[2001:db8::1]:8443",
    ] {
        assert!(with(name).is_ok(), "{name}: {:?}", with(name));
    }
    for name in [
        "",
        "https://localhost:37499/",
        "https://localhost",
        "localhost/",
        "*.a",
        "a b",
        "a:",
        "a:0",
        "a:0443",
        "a:65536",
        "a:b",
        "::1",
        "2001:db8::1",
        "b\u{fc}cher.example",
    ] {
        let error = with(name).unwrap_err();
        assert!(
            error.starts_with("etc/relay.toml:3: listen.authorities has "),
            "{error}"
        );
        assert!(error.contains(&format!("{name:?}")), "{error}");
        assert!(error.contains("write host or host:port"), "{error}");
    }
    let error = with("https://me:s3cret@relay.example").unwrap_err();
    assert!(!error.contains("s3cret"), "{error}");
}

#[test]
fn certificate_name_is_a_host_or_an_address() {
    let with = |name: &str| {
        parse(&format!(
            "[listen]\npublic = \"127.0.0.1:1\"\n[tls]\nself_signed = true\nnames = [\"{name}\"]"
        ))
    };
    for name in [
        "relay.example.com",
        "relay_1",
        "*.example.com",
        "192.0.2.1",
        "2001:db8::1",
    ] {
        assert!(with(name).is_ok(), "{name}: {:?}", with(name));
    }
    for (name, remedy) in [
        ("b\u{fc}cher.example", "xn--"),
        ("a b", "without a scheme"),
        ("https://a", "without a scheme"),
        ("a:8443", "without a scheme"),
        ("a.example.", "without a scheme"),
        ("[::1]", "without a scheme"),
        ("*", "without a scheme"),
        ("", "without a scheme"),
    ] {
        let error = with(name).unwrap_err();
        assert!(
            error.starts_with("etc/relay.toml:5: tls.names has "),
            "{error}"
        );
        assert!(error.contains(&format!("{name:?}")), "{error}");
        assert!(error.contains(remedy), "{error}");
    }
}

#[test]
fn listener_without_tls_needs_loopback_or_insecure() {
    assert!(parse("[listen]\npublic = \"127.0.0.1:1\"").is_ok());
    assert!(parse("[listen]\npublic = \"[::1]:1\"\ninternal = \"127.0.0.1:2\"").is_ok());
    assert!(parse("[listen]\ninternal = \"0.0.0.0:1\"\ninsecure = true").is_ok());
}

#[test]
fn public_url_is_one_that_bridges_can_dial() {
    let of = |url: &str| {
        parse(&format!(
            "[listen]\npublic = \"127.0.0.1:1\"\npublic_url = \"{url}\""
        ))
    };
    let config = of("https://Relay.example.com").unwrap();
    let url = config.listen.public_url.unwrap();
    assert_eq!(url.to_string(), "https://relay.example.com:443");
    for wrong in ["http://relay.example.com", "https://a:secret@b", "relay"] {
        let error = of(wrong).unwrap_err().to_string();
        assert!(error.contains("listen.public_url "), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn examples_list_every_key() {
    let variables = ENVIRONMENT.variables::<File>();
    let toml = include_str!("../../../../deploy/examples/relay.toml");
    let env = include_str!("../../../../deploy/examples/relay.env");
    let problems = runtime::config::missing_from_examples(&variables, toml, env);
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn environment_sets_every_kind_of_key() {
    let dir = crate::testing::TempDir::new("relay-environment");
    let set = [
        ("RELAY_LISTEN_PUBLIC", "127.0.0.1:8443\n"),
        ("RELAY_LISTEN_AUTHORITIES", "[\"a.example\"]"),
        ("RELAY_STORAGE_URL", "postgres://relay:s3cret@db/relay"),
        ("RELAY_LIMITS_STREAMS_MAX", "7"),
        ("RELAY_LIMITS_CALL_TIMEOUT", "5s"),
        ("RELAY_WEIGHTS_TENANTS", "{ acme = 4 }"),
        ("RELAY_HOP_HEADERS_VIA", "true"),
        ("RELAY_DELIVERIES_SCHEDULE", "[\"1s\", \"1d\"]"),
        ("RELAY_LOG_FILE", "relay.log"),
    ];
    let load = |more: Option<(&'static str, &'static str)>| {
        let get = |name: &str| {
            let mut all = more.into_iter().chain(set);
            all.find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let path = dir.path().join("none.toml");
        let (file, document) = ENVIRONMENT.load_with::<_, String>(&path, get)?;
        Config::checked(file, &document, &path)
    };
    let config = load(None).unwrap();
    assert_eq!(config.listen.authorities, ["a.example"]);
    assert_eq!(config.database.to_string(), "postgres://db/relay");
    assert_eq!(config.limits.streams_max, 7);
    assert_eq!(config.weights.of_tenant("acme"), 4);
    assert!(config.hops.via && !config.hops.forwarded);
    assert_eq!(config.deliveries.schedule.len(), 2);
    let file = config.log.file.as_ref().unwrap();
    assert_eq!(
        file.in_dir(&config.data_dir()),
        dir.path().join("relay.log")
    );
    for (name, value) in [
        ("RELAY_STORAGE_URL", "mysql://relay:s3cret@db/relay"),
        ("RELAY_LIMITS_STREAMS_MAX", "0"),
        ("RELAY_LIMITS_CALL_TIMEOUT", "301s"),
        ("RELAY_LISTEN_PUBLIC", "localhost"),
    ] {
        let error = load(Some((name, value))).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("environment variable {name}: ")),
            "{error}"
        );
        assert!(!error.contains("s3cret"), "{error}");
    }
}
