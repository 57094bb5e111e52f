//! The mistakes, and what the programs say of each.

pub(super) const BRIDGE: &str = "\
[relay]
url = \"https://relay.example.com\"
[bridge]
name = \"berlin-dc1\"
data_dir = \"data\"
[targets]
connect_timeout = \"5s\"
[[endpoint]]
name = \"alm\"
url = \"https://alm.corp.example/qcbin/\"
[[allow]]
host = \"ci.corp.example\"
methods = [\"POST\"]
";

pub(super) const RELAY: &str = "\
[listen]
public = \"127.0.0.1:8443\"
[tls]
self_signed = true
[storage]
url = \"sqlite://relay.db\"
";

/// A mistake in a file or in the environment of `config check`: its name, what is shown, and the change that makes
/// it.
pub(super) struct InConfig {
    pub(super) name: &'static str,
    pub(super) shown: &'static str,
    pub(super) change: Change,
}

pub(super) enum Change {
    /// A text of the bridge's config, and what stands there instead.
    Bridge(&'static str, &'static str),
    /// The same in the relay's config.
    Relay(&'static str, &'static str),
    /// An environment variable of the bridge.
    Variable(&'static str, &'static str),
    /// An environment variable of the relay.
    RelayVariable(&'static str, &'static str),
}

use Change::{Bridge, Relay, RelayVariable, Variable};

const fn mistake(name: &'static str, shown: &'static str, change: Change) -> InConfig {
    InConfig {
        name,
        shown,
        change,
    }
}

pub(super) const CONFIG: &[InConfig] = &[
    mistake(
        "typographic quotation marks in the config",
        "typographic quotation marks",
        Bridge("\"berlin-dc1\"", "\u{201c}berlin-dc1\u{201d}"),
    ),
    mistake(
        "a text without quotation marks",
        "write url = \"...\"",
        Bridge("\"https://relay.example.com\"", "https://relay.example.com"),
    ),
    mistake(
        "a missing quotation mark",
        "lacks its closing quotation mark",
        Bridge("\"berlin-dc1\"", "\"berlin-dc1"),
    ),
    mistake(
        "a backslash in double quotes",
        "single quotes",
        Bridge("\"data\"", "\"C:\\bridge\\data\""),
    ),
    mistake(
        "a colon instead of an equals sign",
        "and not a colon",
        Bridge("name = \"berlin-dc1\"", "name: \"berlin-dc1\""),
    ),
    mistake(
        "a duration without quotation marks",
        "write connect_timeout = \"5s\"",
        Bridge("\"5s\"", "5s"),
    ),
    mistake(
        "a duration that is a number",
        "a duration in quotes with its unit",
        Bridge("\"5s\"", "5"),
    ),
    mistake(
        "a duration without its unit",
        "is not a duration",
        Bridge("\"5s\"", "\"5\""),
    ),
    mistake(
        "a number in quotation marks",
        "a whole number without quotation marks",
        Bridge("[bridge]", "connections = \"2\"\n[bridge]"),
    ),
    mistake(
        "true or false in quotation marks",
        "true or false without quotation marks",
        Bridge("[targets]", "[targets]\nhttp2 = \"true\""),
    ),
    mistake(
        "[allow] instead of [[allow]]",
        "write [[allow]]",
        Bridge("[[allow]]", "[allow]"),
    ),
    mistake(
        "a section twice",
        "[relay] is there twice",
        Bridge("[targets]", "[relay]\n[targets]"),
    ),
    mistake(
        "a key twice",
        "name is there twice",
        Bridge("[targets]", "name = \"b\"\n[targets]"),
    ),
    mistake(
        "a key in the wrong section",
        "it belongs under [bridge]",
        Bridge("[bridge]\n", "paused = false\n[bridge]\n"),
    ),
    mistake(
        "a misspelled key",
        "did you mean `connect_timeout`?",
        Bridge("connect_timeout", "connect_timout"),
    ),
    mistake(
        "a missing key",
        "missing key `data_dir` in [bridge]",
        Bridge("data_dir = \"data\"", ""),
    ),
    mistake(
        "a missing section",
        "missing key `url` in [relay]",
        Bridge("[relay]\nurl = \"https://relay.example.com\"", ""),
    ),
    mistake(
        "a bridge's name with a blank",
        "for example `Berlin-DC-1`",
        Bridge("berlin-dc1", "Berlin DC 1"),
    ),
    mistake(
        "an endpoint's name in capitals",
        "for example `alm`",
        Bridge("name = \"alm\"", "name = \"ALM\""),
    ),
    mistake(
        "two endpoints of one name",
        "already",
        Bridge(
            "[[allow]]",
            "[[endpoint]]\nname = \"alm\"\nurl = \"https://b.example/\"\n[[allow]]",
        ),
    ),
    mistake(
        "http:// in the relay's URL",
        "must begin with https://",
        Bridge("https://relay", "http://relay"),
    ),
    mistake(
        "a path in the relay's URL",
        "without a path",
        Bridge("relay.example.com\"", "relay.example.com/v1\""),
    ),
    mistake(
        "a password in relay.proxy",
        "no passwords in this file",
        Bridge(
            "[bridge]",
            "proxy = \"http://me:Sesame-Street-7@proxy.example:3128\"\n[bridge]",
        ),
    ),
    mistake(
        "a URL as the host of a rule",
        "scheme",
        Bridge("\"ci.corp.example\"", "\"https://ci.corp.example/\""),
    ),
    mistake(
        "a method in small letters",
        "POST",
        Bridge("[\"POST\"]", "[\"post\"]"),
    ),
    mistake(
        "metrics on an address that others reach",
        "other machines can reach",
        Bridge(
            "[targets]",
            "[metrics]\nlisten = \"0.0.0.0:9091\"\n[targets]",
        ),
    ),
    mistake(
        "an unknown log level",
        "is not known for `log.level`",
        Bridge("[targets]", "[log]\nlevel = \"verbose\"\n[targets]"),
    ),
    mistake(
        "a misspelled environment variable",
        "did you mean BRIDGE_RELAY_URL?",
        Variable("BRIDGE_RELAY_URI", "https://relay.example.com"),
    ),
    mistake(
        "quotation marks in an environment variable",
        "remove the quotes",
        Variable("BRIDGE_RELAY_URL", "\"https://relay.example.com\""),
    ),
    mistake(
        "a line break in an environment variable",
        "line break",
        Variable("BRIDGE_RELAY_URL", "https://relay\n.example.com"),
    ),
    mistake(
        "a list in a variable that is no list",
        "an array of inline tables",
        Variable("BRIDGE_ENDPOINTS", "alm"),
    ),
    mistake(
        "a password in HTTPS_PROXY that is not percent-encoded",
        "must be percent-encoded",
        Variable(
            "HTTPS_PROXY",
            "http://me:Sesame/Street#7@proxy.example:3128",
        ),
    ),
    mistake(
        "a word that is no log level in BRIDGE_LOG",
        "is not a log filter",
        Variable("BRIDGE_LOG", "verbose"),
    ),
    mistake(
        "no TLS on an address that others reach",
        "would listen without TLS",
        Relay(
            "127.0.0.1:8443\"\n[tls]\nself_signed = true",
            "0.0.0.0:8443\"",
        ),
    ),
    mistake(
        "a host name in listen.public",
        "write ip:port",
        Relay("127.0.0.1:8443", "localhost:8443"),
    ),
    mistake(
        "a certificate without its key",
        "tls.key_file is missing",
        Relay("self_signed = true", "cert_file = \"relay.crt\""),
    ),
    mistake(
        "a database of another kind",
        "is not a database URL",
        Relay(
            "sqlite://relay.db",
            "mysql://relay:Sesame-Street-7@db/relay",
        ),
    ),
    mistake(
        "a database password that is not percent-encoded",
        "must be percent-encoded",
        RelayVariable(
            "RELAY_STORAGE_URL",
            "postgres://relay:Sesame/Street#7@db/relay",
        ),
    ),
    mistake(
        "behind_balancer without names",
        "needs listen.authorities",
        Relay("[tls]", "behind_balancer = true\n[tls]"),
    ),
    mistake(
        "every network in listen.proxy_protocol_from",
        "list the addresses of the load balancers",
        Relay("[tls]", "proxy_protocol_from = [\"0.0.0.0/0\"]\n[tls]"),
    ),
    mistake(
        "a URL in listen.authorities",
        "write host or host:port",
        Relay(
            "[tls]",
            "authorities = [\"https://relay.example.com/\"]\n[tls]",
        ),
    ),
    mistake(
        "a URL in tls.names",
        "neither a DNS name nor an IP address",
        Relay(
            "self_signed = true",
            "self_signed = true\nnames = [\"https://relay.example.com\"]",
        ),
    ),
    mistake(
        "an international name in tls.names",
        "in its xn-- form",
        Relay(
            "self_signed = true",
            "self_signed = true\nnames = [\"b\u{fc}cher.example\"]",
        ),
    ),
    mistake(
        "a misspelled parameter of a PostgreSQL URL",
        "did you mean sslmode?",
        RelayVariable(
            "RELAY_STORAGE_URL",
            "postgres://relay:Sesame-Street-7@db/relay?sslmod=verify-full",
        ),
    ),
    mistake(
        "an unknown sslmode",
        "did you mean verify-full?",
        RelayVariable(
            "RELAY_STORAGE_URL",
            "postgres://relay:Sesame-Street-7@db/relay?sslmode=verify_full",
        ),
    ),
    mistake(
        "a parameter in a SQLite URL",
        "which a SQLite database does not take",
        Relay("relay.db", "relay.db?mode=rwc"),
    ),
    mistake(
        "a SQLite URL without //",
        "write sqlite:// and the path",
        Relay("sqlite://relay.db", "sqlite:relay.db"),
    ),
    mistake(
        "a database in memory",
        "which is not supported",
        Relay("sqlite://relay.db", "sqlite::memory:"),
    ),
    mistake(
        "an unknown key of the relay",
        "did you mean `streams_max`?",
        Relay("[storage]", "[limits]\nstream_max = 5\n[storage]"),
    ),
];

/// A mistake with running programs: its name, and what is shown. A test makes it.
pub(super) const IN_USE: &[(&str, &str)] = &[
    (
        "a wrong client secret for pairing",
        "the client id or the client secret is wrong",
    ),
    (
        "an API key of another role for pairing",
        "it needs the role bridge",
    ),
    ("an empty client secret", "the client secret is empty"),
    (
        "a bridge's name that is paired already",
        "--existing replace",
    ),
    ("run before pairing", "not paired yet"),
    ("the port of the relay is closed", "was not reached"),
    (
        "a config file that does not exist",
        "does not exist; name another with --config",
    ),
    (
        "status without a running bridge",
        "no bridge runs with this config",
    ),
    (
        "two bridges with one data directory",
        "is in use by another integration-bridge process",
    ),
    (
        "a word that is no log level",
        "write a level (error, warn, info, debug, trace, off)",
    ),
    (
        "a credential without an origin",
        "add --origin https://host",
    ),
    ("a relay command with a wrong config", "no database at"),
    ("a tenant that does not exist", "there is no tenant"),
    ("a key without a tenant", "--tenant NAME is missing"),
    ("a tenant's name with a blank", "for example `Acme-Corp`"),
    ("a wrong client secret of a caller", "unauthorized"),
    (
        "a caller's key for administration",
        "this needs a key with the role admin",
    ),
    ("a host that no rule allows", "add an [[allow]] entry"),
    ("a port that no rule allows", "to its ports"),
    ("a target whose port is closed", "target_refused"),
    (
        "an endpoint that does not exist",
        "no bridge declares an endpoint named",
    ),
    ("a misspelled field of a call", "invalid_request"),
    ("a timeout that is too short", "timeout"),
    ("a bridge that is stopped", "these are offline"),
];
