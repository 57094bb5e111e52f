//! Reads the JSON document of a request. Every mistake is described in the words of the API: the field, what
//! was found, and what is expected.
//!
//! JSON is UTF-8 (RFC 8259, 8.1). A byte order mark at its beginning is skipped, as the RFC allows, because
//! common tools on Windows write one. Other encodings are errors that name the encoding.

use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_json::{Map, Value};

/// UTF-8's byte order mark.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes of a text that an error shows.
const SHOWN_CHARS: usize = 40;

/// Parses a JSON object. An empty text is an error.
///
/// # Errors
/// What is wrong, for the sender of the document.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let text = utf8(bytes)?;
    // serde also reads a struct from an array, which is not part of the API.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(match text.trim_ascii_start().chars().next() {
            None => {
                "the body is empty; it must be a JSON object like {\"name\": \"value\"}".to_owned()
            }
            Some(first) => {
                format!(
                    "the body begins with {first:?}; it must be a JSON object like {{\"name\": \"value\"}}"
                )
            }
        });
    }
    serde_json::from_str(text).map_err(|error| match error.classify() {
        Category::Data | Category::Io => of_field::<T>(text, &error),
        Category::Syntax | Category::Eof => of_syntax(text, &error),
    })
}

/// Returns the text, if it is UTF-8.
fn utf8(bytes: &[u8]) -> Result<&str, String> {
    let encoding = match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        // Without a mark, the zero byte of `{` shows it.
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'{', 0, ..] | [0, b'{', ..] => Some("UTF-16"),
        _ => None,
    };
    if let Some(encoding) = encoding {
        return Err(format!("the body is {encoding}; send it as UTF-8"));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or_default();
        format!("byte {at} of the body is 0x{byte:02x}, which is not UTF-8; send the body as UTF-8")
    })
}

/// Describes a text that is not JSON.
fn of_syntax(text: &str, error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let place = format!("line {line}, column {column}");
    if error.classify() == Category::Eof {
        return format!("the body is not complete JSON: it ends at {place}");
    }
    let message = error.to_string();
    let what = message.split(" at line ").next().unwrap_or_default();
    let what = match what {
        "expected value" => "a value is missing or has no quotes",
        "expected ident" => "a word is neither true, false nor null",
        "key must be a string" => "a name must be in double quotes",
        "trailing comma" => "a comma has nothing after it",
        "trailing characters" => "there is text after the object",
        "invalid escape" => "a backslash is followed by an unknown character",
        "invalid number" => "a number is not valid",
        "number out of range" => "a number is too large",
        "recursion limit exceeded" => "lists and objects are nested too deeply",
        "expected `:`" => "a colon is missing",
        "expected `,` or `}`" | "expected `,` or `]`" => {
            "a comma or the closing bracket is missing"
        }
        other if other.starts_with("control character") => {
            "a control character in a string must be escaped, as in \\n"
        }
        other if other.contains("surrogate") || other.contains("unicode") => {
            "a \\u escape is not a character"
        }
        _ => "the text is not valid",
    };
    let found = text
        .lines()
        .nth(line.saturating_sub(1))
        .and_then(|line| line.get(column.saturating_sub(1)..)?.chars().next());
    let found = found.map_or_else(String::new, |found| format!(" (at {found:?})"));
    format!("the body is not JSON: {what}, at {place}{found}")
}

/// Describes a value that is not what a field takes. `error` names a field only if it is missing, unknown or
/// repeated; otherwise each field is tried by itself.
fn of_field<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message);
    if let Some(words) = of_name(message) {
        return words;
    }
    let fields: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    for (name, value) in fields {
        let found = described(&value);
        let mut alone = Map::new();
        alone.insert(name.clone(), value);
        let Err(error) = serde_json::from_value::<T>(Value::Object(alone)) else {
            continue;
        };
        let message = error.to_string();
        if of_name(&message).is_none() {
            return of_value(&name, &found, &message);
        }
        // A name inside of the field's value. A missing field is another one, at the top.
        if !message.starts_with("missing field") && !message.starts_with("unknown field") {
            return format!("{name}: {message}");
        }
    }
    of_value("a field", "a value", message)
}

/// Describes a missing, unknown or repeated name.
fn of_name(message: &str) -> Option<String> {
    let quoted = |prefix: &str| {
        let rest = message.strip_prefix(prefix)?.strip_prefix('`')?;
        // The last quotes before the list of names: a name may have a backquote.
        let end = rest.find("`, ").or_else(|| rest.rfind('`'))?;
        Some((&rest[..end], &rest[end + 1..]))
    };
    if let Some((name, _)) = quoted("missing field ") {
        return Some(format!("{name} is missing"));
    }
    if let Some((name, _)) = quoted("duplicate field ") {
        return Some(format!("{name} is given twice"));
    }
    let (name, rest) = quoted("unknown field ")?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let name = shown(name);
    Some(match known.is_empty() {
        true => format!("{name:?} is not a field of this document, which has none"),
        false => format!(
            "{name:?} is not a field of this document; its fields are {}",
            known.join(", ")
        ),
    })
}

/// Describes a value that its field does not take, from what the deserializer expects.
fn of_value(name: &str, found: &str, message: &str) -> String {
    if let Some((_, rest)) = message.split_once("unknown variant `") {
        let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
        return format!("{name} is {found}; it must be one of {}", known.join(", "));
    }
    let Some((_, expected)) = message.rsplit_once(", expected ") else {
        // Text of this program's own checks.
        return format!("{name}: {message}");
    };
    let expected = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a map" => "an object",
        "a sequence" => "a list",
        "a borrowed string" | "a character" | "str" => "a string",
        "unit" => "null",
        other if other.starts_with("struct ") || other.starts_with("internally tagged") => {
            "an object"
        }
        other if other.starts_with("tuple ") || other.starts_with("an array") => "a list",
        other => other,
    };
    format!("{name} is {found}; it must be {expected}")
}

/// Returns what a value is, in JSON's words.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {:?}", shown(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Returns the beginning of a text: the sender knows the rest.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Document {
        url: String,
        #[serde(default)]
        count: Option<u32>,
        #[serde(default)]
        is_on: bool,
        #[serde(default)]
        fields: Map<String, Value>,
        #[serde(default)]
        color: Option<Color>,
        #[serde(default)]
        hosts: Option<Vec<String>>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Color {
        Red,
        Blue,
    }

    fn error(text: &str) -> String {
        let error = parse::<Document>(text.as_bytes()).unwrap_err();
        for word in [
            "serde",
            "u32",
            "struct",
            "variant",
            "invalid type",
            "`",
            "EOF",
        ] {
            assert!(!error.contains(word), "{error}");
        }
        error
    }

    #[test]
    fn mistake_names_field_found_and_expected() {
        for (text, expected) in [
            ("{}", "url is missing"),
            (r#"{"url": 1}"#, "url is the number 1; it must be a string"),
            (r#"{"url": null}"#, "url is null; it must be a string"),
            (r#"{"url": "a", "url": "b"}"#, "url is given twice"),
            (
                r#"{"url": "a", "count": "7"}"#,
                r#"count is the string "7"; it must be a whole number from 0 to 4294967295"#,
            ),
            (
                r#"{"url": "a", "count": -1}"#,
                "count is the number -1; it must be a whole number from 0 to 4294967295",
            ),
            (
                r#"{"url": "a", "is_on": "yes"}"#,
                r#"is_on is the string "yes"; it must be true or false"#,
            ),
            (
                r#"{"url": "a", "fields": []}"#,
                "fields is a list; it must be an object",
            ),
            (
                r#"{"url": "a", "hosts": "h"}"#,
                r#"hosts is the string "h"; it must be a list"#,
            ),
            (
                r#"{"url": "a", "color": "green"}"#,
                r#"color is the string "green"; it must be one of red, blue"#,
            ),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
        let unknown = error(r#"{"url": "a", "colour": 1}"#);
        assert!(
            unknown.starts_with(
                r#""colour" is not a field of this document; its fields are url, count"#
            ),
            "{unknown}"
        );
    }

    #[test]
    fn syntax_mistake_has_its_place() {
        for (text, expected) in [
            ("", "the body is empty"),
            ("[]", "begins with '['"),
            (r#"{"url": "#, "it ends at line 1, column 8"),
            (
                r#"{"url": http://x}"#,
                "a value is missing or has no quotes, at line 1, column 9 (at 'h')",
            ),
            (
                "{\"url\": \"a\",\n}",
                "a comma has nothing after it, at line 2, column 1 (at '}')",
            ),
            ("{'url': 1}", "a name must be in double quotes"),
            ("{\"url\": \"a\"} x", "there is text after the object"),
            ("{\"url\": \"a\nb\"}", "a control character"),
            ("{\"url\": \"\\q\"}", "a backslash"),
            ("{\"url\" \"a\"}", "a colon is missing"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn byte_order_mark_is_skipped_and_encodings_are_named() {
        let text = "{\"url\": \"\u{fc}\"}";
        let marked = [BYTE_ORDER_MARK, text.as_bytes()].concat();
        assert_eq!(parse::<Document>(&marked).unwrap().url, "\u{fc}");
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in [
            [b"\xff\xfe", &utf16[..]].concat(),
            [b"\xfe\xff", &big[..]].concat(),
            utf16,
            big,
        ] {
            let error = parse::<Document>(&bytes).unwrap_err();
            assert_eq!(error, "the body is UTF-16; send it as UTF-8");
        }
        let error = parse::<Document>(b"{\"url\": \"\xfc\"}").unwrap_err();
        assert_eq!(
            error,
            "byte 9 of the body is 0xfc, which is not UTF-8; send the body as UTF-8"
        );
    }
}
