//! Removes secrets from text that leaves this machine: a support bundle, and the fields of a response that repeat a
//! credential ([`Forms`]).
//!
//! Filters of a bundle, each of which may remove too much:
//!
//! 1. the secrets that this program knows, in each encoding (`known`), also under escapes (`escapes`, `forms`);
//! 2. the rest of a line after a word that announces a secret, like `password` or `key=` (`shape`);
//! 3. text that looks like a secret: PEM blocks, user information in URLs, tokens (`shape`);
//! 4. comments of a config, where administrators note passwords (`comments`);
//! 5. everything in the setting of a proxy that is not its host and port (`proxy`).
//!
//! A JSON document is redacted value by value before it is serialized: it stays a valid document, and no filter stops at an
//! escape.

mod comments;
mod escapes;
mod forms;
mod known;
mod proxy;
mod shape;

use serde_json::Value;

pub(crate) use comments::without_comments;
pub(crate) use forms::Forms;
pub(crate) use proxy::{logins, settings_in, without_login};

/// Replaces what was removed.
const REMOVED: &str = "[removed]";

/// Shortest form of a secret that is removed, in bytes: removing one or two characters everywhere would make the text
/// unreadable and hide nothing.
const KNOWN_MIN_BYTES: usize = 3;

/// The filters, with the known secrets.
#[derive(Default)]
pub(crate) struct Redactor {
    known: Forms,
    /// Words that look like a secret, and are none.
    public: Vec<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// Adds a known secret, in all its encodings.
    pub(crate) fn know(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.len() >= KNOWN_MIN_BYTES {
            self.known.add(secret.as_bytes(), KNOWN_MIN_BYTES);
        }
    }

    /// Adds a known secret that is not text, such as a key.
    pub(crate) fn know_bytes(&mut self, secret: &[u8]) {
        match std::str::from_utf8(secret) {
            Ok(text) => self.know(text),
            Err(_) => self.known.add(secret, KNOWN_MIN_BYTES),
        }
    }

    /// Adds a word that stays although it looks like a secret, such as a public key.
    pub(crate) fn publish(&mut self, word: &str) {
        self.public.push(word.to_owned());
    }

    /// Returns the text without secrets.
    pub(crate) fn redact(&self, text: &str) -> String {
        let text = self.without_known(text);
        let mut out = String::with_capacity(text.len());
        // A PEM block is removed as a whole: its lines have no marker, and short ones pass the other filters.
        let mut is_pem = false;
        for line in text.lines() {
            // On one line, with `\n` in a JSON string for example, begin and end are both found.
            if line.contains("-----BEGIN ") {
                is_pem = true;
                out.push_str(REMOVED);
                out.push('\n');
            }
            if !is_pem {
                out.push_str(&shape::redact_line(line, &self.public));
                out.push('\n');
            }
            if line.contains("-----END ") {
                is_pem = false;
            }
        }
        out
    }

    /// Returns a document of JSON without secrets.
    pub(crate) fn redact_json(&self, value: &Value) -> Value {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
            Value::String(text) => Value::from(self.redact(text).trim_end()),
            Value::Array(items) => items.iter().map(|item| self.redact_json(item)).collect(),
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| {
                    let value = match value {
                        Value::String(text) if self.public.contains(text) => value.clone(),
                        Value::String(_) | Value::Number(_) if shape::is_announcing(name) => {
                            Value::from(REMOVED)
                        }
                        // Ids and hashes of the product's own documents look like tokens.
                        Value::String(text) if shape::is_public(name) => {
                            Value::from(self.without_known(text))
                        }
                        value => self.redact_json(value),
                    };
                    (self.without_known(name), value)
                });
                Value::Object(fields.collect())
            }
        }
    }

    /// Returns lines of JSON without secrets; other lines are redacted as text.
    pub(crate) fn redact_json_lines(&self, text: &str) -> String {
        let lines = text
            .lines()
            .map(|line| match serde_json::from_str::<Value>(line) {
                Ok(value @ (Value::Object(_) | Value::Array(_))) => {
                    format!("{}\n", self.redact_json(&value))
                }
                Ok(_) | Err(_) => self.redact(line),
            });
        lines.collect()
    }

    fn without_known(&self, text: &str) -> String {
        // Before the other filters, which split the text at characters that a secret may contain.
        let mut out = String::with_capacity(text.len());
        let mut from = 0;
        for span in self.known.spans(text) {
            out.push_str(&text[from..span.start]);
            out.push_str(REMOVED);
            from = span.end;
        }
        out.push_str(&text[from..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
            ("pass=swordfish", "swordfish"),
            ("db pwd: swordfish", "swordfish"),
            ("GET /a?key=swordfish&b=1", "swordfish"),
            ("GET /a?x=1&access-key=swordfish", "swordfish"),
            ("{\"pw\": \"swordfish\"}", "swordfish"),
            ("the token ibs_abcdefgh here", "ibs_abcdefgh"),
            ("a key Zm9vYmFyYmF6cXV4MTIzNDU2 in a line", "Zm9vYmFy"),
            ("sent dGhlIHdvcmRzIGFyZSBsb25n= there", "dGhlIHdvcmRz"),
            (
                "sent 9f86d081884c7d659a2feaa0c55ad015 there",
                "9f86d081884c7d659a2feaa0c55ad015",
            ),
            ("sent a1b2c3d4e5f6g7h8i9j0k1l2 there", "a1b2c3d4e5f6g7h8"),
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
            "key_file = \"/etc/integration-bridge/key\"",
            "an integration-bridge-support-1764517200.tar was written",
            "ok    data       /var/lib/integration-bridge is private and writable",
            "WARN other users had access to a private file; it is now accessible to its owner alone path=/x was=\"0644\"",
            "bridge.toml:4: unknown key `password`; known here: name, url, did you mean `paused`?",
        ] {
            assert_eq!(redactor.redact(text).trim_end(), text);
        }
    }

    #[test]
    fn url_with_an_unencoded_password_is_redacted() {
        let redactor = Redactor::default();
        for text in [
            "proxy = \"http://u:a/Pw20x#b@h:1\"",
            "HTTPS_PROXY=http://u:Pw20x?@h:1 x",
            "cannot use http://u:'Pw20x'@h:1",
            "private_key = Pw20x",
            "private: Pw20x",
            "unknown key `password` Pw20x",
        ] {
            let redacted = redactor.redact(text);
            assert!(!redacted.contains("Pw20x"), "{redacted}");
        }
    }

    #[test]
    fn public_key_is_kept() {
        let key = "9f86d081884c7d659a2feaa0c55ad0159f86d081884c7d659a2feaa0c55ad015";
        let mut redactor = Redactor::default();
        redactor.publish(key);
        assert_eq!(
            redactor.redact(&format!("  key {key}")),
            format!("  key {key}\n")
        );
        assert_eq!(
            redactor.redact_json(&json!({"key": key})),
            json!({"key": key})
        );
        assert_eq!(
            redactor.redact_json(&json!({"key": "x"})),
            json!({"key": REMOVED})
        );
    }

    #[test]
    fn known_secret_is_found_in_each_encoding() {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        let secret = "p\"a ss\\w/örd?>~";
        let mut redactor = Redactor::default();
        redactor.know(secret);
        let json = serde_json::to_string(secret).unwrap();
        let percent: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let hex = crate::text::hex(secret.as_bytes());
        for encoded in [
            secret.to_owned(),
            json.trim_matches('"').to_owned(),
            "p\\\"a ss\\\\w/\\u00f6rd?>~".to_owned(),
            "p%22a%20ss%5Cw%2F%C3%B6rd%3F%3E~".to_owned(),
            "p%22a+ss%5cw%2f%c3%b6rd%3f%3e~".to_owned(),
            "p%22a%20ss%5Cw/%C3%B6rd?%3E~".to_owned(),
            percent,
            hex.clone(),
            hex.to_ascii_uppercase(),
            STANDARD.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
        ] {
            let redacted = redactor.redact(&format!("before <{encoded}> after"));
            assert_eq!(redacted, "before <[removed]> after\n", "{encoded}");
        }
        // With a user before it, and anything after it.
        for user in ["", "u", "me", "usr"] {
            let basic = STANDARD.encode(format!("{user}:{secret}:x"));
            let redacted = redactor.redact(&format!("sent {basic}."));
            assert!(redacted.contains(REMOVED), "{redacted}");
        }
    }

    #[test]
    fn known_secret_is_found_in_combined_encodings() {
        let secret = "p@ss/word+1 %x\"y";
        let mut redactor = Redactor::default();
        redactor.know(secret);
        let json = r#"p@ss/word+1 %x\"y"#;
        let percent = |text: &str| -> String {
            let encode = |byte: u8| match byte.is_ascii_alphanumeric() {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            };
            text.bytes().map(encode).collect()
        };
        let each = |write: fn(u8) -> String| -> String { secret.bytes().map(write).collect() };
        for encoded in [
            percent(json),
            percent(&percent(secret)),
            percent(&percent(&percent(secret))),
            serde_json::to_string(&json)
                .unwrap()
                .trim_matches('"')
                .to_owned(),
            each(|byte| format!("%u{byte:04X}")),
            each(|byte| format!("\\u{byte:04x}")),
            each(|byte| format!("\\x{byte:02x}")),
            each(|byte| format!("&#{byte};")),
            each(|byte| format!("&#x{byte:X};")),
            percent(&each(|byte| format!("&#{byte};"))),
            each(|byte| format!("{byte:02x}:"))
                .trim_end_matches(':')
                .to_owned(),
            each(|byte| format!("{byte:02X} ")).trim_end().to_owned(),
            // Only some characters.
            "p%40ss/word+1 %25x\"y".to_owned(),
            "p@ss/word+1 %x&#34;y".to_owned(),
            "p%40ss\\/word%2B1+%25x&quot;y".to_owned(),
        ] {
            let redacted = redactor.redact(&format!("before <{encoded}> after"));
            assert_eq!(redacted, "before <[removed]> after\n", "{encoded}");
        }
        for text in ["p%40ss/word 1", r"C:\users\x %40 &amp; 100%"] {
            assert_eq!(redactor.redact(text).trim_end(), text);
        }
    }

    #[test]
    fn redacted_json_is_valid_and_keeps_ids() {
        let mut redactor = Redactor::default();
        redactor.know("sesame\"street");
        let document = json!({
            "found": "the proxy said \"sesame\"street\" to Authorization: Basic eA==\nx",
            "password": "short",
            "id": "9f86d081884c7d659a2feaa0c55ad015",
            "count": 3,
            "list": ["http://u:p@host/", {"token": "t"}],
        });
        let redacted = redactor.redact_json(&document);
        let text = redacted.to_string();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), redacted);
        for secret in ["sesame", "eA==", "short", "u:p", "\"t\""] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(redacted["id"], document["id"]);
        assert_eq!(redacted["count"], 3);
        let lines = redactor.redact_json_lines("{\"token\":\"x1\"}\nnot json pass=x2\n");
        assert_eq!(
            lines,
            "{\"token\":\"[removed]\"}\nnot json pass=[removed]\n"
        );
    }
}
