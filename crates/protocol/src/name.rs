//! Names of tenants, bridges and credentials: one rule for both programs.
//!
//! Names become path segments of the API, words of command lines and labels of metrics. They therefore have plain
//! characters only. (Names of endpoints are stricter; their rule is the policy's.)

use std::fmt;

/// Longest name of a tenant, a bridge or a credential, in bytes.
pub const NAME_MAX_BYTES: usize = 64;

/// Returns whether a text can be a name: 1 to 64 letters, digits, `.`, `_`, `-`, and neither `.` nor `..`.
pub fn is_valid(name: &str) -> bool {
    (1..=NAME_MAX_BYTES).contains(&name.len())
        && name.bytes().all(is_part)
        // Names become path segments, and these two mean directories.
        && !matches!(name, "." | "..")
}

fn is_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// A text that is not a name. `Display` says which characters a name has, and proposes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError {
    what: &'static str,
    given: String,
}

/// Checks a name; `what` is what it names: `a bridge`.
///
/// # Errors
/// [`NameError`].
pub fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    match is_valid(name) {
        true => Ok(()),
        false => Err(NameError {
            what,
            given: name.to_owned(),
        }),
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, given } = self;
        // Escaped, because it is shown on terminals; shortened, because it may be anything.
        let shown: String = given.escape_debug().take(80).collect();
        write!(
            f,
            "`{shown}` is not a valid name for {what}: use 1 to {NAME_MAX_BYTES} letters (A to Z, a to z), digits, `.`, `_` \
             or `-`, without blanks"
        )?;
        match proposal(given) {
            Some(name) => write!(f, ", for example `{name}`"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NameError {}

/// Returns a name that is like a text, if it has any letters or digits to keep.
pub fn proposal(text: &str) -> Option<String> {
    let mut name = String::new();
    for c in text.trim().chars() {
        match plain(c) {
            Some(plain) => name.push_str(plain),
            None if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') => name.push(c),
            // One for a row of others, and none at the beginning.
            None if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            None => {}
        }
        if name.len() >= NAME_MAX_BYTES {
            break;
        }
    }
    name.truncate(NAME_MAX_BYTES);
    let name = name.trim_matches(['-', '.']);
    is_valid(name).then(|| name.to_owned())
}

/// How a letter of Western Europe is written without its mark.
fn plain(c: char) -> Option<&'static str> {
    Some(match c {
        'ä' | 'æ' => "ae",
        'ö' | 'œ' => "oe",
        'ü' => "ue",
        'Ä' | 'Æ' => "Ae",
        'Ö' | 'Œ' => "Oe",
        'Ü' => "Ue",
        'ß' => "ss",
        'à' | 'á' | 'â' | 'ã' | 'å' => "a",
        'ç' => "c",
        'è' | 'é' | 'ê' | 'ë' => "e",
        'ì' | 'í' | 'î' | 'ï' => "i",
        'ñ' => "n",
        'ò' | 'ó' | 'ô' | 'õ' | 'ø' => "o",
        'ù' | 'ú' | 'û' => "u",
        'ý' | 'ÿ' => "y",
        'À' | 'Á' | 'Â' | 'Ã' | 'Å' => "A",
        'Ç' => "C",
        'È' | 'É' | 'Ê' | 'Ë' => "E",
        'Ñ' => "N",
        'Ò' | 'Ó' | 'Ô' | 'Õ' | 'Ø' => "O",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_names_are_short_and_plain() {
        for name in ["a", "berlin-dc1", "A.b_c-9", &"x".repeat(64)] {
            assert_eq!(check("a bridge", name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(65), "a\n"] {
            assert!(check("a bridge", name).is_err(), "{name}");
        }
    }

    #[test]
    fn invalid_name_gets_a_proposal() {
        for (text, name) in [
            ("Berlin DC 1", "Berlin-DC-1"),
            ("Büro", "Buero"),
            ("ops@corp", "ops-corp"),
            ("a/b", "a-b"),
            (" host01.corp.example\n", "host01.corp.example"),
            ("..", ""),
            ("東京", ""),
        ] {
            assert_eq!(proposal(text).unwrap_or_default(), name, "{text}");
        }
        assert_eq!(proposal(&"x".repeat(65)).map(|name| name.len()), Some(64));
        let error = check("a bridge", "Berlin DC 1")
            .expect_err("it has blanks")
            .to_string();
        assert!(
            error.contains("letters") && error.contains("`Berlin-DC-1`"),
            "{error}"
        );
    }
}
