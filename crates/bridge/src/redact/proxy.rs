//! Settings of a proxy: `http://user:password@host:port`, with or without the scheme, and lists of hosts.
//!
//! A password that is not percent-encoded makes a URL that no parser reads as it is meant, and such a setting is a frequent
//! reason for a support bundle. So nothing is parsed: all before the last `@` is the login, and of the rest only what can
//! be nothing but a host and a port is shown.

use super::REMOVED;
use std::net::IpAddr;

/// Schemes of proxies, and those in front of hosts by mistake.
const SCHEMES: [&str; 6] = [
    "http://",
    "https://",
    "socks4://",
    "socks5://",
    "socks5h://",
    "socks://",
];

/// Returns the scheme and the rest.
fn split_scheme(value: &str) -> (&str, &str) {
    let scheme = SCHEMES
        .iter()
        .find(|scheme| {
            value
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
        .map_or(0, |scheme| scheme.len());
    value.split_at(scheme)
}

/// Returns a setting without user and password.
pub(crate) fn without_login(value: &str) -> String {
    let (scheme, rest) = split_scheme(value.trim());
    let (login, hosts) = match rest.rsplit_once('@') {
        Some((_, hosts)) => (format!("{REMOVED}@"), hosts),
        None => (String::new(), rest),
    };
    let hosts: Vec<&str> = hosts
        .split(',')
        .map(|host| if is_host(host) { host } else { REMOVED })
        .collect();
    format!("{scheme}{login}{}", hosts.join(","))
}

/// Returns the texts of a setting that may be secret: the login, its user and its password. Without an `@`, everything that
/// is not shown.
pub(crate) fn logins(value: &str) -> Vec<&str> {
    let (_, rest) = split_scheme(value.trim());
    let mut secrets = Vec::new();
    let found: Vec<&str> = match rest.rsplit_once('@') {
        Some((login, _)) => vec![login],
        None => rest.split(',').filter(|host| !is_host(host)).collect(),
    };
    for login in found {
        secrets.push(login);
        if let Some((user, password)) = login.split_once(':') {
            secrets.extend([user, password]);
        }
    }
    secrets
}

/// Returns the values of a config's text that are settings of a proxy, also where the text is not TOML.
pub(crate) fn settings_in(config: &str) -> Vec<&str> {
    let mut values = Vec::new();
    for line in config.lines() {
        for (at, name) in line.match_indices("proxy") {
            let rest = line[at + name.len()..].trim_start_matches(['"', '\'', ' ', '\t']);
            let Some(value) = rest.strip_prefix('=').map(str::trim) else {
                continue;
            };
            let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
                values.push(value);
                continue;
            };
            let value = &value[1..];
            // A password may contain the quotation mark, and the last one may be missing.
            let end = |at: Option<usize>| &value[..at.unwrap_or(value.len())];
            values.extend([end(value.find(quote)), end(value.rfind(quote))]);
        }
    }
    values
}

/// Returns whether a text can be nothing but a host, with or without a port, or a pattern of hosts.
fn is_host(text: &str) -> bool {
    let (_, text) = split_scheme(text.trim());
    let text = text.strip_suffix('/').unwrap_or(text);
    let is_number = |text: &str, digits: usize| {
        (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    if text.is_empty() || is_address(text) {
        return true;
    }
    if let Some((address, bits)) = text.split_once('/') {
        return is_address(address) && is_number(bits, 3);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let (host, port) = match text.ends_with(']') {
        true => (text, None),
        false => (host, port),
    };
    let is_bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(is_address);
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
    (is_bracketed || !host.is_empty() && host.bytes().all(is_part))
        && port.is_none_or(|port| is_number(port, 5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_of_a_proxy_is_removed_in_any_form() {
        for (value, shown) in [
            ("http://u:a/Pw20x#b@h:1", "http://[removed]@h:1"),
            ("u:Pw21x@h", "[removed]@h"),
            ("u:Pw10x@h:1", "[removed]@h:1"),
            ("http://u:Pw22x @h:1", "http://[removed]@h:1"),
            ("http://u:P,w2@2x@h:1/", "http://[removed]@h:1/"),
            (
                "HTTPS://u:Pw?x@[fd00::1]:3128",
                "HTTPS://[removed]@[fd00::1]:3128",
            ),
            ("ftp://u:Pw@h", "[removed]@h"),
            ("http://u:Pw23x", "http://[removed]"),
            ("http://h:3128/?token=Pw24x", "http://[removed]"),
            ("u:pw@h", "[removed]@h"),
            ("u:pw@h,a.example", "[removed]@h,a.example"),
        ] {
            assert_eq!(without_login(value), shown);
        }
        for value in [
            "",
            "env",
            "none",
            "*",
            "http://proxy.example:3128",
            "proxy.example:3128",
            "socks5h://10.0.0.1:1080/",
            "localhost,127.0.0.1,.corp.example,*.test,10.0.0.0/8,fd00::/8,::1,[::1]:80",
        ] {
            assert_eq!(without_login(value), value);
        }
    }

    #[test]
    fn logins_of_environment_and_config_are_known() {
        assert_eq!(logins("http://me:a/b@c@h:1"), ["me:a/b@c", "me", "a/b@c"]);
        assert_eq!(logins("me:s3cret@h"), ["me:s3cret", "me", "s3cret"]);
        assert_eq!(logins("http://me:s3cret"), ["me:s3cret", "me", "s3cret"]);
        assert!(logins("http://h:3128").is_empty());
        let config =
            "[relay]\nurl = \"https://r\"\nproxy = \"me:s3 cret@h\" # a@b\nrelay.proxy='x:y@h'\n";
        let found = settings_in(config);
        for value in ["me:s3 cret@h", "x:y@h"] {
            assert!(found.contains(&value), "{found:?}");
        }
    }
}
