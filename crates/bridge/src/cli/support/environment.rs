//! The environment in a support bundle: the bridge's variables and those of proxies, with the values that hold no secret.

use super::super::secret_input::SECRET_ENV;
use crate::config::Config;
use crate::redact::without_login;

/// Variables whose value is a secret or identifies one.
const SECRET_VARIABLES: [&str; 2] = [SECRET_ENV, "BRIDGE_CLIENT_ID"];

/// Returns all variables of this process. What is not UTF-8 has replacement characters.
pub(super) fn variables() -> Vec<(String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os()
        .map(|(name, value)| (lossy(name), lossy(value)))
        .collect()
}

/// Returns whether a variable holds a secret, by its name.
pub(super) fn is_secret(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    SECRET_VARIABLES.contains(&name)
        || [
            "SECRET", "PASSWORD", "PASSWD", "TOKEN", "API_KEY", "PRIVATE",
        ]
        .iter()
        .any(|word| upper.contains(word))
}

/// Returns whether a variable is the setting of a proxy, by its name.
pub(super) fn is_proxy(name: &str) -> bool {
    name.to_ascii_uppercase().ends_with("_PROXY")
}

/// Returns a line for each of the bridge's variables and of the proxy variables.
pub(super) fn shown(variables: &[(String, String)]) -> String {
    let known = Config::variable_names();
    let mut lines: Vec<String> = variables
        .iter()
        .filter_map(|(name, value)| {
            let is_own = name.to_ascii_uppercase().starts_with("BRIDGE_");
            let is_known = known.iter().any(|known| known == name);
            if is_own && !is_known {
                // It may be a misspelled name of any variable, also of one for a secret.
                return Some(format!("{name}=[not a known variable; value removed]"));
            }
            if is_own && is_secret(name) && !name.ends_with("_FILE") {
                return Some(format!("{name}=[removed]"));
            }
            if is_proxy(name) {
                return Some(format!("{name}={}", without_login(value)));
            }
            is_own.then(|| format!("{name}={value}"))
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_known_variables_alone_are_shown() {
        let set = [
            ("BRIDGE_API", "Pw6x"),
            ("BRIDGE_UNKNOWN", "UnkPassw0rd"),
            ("BRIDGE_CLIENT_SECRET", "Pw7x"),
            ("BRIDGE_CLIENT_SECRET_FILE", "/run/one"),
            ("BRIDGE_NAME", "berlin-dc1"),
            ("BRIDGE_RELAY_PROXY", "u:Pw8x@h:1"),
            ("HTTPS_PROXY", "http://u:a/Pw20x#b@h:1"),
            ("no_proxy", "u:Pw9x@h"),
            ("PATH", "/bin"),
        ];
        let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            shown(&set),
            "BRIDGE_API=[not a known variable; value removed]\n\
             BRIDGE_CLIENT_SECRET=[removed]\n\
             BRIDGE_CLIENT_SECRET_FILE=/run/one\n\
             BRIDGE_NAME=berlin-dc1\n\
             BRIDGE_RELAY_PROXY=[removed]@h:1\n\
             BRIDGE_UNKNOWN=[not a known variable; value removed]\n\
             HTTPS_PROXY=http://[removed]@h:1\n\
             no_proxy=[removed]@h"
        );
    }
}
