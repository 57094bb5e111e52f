//! A stored entity: its values by field, its lock and check-out, its attachments.

use std::collections::BTreeMap;

use super::attachment::Attachment;
use super::schema::EntityType;
use super::sessions::Who;

/// A field's values, by its place in the type's table. A field without a value has no entry.
pub(super) type Values = BTreeMap<usize, Vec<String>>;

/// A field's values among all; none where it is empty.
pub(super) fn held(values: &Values, field: usize) -> &[String] {
    values.get(&field).map_or(&[], Vec::as_slice)
}

#[derive(Debug)]
pub(super) struct Entity {
    pub(super) entity_type: EntityType,
    pub(super) id: u64,
    pub(super) values: Values,
    pub(super) lock: Option<Who>,
    pub(super) checked_out: Option<CheckedOut>,
    pub(super) attachments: Vec<Attachment>,
}

/// A version that is being made.
#[derive(Debug)]
pub(super) struct CheckedOut {
    pub(super) user: String,
    /// What everybody else still sees.
    pub(super) before: Values,
}

impl Entity {
    pub(super) fn new(entity_type: EntityType, id: u64, values: Values) -> Self {
        let mut entity = Self {
            entity_type,
            id,
            values,
            lock: None,
            checked_out: None,
            attachments: Vec::new(),
        };
        entity.set("id", &id.to_string());
        entity
    }

    /// Of values by name.
    pub(super) fn of(entity_type: EntityType, id: u64, values: &[(&str, &str)]) -> Self {
        let mut entity = Self::new(entity_type, id, Values::new());
        for (name, value) in values {
            entity.set(name, value);
        }
        entity
    }

    pub(super) fn values_at(&self, field: usize) -> &[String] {
        held(&self.values, field)
    }

    /// A field's first value, where the type has that field and there is one.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (at, _) = self.entity_type.field(name).ok()?;
        self.values_at(at).first().map(String::as_str)
    }

    /// Sets a field; where the type does not have it, nothing happens.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        let Ok((at, _)) = self.entity_type.field(name) else {
            return;
        };
        if value.is_empty() {
            self.values.remove(&at);
        } else {
            self.values.insert(at, vec![value.to_owned()]);
        }
    }

    /// Counts a write, which is how a client learns of it.
    pub(super) fn touch(&mut self, now: &str) {
        let version = self.get("ver-stamp").and_then(|text| text.parse().ok());
        let next: u64 = version.unwrap_or(0) + 1;
        self.set("ver-stamp", &next.to_string());
        self.set("last-modified", now);
    }

    /// What this user sees of it: of a version that another is making, nothing.
    pub(super) fn seen_by(&self, user: &str) -> &Values {
        match &self.checked_out {
            Some(out) if out.user != user => &out.before,
            Some(_) | None => &self.values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_increments_the_version() {
        let mut defect = Entity::of(EntityType::Defect, 1, &[]);
        defect.touch("2026-01-01 00:00:00");
        defect.touch("2026-01-01 00:00:01");
        assert_eq!(defect.get("ver-stamp"), Some("2"));
        assert_eq!(defect.get("last-modified"), Some("2026-01-01 00:00:01"));
    }
}
