//! `…/customization/…`: the description of a project's entities, fields, lists and users.

use std::fmt::Write as _;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::fault::Fault;
use super::media::Format;
use super::reply::Reply;
use super::room::Room;
use super::schema::{EntityType, Field, Kind};
use super::xml::escaped;

const REQUIREMENT_TYPES: [(u32, &str); 8] = [
    (0, "Undefined"),
    (1, "Folder"),
    (2, "Group"),
    (3, "Functional"),
    (4, "Business"),
    (5, "Testing"),
    (6, "Performance"),
    (66, "Business Model"),
];

pub(super) fn answer(room: &Room<'_>, path: &[&str]) -> Result<Reply, Fault> {
    if room.call.method != Method::GET {
        return Err(Fault::method_not_allowed());
    }
    let format = room.call.accept.data();
    let text = match path {
        ["entities", name] => entity(format, named(name)?, room.project.is_versioned),
        ["entities", name, "fields"] => {
            let is_required = room.call.params.is("required", "true");
            let fields = named(name)?.fields().iter();
            let fields = fields.filter(|field| field.is_required || !is_required);
            written_fields(format, fields)
        }
        ["entities", "requirement", "types"] => types(format),
        ["used-lists"] => lists(format),
        ["users"] => users(format, room.writer.sessions.passwords.keys()),
        _ => return Err(Fault::no_such_resource()),
    };
    Ok(room.data(StatusCode::OK, text))
}

fn named(name: &str) -> Result<EntityType, Fault> {
    EntityType::named(name).ok_or_else(Fault::no_such_resource)
}

fn entity(format: Format, of: EntityType, is_versioned: bool) -> String {
    let (name, collection) = (of.name(), of.collection());
    let has_versions = of.has_versions() && is_versioned;
    match format {
        Format::Xml => format!(
            "<EntityResourceDescriptor collectionName=\"{collection}\" name=\"{name}\">\
             <SupportsVC>{has_versions}</SupportsVC></EntityResourceDescriptor>"
        ),
        Format::Json => json!({
            "CollectionName": collection,
            "Name": name,
            "SupportsVC": has_versions,
        })
        .to_string(),
    }
}

fn written_fields<'f>(format: Format, fields: impl Iterator<Item = &'f Field>) -> String {
    match format {
        Format::Xml => {
            let all: String = fields.map(xml_field).collect();
            format!("<Fields>{all}</Fields>")
        }
        Format::Json => {
            let all: Vec<Value> = fields.map(json_field).collect();
            json!({ "Fields": { "Field": all } }).to_string()
        }
    }
}

fn xml_field(field: &Field) -> String {
    let mut out = format!(
        "<Field PhysicalName=\"{}\" Name=\"{}\" Label=\"{}\"><Type>{}</Type>\
         <Required>{}</Required><Editable>{}</Editable><Filterable>true</Filterable>\
         <SupportsMultivalue>{}</SupportsMultivalue>",
        field.physical,
        field.name,
        field.label,
        field.kind.name(),
        field.is_required,
        field.is_editable,
        field.is_multiple,
    );
    if let Some(id) = list_id(field.kind) {
        let _ = write!(out, "<List-Id>{id}</List-Id>");
    }
    out + "</Field>"
}

fn json_field(field: &Field) -> Value {
    json!({
        "Name": field.name,
        "PhysicalName": field.physical,
        "Label": field.label,
        "Type": field.kind.name(),
        "Required": field.is_required,
        "Editable": field.is_editable,
        "Filterable": true,
        "SupportsMultivalue": field.is_multiple,
        "ListId": list_id(field.kind),
    })
}

/// Every list that a field of any type has, once; its place is its id.
fn all_lists() -> Vec<&'static [&'static str]> {
    let mut all = Vec::new();
    for field in EntityType::ALL.iter().flat_map(|one| one.fields()) {
        if let Kind::LookupList(list) = field.kind
            && !all.contains(&list)
        {
            all.push(list);
        }
    }
    all
}

fn list_id(kind: Kind) -> Option<usize> {
    let Kind::LookupList(list) = kind else {
        return None;
    };
    let place = all_lists().iter().position(|known| *known == list)?;
    Some(place + 1)
}

fn lists(format: Format) -> String {
    let lists = all_lists().into_iter().enumerate();
    match format {
        Format::Xml => {
            let all: String = lists
                .map(|(place, list)| {
                    let items = list.iter().map(|one| format!("<Item value=\"{one}\"/>"));
                    let items: String = items.collect();
                    let id = place + 1;
                    format!("<List><Id>{id}</Id><Items>{items}</Items></List>")
                })
                .collect();
            format!("<Lists>{all}</Lists>")
        }
        Format::Json => {
            let all: Vec<Value> = lists
                .map(|(place, list)| {
                    let items: Vec<Value> =
                        list.iter().map(|one| json!({ "value": one })).collect();
                    json!({ "Id": place + 1, "Items": items })
                })
                .collect();
            json!({ "lists": all }).to_string()
        }
    }
}

fn types(format: Format) -> String {
    match format {
        Format::Xml => {
            let all: String = REQUIREMENT_TYPES
                .iter()
                .map(|(id, name)| format!("<type name=\"{name}\" id=\"{id}\"/>"))
                .collect();
            format!("<types>{all}</types>")
        }
        Format::Json => {
            let all: Vec<Value> = REQUIREMENT_TYPES
                .iter()
                .map(|(id, name)| json!({ "id": id.to_string(), "name": name }))
                .collect();
            json!({ "types": all }).to_string()
        }
    }
}

fn users<'n>(format: Format, names: impl Iterator<Item = &'n String>) -> String {
    let mut names: Vec<&String> = names.collect();
    names.sort();
    let mail = |name: &str| format!("{name}@example.com");
    match format {
        Format::Xml => {
            let mut all = String::new();
            for name in names {
                let (mail, name) = (escaped(&mail(name)), escaped(name));
                let _ = write!(all, "<User Name=\"{name}\" FullName=\"{name}\">");
                let _ = write!(all, "<email>{mail}</email></User>");
            }
            format!("<Users>{all}</Users>")
        }
        Format::Json => {
            let all: Vec<Value> = names
                .into_iter()
                .map(|name| json!({ "Name": name, "FullName": name, "email": mail(name) }))
                .collect();
            json!({ "users": all }).to_string()
        }
    }
}
