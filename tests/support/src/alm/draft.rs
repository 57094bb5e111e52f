//! What a client writes: entities in XML or JSON, read into fields in the order in which they came.
//!
//! ```text
//! <Entity Type="defect"><Fields><Field Name="name"><Value>a</Value></Field></Fields></Entity>
//! {"Fields":[{"Name":"name","values":[{"value":"a"}]}],"Type":"defect"}
//! <Entities><Entity>…</Entity></Entities>      {"entities":[{…}]}
//! ```

use serde_json::Value;

use super::fault::Fault;
use super::media::Format;
use super::xml::{self, Element};

/// One entity that came in.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Draft {
    /// Its type, where it names one.
    pub(super) named_type: Option<String>,
    /// Names and values; no values empty a field.
    pub(super) fields: Vec<(String, Vec<String>)>,
    /// Whether the order of its fields matters: on ALM 26.1 it does for a requirement in JSON.
    pub(super) is_ordered: bool,
}

impl Draft {
    /// Of names and values that a test gives.
    pub(super) fn of(fields: &[(&str, &str)]) -> Self {
        let fields = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), given(value)))
            .collect();
        Self {
            fields,
            ..Self::default()
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let (_, values) = fields.find(|(known, _)| known == name)?;
        values.first().map(String::as_str)
    }
}

/// Reads one entity.
pub(super) fn one(format: Format, body: &[u8]) -> Result<Draft, Fault> {
    match format {
        Format::Xml => of_element(&document(body)?),
        Format::Json => of_json(&json(body)?),
    }
}

/// Reads a collection of entities.
pub(super) fn many(format: Format, body: &[u8]) -> Result<Vec<Draft>, Fault> {
    match format {
        Format::Xml => document(body)?.children.iter().map(of_element).collect(),
        Format::Json => {
            let document = json(body)?;
            let all = document["entities"].as_array();
            let all = all.ok_or_else(|| Fault::malformed("'entities' is missing"))?;
            all.iter().map(of_json).collect()
        }
    }
}

/// Reads any XML document.
pub(super) fn document(body: &[u8]) -> Result<Element, Fault> {
    let text = std::str::from_utf8(body).map_err(|error| Fault::malformed(error.to_string()))?;
    xml::read(text).map_err(Fault::malformed)
}

/// Reads any JSON document.
pub(super) fn json(body: &[u8]) -> Result<Value, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::malformed(error.to_string()))
}

fn of_element(entity: &Element) -> Result<Draft, Fault> {
    let fields = entity
        .child("Fields")
        .ok_or_else(|| Fault::malformed("<Fields> is missing"))?;
    let fields = fields.children.iter().map(|field| {
        let name = field
            .attribute("Name")
            .ok_or_else(|| Fault::malformed("a field has no name"))?;
        let values = field.children.iter().filter(|child| child.name == "Value");
        let values = values.flat_map(|value| given(value.text.as_str()));
        Ok((name.to_owned(), values.collect()))
    });
    Ok(Draft {
        named_type: entity.attribute("Type").map(str::to_owned),
        fields: fields.collect::<Result<_, Fault>>()?,
        is_ordered: false,
    })
}

fn of_json(entity: &Value) -> Result<Draft, Fault> {
    let fields = entity["Fields"]
        .as_array()
        .ok_or_else(|| Fault::malformed("'Fields' is missing"))?;
    let fields = fields.iter().map(|field| {
        let name = field["Name"]
            .as_str()
            .ok_or_else(|| Fault::malformed("a field has no name"))?;
        Ok((name.to_owned(), json_values(&field["values"])?))
    });
    Ok(Draft {
        named_type: entity["Type"].as_str().map(str::to_owned),
        fields: fields.collect::<Result<_, Fault>>()?,
        is_ordered: true,
    })
}

/// `[{"value":"a"}]`; any of `[{}]`, `[]` and null is no value.
fn json_values(values: &Value) -> Result<Vec<String>, Fault> {
    let values = values.as_array().map_or(&[][..], Vec::as_slice);
    let mut all = Vec::new();
    for value in values {
        match &value["value"] {
            Value::Null => {}
            Value::String(text) => all.extend(given(text.as_str())),
            Value::Number(number) => all.push(number.to_string()),
            other @ (Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
                return Err(Fault::malformed(format!("{other} is no field's value")));
            }
        }
    }
    Ok(all)
}

/// An empty text is no value.
fn given(text: &str) -> Vec<String> {
    if text.is_empty() {
        Vec::new()
    } else {
        vec![text.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_xml_parse_alike() {
        let xml =
            br#"<Entity Type="defect"><Fields><Field Name="name"><Value>a&amp;b</Value></Field>
            <Field Name="owner"><Value/></Field></Fields></Entity>"#;
        let json = br#"{"Fields":[{"Name":"name","values":[{"value":"a&b"}]},
            {"Name":"owner","values":[{}]}],"Type":"defect"}"#;
        let xml = one(Format::Xml, xml).expect("it can be read");
        let json = one(Format::Json, json).expect("it can be read");
        assert_eq!(xml.fields, json.fields);
        assert_eq!(xml.named_type, json.named_type);
        assert_eq!(xml.value("name"), Some("a&b"));
    }

    #[test]
    fn collection_keeps_entity_order() {
        let xml = "<Entities><Entity><Fields><Field Name='id'><Value>2</Value></Field></Fields>\
                   </Entity><Entity><Fields/></Entity></Entities>";
        let json = "{\"entities\":[{\"Fields\":[{\"Name\":\"id\",\"values\":[{\"value\":2}]}]},\
                    {\"Fields\":[]}]}";
        for (format, body) in [(Format::Xml, xml), (Format::Json, json)] {
            let all = many(format, body.as_bytes()).expect("it can be read");
            let ids: Vec<_> = all.iter().map(|one| one.value("id")).collect();
            assert_eq!(ids, [Some("2"), None]);
        }
    }

    #[test]
    fn unreadable_body_is_rejected() {
        for broken in ["", "{}", "<Entity/>", "{\"Fields\":[{}]}"] {
            for format in [Format::Xml, Format::Json] {
                assert!(one(format, broken.as_bytes()).is_err(), "{broken}");
            }
        }
    }
}
