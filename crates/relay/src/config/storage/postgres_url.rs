//! The parts of a PostgreSQL URL, checked before the database's library reads them.
//!
//! The library ignores a parameter that it does not know: `sslmod=verify-full` would switch the verification off. Its
//! errors name no config key. The user and password are checked before, by [`runtime::userinfo`]. No message has a part
//! of the URL, except for a parameter's name that is nearly a known one.

use policy::Host;
use runtime::config::closest;
use runtime::secret::Zeroizing;
use std::net::IpAddr;

/// The parameters of the library's reader (`sqlx-postgres`, `options/parse.rs`), each with its other spellings.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// The values of `sslmode`.
const SSL_MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// Checks a URL whose user and password were checked.
///
/// # Errors
/// What is wrong; it follows a word for the URL.
pub(super) fn check(url: &str) -> Result<(), String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    if rest.contains('#') {
        return Err("has a #, which ends a URL: write %23 for # in a name or value".to_owned());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (userinfo, host) = match authority.rsplit_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, authority),
    };
    for part in [userinfo.unwrap_or_default(), host, database, query] {
        check_encoding(part)?;
    }
    check_host(host, userinfo.is_some())?;
    for (index, pair) in query.split('&').enumerate() {
        if let Some((name, value)) = form_urlencoded::parse(pair.as_bytes()).next() {
            check_parameter(index + 1, &name, &value)?;
        }
    }
    Ok(())
}

/// Checks that percent-encoded bytes are a text. Never says where: the number would describe a password.
fn check_encoding(text: &str) -> Result<(), String> {
    let mut decoded = Zeroizing::new(Vec::<u8>::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match after {
            [high, low, tail @ ..] if *first == b'%' => hex(*high)
                .zip(hex(*low))
                .map(|(high, low)| ((high << 4) | low, tail)),
            _ => None,
        };
        let (byte, tail) = escaped.unwrap_or((*first, after));
        decoded.push(byte);
        rest = tail;
    }
    if decoded.contains(&0) {
        return Err("has a null character (%00), which PostgreSQL cannot take".to_owned());
    }
    match std::str::from_utf8(&decoded) {
        Ok(_) => Ok(()),
        Err(_) => Err(
            "has percent-encoded bytes that are not UTF-8: encode each character as UTF-8, as in %C3%BC for \u{fc}"
                .to_owned(),
        ),
    }
}

/// Returns the value of a hexadecimal digit.
fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Checks what stands between the user and the database: `host`, `host:port`, or nothing for a socket.
fn check_host(text: &str, has_user: bool) -> Result<(), String> {
    if text.contains(',') {
        return Err("names several hosts, and one is supported: write one host".to_owned());
    }
    let (host, port) = match text.rsplit_once(':') {
        // The last colon of an IPv6 address is within its brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    if let Some(port) = port.filter(|port| !port.is_empty()) {
        check_port(port)?;
    }
    if host.is_empty() {
        return match has_user || port.is_some() {
            true => Err(
                "has no host: write postgres://user@host/database, or for a socket \
                 postgres:///database?host=/var/run/postgresql&user=NAME"
                    .to_owned(),
            ),
            // The socket of this machine, or that of the parameter `host`.
            false => Ok(()),
        };
    }
    // The path of a socket.
    if host
        .get(..3)
        .is_some_and(|start| start.eq_ignore_ascii_case("%2f"))
    {
        return Ok(());
    }
    match Host::parse(host) {
        Err(_) if host.contains(char::is_whitespace) => {
            Err("has a blank in its host: remove it".to_owned())
        }
        Err(error) => Err(format!("has a host that cannot be one: {error}")),
        Ok(_) => Ok(()),
    }
}

fn check_port(text: &str) -> Result<(), String> {
    match text.parse::<u16>() {
        Ok(1..) => Ok(()),
        Ok(0) | Err(_) => {
            Err("has a port that is not a number from 1 to 65535: the usual one is 5432".to_owned())
        }
    }
}

/// Checks a parameter; `number` is its place, from 1.
fn check_parameter(number: usize, name: &str, value: &str) -> Result<(), String> {
    let is_option = name.starts_with("options[") && name.ends_with(']');
    if !is_option && !PARAMETERS.contains(&name) {
        let lower = name.to_ascii_lowercase();
        // Another name may be the rest of a password.
        return Err(match closest(&lower, PARAMETERS.into_iter()) {
            Some(near) => format!(
                "has an unknown parameter, which would be ignored: {name}; did you mean {near}?"
            ),
            None => format!(
                "has an unknown parameter, which would be ignored (number {number} after the ?); known are {}",
                PARAMETERS.join(", ")
            ),
        });
    }
    match name {
        "sslmode" | "ssl-mode" => {
            let lower = value.to_ascii_lowercase();
            if SSL_MODES.contains(&&*lower) {
                return Ok(());
            }
            let near = closest(&lower, SSL_MODES.into_iter());
            let near = near.map(|near| format!("; did you mean {near}?"));
            Err(format!(
                "has an unknown value of {name}: write {}{}",
                SSL_MODES.join(", "),
                near.unwrap_or_default()
            ))
        }
        "port" => check_port(value),
        "host" if value.is_empty() => {
            Err("has an empty parameter host: write a name, or the path of a socket".to_owned())
        }
        "hostaddr" if value.parse::<IpAddr>().is_err() => Err(
            "has a hostaddr that is not an IP address: write an address, or host for a name"
                .to_owned(),
        ),
        "statement-cache-capacity" if value.parse::<usize>().is_err() => {
            Err("has a statement-cache-capacity that is not a number".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_url_is_taken() {
        for url in [
            "postgres://db/relay",
            "postgresql://relay:s3c%23ret@db.example:5432/relay",
            "postgres://relay@192.0.2.1/relay?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            "postgres://relay@[2001:db8::1]:5432/relay",
            "postgres://relay@%2Fvar%2Frun%2Fpostgresql/relay",
            "postgres:///relay?host=/var/run/postgresql&user=relay&application_name=a%20b",
            "postgres:///relay",
            "postgres://db_1/relay?options[statement_timeout]=5&ssl-mode=Require",
            "postgres://db/relay?options=-c%20geqo%3Doff&statement-cache-capacity=100",
            "postgres://relay:gr%C3%BC%C3%9Fe@db/relay",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn slip_is_named_without_a_part_of_the_secret() {
        for (end, said) in [
            ("db/relay?sslmod=verify-full", "did you mean sslmode?"),
            ("db/relay?SSLMODE=verify-full", "did you mean sslmode?"),
            (
                "db/relay?sslmode=require&foo=s3cret",
                "number 2 after the ?",
            ),
            ("db/relay?options[a=b", "unknown parameter"),
            ("db/relay?sslmode=verify_full", "did you mean verify-full?"),
            (
                "db/relay?sslmode=bogus",
                "of sslmode: write disable, allow, prefer",
            ),
            ("db:0/relay", "from 1 to 65535"),
            ("db:99999/relay", "from 1 to 65535"),
            ("db/relay?port=x", "from 1 to 65535"),
            ("/relay", "has no host"),
            (":5432/relay", "has no host"),
            ("db one/relay", "a blank in its host"),
            ("b\u{fc}cher.example/relay", "xn--"),
            ("a:1,b:2/relay", "several hosts"),
            ("db/relay?hostaddr=db", "not an IP address"),
            ("db/relay?host=", "empty parameter host"),
            ("db/relay?password=s3c#ret", "%23"),
            ("db/relay?statement-cache-capacity=x", "not a number"),
            ("db/%ff", "not UTF-8"),
        ] {
            let error = check(&format!("postgres://relay:s3cret@{end}")).unwrap_err();
            assert!(error.contains(said), "{end}: {error}");
            assert!(!error.contains("s3c"), "{end}: {error}");
        }
        for (password, said) in [("s3c%ffret", "not UTF-8"), ("s3c%00ret", "null character")] {
            let error = check(&format!("postgres://relay:{password}@db/relay")).unwrap_err();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("s3c"), "{error}");
        }
    }
}
