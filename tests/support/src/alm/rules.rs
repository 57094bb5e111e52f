//! What must hold of an entity as a whole: required fields, parents, dates.

use super::draft::Draft;
use super::entity::Values;
use super::fault::Fault;
use super::project::Project;
use super::schema::EntityType;

/// Checks an entity as it would be; `id` is its own, where it has one already.
pub(super) fn check(
    project: &Project,
    of: EntityType,
    id: Option<u64>,
    values: &Values,
) -> Result<(), Fault> {
    for (place, field) in of.fields().iter().enumerate() {
        if field.is_required && !values.contains_key(&place) {
            return Err(Fault::required(field.name));
        }
    }
    let dates = (
        value(of, values, "start-date"),
        value(of, values, "end-date"),
    );
    if let (Some(start), Some(end)) = dates
        && start > end
    {
        return Err(Fault::business("The start date is after the end date"));
    }
    check_parent(project, of, id, values)
}

/// A requirement in JSON must begin with its name and end with its type: otherwise ALM 26.1 was seen
/// to fail on the way, with an error of its inside.
pub(super) fn check_order(of: EntityType, draft: &Draft) -> Result<(), Fault> {
    if of != EntityType::Requirement || !draft.is_ordered {
        return Ok(());
    }
    let place = |name: &str| draft.fields.iter().position(|(known, _)| known == name);
    let (Some(name), Some(type_id)) = (place("name"), place("type-id")) else {
        return Ok(());
    };
    if type_id + 1 < draft.fields.len() {
        let what = "Cannot invoke \"String.equals(Object)\": FieldEntry.getName() is null";
        return Err(Fault::business(what));
    }
    if name > 0 {
        let what = "Cannot invoke \"Object.hashCode()\" because \"key\" is null";
        return Err(Fault::business(what));
    }
    Ok(())
}

fn check_parent(
    project: &Project,
    of: EntityType,
    id: Option<u64>,
    values: &Values,
) -> Result<(), Fault> {
    let (Some(parent_type), Some(parent)) = (of.parent(), value(of, values, "parent-id")) else {
        return Ok(());
    };
    // Of a root alone.
    if parent == "-1" && id == Some(0) || parent == "0" && parent_type == EntityType::ReleaseFolder
    {
        return Ok(());
    }
    let found = parent.parse().ok();
    let found = found.and_then(|parent: u64| project.get(parent_type, parent).ok());
    let Some(found) = found else {
        let name = of.name();
        let what = format!("Cannot save '{name}'. Invalid owner specified: {parent}.");
        return Err(Fault::business(what));
    };
    if of == EntityType::ReleaseCycle {
        return check_inside(values, found.get("start-date"), found.get("end-date"));
    }
    if parent_type == of && is_below(project, of, found.id, id) {
        return Err(Fault::business("An entity cannot be below itself"));
    }
    Ok(())
}

/// A cycle lies inside its release. Dates of this form are ordered as texts are.
fn check_inside(values: &Values, start: Option<&str>, end: Option<&str>) -> Result<(), Fault> {
    let of = EntityType::ReleaseCycle;
    let is_early = value(of, values, "start-date") < start;
    let is_late = value(of, values, "end-date") > end;
    if is_early || is_late {
        let what = "The dates of the cycle are outside the dates of its release";
        return Err(Fault::business(what));
    }
    Ok(())
}

/// Whether `candidate` is `id` or somewhere below it.
fn is_below(project: &Project, of: EntityType, candidate: u64, id: Option<u64>) -> bool {
    let mut at = Some(candidate);
    while let Some(here) = at {
        if Some(here) == id {
            return true;
        }
        let entity = project.get(of, here).ok();
        let parent = entity.and_then(|entity| entity.get("parent-id"));
        at = parent.and_then(|parent| parent.parse().ok());
    }
    false
}

fn value<'v>(of: EntityType, values: &'v Values, name: &str) -> Option<&'v str> {
    let (place, _) = of.field(name).ok()?;
    values.get(&place)?.first().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::super::entity::Entity;
    use super::*;

    fn project() -> Project {
        let mut project = Project::new();
        let release = [
            ("name", "r"),
            ("parent-id", "1"),
            ("start-date", "2026-01-01"),
            ("end-date", "2026-01-31"),
        ];
        project.insert(Entity::of(EntityType::Release, 1, &release));
        let above = [("name", "above"), ("type-id", "1"), ("parent-id", "0")];
        project.insert(Entity::of(EntityType::Requirement, 1, &above));
        let below = [("name", "below"), ("type-id", "3"), ("parent-id", "1")];
        project.insert(Entity::of(EntityType::Requirement, 2, &below));
        project
    }

    fn checked(of: EntityType, id: Option<u64>, fields: &[(&str, &str)]) -> Result<(), Fault> {
        let values = Entity::of(of, id.unwrap_or(9), fields).values;
        check(&project(), of, id, &values)
    }

    #[test]
    fn cycle_lies_inside_its_release() {
        let cycle = |start, end, parent| {
            let fields = [
                ("name", "c"),
                ("parent-id", parent),
                ("start-date", start),
                ("end-date", end),
            ];
            checked(EntityType::ReleaseCycle, None, &fields).map_err(|fault| fault.status.as_u16())
        };
        assert_eq!(cycle("2026-01-01", "2026-01-31", "1"), Ok(()));
        assert_eq!(cycle("2025-12-31", "2026-01-31", "1"), Err(500));
        assert_eq!(cycle("2026-01-02", "2026-02-01", "1"), Err(500));
        assert_eq!(cycle("2026-01-20", "2026-01-10", "1"), Err(500));
        assert_eq!(cycle("2026-01-01", "2026-01-31", "2"), Err(500));
    }

    #[test]
    fn requirement_cannot_move_below_itself() {
        let moved = |id, parent| {
            let fields = [("name", "r"), ("type-id", "3"), ("parent-id", parent)];
            checked(EntityType::Requirement, Some(id), &fields).is_ok()
        };
        assert!(moved(2, "0") && moved(1, "0"));
        assert!(!moved(1, "2") && !moved(1, "1") && !moved(2, "77"));
    }

    #[test]
    fn requirement_field_order_matters_in_json() {
        let ordered = |names: &[&'static str]| {
            let fields: Vec<_> = names.iter().map(|name| (*name, "1")).collect();
            let draft = Draft {
                is_ordered: true,
                ..Draft::of(&fields)
            };
            check_order(EntityType::Requirement, &draft).is_ok()
        };
        assert!(ordered(&["name", "parent-id", "type-id"]));
        assert!(!ordered(&["parent-id", "name", "type-id"]));
        assert!(!ordered(&["type-id", "parent-id", "name"]));
    }
}
