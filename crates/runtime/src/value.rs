//! One reader for every value that an administrator supplies: in a variable, a file, on standard input, at a prompt.
//!
//! ```text
//! bytes --decode--> text --Form--> the value, or a ValueError that names the form
//! ```
//!
//! Editors, shells and secret stores add invisible characters: a byte order mark, a line break, a no-break space, quotation
//! marks. Each such form is either taken as meant or refused with its name. No message repeats any of the text, which may
//! be a secret. The table `FORMS` in the tests is the section "Values" of the troubleshooting guide.
//!
//! Certificates and other files in PEM have their own reader; `config` reads the config file and uses [`decode`].

use std::fmt;

/// What a value may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A setting of one line: a URL, a name, a path, a duration.
    Setting,
    /// A list whose entries may be separated by blanks, tabs and line breaks.
    List,
    /// A list or table in TOML, which may have several lines.
    Toml,
    /// A client id, client secret or token: visible characters without blanks.
    Key,
    /// A password of another system, which may have any visible characters and blanks.
    Password,
    /// A text of several lines, for example a private key in PEM.
    Lines,
}

/// Why a value is refused. Follows the name of the variable or file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueError {
    /// UTF-16 or UTF-32 that does not say so.
    WideText,
    /// Neither UTF-8 nor UTF-16.
    NotUtf8 {
        /// The line of the first wrong byte, from 1.
        line: usize,
    },
    /// More than one line.
    LineBreak,
    /// An invisible character inside the value.
    Invisible(char),
    /// A blank inside a key.
    Blank,
    /// The value stands in quotation marks.
    Quotes,
    /// The value stands in typographic quotation marks.
    TypographicQuotes,
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WideText => f.write_str(
                "the text is UTF-16 or UTF-32 without a byte order mark: save it as UTF-8",
            ),
            Self::NotUtf8 { line: 1 } => f.write_str("the text is not UTF-8: save it as UTF-8"),
            Self::NotUtf8 { line } => {
                write!(f, "the text is not UTF-8 (line {line}): save it as UTF-8")
            }
            Self::LineBreak => f.write_str("the value has a line break inside: write one line"),
            Self::Invisible(c) => {
                write!(f, "the value has {} inside: remove it", name_of(*c))
            }
            Self::Blank => f.write_str("the value has a blank inside: remove it"),
            Self::Quotes => f.write_str(
                "the value stands in quotation marks, which would be part of it: remove the quotes",
            ),
            Self::TypographicQuotes => {
                f.write_str("the value stands in typographic quotation marks: remove the quotes")
            }
        }
    }
}

impl std::error::Error for ValueError {}

/// Returns what a character is called that a reader does not see.
pub(crate) fn name_of(c: char) -> String {
    let name = match c {
        '\0' => "a null character",
        '\t' => "a tab",
        '\u{a0}' | '\u{202f}' | '\u{2007}' => "a no-break space",
        '\u{ad}' => "a soft hyphen",
        '\u{200b}' => "a zero-width space",
        '\u{200c}' | '\u{200d}' | '\u{2060}' => "a zero-width joiner",
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            "a mark for the direction of text"
        }
        '\u{2028}' | '\u{2029}' => "a line separator",
        '\u{feff}' => "a byte order mark",
        c if c.is_control() => "a control character",
        _ => "an unusual space",
    };
    format!("{name} (U+{:04X})", u32::from(c))
}

/// Whether a reader cannot see a character, or cannot tell it from a space.
pub(crate) fn is_invisible(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(
            c,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// Whether a character is a typographic quotation mark.
pub(crate) fn is_typographic_quote(c: char) -> bool {
    matches!(
        c,
        '\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}' | '\u{2039}' | '\u{203a}'
    )
}

/// Decodes a text: UTF-8 with or without a byte order mark, or UTF-16 with one, as Windows tools write it.
///
/// # Errors
/// [`ValueError::WideText`] or [`ValueError::NotUtf8`].
pub fn decode(bytes: &[u8]) -> Result<String, ValueError> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Err(ValueError::WideText),
        [0xff, 0xfe, rest @ ..] => return utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return utf16(rest, u16::from_be_bytes),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        // They are valid UTF-8, and in no text.
        Ok(_) if is_wide(bytes) => Err(ValueError::WideText),
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let breaks = before.iter().filter(|byte| **byte == b'\n').count();
            Err(ValueError::NotUtf8 { line: 1 + breaks })
        }
    }
}

/// Whether a text is probably UTF-16 or UTF-32: half of the bytes of Latin text, or more, are then zero. A single null
/// character has another origin.
fn is_wide(bytes: &[u8]) -> bool {
    let begin = bytes.get(..64).unwrap_or(bytes);
    let zeros = begin.iter().filter(|byte| **byte == 0).count();
    zeros > 0 && zeros * 5 >= begin.len() * 2
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, ValueError> {
    let pairs = bytes.chunks_exact(2);
    let has_rest = !pairs.remainder().is_empty();
    let units: Vec<u16> = pairs
        .filter_map(|pair| pair.try_into().ok().map(unit))
        .collect();
    match String::from_utf16(&units) {
        Ok(text) if !has_rest => Ok(text),
        Ok(_) | Err(_) => Err(ValueError::NotUtf8 { line: 1 }),
    }
}

/// Reads a value.
///
/// # Errors
/// [`ValueError`] names the form that is refused.
pub fn read(form: Form, bytes: &[u8]) -> Result<String, ValueError> {
    let text = decode(bytes)?;
    let is_break = ['\r', '\n'];
    let text = match form {
        // Its blanks are its own. A line break is what the editor added.
        Form::Password => text.trim_end_matches(is_break),
        Form::Lines => return Ok(text),
        Form::Setting | Form::List | Form::Toml | Form::Key => {
            text.trim_matches(|c: char| c == ' ' || is_invisible(c))
        }
    };
    if text.contains(is_break) && !matches!(form, Form::List | Form::Toml) {
        return Err(ValueError::LineBreak);
    }
    match form {
        Form::Setting | Form::Key => {
            if let Some(c) = text.chars().find(|c| is_invisible(*c)) {
                return Err(ValueError::Invisible(c));
            }
            check_quotes(text)?;
            if form == Form::Key && text.contains(' ') {
                return Err(ValueError::Blank);
            }
        }
        Form::List => {
            let is_separator = |c: char| matches!(c, '\t' | '\r' | '\n');
            let mut chars = text.chars();
            if let Some(c) = chars.find(|c| is_invisible(*c) && !is_separator(*c)) {
                return Err(ValueError::Invisible(c));
            }
            check_quotes(text)?;
        }
        Form::Password => {
            if let Some(c) = text.chars().find(|c| c.is_control() && *c != '\t') {
                return Err(ValueError::Invisible(c));
            }
        }
        Form::Toml => check_quotes(text)?,
        Form::Lines => {}
    }
    Ok(text.to_owned())
}

/// `docker --env-file` and some secret stores keep the quotation marks of a shell.
fn check_quotes(text: &str) -> Result<(), ValueError> {
    let ends = [text.chars().next(), text.chars().next_back()];
    if ends.iter().flatten().any(|c| is_typographic_quote(*c)) {
        return Err(ValueError::TypographicQuotes);
    }
    if ends.iter().flatten().any(|c| matches!(c, '"' | '\'' | '`')) {
        return Err(ValueError::Quotes);
    }
    Ok(())
}

/// Returns what an administrator should know about a password that was taken as it is.
pub fn oddity(password: &str) -> Option<&'static str> {
    let is_odd = |c: char| c == ' ' || is_invisible(c);
    if password.starts_with(is_odd) || password.ends_with(is_odd) {
        return Some("begins or ends with a blank, which is kept");
    }
    if check_quotes(password).is_err() {
        return Some("begins or ends with a quotation mark, which is kept");
    }
    let has_odd = password.chars().any(is_invisible);
    has_odd.then_some("has an invisible character, which is kept")
}

/// Reads an environment variable. An empty one counts as not set.
///
/// # Errors
/// [`ValueError`] names the form that is refused.
pub fn variable(form: Form, name: &str) -> Result<Option<String>, ValueError> {
    match std::env::var_os(name) {
        Some(text) => read(form, text.as_encoded_bytes())
            .map(|text| Some(text).filter(|text| !text.is_empty())),
        None => Ok(None),
    }
}

/// Returns a value for a message: in quotation marks if it is a number with a unit or a short word, and otherwise not at
/// all. A value in the wrong place may be a secret.
pub fn shown(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '-' | '+');
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+'))
        && text.len() <= 24
        && text.chars().all(is_plain);
    let is_word = text.len() <= 9 && text.chars().all(|c| c.is_ascii_lowercase());
    match is_number || is_word {
        true => format!("{text:?}"),
        false => "the value".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A form, what it looks like around the value `ibs_x`, and what becomes of it as a setting, a key and a password:
    /// `taken`, `kept` (all characters are part of the password), or a part of the refusal.
    const FORMS: &[(&str, &[u8], [&str; 3])] = &[
        (
            "a line break at the end (LF, CRLF or CR)",
            b"ibs_x\r\n",
            ["taken", "taken", "taken"],
        ),
        (
            "a line break inside",
            b"ibs\n_x",
            ["line break", "line break", "line break"],
        ),
        (
            "a byte order mark (UTF-8)",
            b"\xef\xbb\xbfibs_x",
            ["taken", "taken", "taken"],
        ),
        (
            "UTF-16 with a byte order mark",
            b"\xff\xfei\0b\0s\0_\0x\0\r\0\n\0",
            ["taken", "taken", "taken"],
        ),
        (
            "UTF-16 without a byte order mark",
            b"i\0b\0s\0_\0x\0",
            ["save it as UTF-8", "save it as UTF-8", "save it as UTF-8"],
        ),
        (
            "Latin-1 or another encoding",
            b"ibs_x\xfc",
            ["not UTF-8", "not UTF-8", "not UTF-8"],
        ),
        (
            "blanks or tabs at the ends",
            b" ibs_x \t",
            ["taken", "taken", "kept"],
        ),
        (
            "a no-break space at an end",
            b"ibs_x\xc2\xa0",
            ["taken", "taken", "kept"],
        ),
        (
            "a no-break space inside",
            b"ibs\xc2\xa0_x",
            ["no-break space (U+00A0)", "no-break space (U+00A0)", "kept"],
        ),
        (
            "a zero-width space inside",
            b"ibs\xe2\x80\x8b_x",
            [
                "zero-width space (U+200B)",
                "zero-width space (U+200B)",
                "kept",
            ],
        ),
        (
            "a null character at the end",
            b"ibs_x\0",
            ["taken", "taken", "null character (U+0000)"],
        ),
        (
            "a null character inside",
            b"ibs\0_x",
            [
                "null character (U+0000)",
                "null character (U+0000)",
                "null character (U+0000)",
            ],
        ),
        (
            "a control character inside",
            b"ibs\x01_x",
            [
                "control character (U+0001)",
                "control character (U+0001)",
                "control character (U+0001)",
            ],
        ),
        (
            "a blank inside",
            b"ibs _x",
            ["kept", "blank inside", "kept"],
        ),
        (
            "quotation marks around it",
            b"\"ibs_x\"\n",
            ["remove the quotes", "remove the quotes", "kept"],
        ),
        (
            "typographic quotation marks around it",
            "\u{201c}ibs_x\u{201d}".as_bytes(),
            ["typographic", "typographic", "kept"],
        ),
    ];

    #[test]
    fn each_form_is_taken_or_named() {
        for (name, bytes, expected) in FORMS {
            for (form, expected) in [Form::Setting, Form::Key, Form::Password]
                .into_iter()
                .zip(expected)
            {
                match (read(form, bytes), *expected) {
                    (Ok(value), "taken") => assert_eq!(value, "ibs_x", "{name}"),
                    (Ok(value), "kept") => {
                        assert!(value.len() > 5, "{name}");
                        // A blank inside is ordinary; everything else is worth a word.
                        let is_said = oddity(&value).is_some();
                        assert_eq!(is_said, *name != "a blank inside", "{name}");
                    }
                    (Err(error), part) => {
                        let error = error.to_string();
                        assert!(error.contains(part), "{name}: {error}");
                        assert!(!error.contains("ibs"), "{name}: {error}");
                    }
                    (Ok(value), part) => panic!("{name}: {value:?} instead of {part}"),
                }
            }
        }
    }

    #[test]
    fn guide_lists_each_form() {
        let guide = include_str!("../../../deploy/guide/troubleshooting.md");
        let section = guide.split("\n## Values\n").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let word = |word: &&str| match *word {
            "taken" => "taken".to_owned(),
            "kept" => "kept".to_owned(),
            _ => "refused".to_owned(),
        };
        let rows: Vec<String> = FORMS
            .iter()
            .map(|(name, _, [setting, key, password])| {
                let [setting, key, password] = [setting, key, password].map(word);
                format!("| {name} | {setting} | {key} | {password} |")
            })
            .collect();
        let listed: Vec<&str> = section
            .lines()
            .filter(|line| line.starts_with("| "))
            .skip(2)
            .collect();
        assert_eq!(listed, rows, "the table should be\n{}", rows.join("\n"));
    }

    #[test]
    fn tab_and_line_break_separate_entries_of_a_list() {
        let read_list = |text: &str| read(Form::List, text.as_bytes());
        let list = read_list(" a.example\tb.example,\r\n10.0.0.0/8\n").unwrap();
        assert_eq!(list, "a.example\tb.example,\r\n10.0.0.0/8");
        assert_eq!(
            read(Form::Setting, b"a\tb"),
            Err(ValueError::Invisible('\t'))
        );
        let hidden = read_list("a\u{a0}b");
        assert_eq!(hidden, Err(ValueError::Invisible('\u{a0}')));
        assert_eq!(read_list("\"a\tb\""), Err(ValueError::Quotes));
    }

    #[test]
    fn list_may_have_several_lines() {
        let list = b"\xef\xbb\xbf[\n  \"a\",\n]\n";
        assert_eq!(read(Form::Toml, list).unwrap(), "[\n  \"a\",\n]");
        let quoted = read(Form::Toml, b"'[\"a\"]'").unwrap_err();
        assert_eq!(quoted, ValueError::Quotes);
        let key = b"-----BEGIN PRIVATE KEY-----\r\nMIGH\r\n";
        assert_eq!(read(Form::Lines, key).unwrap().as_bytes(), key);
    }

    #[test]
    fn value_in_a_message_is_short_and_plain() {
        assert_eq!(shown("5"), "\"5\"");
        assert_eq!(shown("http://me:sesame@p"), "the value");
        assert_eq!(shown("localhost"), "\"localhost\"");
        assert_eq!(shown("Sesame7"), "the value");
    }
}
