//! The fields of a requirement that follow from its place in the tree.

use super::project::Project;
use super::schema::EntityType;

const OF: EntityType = EntityType::Requirement;

/// Sets them for an entity that came to its place, and for all below it. Other types have none.
pub(super) fn place(project: &mut Project, of: EntityType, id: u64) {
    if of != OF {
        return;
    }
    let Some(parent) = parent(project, id) else {
        return;
    };
    let sons = count_sons(project, parent);
    set(project, id, "order-id", &sons);
    settle(project, parent, id);
}

/// Sets them for the parent that an entity has left.
pub(super) fn leave(project: &mut Project, of: EntityType, parent: Option<&str>) {
    let parent = parent.and_then(|parent| parent.parse().ok());
    if let Some(parent) = parent.filter(|_| of == OF) {
        count_sons(project, parent);
    }
}

fn parent(project: &Project, id: u64) -> Option<u64> {
    let entity = project.get(OF, id).ok()?;
    entity.get("parent-id")?.parse().ok()
}

fn count_sons(project: &mut Project, id: u64) -> String {
    let sons = project.children(OF, id).len().to_string();
    set(project, id, "no-of-sons", &sons);
    sons
}

/// The name and path of the parent, down the tree.
fn settle(project: &mut Project, parent: u64, id: u64) {
    let Ok(above) = project.get(OF, parent) else {
        return;
    };
    let father = above.get("name").unwrap_or_default().to_owned();
    let path = above
        .get("hierarchical-path")
        .unwrap_or_default()
        .to_owned();
    let order = project.get(OF, id).ok().and_then(|one| one.get("order-id"));
    let order = order.and_then(|order| order.parse().ok()).unwrap_or(0);
    set(project, id, "father-name", &father);
    set(project, id, "hierarchical-path", &(path + &step(order)));
    // Looking for children reads the whole collection; most have none.
    let has_sons = project.get(OF, id).is_ok_and(|one| {
        let sons = one.get("no-of-sons");
        sons.is_some_and(|sons| sons != "0")
    });
    if has_sons {
        for child in project.children(OF, id) {
            settle(project, id, child);
        }
    }
}

/// One step of a path: three letters that count.
fn step(mut order: u32) -> String {
    let mut letters = ['A'; 3];
    for letter in letters.iter_mut().rev() {
        let at = u8::try_from(order % 26).expect("below 26");
        *letter = char::from(b'A' + at);
        order /= 26;
    }
    letters.iter().collect()
}

fn set(project: &mut Project, id: u64, name: &str, value: &str) {
    if let Ok(entity) = project.get_mut(OF, id) {
        entity.set(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::entity::Entity;
    use super::*;

    #[test]
    fn moved_requirement_moves_its_children() {
        let mut project = Project::new();
        for (id, parent) in [(1, "0"), (2, "1"), (3, "0")] {
            let name = format!("r{id}");
            let fields = [("name", name.as_str()), ("parent-id", parent)];
            project.insert(Entity::of(OF, id, &fields));
            place(&mut project, OF, id);
        }
        let get = |project: &Project, id, name: &str| {
            let entity = project.get(OF, id).expect("it is there");
            entity.get(name).unwrap_or_default().to_owned()
        };
        assert_eq!(get(&project, 0, "no-of-sons"), "2");
        assert_eq!(get(&project, 2, "hierarchical-path"), "AAAAABAAB");
        set(&mut project, 1, "parent-id", "3");
        leave(&mut project, OF, Some("0"));
        place(&mut project, OF, 1);
        assert_eq!(get(&project, 0, "no-of-sons"), "1");
        assert_eq!(get(&project, 1, "father-name"), "r3");
        assert_eq!(get(&project, 2, "hierarchical-path"), "AAAAACAABAAB");
    }
}
