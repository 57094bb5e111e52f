//! The deserializer's messages in the words of a config: the key, what it has, what to write.
//!
//! serde has no typed errors, only texts, which the documentation of `serde::de::Error` promises: `unknown field`,
//! `missing field`, `invalid type`, `unknown variant`. Messages of the config's own types pass unchanged. No message
//! repeats a text from the config, except for short plain words and numbers ([`crate::value::shown`]).

use super::schema::Section;
use crate::value::shown;

/// Where a mistake is in the tree of the config, and what the config could have.
pub(super) struct Context<'a> {
    /// The names of the tables and of the key on the way to it, as far as they are known.
    pub(super) path: &'a [String],
    pub(super) sections: &'a [Section],
    /// Whether the value is a date, which the deserializer takes for a table.
    pub(super) is_date: bool,
    /// Returns the environment variable of a section's key.
    pub(super) variable: &'a dyn Fn(&str, &str) -> Option<String>,
}

impl Context<'_> {
    /// Returns the section of the mistake.
    fn section(&self) -> Option<&Section> {
        let name = self.path.first()?;
        self.sections.iter().find(|section| section.name == name)
    }

    fn key(&self) -> String {
        match self.path {
            [] => "the value".into(),
            path => format!("`{}`", path.join(".")),
        }
    }
}

/// Sections that only one of the programs has. Their configs lie next to each other, and are easily mixed up.
pub const PROGRAM_SECTIONS: [(&str, &[&str]); 2] = [
    (
        "integration-bridge",
        &[
            "relay",
            "bridge",
            "allow",
            "targets",
            "kerberos",
            "signed_calls",
            "update",
        ],
    ),
    (
        "integration-relay",
        &[
            "listen",
            "tls",
            "storage",
            "tunnel",
            "directory",
            "weights",
            "bridges",
        ],
    ),
];

/// Returns the message for an unknown section that another program has.
pub(super) fn of_other_program(name: &str, sections: &[Section]) -> Option<String> {
    let (program, _) = PROGRAM_SECTIONS
        .iter()
        .find(|(_, names)| names.contains(&name))?;
    // The own program is the one that has a section of this config.
    let is_own = |names: &[&str]| sections.iter().any(|section| names.contains(&section.name));
    let (own, _) = PROGRAM_SECTIONS
        .iter()
        .find(|(other, names)| other != program && is_own(names))?;
    Some(format!(
        "[{name}] is a section of the config of {program}, not of {own}: check --config"
    ))
}

/// Returns the message for a section that no program has.
pub(super) fn unknown_section(name: &str, sections: &[Section]) -> String {
    let shown = match name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    {
        true => format!("[{name}]"),
        false => "in brackets".into(),
    };
    match closest(name, sections.iter().map(|section| section.name)) {
        Some(near) => {
            let near = sections.iter().find(|section| section.name == near);
            let near = near.map(Section::header).unwrap_or_default();
            format!("unknown section {shown}; did you mean {near}?")
        }
        None => {
            let headers: Vec<String> = sections.iter().map(Section::header).collect();
            format!(
                "unknown section {shown}; known here: {}",
                headers.join(", ")
            )
        }
    }
}

/// Returns a message in plain words.
pub(super) fn in_plain_words(message: &str, context: &Context<'_>) -> String {
    let message = message.trim();
    if let Some(rest) = message.strip_prefix("unknown field `") {
        return unknown_key(rest, context);
    }
    if let Some(rest) = message.strip_prefix("missing field `") {
        return missing_key(rest.trim_end_matches('`'), context);
    }
    if let Some(rest) = message.strip_prefix("unknown variant `") {
        return unknown_word(rest, context);
    }
    let typed = ["invalid type: ", "invalid value: ", "invalid length "];
    if let Some(rest) = typed.iter().find_map(|prefix| message.strip_prefix(prefix)) {
        return wrong_type(rest, context);
    }
    // What the TOML library says of an enum.
    if message.starts_with("wanted string or table") {
        return format!("{} must be a word in quotation marks", context.key());
    }
    if let Some(rest) = message.strip_prefix("duplicate field `") {
        return format!(
            "`{}` is there twice: remove one",
            rest.trim_end_matches('`')
        );
    }
    message.to_owned()
}

/// `name`, expected one of `a`, `b`.
fn unknown_key(rest: &str, context: &Context<'_>) -> String {
    // Every second part is between backticks.
    let mut quoted = rest.split('`').step_by(2);
    let given = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.filter(|name| !name.is_empty()).collect();
    let own = context.section();
    let is_top = own.is_none();
    let homes: Vec<String> = context
        .sections
        .iter()
        .filter(|section| own != Some(section) && section.keys.contains(&given))
        .map(Section::header)
        .collect();
    // A key of another section, exactly as it is written there: the header above it is the mistake.
    if let [others @ .., last] = homes.as_slice() {
        let list = match others {
            [] => last.clone(),
            others => format!("{} or {last}", others.join(", ")),
        };
        let here = own.map_or_else(
            || "outside of any section".into(),
            |own| format!("under {}", own.header()),
        );
        return format!("unknown key `{given}` {here}: it belongs under {list}");
    }
    // `log_level`, as the environment variable has it.
    let joined = context.sections.iter().find_map(|section| {
        let key = given.strip_prefix(section.name)?.strip_prefix('_')?;
        (!section.is_list && section.keys.contains(&key)).then(|| (section, key.to_owned()))
    });
    if let Some((section, key)) = joined {
        return format!(
            "unknown key `{given}`; write `{key}` under {}",
            section.header()
        );
    }
    let header = |name: &str| {
        let section = context.sections.iter().find(|section| section.name == name);
        section
            .filter(|_| is_top)
            .map_or_else(|| format!("`{name}`"), Section::header)
    };
    match closest(given, known.iter().copied()) {
        Some(near) => format!("unknown key `{given}`; did you mean {}?", header(near)),
        None => format!("unknown key `{given}`; known here: {}", known.join(", ")),
    }
}

fn missing_key(name: &str, context: &Context<'_>) -> String {
    let Some(section) = context.section() else {
        let section = context.sections.iter().find(|section| section.name == name);
        return match section {
            Some(section) => format!("missing section {}", section.header()),
            None => format!("missing key `{name}`"),
        };
    };
    let variable = match section.is_list {
        true => None,
        false => (context.variable)(section.name, name),
    };
    let or =
        variable.map(|variable| format!("; write it, or set the environment variable {variable}"));
    format!(
        "missing key `{name}` in {}{}",
        section.header(),
        or.unwrap_or_default()
    )
}

/// `name`, expected one of `a`, `b`.
fn unknown_word(rest: &str, context: &Context<'_>) -> String {
    let mut quoted = rest.split('`').step_by(2);
    let given = quoted.next().unwrap_or_default();
    let known: Vec<String> = quoted
        .filter(|word| !word.is_empty())
        .map(|word| format!("\"{word}\""))
        .collect();
    let lower = given.to_ascii_lowercase();
    let near = closest(&lower, known.iter().map(|word| word.trim_matches('"')));
    let near = near.map(|near| format!("; did you mean \"{near}\"?"));
    let list = match known.as_slice() {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        known => known.concat(),
    };
    format!(
        "{} is not known for {}: write {list}{}",
        shown(given),
        context.key(),
        near.unwrap_or_default()
    )
}

/// integer `5`, expected a string.
fn wrong_type(rest: &str, context: &Context<'_>) -> String {
    // From the right: a text of the config may have these words, too.
    let (found, expected) = rest
        .rsplit_once(", expected ")
        .unwrap_or((rest, "another type"));
    let name = context.path.last().map_or("", String::as_str);
    if context.path.len() == 1
        && let Some(section) = context.section()
    {
        return format!(
            "`{name}` is a section: write its keys under {}",
            section.header()
        );
    }
    let found = match found.split(' ').next().unwrap_or_default() {
        "string" => "a text in quotation marks",
        "integer" if is_integer(expected) => "a number that is too large or negative",
        "integer" => "a number without quotation marks",
        "floating" => "a number with a fraction",
        "boolean" => "true or false",
        "sequence" => "a list",
        "map" if context.is_date => "a date without quotation marks",
        "map" => "a table",
        "datetime" => "a date",
        _ => "of another type",
    };
    let expected = match expected {
        "a boolean" => "true or false without quotation marks".to_owned(),
        "a string" | "str" | "a borrowed string" => "a text in quotation marks".to_owned(),
        "a sequence" | "an array" if found.starts_with("a number") => {
            "a list, like [1, 2]".to_owned()
        }
        "a sequence" | "an array" => "a list, like [\"a\", \"b\"]".to_owned(),
        "a map" => "a table, like { name = \"value\" }".to_owned(),
        "f32" | "f64" => "a number without quotation marks".to_owned(),
        other if is_integer(other) => "a whole number without quotation marks".to_owned(),
        other if other.starts_with("struct ") => "a table, like { name = \"value\" }".to_owned(),
        other if other.starts_with("enum ") || other.starts_with("variant ") => {
            "a word in quotation marks".to_owned()
        }
        other => other.to_owned(),
    };
    format!("{} is {found}: write {expected}", context.key())
}

fn is_integer(name: &str) -> bool {
    matches!(
        name,
        "i8" | "i16"
            | "i32"
            | "i64"
            | "i128"
            | "isize"
            | "u8"
            | "u16"
            | "u32"
            | "u64"
            | "u128"
            | "usize"
    )
}

/// Returns the known name that is most like the given one, if one is like it at all.
pub fn closest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|name| (strsim::damerau_levenshtein(given, name), name));
    let (distance, name) = scored.min_by_key(|(distance, _)| *distance)?;
    // A third of the letters may differ, as compilers have it: beyond that a suggestion misleads.
    (distance <= (given.len().max(3)) / 3).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(path: &[&str], message: &str) -> String {
        let sections = [
            Section {
                name: "relay",
                is_list: false,
                keys: vec!["url", "ca_file"],
            },
            Section {
                name: "targets",
                is_list: false,
                keys: vec!["ca_file", "wait"],
            },
            Section {
                name: "allow",
                is_list: true,
                keys: vec!["host"],
            },
        ];
        let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
        let variable = |section: &str, key: &str| Some(format!("{section}_{key}").to_uppercase());
        let context = Context {
            path: &path,
            sections: &sections,
            is_date: path.last().is_some_and(|name| name == "day"),
            variable: &variable,
        };
        in_plain_words(message, &context)
    }

    #[test]
    fn message_has_key_and_what_to_write() {
        for (path, message, expected) in [
            (
                &[][..],
                "unknown field `relais`, expected one of `relay`, `allow`",
                "unknown key `relais`; did you mean [relay]?",
            ),
            (
                &["relay"],
                "unknown field `colour`, expected `url` or `ca_file`",
                "unknown key `colour`; known here: url, ca_file",
            ),
            (
                &["relay"],
                "unknown field `wait`, expected `url` or `ca_file`",
                "unknown key `wait` under [relay]: it belongs under [targets]",
            ),
            (
                &[],
                "unknown field `ca_file`, expected `relay`",
                "unknown key `ca_file` outside of any section: it belongs under [relay] or [targets]",
            ),
            (
                &["relay"],
                "missing field `url`",
                "missing key `url` in [relay]; write it, or set the environment variable RELAY_URL",
            ),
            (
                &["allow"],
                "missing field `host`",
                "missing key `host` in [[allow]]",
            ),
            (
                &["log", "level"],
                "unknown variant `infos`, expected one of `info`, `warn`",
                "\"infos\" is not known for `log.level`: write \"info\" or \"warn\"; did you mean \"info\"?",
            ),
            (
                &["relay"],
                "invalid type: string \"sesame\", expected struct Relay",
                "`relay` is a section: write its keys under [relay]",
            ),
            (
                &[],
                "unknown field `targets_wait`, expected `relay`",
                "unknown key `targets_wait`; write `wait` under [targets]",
            ),
            (
                &["log", "level"],
                "wanted string or table",
                "`log.level` must be a word in quotation marks",
            ),
            (
                &["relay", "n"],
                "invalid type: floating point `1.5`, expected u32",
                "`relay.n` is a number with a fraction: write a whole number without quotation marks",
            ),
            (
                &["relay", "n"],
                "invalid type: string \"sesame\", expected u32",
                "`relay.n` is a text in quotation marks: write a whole number without quotation marks",
            ),
            (
                &["relay", "n"],
                "invalid type: string \"a, expected b\", expected a boolean",
                "`relay.n` is a text in quotation marks: write true or false without quotation marks",
            ),
            (
                &["relay", "day"],
                "invalid type: map, expected a string",
                "`relay.day` is a date without quotation marks: write a text in quotation marks",
            ),
            (
                &["targets", "wait"],
                "invalid type: integer `5`, expected a duration in quotes",
                "`targets.wait` is a number without quotation marks: write a duration in quotes",
            ),
        ] {
            assert_eq!(words(path, message), expected);
        }
    }
}
