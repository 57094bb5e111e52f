//! As much XML as ALM's bodies need: a tolerant reader into a tree, and the escaping of text.
//!
//! No namespaces, no entities but the five of XML and characters by number, no checks of a
//! document's type.

/// An element, with the text of its own put together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    pub(super) children: Vec<Element>,
    pub(super) text: String,
}

impl Element {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let mut all = self.attributes.iter();
        all.find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of a child, where there is one.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim())
    }
}

/// Parses a document. The error is a text.
pub(super) fn read(document: &str) -> Result<Element, String> {
    let mut rest = document.trim_start_matches('\u{feff}');
    let mut open: Vec<Element> = vec![Element::default()];
    while let Some(at) = rest.find('<') {
        top(&mut open).text += &unescaped(&rest[..at]);
        rest = markup(&rest[at..], &mut open)?;
    }
    let mut root = match open.pop() {
        Some(root) if open.is_empty() => root,
        _ => return Err("an element is not closed".to_owned()),
    };
    root.children.pop().ok_or("no element".to_owned())
}

fn top(open: &mut [Element]) -> &mut Element {
    open.last_mut()
        .expect("the document itself is never closed")
}

/// One tag, comment or CDATA section at the beginning; what follows it.
fn markup<'a>(text: &'a str, open: &mut Vec<Element>) -> Result<&'a str, String> {
    let until = |text: &'a str, end: &str| {
        text.split_once(end)
            .ok_or_else(|| format!("{end} is missing"))
    };
    if let Some(rest) = text.strip_prefix("<![CDATA[") {
        let (inside, rest) = until(rest, "]]>")?;
        top(open).text += inside;
        return Ok(rest);
    }
    if let Some(rest) = text.strip_prefix("<!--") {
        return Ok(until(rest, "-->")?.1);
    }
    if text.starts_with("<?") || text.starts_with("<!") {
        return Ok(until(text, ">")?.1);
    }
    if let Some(rest) = text.strip_prefix("</") {
        let (name, rest) = until(rest, ">")?;
        close(name.trim(), open)?;
        return Ok(rest);
    }
    start_tag(&text[1..], open)
}

fn close(name: &str, open: &mut Vec<Element>) -> Result<(), String> {
    let done = open.pop().filter(|element| element.name == name);
    let done = done.ok_or_else(|| format!("</{name}> closes something else"))?;
    let parent = open.last_mut().ok_or("more is closed than was opened")?;
    parent.children.push(done);
    Ok(())
}

fn start_tag<'a>(text: &'a str, open: &mut Vec<Element>) -> Result<&'a str, String> {
    let end = text
        .find(|c: char| c.is_whitespace() || c == '>' || c == '/')
        .ok_or("a tag does not end")?;
    let (name, mut rest) = text.split_at(end);
    let mut element = Element {
        name: name.to_owned(),
        ..Element::default()
    };
    loop {
        rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix("/>") {
            top(open).children.push(element);
            return Ok(rest);
        }
        if let Some(rest) = rest.strip_prefix('>') {
            open.push(element);
            return Ok(rest);
        }
        let (attribute, after) = read_attribute(rest).ok_or("an attribute is broken")?;
        element.attributes.push(attribute);
        rest = after;
    }
}

fn read_attribute(text: &str) -> Option<((String, String), &str)> {
    let (name, rest) = text.split_once('=')?;
    let rest = rest.trim_start();
    let quote = rest.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let (value, rest) = rest[1..].split_once(quote)?;
    Some(((name.trim().to_owned(), unescaped(value)), rest))
}

/// Resolves references; what is none stays as it is.
fn unescaped(text: &str) -> String {
    let mut pieces = text.split('&');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let resolved = piece
            .split_once(';')
            .and_then(|(name, rest)| Some((reference(name)?, rest)));
        match resolved {
            Some((character, rest)) => {
                out.push(character);
                out += rest;
            }
            None => {
                out.push('&');
                out += piece;
            }
        }
    }
    out
}

fn reference(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let number = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(number.ok()?)
        }
    }
}

/// Adds text, escaped for an element or a quoted attribute.
pub(super) fn push_escaped(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
}

/// [`push_escaped`] into a string of its own.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_escaped(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_parses_into_a_tree() {
        let root = read(
            "<?xml version='1.0'?><!-- c --><Entity Type=\"defect\">\n<Fields>\
             <Field Name='name'><Value>a &lt;b&gt; &amp; &#x41;</Value></Field>\
             <Field Name='memo'><Value><![CDATA[<html>]]></Value></Field><Field Name='no'/>\
             </Fields></Entity>",
        )
        .expect("it is XML");
        assert_eq!(root.attribute("Type"), Some("defect"));
        let fields = &root.child("Fields").expect("it is there").children;
        assert_eq!(fields[0].text_of("Value"), Some("a <b> & A"));
        assert_eq!(fields[1].text_of("Value"), Some("<html>"));
        assert_eq!(fields[2].text_of("Value"), None);
    }

    #[test]
    fn broken_xml_is_an_error() {
        for broken in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "</a>",
            "<a b></a>",
            "<a b='>",
            "<a",
        ] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn xml_text_round_trips() {
        let text = "<html> \"a\" & 'b' ü €";
        let document = format!("<v>{}</v>", escaped(text));
        assert_eq!(read(&document).expect("it is XML").text, text);
    }
}
