//! The imports of one source file: every path that begins at the crate's root.
//!
//! This is no Rust parser. It splits the text into tokens, removes items under `#[cfg(test)]`, and reads paths
//! after `crate::` and `super::`. That is enough, because imports are written in no other way here.

/// An import from the crate's root: the first segment after `crate::`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import(pub(super) String);

/// What a file contributes to the graph.
#[derive(Debug)]
pub(super) struct Source {
    /// The file, relative to `src`.
    pub(super) path: String,
    /// The path of its module; empty for the root.
    pub(super) module: Vec<String>,
    pub(super) imports: Vec<Import>,
    /// Names that the file re-exports from a module: the name, and the path's first segment.
    pub(super) reexports: Vec<(String, String)>,
    /// Modules that are declared for tests alone.
    pub(super) test_modules: Vec<Vec<String>>,
}

impl Source {
    /// Reads the imports of a file.
    pub(super) fn parse(path: &str, text: &str) -> Self {
        let module = module_of(path);
        let mut source = Self {
            path: path.to_owned(),
            imports: Vec::new(),
            reexports: Vec::new(),
            test_modules: Vec::new(),
            module,
        };
        let tokens = source.without_tests(&tokens(text));
        source.read_imports(&tokens);
        source.read_reexports(&tokens);
        source
    }

    /// Removes items under `#[cfg(test)]`, and notes the modules that are declared so.
    fn without_tests(&mut self, tokens: &[String]) -> Vec<String> {
        let mut kept = Vec::new();
        let mut rest = tokens;
        let marker = ["#", "[", "cfg", "(", "test", ")", "]"];
        while let Some((first, others)) = rest.split_first() {
            if !starts_with(rest, &marker) {
                kept.push(first.clone());
                rest = others;
                continue;
            }
            let (item, after) = rest[marker.len()..].split_at(item_len(&rest[marker.len()..]));
            let name = item.iter().position(|token| token == "mod");
            if let Some(name) = name.and_then(|at| item.get(at + 1)) {
                let mut module = self.module.clone();
                module.push(name.clone());
                self.test_modules.push(module);
            }
            rest = after;
        }
        kept
    }

    fn read_imports(&mut self, tokens: &[String]) {
        for (at, token) in tokens.iter().enumerate() {
            let rest = &tokens[at + 1..];
            match token.as_str() {
                "crate" => self.imports.extend(first_segments(rest)),
                // A chain of `super` is read at its first link.
                "super" if at < 2 || tokens[at - 2] != "super" => {
                    let mut rest = rest;
                    let mut levels = 1;
                    while starts_with(rest, &["::", "super"]) {
                        levels += 1;
                        rest = &rest[2..];
                    }
                    // Fewer levels stay within the top-level module.
                    if levels == self.module.len() {
                        self.imports.extend(first_segments(rest));
                    }
                }
                _ => {}
            }
        }
    }

    fn read_reexports(&mut self, tokens: &[String]) {
        for (at, token) in tokens.iter().enumerate() {
            if token != "use" {
                continue;
            }
            let path: Vec<&String> = tokens[at + 1..]
                .iter()
                .take_while(|token| *token != ";")
                .filter(|token| {
                    !matches!(token.as_str(), "::" | "{" | "}" | "," | "self" | "crate")
                })
                .collect();
            if let Some((module, names)) = path.split_first() {
                let names = names
                    .iter()
                    .map(|name| ((*name).clone(), (*module).clone()));
                self.reexports.extend(names);
            }
        }
    }
}

/// Returns the module path of a file.
fn module_of(path: &str) -> Vec<String> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    if module == ["lib"] || module == ["main"] {
        module.clear();
    }
    module
}

fn starts_with(tokens: &[String], expected: &[&str]) -> bool {
    tokens.len() >= expected.len() && tokens.iter().zip(expected).all(|(token, e)| token == e)
}

/// Returns the number of tokens of an item: to its `;`, or to the end of its first block. A `use` ends at its
/// `;` alone.
fn item_len(tokens: &[String]) -> usize {
    let mut depth = 0_usize;
    let mut is_use = false;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "use" if depth == 0 => is_use = true,
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && token == "}" && !is_use {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Returns the first segments of the paths after `crate` or `super`: one, or those of a group.
fn first_segments(rest: &[String]) -> Vec<Import> {
    let Some((separator, rest)) = rest.split_first() else {
        return Vec::new();
    };
    if separator != "::" {
        return Vec::new();
    }
    match rest.first().map(String::as_str) {
        Some("{") => {}
        Some(name) => return vec![Import(name.to_owned())],
        None => return Vec::new(),
    }
    let mut imports = Vec::new();
    let mut depth = 0_usize;
    let mut is_first = false;
    for token in rest {
        match token.as_str() {
            "{" => {
                depth += 1;
                is_first = depth == 1;
            }
            "}" => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            "," if depth == 1 => is_first = true,
            name if is_first => {
                imports.push(Import(name.to_owned()));
                is_first = false;
            }
            _ => {}
        }
    }
    imports
}

/// Splits a text into identifiers, `::` and single characters, without comments and literals.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = after_block_comment(rest);
        } else if first == '"' {
            rest = after_string(rest);
        } else if let Some(after) = after_raw_string(rest) {
            rest = after;
        } else if first == '\'' {
            rest = after_quote(rest);
        } else if first.is_alphabetic() || first == '_' {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            rest = &rest[end..];
        } else if let Some(after) = rest.strip_prefix("::") {
            tokens.push("::".to_owned());
            rest = after;
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

fn after_block_comment(text: &str) -> &str {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return &text[at..];
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    ""
}

fn after_string(text: &str) -> &str {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

/// Returns what follows a raw string, if the text begins with one: `r"..."`, `br#"..."#`.
fn after_raw_string(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('b').unwrap_or(text).strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let body = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or("", |at| &body[at + end.len()..]))
}

/// Returns what follows a character literal, or the quote of a lifetime.
fn after_quote(text: &str) -> &str {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            // The escaped character may be a quote itself.
            let rest = &text[at + escaped.len_utf8()..];
            rest.find('\'').map_or("", |end| &rest[end + 1..])
        }
        (Some(_), Some((at, '\''))) => &text[at + 1..],
        _ => &text[1..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(path: &str, text: &str) -> Vec<String> {
        let source = Source::parse(path, text);
        source.imports.into_iter().map(|import| import.0).collect()
    }

    #[test]
    fn every_form_of_a_path_is_read() {
        let text = "use crate::a::B;\nuse crate::{c, d::{e, f::G}, h};\npub(crate) use crate::i;\n\
                    fn f<'a>(x: &'a crate::j::K) -> char { let _ = crate::l::m(); '\"' }";
        let expected = ["a", "c", "d", "h", "i", "j", "l"];
        assert_eq!(imports("x.rs", text), expected);
    }

    #[test]
    fn super_of_a_child_reaches_the_root_by_two() {
        let text = "use super::a; use super::super::b; use super::super::{c, d};";
        assert_eq!(imports("x/y.rs", text), ["b", "c", "d"]);
        assert_eq!(imports("x.rs", "use super::a;"), ["a"]);
    }

    #[test]
    fn comments_and_literals_have_no_imports() {
        let text = "//! crate::a\n/* crate::b /* crate::c */ crate::d */ const X: &str = \"crate::e \\\" crate::f\";\n\
                    const Y: &str = r#\"crate::g \" crate::h\"#; const Z: char = '\\''; use crate::i;";
        assert_eq!(imports("x.rs", text), ["i"]);
    }

    #[test]
    fn items_of_tests_are_left_out() {
        let text = "use crate::a;\n#[cfg(test)]\nuse crate::{b, c};\n#[cfg(test)]\nfn f() { crate::d(); }\n\
                    #[cfg(test)]\nmod files;\nuse crate::e;\n#[cfg(test)]\nmod tests {\n  use crate::f;\n}";
        let source = Source::parse("x/y.rs", text);
        assert_eq!(
            source.test_modules,
            [["x", "y", "files"], ["x", "y", "tests"]]
        );
        let names: Vec<_> = source.imports.iter().map(|import| &import.0).collect();
        assert_eq!(names, ["a", "e"]);
    }

    #[test]
    fn reexports_of_the_root_name_their_module() {
        let source = Source::parse(
            "lib.rs",
            "mod running; pub use running::{Relay, StartError};",
        );
        let expected = [("Relay", "running"), ("StartError", "running")];
        let expected = expected.map(|(name, module)| (name.to_owned(), module.to_owned()));
        assert_eq!(source.reexports, expected);
    }
}
