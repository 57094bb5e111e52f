//! Removes secrets from text that leaves this machine.
//!
//! Three filters, each of which may remove too much:
//!
//! 1. the secrets that this program knows, wherever they appear;
//! 2. the rest of a line after a word that announces a secret, like `password`;
//! 3. text that looks like a secret: PEM blocks, user information in URLs, long words of mixed letters and digits.

/// Replaces what was removed.
const REMOVED: &str = "[removed]";

/// Words that announce a secret. The rest of their line is removed.
const ANNOUNCING: [&str; 16] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "api-key",
    "api_key",
    "apikey",
    "private",
    "bearer ",
    "basic ",
    "signature",
    "x-xsrf",
    "proof",
];

/// Words of mixed letters and digits count as secrets from this length on, in bytes.
const WORD_MIN: usize = 20;

/// The filters, with the known secrets.
#[derive(Default)]
pub(crate) struct Redactor {
    known: Vec<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// Adds a known secret, in clear and in base64.
    pub(crate) fn know(&mut self, secret: &str) {
        use base64::Engine as _;
        let secret = secret.trim();
        // Removing one or two characters everywhere would make the text unreadable and hide nothing.
        if secret.len() < 3 {
            return;
        }
        self.known.push(secret.to_owned());
        self.known
            .push(base64::engine::general_purpose::STANDARD.encode(secret));
    }

    /// Returns the text without secrets.
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // Known secrets first: the other filters split the text at characters that a secret may contain.
        for secret in &self.known {
            text = text.replace(secret, REMOVED);
        }
        let mut out = String::with_capacity(text.len());
        // A PEM block is removed as a whole: its lines have no marker, and short ones pass the other filters.
        let mut is_pem = false;
        for line in text.lines() {
            if line.contains("-----BEGIN ") {
                is_pem = true;
                out.push_str(REMOVED);
                out.push('\n');
            }
            if !is_pem {
                out.push_str(&redact_line(line));
                out.push('\n');
            }
            if line.contains("-----END ") {
                is_pem = false;
            }
        }
        out
    }
}

fn redact_line(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    // The offsets are valid in `line`, too: only ASCII letters change, and keep their length.
    let announced = ANNOUNCING
        .iter()
        .filter_map(|word| Some(lower.find(word)? + word.len()))
        .min();
    let (head, tail) = match announced {
        None => (line, ""),
        Some(at) => line.split_at(at),
    };
    let mut out = redact_words(&without_user(head));
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

/// Removes the user information from URLs: `scheme://user:password@host`.
fn without_user(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(['/', ' ', '"', '\'', '?', '#'])
            .unwrap_or(after.len());
        let authority = &after[..end];
        // The last one: a password may contain further `@`.
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str(REMOVED);
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// Removes words that look like a secret.
fn redact_words(line: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '/' | '=');
    let mut out = String::with_capacity(line.len());
    let mut word = String::new();
    let end = |word: &mut String, out: &mut String| {
        out.push_str(if looks_secret(word) { REMOVED } else { word });
        word.clear();
    };
    for c in line.chars() {
        if is_part(c) {
            word.push(c);
        } else {
            end(&mut word, &mut out);
            out.push(c);
        }
    }
    end(&mut word, &mut out);
    out
}

/// Returns whether a word looks like a key or token: long, with upper case, lower case and digits. The segments
/// of a path are checked one by one, because a long path usually has all three.
fn looks_secret(word: &str) -> bool {
    word.split('/').any(|segment| {
        let has = |class: fn(&char) -> bool| segment.chars().any(|c| class(&c));
        segment.len() >= WORD_MIN
            && has(char::is_ascii_digit)
            && has(char::is_ascii_uppercase)
            && has(char::is_ascii_lowercase)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_removed_and_other_text_stays() {
        let mut redactor = Redactor::default();
        redactor.know("hunter2");
        for (text, secret) in [
            ("url = \"http://me:hunter2@proxy:3128\" # fine", "hunter2"),
            ("HTTPS_PROXY=http://me:other@proxy:3128", "other"),
            ("# the password is swordfish", "swordfish"),
            ("Authorization: Basic bWU6c2VzYW1l", "bWU6c2VzYW1l"),
            ("aHVudGVyMg==", "aHVudGVyMg"),
            ("client_secret = ibs_x", "ibs_x"),
            ("cookie: a=1; LWSSO=abc", "abc"),
            ("a key Zm9vYmFyYmF6cXV4MTIzNDU2 in a line", "Zm9vYmFy"),
            (
                "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----",
                "MIGH",
            ),
        ] {
            let redacted = redactor.redact(text);
            assert!(!redacted.contains(secret), "{text} became {redacted}");
        }
        for text in [
            "url = \"https://relay.example.com\"",
            "2026-11-26T10:00:00Z  INFO session up slot=0 session=\"b04f9b8d2518283b9a916691cdf1b205\"",
            "data_dir = \"/var/lib/integration-bridge\"",
        ] {
            assert_eq!(redactor.redact(text).trim_end(), text);
        }
    }
}
