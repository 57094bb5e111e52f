//! `GET /errors/{code}`: the entry of an error code in the troubleshooting guide, from the program itself, so that
//! it fits the version and is available offline.

use protocol::Code;

/// The guide. It has a heading of the third level for each code.
const GUIDE: &str = include_str!("../../../../deploy/guide/troubleshooting.md");

/// Returns the path of a code's entry.
pub(crate) fn path(code: Code) -> String {
    format!("/errors/{code}")
}

/// Returns the entry of the code with this name, as Markdown.
pub(crate) fn entry(name: &str) -> Option<&'static str> {
    // Only names of codes: the guide has other headings.
    Code::ALL.iter().find(|code| code.as_str() == name)?;
    let start = GUIDE.find(&format!("\n### {name}\n"))? + 1;
    let rest = &GUIDE[start..];
    let end = rest.find("\n##").map_or(rest.len(), |end| end + 1);
    // The next heading may be of the same level or a higher one.
    Some(rest[..end].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_entry() {
        for code in Code::ALL {
            let entry = entry(code.as_str()).unwrap_or_else(|| panic!("{code} has no entry"));
            assert!(entry.starts_with(&format!("### {code}\n")), "{entry}");
            assert!(entry.contains("**Meaning:**"), "{entry}");
            let status = format!("Status {}", code.http_status());
            assert!(entry.contains(&status), "{code}: no {status:?} in {entry}");
            assert_eq!(entry.matches("\n## ").count(), 0, "{entry}");
            assert_eq!(entry.matches("### ").count(), 1, "{entry}");
        }
    }

    #[test]
    fn other_names_have_no_entry() {
        for name in ["", "OVERLOADED", "overloaded\n", "Errors of the request"] {
            assert_eq!(entry(name), None, "{name:?}");
        }
    }
}
