//! Mistakes in files and in the environment, with their places.

use super::*;
use serde::Deserialize;
use std::collections::HashMap as Map;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    server: Server,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    endpoint: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    url: String,
    #[serde(default)]
    names: Vec<String>,
    ca_file: Option<FilePath>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    streams_max: Option<BoundedInt<1, 100>>,
    wait: Option<ConfigDuration>,
    is_open: bool,
    weights: Map<String, u32>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only its shape is used")]
struct Endpoint {
    name: String,
}

const PROGRAM: Environment = Environment {
    prefix: "SERVER",
    names: &[("endpoint", "ENDPOINTS")],
    others: &["SERVER_CONFIG"],
};

const FILE: &str = "[server]\nurl = \"https://a.example\"\n";

struct File(crate::testing::TempDir);

impl File {
    fn new(text: &str) -> Self {
        let dir = crate::testing::TempDir::new("config");
        std::fs::write(dir.path().join("server.toml"), text).unwrap();
        Self(dir)
    }

    fn load(&self, pairs: &[(&str, &str)]) -> Result<Config, String> {
        let get = |name: &str| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let path = self.0.path().join("server.toml");
        let loaded = PROGRAM.load_with::<_, String>(&path, get);
        loaded.map(|(config, _)| config).map_err(|error| {
            let dir = format!("{}/", self.0.path().display());
            error.to_string().replace(&dir, "")
        })
    }
}

#[test]
fn every_key_has_a_variable_with_its_kind() {
    let found = PROGRAM.variables::<Config>();
    let found: Vec<_> = found
        .iter()
        .map(|variable| (variable.name.as_str(), variable.key.kind))
        .collect();
    assert_eq!(
        found,
        [
            ("SERVER_URL", Kind::Text),
            ("SERVER_NAMES", Kind::List),
            ("SERVER_CA_FILE", Kind::Text),
            ("SERVER_LIMITS_STREAMS_MAX", Kind::Integer),
            ("SERVER_LIMITS_WAIT", Kind::Text),
            ("SERVER_LIMITS_IS_OPEN", Kind::Boolean),
            ("SERVER_LIMITS_WEIGHTS", Kind::Table),
            ("SERVER_ENDPOINTS", Kind::List),
        ]
    );
}

#[test]
fn environment_overrides_the_file() {
    let file = File::new(FILE);
    let config = file
        .load(&[
            ("SERVER_URL", "https://b.example\r\n"),
            ("SERVER_NAMES", "[\"x\"]"),
            ("SERVER_CA_FILE", "ca.pem"),
            ("SERVER_LIMITS_STREAMS_MAX", "7"),
            ("SERVER_LIMITS_WAIT", "5m"),
            ("SERVER_LIMITS_IS_OPEN", "true"),
            ("SERVER_LIMITS_WEIGHTS", "{ a = 2 }"),
            ("SERVER_ENDPOINTS", "[{name = \"e\"}]"),
        ])
        .unwrap();
    assert_eq!(config.server.url, "https://b.example");
    assert_eq!(config.server.names, ["x"]);
    let ca_file = config.server.ca_file.unwrap();
    assert_eq!(ca_file.get(), file.0.path().join("ca.pem"));
    assert_eq!(config.limits.streams_max.unwrap().get(), 7);
    assert_eq!(config.limits.wait, Some(ConfigDuration::secs(300)));
    assert!(config.limits.is_open && config.limits.weights["a"] == 2);
    assert_eq!(config.endpoint.len(), 1);
    let unset = file.load(&[("SERVER_URL", ""), ("SERVER_LIMITS_IS_OPEN", "\n")]);
    assert_eq!(unset.unwrap().server.url, "https://a.example");
}

#[test]
fn mistake_is_located_in_every_form_of_a_key() {
    for (added, line, word) in [
        ("[limits]\nstreams_max = 0", 4, "1 to 100"),
        ("\nlimits.wait = \"5\"", 4, "\"30s\""),
        ("limits = { is_open = true, wait = \"5\" }", 3, "\"30s\""),
        ("[limits]\n\nwiat = \"5s\"", 5, "did you mean `wait`?"),
        ("[limit]\nwait = \"5s\"", 3, "did you mean [limits]?"),
        ("[limits]\nca_file = \"5s\"", 4, "belongs under [server]"),
        ("[limits]\nis_open = \"true\"", 4, "without quotation marks"),
        ("[limits]\nstreams_max = \"7\"", 4, "a whole number"),
        ("[limits]\nwait = 5s", 4, "wait = \"5s\""),
        ("[limits]\nwait = \"C:\\x\"", 4, "single quotes"),
        ("[[limits]]\nwait = \"5s\"", 3, "write [limits]"),
        ("[endpoint]\nname = \"a\"", 3, "write [[endpoint]]"),
        ("[[endpoint]]\nname = 5", 4, "`endpoint.name`"),
        ("[[endpoint]]\n", 3, "missing key `name` in [[endpoint]]"),
        ("[limits]\n[limits]\n", 4, "first in line 3"),
        (
            "[limits]\nwait = \"5s\u{a0}\"",
            4,
            "`limits.wait` has a no-break space",
        ),
        (
            "[[endpoint]]\nname = \"a\u{200b}\"",
            4,
            "`endpoint.name` has a zero-width space",
        ),
        ("[limits]\nwait = 5", 4, "a duration in quotes"),
        ("[[endpoint]]\nname = 2020-01-01", 4, "is a date"),
        ("[url]\nwait = 5", 3, "unknown section [url]"),
        ("[limits\n", 3, ""),
    ] {
        // A dotted key counts from the root, so it stands in front.
        let text = match added.trim_start().starts_with('[') {
            true => format!("{FILE}{added}"),
            false => format!("{added}\n{FILE}"),
        };
        let line = match text.starts_with('[') {
            true => line,
            false => 1 + text[..text.find("limits").unwrap()].matches('\n').count(),
        };
        let error = File::new(&text).load(&[]).unwrap_err();
        let place = format!("server.toml:{line}: ");
        assert!(error.starts_with(&place), "{text}\n{error}");
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn mistake_of_the_environment_names_its_variable() {
    let file = File::new(FILE);
    for (name, value, word) in [
        ("SERVER_LIMITS_STREAMS_MAX", "many", "\"many\""),
        ("SERVER_LIMITS_STREAMS_MAX", "abc", "write a whole number"),
        ("SERVER_LIMITS_STREAMS_MAX", "true", "write a whole number"),
        ("SERVER_LIMITS_STREAMS_MAX", "1.5", "write a whole number"),
        ("SERVER_LIMITS_STREAMS_MAX", "007", "write 7"),
        ("SERVER_LIMITS_IS_OPEN", "1", "write true or false"),
        ("SERVER_LIMITS_STREAMS_MAX", "101", "1 to 100"),
        ("SERVER_LIMITS_WAIT", "\"5s\"", "remove the quotes"),
        ("SERVER_LIMITS_STREAMS_MAX", "'7'", "remove the quotes"),
        ("SERVER_URL", "https://a\nhttps://b", "line break"),
        ("SERVER_URL", "https://a\u{a0}b", "no-break space"),
        ("SERVER_URL", "\u{201c}https://a\u{201d}", "typographic"),
        ("SERVER_NAMES", "[\u{201c}x\u{201d}]", "typographic"),
        ("SERVER_LIMITS_IS_OPEN", "True", "write true or false"),
        ("SERVER_ENDPOINTS", "[{\"name\": \"x\"}]", "not a colon"),
        ("SERVER_NAMES", "x", "[\"a\", \"b\"]"),
        ("SERVER_ENDPOINTS", "x", "inline tables"),
        ("SERVER_ENDPOINTS", "[{}]", "missing key `name`"),
        ("SERVER_LIMITS_WEIGHTS", "[1]", "inline table"),
    ] {
        let error = file.load(&[(name, value)]).unwrap_err();
        let place = format!("environment variable {name}: ");
        assert!(error.starts_with(&place), "{error}");
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn key_missing_everywhere_blames_no_variable() {
    let file = File::new("");
    std::fs::remove_file(file.0.path().join("server.toml")).unwrap();
    let error = file.load(&[("SERVER_NAMES", "[]")]).unwrap_err();
    assert_eq!(
        error,
        "environment variables, without a config file server.toml: missing key `url` in [server]; write it, or set \
         the environment variable SERVER_URL"
    );
    let config = file.load(&[("SERVER_URL", "https://a.example")]);
    assert_eq!(config.unwrap().server.url, "https://a.example");
    let error = file.load(&[]).unwrap_err();
    assert!(error.contains("SERVER_CONFIG"), "{error}");
}

#[test]
fn check_of_a_program_locates_key_or_section() {
    let text = format!("{FILE}[limits]\nwait = \"5s\"\n");
    let (_, document) = parse::<Config>(&text, Path::new("server.toml")).unwrap();
    for (key, place) in [
        ("limits.wait", "server.toml:4: limits.wait is wrong"),
        ("limits.is_open", "server.toml:3: limits.is_open is wrong"),
        ("other.key", "server.toml: other.key is wrong"),
    ] {
        let error = document.reject(Mistake::of_key(key, "is wrong"));
        assert_eq!(error.to_string(), place);
    }
}

#[test]
fn unknown_variable_is_a_mistake_or_of_kubernetes() {
    let variables = [
        ("SERVER_LIMITS_STREAM_MAX", "1"),
        ("SERVER_SERVER_URL", "https://a"),
        ("server_url", "https://a"),
        ("SERVER_LISTEN_PORT", "8443"),
        ("SERVER_SUPPORT_LEVEL", "x"),
        ("SERVER_CONFIG", "x"),
        ("SERVER_URL", "x"),
        ("SERVER_PORT", "tcp://10.0.0.1:80"),
        ("SERVER_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("SERVER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("SERVER_SERVICE_HOST", "10.0.0.1"),
        ("SERVER_SERVICE_PORT_HTTPS", "443"),
        ("SERVER_PUBLIC_PORT", "tcp://10.0.0.1:443"),
        ("SERVERLESS", "x"),
        ("server_other", "x"),
        ("PATH", "x"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let unknown = PROGRAM.unknown::<Config>(variables.into_iter());
    let of = |name: &str, rest: &str| format!("unknown environment variable {name}{rest}");
    assert_eq!(
        unknown.mistakes,
        [
            of(
                "SERVER_LIMITS_STREAM_MAX",
                "; did you mean SERVER_LIMITS_STREAMS_MAX?"
            ),
            of("SERVER_SERVER_URL", "; did you mean SERVER_URL?"),
            of("server_url", "; did you mean SERVER_URL?"),
            of("SERVER_LISTEN_PORT", ": no config key has this name"),
            of("SERVER_SUPPORT_LEVEL", ": no config key has this name"),
        ]
    );
    let note = unknown.note.unwrap();
    assert!(
        note.starts_with("ignored: SERVER_PORT and 5 more, which Kubernetes"),
        "{note}"
    );
}

#[test]
fn file_of_windows_tools_is_taken_or_named() {
    let file = File::new("");
    let path = file.0.path().join("server.toml");
    let windows = FILE.replace('\n', "\r\n");
    let wide: Vec<u8> = windows.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [
        [b"\xef\xbb\xbf", windows.as_bytes()].concat(),
        [b"\xff\xfe", wide.as_slice()].concat(),
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(file.load(&[]).unwrap().server.url, "https://a.example");
    }
    std::fs::write(&path, b"[server]\nurl = \"https://a.example\" # B\xfcro\n").unwrap();
    let error = file.load(&[]).unwrap_err();
    assert_eq!(
        error,
        "server.toml:2: the text is not UTF-8 (line 2): save it as UTF-8"
    );
    std::fs::write(&path, wide).unwrap();
    let error = file.load(&[]).unwrap_err();
    assert!(error.contains("without a byte order mark"), "{error}");
}

#[cfg(unix)]
#[test]
fn named_pipe_is_no_config() {
    let file = File::new(FILE);
    let path = file.0.path().join("server.toml");
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
    // It does not wait for a program that writes.
    let error = file.load(&[]).unwrap_err();
    assert!(error.contains("it is not a regular file"), "{error}");
    for open in ["/dev/stdin", "/dev/fd/63", "/proc/self/fd/63"] {
        assert!(is_descriptor(Path::new(open)), "{open}");
    }
}

#[test]
fn source_names_file_and_variables() {
    let file = File::new(FILE);
    let path = file.0.path().join("server.toml");
    let source = |pairs: &'static [(&str, &str)]| {
        let get = |name: &str| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let (_, document) = PROGRAM.load_with::<Config, String>(&path, get).unwrap();
        document.source().to_string()
    };
    assert_eq!(source(&[]), path.display().to_string());
    let both = source(&[("SERVER_NAMES", "[]")]);
    assert_eq!(
        both,
        format!("{} and 1 environment variable", path.display())
    );
    std::fs::remove_file(&path).unwrap();
    let alone = source(&[("SERVER_URL", "https://a"), ("SERVER_NAMES", "[]")]);
    assert_eq!(alone, "2 environment variables, without a config file");
}

#[test]
fn path_for_a_shell_is_refused() {
    for text in [
        "~",
        "~/data",
        "~me/data",
        "$HOME/data",
        "${HOME}/a",
        "%ProgramData%\\a",
    ] {
        let error = text.parse::<FilePath>().unwrap_err();
        assert!(error.contains("write the whole path"), "{text}: {error}");
    }
    for text in ["a~1/b", "./~", "data", "/a/$b", "100%", "C:\\a"] {
        assert!(text.parse::<FilePath>().is_ok(), "{text}");
    }
}

#[test]
fn written_file_counts_from_the_data_directory() {
    let dir = crate::testing::TempDir::new("data-path");
    let (etc, data) = (dir.path().join("etc"), dir.path().join("data"));
    std::fs::create_dir_all(&etc).unwrap();
    let path: DataPath = units::with_base(&etc, || "a.log".parse()).unwrap();
    assert_eq!(path.in_dir(&data), data.join("a.log"));
    assert_eq!(path.left_behind(&data), None);
    // A former version wrote it next to the config file.
    std::fs::write(etc.join("a.log"), "").unwrap();
    assert_eq!(path.left_behind(&data), Some(etc.join("a.log").as_path()));
    let absolute: DataPath = "/var/log/a.log".parse().unwrap();
    assert_eq!(absolute.in_dir(&data), Path::new("/var/log/a.log"));
}
