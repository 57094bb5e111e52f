//! Text that announces a secret, or looks like one.

use super::REMOVED;

/// Words that announce a secret anywhere in a line. The rest of the line is removed.
const ANNOUNCING: [&str; 19] = [
    "password",
    "passwd",
    "passphrase",
    "kennwort",
    "secret",
    "token",
    "authorization",
    "cookie",
    "api-key",
    "api_key",
    "apikey",
    "private_key",
    "private-key",
    "privatekey",
    "bearer ",
    "basic ",
    "signature",
    "x-xsrf",
    "proof",
];

/// Words that announce a secret as the whole name, or its last part, of a value: `key=`, `db_pw: `.
const NAMES: [&str; 13] = [
    "pass", "pwd", "pw", "pin", "key", "auth", "sig", "psk", "otp", "jwt", "sid", "creds",
    "private",
];

/// Names of values that look like tokens and are needed to follow a request. None holds a secret.
const PUBLIC: [&str; 14] = [
    "session",
    "id",
    "trace",
    "trace_id",
    "span_id",
    "call",
    "call_id",
    "hash",
    "prev",
    "instance",
    "bridge",
    "attempt",
    "request_id",
    "version",
];

/// Words that begin so are secrets: of this product, and of others.
const PREFIXES: [&str; 8] = [
    "ibs_", "whsec_", "ghp_", "glpat-", "xoxb-", "xoxp-", "eyJ", "AKIA",
];

/// Words of mixed letters and digits count as secrets from this length on, in bytes.
const WORD_MIN: usize = 20;

/// Words of lower-case letters and digits, or of hexadecimal digits, do so from this length on.
const PLAIN_WORD_MIN: usize = 24;

/// Words with the padding of base64 do so from this length on.
const PADDED_WORD_MIN: usize = 12;

/// Returns whether a name announces that its value is a secret.
pub(super) fn is_announcing(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ANNOUNCING.iter().any(|word| name.contains(word.trim_end()))
        || NAMES.contains(&last_part(&name))
}

/// Returns whether a name announces a public id.
pub(super) fn is_public(name: &str) -> bool {
    PUBLIC.contains(&name)
}

fn last_part(name: &str) -> &str {
    name.rsplit(['_', '-', '.']).next().unwrap_or(name)
}

/// Returns a line without what announces a secret or looks like one.
/// `public` are words that look so and stay.
pub(super) fn redact_line(line: &str, public: &[String]) -> String {
    let lower = line.to_ascii_lowercase();
    // The offsets are valid in `line`, too: only ASCII letters change, and keep their length.
    let announced = ANNOUNCING
        .iter()
        .flat_map(|word| lower.match_indices(word).map(|(at, word)| at + word.len()))
        // The name of a key in a message of this program, "unknown key `password`; known here: ...", has no value.
        .filter(|end| !lower[*end..].starts_with("`;"))
        .chain(named_value(&lower))
        .min();
    let (head, tail) = match announced {
        None => (line, ""),
        Some(at) => line.split_at(at),
    };
    let mut out = redact_words(&without_user(head), public);
    if !tail.is_empty() {
        // The rest of the word and its separator stay, so that the line can still be understood.
        let value = tail
            .find(['=', ':', ' ', '\t'])
            .map_or(tail.len(), |at| at + 1);
        out.push_str(&tail[..value]);
        if value < tail.len() {
            out.push_str(REMOVED);
        }
    }
    out
}

/// Returns the end of the first name that is followed by a value and is one of [`NAMES`].
fn named_value(lower: &str) -> Option<usize> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    lower.match_indices(['=', ':']).find_map(|(at, _)| {
        let before = lower[..at].trim_end_matches([' ', '\t', '"', '\'', '\\']);
        let start = before.rfind(|c| !is_name(c)).map_or(0, |start| {
            start + before[start..].chars().next().map_or(1, char::len_utf8)
        });
        NAMES
            .contains(&last_part(&before[start..]))
            .then_some(before.len())
    })
}

/// Removes the user information from URLs: `scheme://user:password@host`. It ends at the last `@` before a blank or a
/// quotation mark: a password that is not percent-encoded may contain everything else.
fn without_user(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || c == '"')
            .unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                out.push_str(REMOVED);
                &after[at..]
            }
            None => after,
        };
    }
    out.push_str(rest);
    out
}

/// Removes words that look like a secret.
fn redact_words(line: &str, public: &[String]) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '/');
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    // The name before a value, as in `session="..."`.
    let mut name = "";
    while let Some(first) = rest.chars().next() {
        if !is_part(first) {
            // Between a name and its value are only these.
            if !matches!(first, '=' | ':' | '"' | '\'') {
                name = "";
            }
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let letters = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let padded = rest[letters..]
            .find(|c| c != '=')
            .map_or(rest.len(), |more| letters + more);
        // `=` is the padding of base64 only at the end of a word; elsewhere it separates name and value.
        let ends_word = match rest[padded..].chars().next() {
            None => true,
            // `name="value"` as opposed to `"dmFsdWU="`.
            Some(quote @ ('"' | '\'')) => out.ends_with(quote),
            Some(c) => !is_part(c),
        };
        let end = if padded - letters <= 2 && ends_word {
            padded
        } else {
            letters
        };
        let word = &rest[..end];
        let is_kept = is_public(name) || public.iter().any(|public| public == word);
        let is_secret = looks_secret(word) && !is_kept;
        out.push_str(if is_secret { REMOVED } else { word });
        name = word;
        rest = &rest[end..];
    }
    out
}

/// Returns whether a word looks like a key or token. The segments of a path are checked one by one, because a long path
/// usually has all kinds of characters.
fn looks_secret(word: &str) -> bool {
    if PREFIXES
        .iter()
        .any(|prefix| word.len() >= prefix.len() + 4 && word.starts_with(prefix))
    {
        return true;
    }
    let has = |class: fn(&char) -> bool| word.chars().any(|c| class(&c));
    // Names of variables are followed by `=`, too; they are in upper case.
    if word.ends_with('=')
        && word.len() >= PADDED_WORD_MIN
        && word.len().is_multiple_of(4)
        && has(char::is_ascii_lowercase)
        && (has(char::is_ascii_uppercase) || has(char::is_ascii_digit))
    {
        return true;
    }
    let is_base64 = word.contains('+') && !word.starts_with('/');
    is_mixed(word) && is_base64 || word.split('/').any(|part| is_mixed(part) || is_plain(part))
}

/// Upper case, lower case and digits.
fn is_mixed(word: &str) -> bool {
    let has = |class: fn(&char) -> bool| word.chars().any(|c| class(&c));
    word.len() >= WORD_MIN
        && has(char::is_ascii_digit)
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_lowercase)
}

/// Letters of one case and digits in one piece, many of each.
fn is_plain(word: &str) -> bool {
    let count = |class: fn(&char) -> bool| word.chars().filter(class).count();
    word.len() >= PLAIN_WORD_MIN
        && word.chars().all(|c| c.is_ascii_alphanumeric())
        && count(char::is_ascii_digit) >= 4
        && count(char::is_ascii_alphabetic) >= 4
}
