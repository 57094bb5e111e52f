//! What a test sees and does in the first project without asking over HTTP, as a user of ALM's own
//! pages would.

use super::Alm;
use super::draft::Draft;
use super::fault::Fault;
use super::project::Project;
use super::routes::State;
use super::schema::EntityType;
use super::sessions::Who;
use super::write::Writer;

/// The user of what a test does itself.
const DETECTED_BY: &str = "tester";
/// Seeded defects come from these days, in turn.
const SEED_DAYS: usize = 28;

/// An attachment, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentSeen {
    /// Its id.
    pub id: u64,
    /// Its name within its entity.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The SHA-256 of its bytes, in hex.
    pub sha256: String,
}

impl Alm {
    /// Makes this many defects, quickly: `defect 1`, `defect 2`, ….
    pub fn seed_defects(&self, count: usize) {
        let severities = ["1-Low", "2-Medium", "3-High", "4-Very High", "5-Urgent"];
        let statuses = ["New", "Open", "Fixed", "Closed"];
        self.write(|writer, project| {
            for at in 1..=count {
                let day = format!("2026-01-{:02}", at % SEED_DAYS + 1);
                let draft = Draft::of(&[
                    ("name", &format!("defect {at}")),
                    (
                        "description",
                        &format!("<html><body>\n{at}\n</body></html>"),
                    ),
                    ("severity", severities[at % severities.len()]),
                    ("status", statuses[at % statuses.len()]),
                    ("detected-by", DETECTED_BY),
                    ("creation-time", &day),
                ]);
                writer.create(project, EntityType::Defect, &draft)?;
            }
            Ok(())
        });
    }

    /// Makes an entity, and returns its id.
    ///
    /// # Panics
    ///
    /// Where ALM would refuse it.
    pub fn create(&self, collection: &str, fields: &[(&str, &str)]) -> u64 {
        let (of, draft) = (entity_type(collection), Draft::of(fields));
        self.write(|writer, project| writer.create(project, of, &draft))
    }

    /// Changes some fields of an entity; an empty text empties one.
    ///
    /// # Panics
    ///
    /// Where ALM would refuse it.
    pub fn update(&self, collection: &str, id: u64, fields: &[(&str, &str)]) {
        let (of, draft) = (entity_type(collection), Draft::of(fields));
        self.write(|writer, project| writer.update(project, of, id, &draft));
    }

    /// Deletes an entity, and all below it.
    ///
    /// # Panics
    ///
    /// Where ALM would refuse it.
    pub fn delete(&self, collection: &str, id: u64) {
        let of = entity_type(collection);
        self.write(|writer, project| writer.delete(project, of, id).map(drop));
    }

    /// How many defects there are.
    pub fn defects(&self) -> usize {
        self.count("defects")
    }

    /// How many entities there are in a collection, its root among them.
    pub fn count(&self, collection: &str) -> usize {
        self.look(|project| project.count(entity_type(collection)))
    }

    /// The first value of a defect's field; nothing where it is empty, or the defect is not there.
    pub fn defect_field(&self, id: u64, field: &str) -> Option<String> {
        self.field("defects", id, field)
    }

    /// The same, of any collection.
    pub fn field(&self, collection: &str, id: u64, field: &str) -> Option<String> {
        self.look(|project| {
            let entity = project.get(entity_type(collection), id).ok()?;
            entity.get(field).map(str::to_owned)
        })
    }

    /// The ids of the entities that have this value in this field, in order.
    pub fn ids_with(&self, collection: &str, field: &str, value: &str) -> Vec<u64> {
        self.look(|project| {
            let all = project.all(entity_type(collection));
            let found = all.filter(|entity| entity.get(field) == Some(value));
            found.map(|entity| entity.id).collect()
        })
    }

    /// The attachments of an entity; none where it is not there.
    pub fn attachments(&self, collection: &str, id: u64) -> Vec<AttachmentSeen> {
        self.look(|project| {
            let entity = project.get(entity_type(collection), id);
            let all = entity.map_or(&[][..], |entity| &entity.attachments);
            all.iter()
                .map(|one| AttachmentSeen {
                    id: one.id,
                    name: one.name.clone(),
                    bytes: one.content.bytes,
                    sha256: one.content.sha256.clone(),
                })
                .collect()
        })
    }

    fn look<T>(&self, look: impl FnOnce(&mut Project) -> T) -> T {
        look(first_project(&mut self.state()))
    }

    fn write<T>(&self, write: impl FnOnce(&Writer<'_>, &mut Project) -> Result<T, Fault>) -> T {
        let mut state = self.state();
        let now = state.clock.now();
        let who = Who {
            session: String::new(),
            user: DETECTED_BY.to_owned(),
        };
        let State {
            sessions, domains, ..
        } = &mut *state;
        let writer = Writer {
            who: &who,
            sessions,
            now: &now,
        };
        let project = domains.get_mut(Self::DOMAIN);
        let project = project.and_then(|projects| projects.get_mut(Self::PROJECT));
        let written = write(&writer, project.expect("the first project stays"));
        written.unwrap_or_else(|fault| panic!("ALM refuses it: {}", fault.title))
    }
}

fn first_project(state: &mut State) -> &mut Project {
    let projects = state.domains.get_mut(Alm::DOMAIN);
    let project = projects.and_then(|projects| projects.get_mut(Alm::PROJECT));
    project.expect("the first project stays")
}

fn entity_type(collection: &str) -> EntityType {
    EntityType::of_collection(collection)
        .unwrap_or_else(|| panic!("there is no collection '{collection}'"))
}
