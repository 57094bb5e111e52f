//! The entity types and their fields, named and required as on ALM 26.1. Of the many fields that a
//! project may make for itself, the first eight are active.

mod fields;

use super::clock;
use super::fault::Fault;

/// A type of entity, as far as a synchronizer reads and writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum EntityType {
    Defect,
    Requirement,
    Release,
    ReleaseCycle,
    ReleaseFolder,
}

/// What a field holds. All of them are strings on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    /// A whole HTML document.
    Memo,
    Number,
    Date,
    DateTime,
    LookupList(&'static [&'static str]),
    UsersList,
    Reference,
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// Its column.
    pub(super) physical: &'static str,
    pub(super) label: &'static str,
    pub(super) kind: Kind,
    pub(super) is_required: bool,
    pub(super) is_editable: bool,
    /// Whether it may hold several values.
    pub(super) is_multiple: bool,
    /// What it holds where a client gave nothing.
    pub(super) default: &'static str,
}

impl EntityType {
    pub(super) const ALL: [Self; 5] = [
        Self::Defect,
        Self::Requirement,
        Self::Release,
        Self::ReleaseCycle,
        Self::ReleaseFolder,
    ];

    pub(super) fn of_collection(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.collection() == name)
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Defect => "defect",
            Self::Requirement => "requirement",
            Self::Release => "release",
            Self::ReleaseCycle => "release-cycle",
            Self::ReleaseFolder => "release-folder",
        }
    }

    pub(super) fn collection(self) -> &'static str {
        match self {
            Self::Defect => "defects",
            Self::Requirement => "requirements",
            Self::Release => "releases",
            Self::ReleaseCycle => "release-cycles",
            Self::ReleaseFolder => "release-folders",
        }
    }

    pub(super) fn fields(self) -> &'static [Field] {
        match self {
            Self::Defect => &fields::DEFECT,
            Self::Requirement => &fields::REQUIREMENT,
            Self::Release => &fields::RELEASE,
            Self::ReleaseCycle => &fields::RELEASE_CYCLE,
            Self::ReleaseFolder => &fields::RELEASE_FOLDER,
        }
    }

    /// A field and its place in [`Self::fields`].
    pub(super) fn field(self, name: &str) -> Result<(usize, &'static Field), Fault> {
        let mut fields = self.fields().iter().enumerate();
        fields
            .find(|(_, field)| field.name == name)
            .ok_or_else(|| Fault::unknown_field(name))
    }

    pub(super) fn has_locks(self) -> bool {
        matches!(self, Self::Defect | Self::Requirement)
    }

    /// Whether a versioned project keeps versions of it.
    pub(super) fn has_versions(self) -> bool {
        self == Self::Requirement
    }

    /// The types that may be what an entity's `parent-id` names.
    pub(super) fn parent(self) -> Option<Self> {
        match self {
            Self::Defect => None,
            Self::Requirement => Some(Self::Requirement),
            Self::Release | Self::ReleaseFolder => Some(Self::ReleaseFolder),
            Self::ReleaseCycle => Some(Self::Release),
        }
    }
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::String => "String",
            Self::Memo => "Memo",
            Self::Number => "Number",
            Self::Date => "Date",
            Self::DateTime => "DateTime",
            Self::LookupList(_) => "LookupList",
            Self::UsersList => "UsersList",
            Self::Reference => "Reference",
        }
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Number | Self::Reference)
    }
}

impl Field {
    /// Whether a client may give this value.
    pub(super) fn check(&self, value: &str) -> Result<(), Fault> {
        let fits = match self.kind {
            Kind::String | Kind::Memo | Kind::UsersList => true,
            Kind::Number | Kind::Reference => value.parse::<i64>().is_ok(),
            Kind::Date => clock::is_date(value),
            Kind::DateTime => clock::is_date_time(value),
            Kind::LookupList(list) if list.contains(&value) => true,
            Kind::LookupList(_) => return Err(Fault::list_value(self.name, value)),
        };
        fits.then_some(())
            .ok_or_else(|| Fault::value_type(self.name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_by_field_type() {
        let check = |field: &str, value: &str| {
            let (_, field) = EntityType::Defect.field(field)?;
            field.check(value)
        };
        assert!(check("severity", "5-Urgent").is_ok());
        assert!(check("creation-time", "2026-01-01").is_ok());
        let id = |checked: Result<(), Fault>| checked.expect_err("it is refused").id;
        assert_eq!(id(check("severity", "Bad")), "invalid-list-field-value");
        assert_eq!(
            id(check("creation-time", "today")),
            "invalid-value-type-for-field"
        );
        assert_eq!(id(check("user-99", "x")), "unknown-field-name");
    }

    #[test]
    fn every_type_has_an_id_and_a_version() {
        for one in EntityType::ALL {
            assert_eq!(one.fields()[0].name, "id");
            assert!(one.field("ver-stamp").is_ok());
            assert_eq!(EntityType::of_collection(one.collection()), Some(one));
            assert_eq!(EntityType::named(one.name()), Some(one));
        }
        assert!(EntityType::ReleaseFolder.field("last-modified").is_err());
    }
}
