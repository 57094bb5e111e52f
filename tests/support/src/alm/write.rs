//! Creating, updating and deleting one entity, with every check that ALM makes first.

use super::draft::Draft;
use super::entity::{Entity, Values};
use super::fault::Fault;
use super::project::Project;
use super::rules;
use super::schema::EntityType;
use super::sessions::{Sessions, Who};
use super::tree;

/// Who writes, and when.
pub(super) struct Writer<'a> {
    pub(super) who: &'a Who,
    pub(super) sessions: &'a Sessions,
    pub(super) now: &'a str,
}

impl Writer<'_> {
    pub(super) fn create(
        &self,
        project: &mut Project,
        of: EntityType,
        draft: &Draft,
    ) -> Result<u64, Fault> {
        check_type(of, draft)?;
        rules::check_order(of, draft)?;
        let mut values = Values::new();
        take(of, draft, &mut values, None)?;
        for (place, field) in of.fields().iter().enumerate() {
            if !field.default.is_empty() {
                let default = || vec![field.default.to_owned()];
                values.entry(place).or_insert_with(default);
            }
        }
        rules::check(project, of, None, &values)?;
        let id = project.fresh_id(of);
        let mut entity = Entity::new(of, id, values);
        if of == EntityType::Requirement {
            entity.set("creation-time", &self.now[..10]);
        }
        if of.has_versions() && project.is_versioned {
            entity.set("vc-status", "Checked_In");
            entity.set("vc-version-number", "1");
        }
        entity.touch(self.now);
        project.insert(entity);
        tree::place(project, of, id);
        Ok(id)
    }

    pub(super) fn update(
        &self,
        project: &mut Project,
        of: EntityType,
        id: u64,
        draft: &Draft,
    ) -> Result<(), Fault> {
        check_type(of, draft)?;
        self.check_may_write(project, of, id)?;
        let entity = project.get(of, id)?;
        let mut values = entity.values.clone();
        take(of, draft, &mut values, Some(id))?;
        rules::check(project, of, Some(id), &values)?;
        let parent_before = entity.get("parent-id").map(str::to_owned);
        let entity = project.get_mut(of, id)?;
        entity.values = values;
        entity.touch(self.now);
        if entity.get("req-rich-content").is_some() {
            entity.set("has-rich-content", "Y");
        }
        if entity.get("parent-id") != parent_before.as_deref() {
            tree::leave(project, of, parent_before.as_deref());
            tree::place(project, of, id);
        }
        Ok(())
    }

    pub(super) fn delete(
        &self,
        project: &mut Project,
        of: EntityType,
        id: u64,
    ) -> Result<Entity, Fault> {
        self.check_is_free(project.get(of, id)?)?;
        let removed = project.remove(of, id)?;
        tree::leave(project, of, removed.get("parent-id"));
        Ok(removed)
    }

    /// Refuses where the entity is another's at present, or where a version must be begun first.
    pub(super) fn check_may_write(
        &self,
        project: &Project,
        of: EntityType,
        id: u64,
    ) -> Result<(), Fault> {
        let entity = project.get(of, id)?;
        self.check_is_free(entity)?;
        let needs_check_out = of.has_versions() && project.is_versioned;
        if needs_check_out && entity.checked_out.is_none() {
            let why = format!("{} {id} is not checked out", of.name());
            return Err(Fault::check_out(why));
        }
        Ok(())
    }

    fn check_is_free(&self, entity: &Entity) -> Result<(), Fault> {
        if let Some(other) = self.locked_by_other(entity) {
            return Err(Fault::locked(&other.user));
        }
        match &entity.checked_out {
            Some(out) if out.user != self.who.user => Err(Fault::check_out(format!(
                "it is checked out by {}",
                out.user
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// Whose lock it is, where that is not this session's and its session still lives.
    pub(super) fn locked_by_other<'e>(&self, entity: &'e Entity) -> Option<&'e Who> {
        let lock = entity.lock.as_ref()?;
        let is_others = lock.session != self.who.session && self.sessions.is_open(&lock.session);
        is_others.then_some(lock)
    }
}

fn check_type(of: EntityType, draft: &Draft) -> Result<(), Fault> {
    match &draft.named_type {
        Some(named) if named != of.name() => {
            let what = format!("'{named}' is not of collection '{}'", of.collection());
            Err(Fault::malformed(what))
        }
        Some(_) | None => Ok(()),
    }
}

/// Takes a draft's fields over into values, each checked.
fn take(of: EntityType, draft: &Draft, values: &mut Values, id: Option<u64>) -> Result<(), Fault> {
    for (name, given) in &draft.fields {
        let (place, field) = of.field(name)?;
        // No optimistic locking: the stamp that a client read is taken and ignored.
        let is_own_id = name == "id" && id.is_some() && draft_id(draft) == id;
        if name == "ver-stamp" || is_own_id {
            continue;
        }
        if !field.is_editable {
            return Err(Fault::forbidden(format!("Field '{name}' is read-only")));
        }
        if given.len() > 1 && !field.is_multiple {
            return Err(Fault::malformed(format!("Field '{name}' has one value")));
        }
        given.iter().try_for_each(|value| field.check(value))?;
        if given.is_empty() {
            values.remove(&place);
        } else {
            values.insert(place, given.clone());
        }
    }
    Ok(())
}

/// The id that a draft names, as it must in a bulk update.
pub(super) fn draft_id(draft: &Draft) -> Option<u64> {
    draft.value("id")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Setting {
        project: Project,
        sessions: Sessions,
    }

    const DEFECT: [(&str, &str); 4] = [
        ("name", "it breaks"),
        ("severity", "2-Medium"),
        ("detected-by", "ann"),
        ("creation-time", "2026-01-01"),
    ];

    impl Setting {
        fn new() -> Self {
            Self {
                project: Project::new(),
                sessions: Sessions::new("ann", "secret"),
            }
        }

        fn write<T>(
            &mut self,
            write: impl FnOnce(&Writer<'_>, &mut Project) -> Result<T, Fault>,
        ) -> Result<T, Fault> {
            let who = Who {
                session: "s".to_owned(),
                user: "ann".to_owned(),
            };
            let writer = Writer {
                who: &who,
                sessions: &self.sessions,
                now: "2026-01-02 03:04:05",
            };
            write(&writer, &mut self.project)
        }

        fn create(&mut self, fields: &[(&str, &str)]) -> Result<u64, Fault> {
            let draft = Draft::of(fields);
            self.write(|writer, project| writer.create(project, EntityType::Defect, &draft))
        }

        fn update(&mut self, fields: &[(&str, &str)]) -> Result<(), Fault> {
            let draft = Draft::of(fields);
            self.write(|writer, project| writer.update(project, EntityType::Defect, 1, &draft))
        }
    }

    #[test]
    fn new_defect_has_defaults_and_timestamps() {
        let mut setting = Setting::new();
        assert_eq!(setting.create(&DEFECT), Ok(1));
        let defect = setting
            .project
            .get(EntityType::Defect, 1)
            .expect("it is there");
        assert_eq!(defect.get("status"), Some("New"));
        assert_eq!(defect.get("ver-stamp"), Some("1"));
        assert_eq!(defect.get("last-modified"), Some("2026-01-02 03:04:05"));
    }

    #[test]
    fn missing_required_field_is_reported() {
        for without in 0..DEFECT.len() {
            let mut fields = DEFECT.to_vec();
            let (name, _) = fields.remove(without);
            let fault = Setting::new().create(&fields).expect_err("one is missing");
            assert_eq!(fault, Fault::required(name));
        }
    }

    #[test]
    fn read_only_fields_are_rejected_except_versions() {
        let mut setting = Setting::new();
        setting.create(&DEFECT).expect("it is good");
        let stale = [("ver-stamp", "0"), ("status", "Open"), ("id", "1")];
        assert_eq!(setting.update(&stale), Ok(()));
        assert_eq!(setting.update(&[("status", "Fixed")]), Ok(()));
        let defect = setting
            .project
            .get(EntityType::Defect, 1)
            .expect("it is there");
        assert_eq!(defect.get("ver-stamp"), Some("3"));
        let fault = setting.update(&[("last-modified", "2026-01-01 00:00:00")]);
        assert_eq!(fault.expect_err("read-only").id, "operation-forbidden");
        let fault = setting.update(&[("id", "2")]);
        assert_eq!(fault.expect_err("another's").id, "operation-forbidden");
        let fault = setting.update(&[("user-44", "x")]);
        assert_eq!(fault.expect_err("unheard of").id, "unknown-field-name");
        assert_eq!(
            setting.update(&[("name", "")]),
            Err(Fault::required("name"))
        );
    }
}
