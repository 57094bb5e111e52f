//! Slips in the text of a config file: what the line has, and what to write.
//!
//! The parser reports where it stopped, in terms of the grammar. The usual slips are few, so this module checks the line
//! again for them: quotation marks, backslashes, comments and separators of other formats. No message repeats a value,
//! which may be a secret; only a number with its unit is shown.

use crate::value::{is_invisible, is_typographic_quote, name_of};

/// Returns what is wrong near a byte of a text, given the parser's message.
pub(super) fn in_words(text: &str, at: usize, message: &str) -> String {
    if let Some(format) = other_format(text) {
        return format!(
            "the file is {format}, and the config is TOML: write key = value under [section]"
        );
    }
    let line = line_at(text, at);
    if message.starts_with("duplicate key") {
        return duplicate(text, line, at);
    }
    if message.starts_with("cannot recurse") {
        return "brackets are nested too deep".into();
    }
    match open_list(text, line, at) {
        Some((key, list)) if odd_character(line).is_none() && !is_foreign_comment(line) => {
            of_list(key, list)
        }
        Some(_) | None => of_line(line),
    }
}

/// Returns a list that began in an earlier line and has no end before the line of the mistake: its key, and the text
/// between.
fn open_list<'a>(text: &'a str, line: &str, at: usize) -> Option<(&'a str, &'a str)> {
    let before = text.get(..at)?;
    let line_start = before.rfind('\n')? + 1;
    let before = text.get(..line_start)?;
    let mut start = line_start;
    for earlier in before.split_inclusive('\n').rev() {
        start -= earlier.len();
        let Some((key, value)) = earlier.split_once('=') else {
            continue;
        };
        let key = key.trim();
        if !is_key(key) {
            continue;
        }
        let list_start = start + earlier.len() - value.len();
        let is_open =
            value.trim_start().starts_with('[') && depth(text.get(start..line_start)?) > 0;
        // The line may be a part of the list, or the next key, whose own list does not count.
        let is_part = !line.contains('=') && !line.trim_start().starts_with('[');
        let end = match is_part {
            true => line_start + line.len(),
            false => line_start,
        };
        return is_open.then_some((key, text.get(list_start..end)?));
    }
    None
}

/// Returns how many brackets of a text are open at its end. Those in texts and comments do not count.
fn depth(text: &str) -> usize {
    let mut depth = 0_usize;
    for line in text.lines() {
        let mut quote = None;
        for c in line.chars() {
            match (quote, c) {
                (Some(open), c) if open == c => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '#') => break,
                (None, '[') => depth += 1,
                (None, ']') => depth = depth.saturating_sub(1),
                (None, _) => {}
            }
        }
    }
    depth
}

/// Returns what is wrong with a list or table that a variable holds.
pub(super) fn of_value(text: &str) -> Option<String> {
    odd_character(text).or_else(|| {
        if text.contains("\":") || text.contains(": ") {
            return Some(
                "write = between a key and its value, as in { name = \"a\" }, and not a colon"
                    .into(),
            );
        }
        let is_bare = !text.contains(['"', '\'']) && text.contains(char::is_alphabetic);
        is_bare.then(|| "each text in it stands in quotation marks".into())
    })
}

fn other_format(text: &str) -> Option<&'static str> {
    let text = text.trim_start();
    match text.chars().next()? {
        '{' => Some("JSON"),
        '<' => Some("XML or HTML"),
        _ if text.starts_with("---") => Some("YAML"),
        _ => None,
    }
}

fn line_at(text: &str, at: usize) -> &str {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let (before, after) = text.split_at(at);
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let end = after.find('\n').map_or(text.len(), |end| at + end);
    text.get(start..end)
        .unwrap_or_default()
        .trim_end_matches('\r')
}

fn duplicate(text: &str, line: &str, at: usize) -> String {
    let name = line.trim();
    let what = match name.starts_with('[') {
        true => name.split('#').next().unwrap_or_default().trim(),
        false => name.split('=').next().unwrap_or_default().trim(),
    };
    // The first one is the place that the administrator has forgotten.
    let is_first = |line: &str| {
        let line = line.trim();
        line.strip_prefix(what).is_some_and(|rest| {
            let rest = rest.trim_start();
            rest.is_empty() || rest.starts_with(['=', '#'])
        })
    };
    let lines = text.get(..at).unwrap_or_default().lines().enumerate();
    let first = lines.filter(|(_, line)| is_first(line)).last();
    let first = first.map_or_else(String::new, |(index, _)| {
        format!(", first in line {}", index + 1)
    });
    match what.starts_with('[') {
        true => format!("{what} is there twice{first}: write all its keys under one header"),
        false => format!("{what} is there twice{first}: remove one"),
    }
}

fn odd_character(line: &str) -> Option<String> {
    if line.contains(is_typographic_quote) {
        return Some("typographic quotation marks: write straight ones (\")".into());
    }
    let odd = line
        .chars()
        .find(|c| is_invisible(*c) && *c != '\t' && *c != '\n')?;
    Some(match odd {
        '\r' => "a line ends with a carriage return alone: save the file with the line ends of Unix or Windows".into(),
        odd => format!("{} is in this line: remove it, or write a plain space", name_of(odd)),
    })
}

/// Whether a line is a comment of another format.
fn is_foreign_comment(line: &str) -> bool {
    let line = line.trim();
    ["//", ";", "--", "/*", "REM ", "rem "]
        .iter()
        .any(|sign| line.starts_with(sign))
}

fn of_line(line: &str) -> String {
    if let Some(odd) = odd_character(line) {
        return odd;
    }
    let line = line.trim();
    if is_foreign_comment(line) {
        return "a comment begins with #".into();
    }
    if line.starts_with('[') {
        return "a section is written [name], and an entry of a list [[name]], each alone in its line".into();
    }
    let Some((key, value)) = line.split_once('=') else {
        return match line.split_once(':') {
            Some((key, _)) if is_key(key.trim()) => {
                let key = key.trim();
                format!("write = after `{key}`, as in {key} = ..., and not a colon")
            }
            Some(_) | None => "this line is neither key = value nor [section]".into(),
        };
    };
    let key = key.trim();
    if !is_key(key) {
        return "the key before = may have letters, digits, - and _ only, without blanks and quotation marks".into();
    }
    of_assignment(key, value.trim())
}

fn is_key(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(is_part)
}

fn of_assignment(key: &str, value: &str) -> String {
    let first = value.chars().next();
    match first {
        None | Some('#') => {
            format!("`{key}` has no value: write one after =, or put # before the key")
        }
        Some('=' | '>') => format!("write one = after `{key}`"),
        Some(quote @ ('"' | '\'')) => of_text(key, value, quote),
        Some('[') => of_list(key, value),
        Some('{') => format!(
            "the table of `{key}` is written {{ name = \"value\" }} in one line, with commas between, and }} at the end"
        ),
        Some(_) => of_bare(key, value),
    }
}

/// The list may have numbers or texts, and only what it has says which.
fn of_list(key: &str, list: &str) -> String {
    let parts = list.split([',', '[', ']', ' ', '\t', '\n', '\r']);
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let is_number = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(number) = parts
        .iter()
        .find(|part| is_number(part) && has_leading_zero(part))
    {
        return format!(
            "a number in the list of `{key}` has leading zeros: write {}",
            without_zeros(number)
        );
    }
    let compact: String = list.chars().filter(|c| !c.is_whitespace()).collect();
    let is_numbers = !parts.is_empty() && parts.iter().all(is_number);
    let form = match is_numbers {
        true => "[80, 443]: numbers without quotation marks",
        false => "[\"a\", \"b\"]: each text in quotation marks",
    };
    match compact.contains(",,") || compact.starts_with("[,") {
        // In a list of texts the commas may be inside of one.
        true if is_numbers => {
            format!(
                "a number is missing at a comma in the list of `{key}`: write one like [80, 443]"
            )
        }
        true | false => {
            format!("the list of `{key}` is written {form}, one comma between, and ] at the end")
        }
    }
}

/// Whether a number is written like 0443, which TOML does not have.
pub(super) fn has_leading_zero(number: &str) -> bool {
    number.len() > 1 && number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns such a number as it must be written.
pub(super) fn without_zeros(number: &str) -> &str {
    match number.trim_start_matches('0') {
        "" => "0",
        number => number,
    }
}

fn of_text(key: &str, value: &str, quote: char) -> String {
    let inner = value.get(1..).unwrap_or_default();
    if quote == '"' && inner.contains('\\') {
        return format!(
            "a backslash in `{key}`: in double quotes it begins an escape sequence. Write the value in single quotes, as \
             in 'C:\\corp\\ca.pem', or write each backslash twice"
        );
    }
    match inner.split_once(quote) {
        None => format!("the value of `{key}` lacks its closing quotation mark ({quote})"),
        Some((_, rest)) if rest.trim_start().starts_with([',', ';']) => {
            format!(
                "remove the {} after the value of `{key}`",
                rest.trim_start().get(..1).unwrap_or_default()
            )
        }
        Some(_) => format!(
            "`{key}` has text after its closing quotation mark: remove it, or begin a comment with #"
        ),
    }
}

fn of_bare(key: &str, value: &str) -> String {
    let value = value.split('#').next().unwrap_or_default().trim();
    if let Some(rest) = value.strip_suffix([',', ';']) {
        let sign = value.get(rest.len()..).unwrap_or_default();
        return format!("remove the {sign} after the value of `{key}`");
    }
    let lower = value.to_ascii_lowercase();
    if matches!(
        lower.as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off"
    ) {
        return format!(
            "write `{key}` as true or false, in small letters (or in quotation marks, if it is a text)"
        );
    }
    if has_leading_zero(value) {
        return format!(
            "the number of `{key}` has leading zeros: write {key} = {}",
            without_zeros(value)
        );
    }
    let digits = value.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_unit = digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_alphabetic());
    if digits.len() < value.len() && is_unit {
        return format!("`{key}` needs quotation marks: write {key} = \"{value}\"");
    }
    format!("the value of `{key}` stands in no quotation marks: write {key} = \"...\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slip_is_named_with_what_to_write() {
        for (text, words) in [
            ("url = \u{201c}https://a\u{201d}", "straight ones"),
            ("url\u{a0}= \"https://a\"", "no-break space (U+00A0)"),
            ("url = https://me:sesame@a", "write url = \"...\""),
            ("wait = 5s", "write wait = \"5s\""),
            ("url = \"https://sesame", "closing quotation mark (\")"),
            ("file = \"C:\\corp\\sesame.pem\"", "single quotes"),
            ("url = \"https://sesame\",", "remove the ,"),
            ("url = \"sesame\" x", "after its closing"),
            ("url: \"sesame\"", "and not a colon"),
            ("url == \"sesame\"", "write one ="),
            ("url =", "has no value"),
            ("open = True", "in small letters"),
            ("open = yes", "in small letters"),
            ("// a comment", "begins with #"),
            ("; a comment", "begins with #"),
            ("[limits", "[name]"),
            ("[[allow]", "[[name]]"),
            ("my url = \"sesame\"", "the key before ="),
            ("names = [\"a\" \"b\"]", "one comma between"),
            ("ports = [443,,80]", "a number is missing at a comma"),
            ("ports = [443", "is written [80, 443]: numbers without"),
            ("ports = [80 443]", "is written [80, 443]"),
            ("ports = [80, 0443]", "has leading zeros: write 443"),
            ("n = 007", "has leading zeros: write n = 7"),
            ("n = 00 # none", "has leading zeros: write n = 0"),
            ("weights = { a = 1", "} at the end"),
            ("sesame", "neither key"),
        ] {
            let error = in_words(text, 0, "invalid");
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("sesame"), "{text}: {error}");
        }
        for (text, words) in [
            ("{\n\"a\": 1}", "JSON"),
            ("---\na: 1", "YAML"),
            ("<a/>", "XML"),
        ] {
            assert!(in_words(text, 3, "invalid").contains(words), "{text}");
        }
    }

    #[test]
    fn list_without_end_is_named_by_its_key() {
        for (text, words) in [
            (
                "ports = [443\nmethods = [\"GET\"]\n",
                "the list of `ports` is written [80, 443]",
            ),
            (
                "hosts = [\n  \"a]\", # ]\n[[allow]]\n",
                "the list of `hosts` is written [\"a\"",
            ),
            ("ports = [\n\n  443,\n\n  0080\n]\n", "write 80"),
            ("hosts = [\n  \"a\",\n  // b\n]\n", "begins with #"),
            ("hosts = [\"a\"]\n[limits\n", "[name]"),
            ("hosts = [\"a\"]\nn = 5s\n", "write n = \"5s\""),
        ] {
            let at = toml::de::DeTable::parse(text).unwrap_err().span();
            let error = in_words(text, at.unwrap().start, "invalid");
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn duplicate_names_the_first_place() {
        let text = "[a]\nx = 1\n[b]\nx = 1\n\n[a]\nx = 2\n";
        let error = in_words(text, text.rfind("[a]").unwrap(), "duplicate key");
        assert_eq!(
            error,
            "[a] is there twice, first in line 1: write all its keys under one header"
        );
        let text = "[a]\nx = 1\nx = \"sesame\"\n";
        let error = in_words(text, text.rfind('x').unwrap(), "duplicate key");
        assert_eq!(error, "x is there twice, first in line 2: remove one");
    }
}
