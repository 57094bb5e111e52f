//! Domains, projects, and what is in a project.

use std::collections::BTreeMap;

use super::entity::Entity;
use super::fault::Fault;
use super::schema::EntityType;

/// The root of all requirements; it is listed with them.
const REQUIREMENT_ROOT: u64 = 0;
/// The root of all release folders.
const FOLDER_ROOT: u64 = 1;

/// The projects, by domain and name.
pub(super) type Domains = BTreeMap<String, BTreeMap<String, Project>>;

#[derive(Debug)]
pub(super) struct Project {
    /// Whether requirements must be checked out to be written.
    pub(super) is_versioned: bool,
    collections: BTreeMap<EntityType, Collection>,
    attachments: u64,
}

/// Entities by id, which is the order in which they are listed.
#[derive(Debug, Default)]
struct Collection {
    /// The last id that was given; ids are never given again.
    last_id: u64,
    entities: BTreeMap<u64, Entity>,
}

impl Project {
    pub(super) fn new() -> Self {
        let mut project = Self {
            is_versioned: false,
            collections: BTreeMap::new(),
            attachments: 0,
        };
        for one in EntityType::ALL {
            project.collections.insert(one, Collection::default());
        }
        project.insert(root(
            EntityType::Requirement,
            REQUIREMENT_ROOT,
            &[
                ("name", "Requirements"),
                ("type-id", "1"),
                ("parent-id", "-1"),
                ("hierarchical-path", "AAA"),
                ("no-of-sons", "0"),
            ],
        ));
        let fields = [("name", "Releases"), ("parent-id", "0")];
        project.insert(root(EntityType::ReleaseFolder, FOLDER_ROOT, &fields));
        project
    }

    fn collection(&self, of: EntityType) -> &Collection {
        &self.collections[&of]
    }

    fn collection_mut(&mut self, of: EntityType) -> &mut Collection {
        self.collections.entry(of).or_default()
    }

    pub(super) fn all(&self, of: EntityType) -> impl DoubleEndedIterator<Item = &Entity> {
        self.collection(of).entities.values()
    }

    pub(super) fn count(&self, of: EntityType) -> usize {
        self.collection(of).entities.len()
    }

    pub(super) fn get(&self, of: EntityType, id: u64) -> Result<&Entity, Fault> {
        let found = self.collection(of).entities.get(&id);
        found.ok_or_else(|| Fault::not_found(of.name(), &id.to_string()))
    }

    pub(super) fn get_mut(&mut self, of: EntityType, id: u64) -> Result<&mut Entity, Fault> {
        let found = self.collection_mut(of).entities.get_mut(&id);
        found.ok_or_else(|| Fault::not_found(of.name(), &id.to_string()))
    }

    /// The id of the next new entity.
    pub(super) fn fresh_id(&mut self, of: EntityType) -> u64 {
        let collection = self.collection_mut(of);
        collection.last_id += 1;
        collection.last_id
    }

    /// The id of the next attachment; a project counts all of them together.
    pub(super) fn fresh_attachment_id(&mut self) -> u64 {
        self.attachments += 1;
        self.attachments
    }

    pub(super) fn insert(&mut self, entity: Entity) {
        let collection = self.collection_mut(entity.entity_type);
        collection.last_id = collection.last_id.max(entity.id);
        collection.entities.insert(entity.id, entity);
    }

    /// Takes an entity away, and all below it.
    pub(super) fn remove(&mut self, of: EntityType, id: u64) -> Result<Entity, Fault> {
        if is_root(of, id) {
            return Err(Fault::business("The root cannot be deleted"));
        }
        let removed = self.collection_mut(of).entities.remove(&id);
        let removed = removed.ok_or_else(|| Fault::not_found(of.name(), &id.to_string()))?;
        for child_type in EntityType::ALL {
            if child_type.parent() == Some(of) {
                for child in self.children(child_type, id) {
                    self.remove(child_type, child)?;
                }
            }
        }
        Ok(removed)
    }

    /// The entities of a type whose `parent-id` is this one.
    pub(super) fn children(&self, of: EntityType, parent: u64) -> Vec<u64> {
        let Ok((place, _)) = of.field("parent-id") else {
            return Vec::new();
        };
        let parent = parent.to_string();
        self.all(of)
            .filter(|one| one.values_at(place).first() == Some(&parent))
            .map(|one| one.id)
            .collect()
    }
}

pub(super) fn is_root(of: EntityType, id: u64) -> bool {
    match of {
        EntityType::Requirement => id == REQUIREMENT_ROOT,
        EntityType::ReleaseFolder => id == FOLDER_ROOT,
        EntityType::Defect | EntityType::Release | EntityType::ReleaseCycle => false,
    }
}

fn root(of: EntityType, id: u64, fields: &[(&str, &str)]) -> Entity {
    let mut root = Entity::of(of, id, fields);
    root.set("ver-stamp", "1");
    root.set("last-modified", "2000-01-01 00:00:00");
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_parent_deletes_its_children() {
        let mut project = Project::new();
        let folder = [("name", "f"), ("parent-id", "1")];
        project.insert(Entity::of(EntityType::ReleaseFolder, 2, &folder));
        let release = [("name", "r"), ("parent-id", "2")];
        project.insert(Entity::of(EntityType::Release, 1, &release));
        let cycle = [("name", "c"), ("parent-id", "1")];
        project.insert(Entity::of(EntityType::ReleaseCycle, 1, &cycle));
        project
            .remove(EntityType::ReleaseFolder, 2)
            .expect("it is there");
        assert_eq!(project.count(EntityType::Release), 0);
        assert_eq!(project.count(EntityType::ReleaseCycle), 0);
        assert!(project.remove(EntityType::ReleaseFolder, 1).is_err());
    }

    #[test]
    fn ids_are_never_reused() {
        let mut project = Project::new();
        let id = project.fresh_id(EntityType::Defect);
        project.insert(Entity::of(EntityType::Defect, id, &[]));
        project.remove(EntityType::Defect, id).expect("it is there");
        assert_eq!(project.fresh_id(EntityType::Defect), id + 1);
    }
}
