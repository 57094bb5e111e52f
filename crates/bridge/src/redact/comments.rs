//! A config without its comments: administrators note passwords there, in any words.

/// Replaces a comment.
const COMMENT: &str = "# [comment removed]";

/// The state of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scan {
    Plain,
    /// In a string of one line, with its quote.
    Short(char),
    /// In a string of several lines, with its quote.
    Long(char),
}

/// Returns TOML without its comments. Lines keep their numbers.
pub(crate) fn without_comments(text: &str) -> String {
    let (stripped, scan) = strip(text);
    match scan {
        Scan::Plain => stripped,
        // A string without its end hides the comments that follow: every `#` counts as one then.
        Scan::Short(_) | Scan::Long(_) => text
            .lines()
            .map(|line| match line.split_once('#') {
                Some((before, _)) => format!("{before}{COMMENT}\n"),
                None => format!("{line}\n"),
            })
            .collect(),
    }
}

fn strip(text: &str) -> (String, Scan) {
    let mut out = String::with_capacity(text.len());
    let mut scan = Scan::Plain;
    for line in text.lines() {
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            let mut taken = c.len_utf8();
            match scan {
                Scan::Plain if c == '#' => {
                    out.push_str(COMMENT);
                    break;
                }
                Scan::Plain if c == '"' || c == '\'' => {
                    scan = match rest.starts_with(long(c)) {
                        true => {
                            taken = 3;
                            Scan::Long(c)
                        }
                        false => Scan::Short(c),
                    };
                }
                Scan::Short(quote) if c == quote => scan = Scan::Plain,
                Scan::Long(quote) if rest.starts_with(long(quote)) => {
                    taken = 3;
                    scan = Scan::Plain;
                }
                // The character after a backslash ends nothing. Literal strings have no escapes.
                Scan::Short('"') | Scan::Long('"') if c == '\\' => {
                    taken += rest[1..].chars().next().map_or(0, char::len_utf8);
                }
                Scan::Plain | Scan::Short(_) | Scan::Long(_) => {}
            }
            out.push_str(&rest[..taken]);
            rest = &rest[taken..];
        }
        out.push('\n');
        if let Scan::Short(_) = scan {
            // An error of TOML: the string has no end. The next line begins outside.
            scan = Scan::Plain;
        }
    }
    (out, scan)
}

fn long(quote: char) -> &'static str {
    match quote {
        '"' => "\"\"\"",
        _ => "'''",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_strings_stay() {
        let text = "a = \"x # y\" # pass is s1\n# s2\nb = 'it # is\\' # s3\nc = \"\"\"\n# kept\n\"\"\" # s4\n\
                    d = \"q\\\" # z\" #s5\ne = 1\n";
        let stripped = without_comments(text);
        for secret in ["s1", "s2", "s3", "s4", "s5"] {
            assert!(!stripped.contains(secret), "{stripped}");
        }
        for kept in ["x # y", "it # is", "# kept", "q\\\" # z", "e = 1"] {
            assert!(stripped.contains(kept), "{stripped}");
        }
        assert_eq!(stripped.lines().count(), text.lines().count());
    }

    #[test]
    fn string_without_end_hides_no_comment() {
        for text in [
            "a = \"x\n# secret1\n",
            "a = \"\"\"x\n# secret1\nb = 2 # secret1\n",
        ] {
            let stripped = without_comments(text);
            assert!(!stripped.contains("secret1"), "{stripped}");
        }
    }
}
