//! Takes secrets out of text that leaves this machine for support.
//!
//! Three sieves, each of which may take too much: the secrets that are known here, wherever they stand;
//! what follows a word that announces a secret; and what looks like one (PEM blocks, user information in
//! URLs, long words of mixed letters and digits).

/// What stands in its place.
const REMOVED: &str = "[removed]";

/// Words that announce a secret; what follows on their line goes.
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

/// A word of mixed letters and digits from this length on is taken for a secret.
const WORD_MIN: usize = 20;

/// The sieves, with what is known to be secret.
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
    /// Adds something that must not be seen, and the forms in which it travels.
    pub(crate) fn know(&mut self, secret: &str) {
        use base64::Engine as _;
        let secret = secret.trim();
        if secret.len() < 3 {
            return;
        }
        self.known.push(secret.to_owned());
        self.known
            .push(base64::engine::general_purpose::STANDARD.encode(secret));
    }

    /// The text without secrets.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            text = text.replace(secret, REMOVED);
        }
        let mut out = String::with_capacity(text.len());
        let mut is_pem = false;
        for line in text.lines() {
            if line.contains("-----BEGIN ") {
                is_pem = true;
                out.push_str(REMOVED);
                out.push('\n');
            }
            if !is_pem {
                out.push_str(&clean_line(line));
                out.push('\n');
            }
            if line.contains("-----END ") {
                is_pem = false;
            }
        }
        out
    }
}

fn clean_line(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    // Offsets fit: only ASCII changes its case.
    let announced = ANNOUNCING
        .iter()
        .filter_map(|word| Some(lower.find(word)? + word.len()))
        .min();
    let (head, tail) = match announced {
        None => (line, ""),
        Some(at) => line.split_at(at),
    };
    let mut out = clean_words(&without_user(head));
    if !tail.is_empty() {
        // The rest of the word, and what divides it from its value, may stay.
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

/// `scheme://user:password@host` without the user.
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

fn clean_words(line: &str) -> String {
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

/// Upper and lower case and digits in one long piece: a key or a token. Paths have their pieces looked at
/// one by one.
fn looks_secret(word: &str) -> bool {
    word.split('/').any(|piece| {
        let has = |class: fn(&char) -> bool| piece.chars().any(|c| class(&c));
        piece.len() >= WORD_MIN
            && has(char::is_ascii_digit)
            && has(char::is_ascii_uppercase)
            && has(char::is_ascii_lowercase)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_wherever_they_stand_and_the_rest_stays() {
        let mut redactor = Redactor::default();
        redactor.know("hunter2");
        for (text, gone) in [
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
            let clean = redactor.clean(text);
            assert!(!clean.contains(gone), "{text} became {clean}");
        }
        for text in [
            "url = \"https://relay.example.com\"",
            "2026-11-26T10:00:00Z  INFO session up slot=0 session=\"b04f9b8d2518283b9a916691cdf1b205\"",
            "data_dir = \"/var/lib/integration-bridge\"",
        ] {
            assert_eq!(redactor.clean(text).trim_end(), text);
        }
    }
}
