//! `…/{id}/attachments`: files of an entity.
//!
//! ```text
//! POST  octet-stream and Slug: name, or multipart with the file last   201
//! GET   the list; .../name or .../id?by-id=true: what is known of one, or its bytes
//! PUT   octet-stream: other bytes; XML or JSON: another description
//! ```
//!
//! A name that ends in `.url` makes an attachment a link.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, LOCATION};
use http::{HeaderValue, Method, StatusCode};

use super::call::{Call, Received};
use super::entity::Entity;
use super::envelope;
use super::fault::Fault;
use super::media::{Content, Format};
use super::multipart::Form;
use super::reply::{self, Pieces, Reply};
use super::room::Room;
use super::schema::EntityType;

#[derive(Debug, Clone)]
pub(super) struct Attachment {
    pub(super) id: u64,
    pub(super) name: String,
    description: String,
    last_modified: String,
    pub(super) content: Received,
}

/// One that comes in.
struct New {
    name: String,
    description: String,
    replaces: bool,
    content: Received,
}

impl Attachment {
    fn written(&self, format: Format, parent: &Entity) -> String {
        let ref_type = if self.name.ends_with(".url") {
            "URL"
        } else {
            "File"
        };
        let fields = [
            ("name", self.name.clone()),
            ("id", self.id.to_string()),
            ("file-size", self.content.bytes.to_string()),
            ("description", self.description.clone()),
            ("parent-id", parent.id.to_string()),
            ("parent-type", parent.entity_type.name().to_owned()),
            ("ref-type", ref_type.to_owned()),
            ("ref-subtype", "0".to_owned()),
            ("last-modified", self.last_modified.clone()),
        ];
        let fields = fields.map(|(name, value)| (name, vec![value]));
        let fields = fields.iter().map(|(name, values)| {
            let is_empty = values[0].is_empty();
            (*name, if is_empty { &[][..] } else { values.as_slice() })
        });
        let mut out = String::new();
        envelope::push_fields(&mut out, format, "attachment", fields);
        out
    }

    fn bytes(&self) -> Reply {
        let reply = reply::empty(StatusCode::OK);
        let mut reply = reply.map(|_| Pieces::new(Arc::clone(&self.content.pieces)));
        let kind = HeaderValue::from_static("application/octet-stream");
        reply.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        let name: String = self.name.chars().filter(char::is_ascii_graphic).collect();
        let disposition = format!("attachment; filename=\"{}\"", name.replace('"', "_"));
        reply::with(reply, CONTENT_DISPOSITION, &disposition)
    }
}

/// `…/attachments`.
pub(super) fn collection(room: &mut Room<'_>, of: EntityType, id: u64) -> Result<Reply, Fault> {
    match room.call.method {
        Method::GET => list(room, of, id),
        Method::POST => add(room, of, id),
        _ => Err(Fault::method_not_allowed()),
    }
}

/// `…/attachments/{key}`.
pub(super) fn member(
    room: &mut Room<'_>,
    of: EntityType,
    id: u64,
    key: &str,
) -> Result<Reply, Fault> {
    let by_id = room.call.params.is("by-id", "true");
    let entity = room.project.get(of, id)?;
    let place = entity.attachments.iter().position(|one| {
        let known = if by_id {
            one.id.to_string()
        } else {
            one.name.clone()
        };
        known == key
    });
    let place = place.ok_or_else(|| Fault::not_found("attachment", key))?;
    match room.call.method {
        Method::GET => {
            let one = &entity.attachments[place];
            if room.call.accept.bytes {
                return Ok(one.bytes());
            }
            Ok(room.data(StatusCode::OK, document(room, one, entity)))
        }
        Method::PUT => change(room, of, id, place),
        Method::DELETE => remove(room, of, id, place),
        _ => Err(Fault::method_not_allowed()),
    }
}

fn document(room: &Room<'_>, one: &Attachment, parent: &Entity) -> String {
    let format = room.call.accept.data();
    envelope::document(format, &one.written(format, parent))
}

fn list(room: &Room<'_>, of: EntityType, id: u64) -> Result<Reply, Fault> {
    let entity = room.project.get(of, id)?;
    let format = room.call.accept.data();
    let all = entity.attachments.iter();
    let all = all.map(|one| one.written(format, entity));
    let text = envelope::collection(format, entity.attachments.len(), all);
    Ok(room.data(StatusCode::OK, text))
}

fn add(room: &mut Room<'_>, of: EntityType, id: u64) -> Result<Reply, Fault> {
    room.writer.check_may_write(room.project, of, id)?;
    let new = New::of(room.call)?;
    let fresh_id = room.project.fresh_attachment_id();
    let place = new.put_into(room.project.get_mut(of, id)?, fresh_id, room.writer.now);
    touch(room, of, id)?;
    let entity = room.project.get(of, id)?;
    let one = &entity.attachments[place];
    let reply = room.data(StatusCode::CREATED, document(room, one, entity));
    // By its id, as a name may be any text.
    let at = format!(
        "{}{}/{}?by-id=true",
        room.call.origin, room.call.path, one.id
    );
    Ok(reply::with(reply, LOCATION, &at))
}

impl New {
    fn of(call: &Call) -> Result<Self, Fault> {
        match &call.content {
            Content::Bytes => {
                let slug = call.headers.get("slug");
                let slug = slug.map(|slug| String::from_utf8_lossy(slug.as_bytes()));
                let name = slug.ok_or_else(|| Fault::malformed("The header Slug is missing"))?;
                Ok(Self {
                    name: name.into_owned(),
                    description: String::new(),
                    replaces: false,
                    content: call.body.clone(),
                })
            }
            Content::Multipart { boundary } => {
                // In one piece, as a boundary may be anywhere.
                let body = match &call.body.pieces[..] {
                    [one] => one.clone(),
                    _ => Bytes::from(call.body.whole().into_owned()),
                };
                let form = Form::parse(boundary, &body)?;
                let name = form.get("filename").map(str::to_owned);
                Ok(Self {
                    name: name.ok_or_else(|| Fault::required("filename"))?,
                    description: form.get("description").unwrap_or_default().to_owned(),
                    replaces: form
                        .get("override-existing-attachment")
                        .is_some_and(|text| text.eq_ignore_ascii_case("y")),
                    content: Received::of(form.file),
                })
            }
            Content::Entity(_) | Content::Collection(_) | Content::Other => {
                Err(Fault::unsupported_media_type())
            }
        }
    }

    /// Adds it, or replaces the one of its name; where it is then.
    fn put_into(self, entity: &mut Entity, fresh_id: u64, now: &str) -> usize {
        let mut all = entity.attachments.iter();
        let same = all.position(|one| one.name == self.name);
        if let Some(place) = same.filter(|_| self.replaces) {
            let one = &mut entity.attachments[place];
            one.content = self.content;
            now.clone_into(&mut one.last_modified);
            if !self.description.is_empty() {
                one.description = self.description;
            }
            return place;
        }
        let name = unique(&self.name, entity);
        entity.attachments.push(Attachment {
            id: fresh_id,
            name,
            description: self.description,
            last_modified: now.to_owned(),
            content: self.content,
        });
        entity.attachments.len() - 1
    }
}

/// A second file of one name gets a name of its own.
fn unique(name: &str, entity: &Entity) -> String {
    let is_free = |name: &str| entity.attachments.iter().all(|one| one.name != name);
    if is_free(name) {
        return name.to_owned();
    }
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) => (stem, format!(".{extension}")),
        None => (name, String::new()),
    };
    let mut numbered = (1..).map(|number| format!("{stem}_{number}{extension}"));
    let free = numbered.find(|name| is_free(name));
    free.expect("numbers do not end")
}

fn change(room: &mut Room<'_>, of: EntityType, id: u64, place: usize) -> Result<Reply, Fault> {
    room.writer.check_may_write(room.project, of, id)?;
    let entity = room.project.get_mut(of, id)?;
    let one = &mut entity.attachments[place];
    if room.call.content == Content::Bytes {
        one.content = room.call.body.clone();
    } else {
        let draft = room.call.draft()?;
        if let Some((name, _)) = draft.fields.iter().find(|(name, _)| name != "description") {
            return Err(Fault::forbidden(format!("Field '{name}' is read-only")));
        }
        draft
            .value("description")
            .unwrap_or_default()
            .clone_into(&mut one.description);
    }
    room.writer.now.clone_into(&mut one.last_modified);
    touch(room, of, id)?;
    let entity = room.project.get(of, id)?;
    let text = document(room, &entity.attachments[place], entity);
    Ok(room.data(StatusCode::OK, text))
}

fn remove(room: &mut Room<'_>, of: EntityType, id: u64, place: usize) -> Result<Reply, Fault> {
    room.writer.check_may_write(room.project, of, id)?;
    let gone = room.project.get_mut(of, id)?.attachments.remove(place);
    touch(room, of, id)?;
    let text = document(room, &gone, room.project.get(of, id)?);
    Ok(room.data(StatusCode::OK, text))
}

/// A change of its files is a change of the entity.
fn touch(room: &mut Room<'_>, of: EntityType, id: u64) -> Result<(), Fault> {
    let entity = room.project.get_mut(of, id)?;
    let has_any = if entity.attachments.is_empty() {
        ""
    } else {
        "Y"
    };
    entity.set("attachment", has_any);
    entity.touch(room.writer.now);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_file_of_one_name_is_renamed() {
        let mut entity = Entity::of(EntityType::Defect, 1, &[]);
        for name in ["a.txt", "a_1.txt", "b"] {
            entity.attachments.push(Attachment {
                id: 1,
                name: name.to_owned(),
                description: String::new(),
                last_modified: String::new(),
                content: Received::of(Vec::new()),
            });
        }
        assert_eq!(unique("a.txt", &entity), "a_2.txt");
        assert_eq!(unique("b", &entity), "b_1");
        assert_eq!(unique("c", &entity), "c");
    }
}
