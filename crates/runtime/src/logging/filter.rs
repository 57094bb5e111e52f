//! The filter of log lines: a level, or levels by module.

use crate::value;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Parses a level, or filters by module like `info,transport=debug`. Modules without a filter log from WARN on.
///
/// # Errors
/// What is wrong with the filter, with the list of levels.
pub fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    let wrong = |part: &str| {
        format!(
            "{} is not a log filter: write a level (error, warn, info, debug, trace, off), or filters by module like \
             info,transport=debug",
            value::shown(part)
        )
    };
    // The library takes any other word for a module, logs nothing else, and so silences the program.
    let is_level = |word: &str| {
        let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
        is_word && word.parse::<LevelFilter>().is_ok()
    };
    let has_spans = text.contains(['[', '{']);
    let mut has_level = false;
    for part in text.split(',').filter(|_| !has_spans) {
        match part.trim().split_once('=') {
            Some((module, level)) if !module.trim().is_empty() && is_level(level.trim()) => {}
            None if is_level(part.trim()) => has_level = true,
            Some(_) | None => return Err(wrong(part.trim())),
        }
    }
    // Without a level for all, the library switches everything else off.
    let text = match has_level || has_spans {
        true => text.to_owned(),
        false => format!("warn,{text}"),
    };
    EnvFilter::try_new(text.replace(' ', "")).map_err(|_| wrong(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_filter_is_a_level_or_names_modules() {
        for text in [
            "info",
            "DEBUG",
            "off",
            "info,transport=debug",
            "integration_bridge=trace",
        ] {
            assert!(parse_filter(text).is_ok(), "{text}");
        }
        for text in [
            "blah",
            "loud",
            "integration_bridge",
            "info,blah",
            "transport=loud",
            "=info",
            "",
            "5",
            "[=loud",
        ] {
            let error = parse_filter(text).unwrap_err();
            assert!(
                error.contains("error, warn, info, debug, trace"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn filter_by_module_keeps_warnings_of_others() {
        let filter = parse_filter("transport=debug").unwrap();
        assert_eq!(filter.max_level_hint(), Some(LevelFilter::DEBUG));
        assert!(filter.to_string().contains("warn"), "{filter}");
    }
}
