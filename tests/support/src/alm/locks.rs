//! `…/{id}/lock`: GET shows the owner, POST without a body locks, DELETE unlocks.
//!
//! A lock is a session's, and ends with it.

use http::{Method, StatusCode};
use serde_json::json;

use super::entity::Entity;
use super::fault::Fault;
use super::media::Format;
use super::reply::{self, Reply};
use super::room::Room;
use super::schema::EntityType;
use super::xml::escaped;

pub(super) fn answer(room: &mut Room<'_>, of: EntityType, id: u64) -> Result<Reply, Fault> {
    let entity = room.project.get_mut(of, id)?;
    let other = room.writer.locked_by_other(entity);
    match room.call.method {
        Method::GET => {
            let text = said(room, room.project.get(of, id)?);
            Ok(room.data(StatusCode::OK, text))
        }
        Method::POST | Method::DELETE if other.is_some() => {
            Err(Fault::locked(other.map_or("", |other| &other.user)))
        }
        Method::POST => {
            entity.lock = Some(room.writer.who.clone());
            room.entity(StatusCode::OK, of, id)
        }
        Method::DELETE => {
            entity.lock = None;
            Ok(reply::empty(StatusCode::OK))
        }
        _ => Err(Fault::method_not_allowed()),
    }
}

fn said(room: &Room<'_>, entity: &Entity) -> String {
    let is_mine = entity.lock.as_ref() == Some(room.writer.who);
    let (status, user) = match room.writer.locked_by_other(entity) {
        Some(other) => ("LOCKED_BY_OTHER", other.user.as_str()),
        None if is_mine => ("LOCKED_BY_ME", room.writer.who.user.as_str()),
        None => ("UNLOCKED", ""),
    };
    match room.call.accept.data() {
        Format::Xml => format!(
            "<LockInfo><LockStatus>{status}</LockStatus><LockUser>{}</LockUser></LockInfo>",
            escaped(user)
        ),
        Format::Json => json!({ "LockStatus": status, "LockUser": user }).to_string(),
    }
}
