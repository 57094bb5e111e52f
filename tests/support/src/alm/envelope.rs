//! How entities go out: `<Entities>` and `{"entities":[…]}`.
//!
//! Written straight into one string: a page of 2000 entities is some megabytes of it.

use std::fmt::Write as _;

use super::entity::{Entity, Values, held};
use super::media::Format;
use super::schema::EntityType;
use super::xml::push_escaped;

const PROLOG: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>";

/// Which fields of an entity go out, by their places; all where none are chosen.
pub(super) type Chosen = Option<Vec<usize>>;

/// One entity as a document.
pub(super) fn one(format: Format, entity: &Entity, user: &str) -> String {
    document(format, &fragment(format, entity, user))
}

/// What is written already, as a document.
pub(super) fn document(format: Format, fragment: &str) -> String {
    match format {
        Format::Xml => format!("{PROLOG}{fragment}"),
        Format::Json => fragment.to_owned(),
    }
}

/// A page of entities as a document.
pub(super) fn many(
    format: Format,
    of: EntityType,
    entities: &[&Entity],
    total: usize,
    chosen: Chosen,
    user: &str,
) -> String {
    let places = chosen.unwrap_or_else(|| all_places(of));
    let written = entities.iter().map(|entity| {
        let mut out = String::new();
        push_entity(&mut out, format, of, entity.seen_by(user), &places);
        out
    });
    collection(format, total, written)
}

/// A collection of entities that are written already.
pub(super) fn collection(
    format: Format,
    total: usize,
    entities: impl Iterator<Item = String>,
) -> String {
    let (open, between, close) = match format {
        Format::Xml => (
            format!("{PROLOG}<Entities TotalResults=\"{total}\">"),
            "",
            "</Entities>".to_owned(),
        ),
        Format::Json => (
            "{\"entities\":[".to_owned(),
            ",",
            format!("],\"TotalResults\":{total}}}"),
        ),
    };
    let mut out = open;
    for (at, entity) in entities.enumerate() {
        if at > 0 {
            out.push_str(between);
        }
        out.push_str(&entity);
    }
    out + &close
}

/// One entity, with every field, to be put into a document.
pub(super) fn fragment(format: Format, entity: &Entity, user: &str) -> String {
    let mut out = String::new();
    let places = all_places(entity.entity_type);
    push_entity(
        &mut out,
        format,
        entity.entity_type,
        entity.seen_by(user),
        &places,
    );
    out
}

fn all_places(of: EntityType) -> Vec<usize> {
    (0..of.fields().len()).collect()
}

fn push_entity(
    out: &mut String,
    format: Format,
    of: EntityType,
    values: &Values,
    places: &[usize],
) {
    let fields = places
        .iter()
        .map(|place| (of.fields()[*place].name, held(values, *place)));
    push_fields(out, format, of.name(), fields);
}

/// An entity of any type, by its fields' names.
pub(super) fn push_fields<'a>(
    out: &mut String,
    format: Format,
    type_name: &str,
    fields: impl Iterator<Item = (&'a str, &'a [String])>,
) {
    match format {
        Format::Xml => push_xml(out, type_name, fields),
        Format::Json => push_json(out, type_name, fields),
    }
}

fn push_xml<'a>(
    out: &mut String,
    type_name: &str,
    fields: impl Iterator<Item = (&'a str, &'a [String])>,
) {
    let _ = write!(out, "<Entity Type=\"{type_name}\">");
    out.push_str("<ChildrenCount><Value>0</Value></ChildrenCount><Fields>");
    for (name, values) in fields {
        let _ = write!(out, "<Field Name=\"{name}\">");
        for value in values {
            out.push_str("<Value>");
            push_escaped(out, value);
            out.push_str("</Value>");
        }
        if values.is_empty() && name.len() % 2 == 0 {
            out.push_str("<Value/>");
        }
        out.push_str("</Field>");
    }
    out.push_str("</Fields><RelatedEntities/></Entity>");
}

fn push_json<'a>(
    out: &mut String,
    type_name: &str,
    fields: impl Iterator<Item = (&'a str, &'a [String])>,
) {
    out.push_str("{\"Fields\":[");
    for (at, (name, values)) in fields.enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(out, "{comma}{{\"Name\":\"{name}\",\"values\":[");
        for (at, value) in values.iter().enumerate() {
            out.push_str(if at > 0 {
                ",{\"value\":"
            } else {
                "{\"value\":"
            });
            push_json_text(out, value);
            out.push('}');
        }
        if values.is_empty() {
            out.push_str(nothing(name));
        }
        out.push_str("]}");
    }
    let _ = write!(out, "],\"Type\":\"{type_name}\",\"children-count\":0}}");
}

/// No value has three shapes, all seen on ALM 26.1. Which one a field has is by its name, so that it
/// is the same in every run.
fn nothing(name: &str) -> &'static str {
    match name.len() % 3 {
        0 => "{}",
        1 => "",
        _ => "{\"value\":null}",
    }
}

fn push_json_text(out: &mut String, text: &str) {
    let written = serde_json::to_string(text);
    out.push_str(&written.expect("a text can be written"));
}

#[cfg(test)]
mod tests {
    use super::super::draft;
    use super::*;

    #[test]
    fn entity_round_trips_in_both_formats() {
        let fields = [
            ("name", "a <b> & \"c\""),
            ("description", "<html>\n</html>"),
        ];
        let entity = Entity::of(EntityType::Defect, 3, &fields);
        for format in [Format::Xml, Format::Json] {
            let text = one(format, &entity, "ann");
            let read = draft::one(format, text.as_bytes()).expect("it can be read");
            assert_eq!(read.value("name"), Some("a <b> & \"c\""));
            assert_eq!(read.value("description"), Some("<html>\n</html>"));
            assert_eq!(read.value("id"), Some("3"));
            assert_eq!(read.fields.len(), EntityType::Defect.fields().len());
        }
    }

    #[test]
    fn empty_value_has_three_shapes_in_json() {
        let entity = Entity::of(EntityType::Defect, 3, &[]);
        let text = one(Format::Json, &entity, "ann");
        for shape in [
            "\"values\":[{}]",
            "\"values\":[]",
            "\"values\":[{\"value\":null}]",
        ] {
            assert!(text.contains(shape), "{shape}");
        }
    }

    #[test]
    fn page_states_the_total() {
        let entity = Entity::of(EntityType::Defect, 3, &[]);
        let page = |format| {
            many(
                format,
                EntityType::Defect,
                &[&entity],
                70,
                Some(vec![0]),
                "ann",
            )
        };
        let json: serde_json::Value =
            serde_json::from_str(&page(Format::Json)).expect("it is JSON");
        assert_eq!(json["TotalResults"], 70);
        assert_eq!(json["entities"][0]["Fields"][0]["values"][0]["value"], "3");
        let xml = super::super::xml::read(&page(Format::Xml)).expect("it is XML");
        assert_eq!(xml.attribute("TotalResults"), Some("70"));
        assert_eq!(xml.children.len(), 1);
    }
}
