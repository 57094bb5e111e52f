//! `…/{id}/versions/{check-out|check-in|undo-check-out}`, where a project keeps versions.

use http::{Method, StatusCode};

use super::call::Call;
use super::draft;
use super::entity::{CheckedOut, Entity};
use super::fault::Fault;
use super::media::{Content, Format};
use super::reply::{self, Reply};
use super::room::Room;
use super::schema::EntityType;

pub(super) fn answer(
    room: &mut Room<'_>,
    of: EntityType,
    id: u64,
    action: &str,
) -> Result<Reply, Fault> {
    if !of.has_versions() || !room.project.is_versioned {
        return Err(Fault::forbidden(format!(
            "{} {id} has no versions",
            of.name()
        )));
    }
    if room.call.method != Method::POST {
        return Err(Fault::method_not_allowed());
    }
    let (user, now) = (room.writer.who.user.clone(), room.writer.now);
    let said = Said::of(room.call)?;
    let entity = room.project.get(of, id)?;
    if let Some(other) = room.writer.locked_by_other(entity) {
        return Err(Fault::locked(&other.user));
    }
    let entity = room.project.get_mut(of, id)?;
    match action {
        "check-out" => {
            check_out(entity, &user, &said, now)?;
            room.entity(StatusCode::OK, of, id)
        }
        "check-in" => {
            check_in(entity, &user, &said, now)?;
            Ok(reply::empty(StatusCode::OK))
        }
        "undo-check-out" => {
            undo(entity, &user)?;
            Ok(reply::empty(StatusCode::OK))
        }
        _ => Err(Fault::no_such_resource()),
    }
}

/// The optional body.
#[derive(Debug, Default)]
struct Said {
    comment: String,
    overrides_last: bool,
}

impl Said {
    fn of(call: &Call) -> Result<Self, Fault> {
        let body = call.body.whole();
        if body.is_empty() {
            return Ok(Self::default());
        }
        let get: [Option<String>; 2] = match call.content {
            Content::Entity(Format::Xml) => {
                let document = draft::document(&body)?;
                ["Comment", "OverrideLastVersion"]
                    .map(|name| document.text_of(name).map(str::to_owned))
            }
            Content::Entity(Format::Json) => {
                let document = draft::json(&body)?;
                ["Comment", "OverrideLastVersion"].map(|name| match &document[name] {
                    serde_json::Value::Bool(is) => Some(is.to_string()),
                    other => other.as_str().map(str::to_owned),
                })
            }
            _ => return Err(Fault::unsupported_media_type()),
        };
        let [comment, overrides] = get;
        Ok(Self {
            comment: comment.unwrap_or_default(),
            overrides_last: overrides.as_deref() == Some("true"),
        })
    }
}

fn check_out(entity: &mut Entity, user: &str, said: &Said, now: &str) -> Result<(), Fault> {
    if let Some(out) = &entity.checked_out {
        return Err(Fault::check_out(format!(
            "it is checked out by {}",
            out.user
        )));
    }
    entity.checked_out = Some(CheckedOut {
        user: user.to_owned(),
        before: entity.values.clone(),
    });
    entity.set("vc-status", "Checked_Out");
    entity.set("check-out-user-name", user);
    entity.set("vc-checkout-date", &now[..10]);
    entity.set("vc-checkout-comments", &said.comment);
    entity.touch(now);
    Ok(())
}

fn check_in(entity: &mut Entity, user: &str, said: &Said, now: &str) -> Result<(), Fault> {
    is_own(entity, user).map_err(Fault::check_in)?;
    entity.checked_out = None;
    let version = entity.get("vc-version-number");
    let version = version.and_then(|text| text.parse().ok()).unwrap_or(0_u32);
    let version = if said.overrides_last {
        version
    } else {
        version + 1
    };
    let comment = entity
        .get("vc-checkout-comments")
        .unwrap_or_default()
        .to_owned();
    let comment = if said.comment.is_empty() {
        &comment
    } else {
        &said.comment
    };
    entity.set("vc-status", "Checked_In");
    entity.set("vc-version-number", &version.to_string());
    entity.set("check-out-user-name", "");
    entity.set("vc-checkout-date", "");
    entity.set("vc-checkout-comments", "");
    entity.set("vc-checkin-date", &now[..10]);
    entity.set("vc-checkin-user-name", user);
    entity.set("vc-checkin-comments", comment);
    entity.touch(now);
    Ok(())
}

fn undo(entity: &mut Entity, user: &str) -> Result<(), Fault> {
    is_own(entity, user).map_err(Fault::undo_check_out)?;
    if let Some(out) = entity.checked_out.take() {
        entity.values = out.before;
    }
    Ok(())
}

fn is_own(entity: &Entity, user: &str) -> Result<(), String> {
    match &entity.checked_out {
        Some(out) if out.user == user => Ok(()),
        Some(out) => Err(format!("it is checked out by {}", out.user)),
        None => Err("it is not checked out".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02 03:04:05";

    fn requirement() -> Entity {
        let fields = [("name", "old"), ("vc-version-number", "1")];
        Entity::of(EntityType::Requirement, 1, &fields)
    }

    #[test]
    fn version_is_visible_after_check_in() {
        let mut one = requirement();
        let said = Said::default();
        check_out(&mut one, "ann", &said, NOW).expect("it is free");
        assert!(check_out(&mut one, "bob", &said, NOW).is_err());
        one.set("name", "new");
        let (name, _) = EntityType::Requirement.field("name").expect("it has one");
        assert_eq!(one.seen_by("bob")[&name], ["old"]);
        assert_eq!(one.seen_by("ann")[&name], ["new"]);
        assert_eq!(
            check_in(&mut one, "bob", &said, NOW).map_err(|fault| fault.id),
            Err("check-in-failure")
        );
        check_in(&mut one, "ann", &said, NOW).expect("it is hers");
        assert_eq!(one.seen_by("bob")[&name], ["new"]);
        assert_eq!(one.get("vc-version-number"), Some("2"));
    }

    #[test]
    fn undone_check_out_restores_the_version() {
        let mut one = requirement();
        assert!(undo(&mut one, "ann").is_err());
        check_out(&mut one, "ann", &Said::default(), NOW).expect("it is free");
        one.set("name", "new");
        undo(&mut one, "ann").expect("it is hers");
        assert_eq!(one.get("name"), Some("old"));
        assert_eq!(one.get("vc-status"), None);
    }
}
