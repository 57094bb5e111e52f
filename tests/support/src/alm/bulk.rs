//! Many entities in one request. Each is written by itself: what one of them does wrong undoes
//! nothing of the others.
//!
//! ```text
//! all were written    200  the entities
//! some were           409  qccore.bulk-operation-failed, with an entry for each
//! none was            500  the same
//! ```

use std::fmt::Write as _;

use http::StatusCode;
use serde_json::{Value, json};

use super::draft::{self, Draft};
use super::envelope;
use super::fault::Fault;
use super::media::{Content, Format};
use super::reply::Reply;
use super::room::Room;
use super::schema::EntityType;
use super::write::draft_id;
use super::xml::escaped;

const ENTITIES_MAX: usize = 2000;
const ID: &str = "qccore.bulk-operation-failed";
const TITLE: &str = "The bulk operation failed for some entities";

/// What became of one of them.
struct Entry {
    id: Option<u64>,
    /// Written, or why not.
    result: Result<String, Fault>,
}

pub(super) fn create(room: &mut Room<'_>, of: EntityType) -> Result<Reply, Fault> {
    let drafts = drafts(room)?;
    let entries = drafts.iter().map(|draft| {
        let created = room.writer.create(room.project, of, draft);
        Entry {
            id: created.as_ref().ok().copied(),
            result: created.and_then(|id| written(room, of, id)),
        }
    });
    let entries = entries.collect();
    Ok(answer(room, of, entries))
}

pub(super) fn update(room: &mut Room<'_>, of: EntityType) -> Result<Reply, Fault> {
    let drafts = drafts(room)?;
    let entries = drafts.iter().map(|draft| {
        let Some(id) = draft_id(draft) else {
            let result = Err(Fault::required("id"));
            return Entry { id: None, result };
        };
        let updated = room.writer.update(room.project, of, id, draft);
        Entry {
            id: Some(id),
            result: updated.and_then(|()| written(room, of, id)),
        }
    });
    let entries = entries.collect();
    Ok(answer(room, of, entries))
}

/// `?ids-to-delete=1,2`.
pub(super) fn delete(room: &mut Room<'_>, of: EntityType) -> Result<Reply, Fault> {
    let ids = room.call.params.get("ids-to-delete");
    let ids = ids.ok_or_else(Fault::method_not_allowed)?;
    let ids: Result<Vec<u64>, _> = ids.split(',').map(|id| id.trim().parse()).collect();
    let ids = ids.map_err(|error| Fault::malformed(error.to_string()))?;
    check_count(ids.len())?;
    let format = room.call.accept.data();
    let entries = ids.into_iter().map(|id| {
        let deleted = room.writer.delete(room.project, of, id);
        let user = &room.writer.who.user;
        Entry {
            id: Some(id),
            result: deleted.map(|gone| envelope::fragment(format, &gone, user)),
        }
    });
    let entries = entries.collect();
    Ok(answer(room, of, entries))
}

fn drafts(room: &Room<'_>) -> Result<Vec<Draft>, Fault> {
    let Content::Collection(format) = room.call.content else {
        return Err(Fault::unsupported_media_type());
    };
    let drafts = draft::many(format, &room.call.body.whole())?;
    check_count(drafts.len())?;
    Ok(drafts)
}

fn check_count(count: usize) -> Result<(), Fault> {
    if count > ENTITIES_MAX {
        let what = format!("{count} entities are more than {ENTITIES_MAX}");
        return Err(Fault::business(what));
    }
    Ok(())
}

fn written(room: &Room<'_>, of: EntityType, id: u64) -> Result<String, Fault> {
    let entity = room.project.get(of, id)?;
    let (format, user) = (room.call.accept.data(), &room.writer.who.user);
    Ok(envelope::fragment(format, entity, user))
}

fn answer(room: &Room<'_>, of: EntityType, entries: Vec<Entry>) -> Reply {
    let good = entries.iter().filter(|entry| entry.result.is_ok()).count();
    let format = room.call.accept.data();
    let status = match good {
        good if good == entries.len() => {
            let all = entries.into_iter().filter_map(|entry| entry.result.ok());
            let text = envelope::collection(format, good, all);
            return room.data(StatusCode::OK, text);
        }
        0 => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    };
    let text = match format {
        Format::Xml => xml(of, &entries),
        Format::Json => json(of, &entries).to_string(),
    };
    room.data(status, text)
}

fn xml(of: EntityType, entries: &[Entry]) -> String {
    let mut out = format!(
        "<QCRestException><Id>{ID}</Id><Title>{TITLE}</Title><ExceptionProperties>\
         <ExceptionProperty name=\"{ID}\"><value><BulkOperationFailed>"
    );
    for entry in entries {
        let is_good = entry.result.is_ok();
        let _ = write!(out, "<BulkEntry Successful=\"{is_good}\"");
        if let Some(id) = entry.id {
            let _ = write!(out, " EntityId=\"{id}\"");
        }
        let _ = write!(out, " EntityType=\"{}\">", of.name());
        match &entry.result {
            Ok(written) => out.push_str(written),
            Err(fault) => {
                let title = escaped(&fault.title);
                let _ = write!(out, "<Id>qccore.{}</Id><Title>{title}</Title>", fault.id);
                out.push_str("<StackTrace/>");
            }
        }
        out.push_str("</BulkEntry>");
    }
    out + "</BulkOperationFailed></value></ExceptionProperty></ExceptionProperties>\
           </QCRestException>"
}

fn json(of: EntityType, entries: &[Entry]) -> Value {
    let entries: Vec<Value> = entries.iter().map(|entry| json_entry(of, entry)).collect();
    json!({
        "Id": ID,
        "Title": TITLE,
        "ExceptionProperties": [{ "Name": ID, "BulkValue": { "BulkEntries": entries } }],
        "StackTrace": null,
    })
}

fn json_entry(of: EntityType, entry: &Entry) -> Value {
    let (entity, exception) = match &entry.result {
        Ok(written) => {
            let entity = serde_json::from_str(written).expect("it was written here");
            (entity, Value::Null)
        }
        Err(fault) => {
            let id = format!("qccore.{}", fault.id);
            let title = &fault.title;
            let exception = json!({ "Id": id, "Title": title, "StackTrace": null });
            (Value::Null, exception)
        }
    };
    json!({
        "Succeeded": entry.result.is_ok(),
        "EntityType": of.name(),
        "EntityId": entry.id.map(|id| id.to_string()),
        "Entity": entity,
        "Exception": exception,
    })
}
