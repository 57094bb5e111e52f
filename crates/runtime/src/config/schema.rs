//! The keys that a config type has, found by its own `Deserialize`: no second list can disagree with it.
//!
//! ```text
//! derive(Deserialize) --deserialize_struct(fields)--> Probe   the keys of a section
//!                     --deserialize_str / i64 / seq-> Probe   the kind of a key's value
//!                     --visit_seq(one entry)--------> Probe   the keys of a list's entries
//! ```
//!
//! The probe is a deserializer without data. It walks to one key, records what the type asks it for, and ends
//! with an error. A config has about a hundred keys, so a hundred walks cost well under a millisecond.

use serde::de::value::Error;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess,
    SeqAccess, Visitor,
};
use std::cell::Cell;

/// What a key's value is, as far as a text in the environment must be understood differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string; also what is parsed from one.
    Text,
    /// True or false.
    Boolean,
    /// A whole number.
    Integer,
    /// A number that may have a fraction.
    Float,
    /// A list.
    List,
    /// A table with free keys.
    Table,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its section; `None` at the top level.
    pub section: Option<&'static str>,
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Found {
    Fields(&'static [&'static str]),
    Leaf(Kind),
}

/// Returns all keys of `T`: those of its sections, and those of the top level.
pub(super) fn keys<T: DeserializeOwned>() -> Vec<Key> {
    let mut keys = Vec::new();
    for section in fields(probe::<T>(&[])) {
        match probe::<T>(&[section]) {
            Some(Found::Fields(names)) => {
                for name in names {
                    let kind = match probe::<T>(&[section, name]) {
                        Some(Found::Leaf(kind)) => kind,
                        Some(Found::Fields(_)) => Kind::Table,
                        None => Kind::Text,
                    };
                    keys.push(Key {
                        section: Some(section),
                        name,
                        kind,
                    });
                }
            }
            Some(Found::Leaf(kind)) => keys.push(Key {
                section: None,
                name: section,
                kind,
            }),
            None => {}
        }
    }
    keys
}

/// A section with the names of its keys, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: &'static str,
    /// Whether it is a list of tables, `[[name]]`.
    pub(super) is_list: bool,
    pub(super) keys: Vec<&'static str>,
}

impl Section {
    /// Returns it as its header is written.
    pub(super) fn header(&self) -> String {
        match self.is_list {
            true => format!("[[{}]]", self.name),
            false => format!("[{}]", self.name),
        }
    }
}

/// The step of a walk from a list to its entries.
const ENTRY: &str = "[]";

/// Returns the sections of `T` and their keys, those of lists of tables included.
pub(super) fn sections<T: DeserializeOwned>() -> Vec<Section> {
    let section = |name: &'static str| {
        let (is_list, found) = match probe::<T>(&[name]) {
            Some(Found::Leaf(Kind::List)) => (true, probe::<T>(&[name, ENTRY])),
            found => (false, found),
        };
        Section {
            name,
            is_list,
            keys: fields(found).to_vec(),
        }
    };
    fields(probe::<T>(&[]))
        .iter()
        .copied()
        .map(section)
        .collect()
}

fn fields(found: Option<Found>) -> &'static [&'static str] {
    match found {
        Some(Found::Fields(fields)) => fields,
        Some(Found::Leaf(_)) | None => &[],
    }
}

fn probe<T: DeserializeOwned>(path: &[&'static str]) -> Option<Found> {
    let found = Cell::new(None);
    // The walk always ends with an error: there is no data.
    let _ = T::deserialize(Probe {
        path,
        found: &found,
    });
    found.get()
}

struct Probe<'a> {
    path: &'a [&'static str],
    found: &'a Cell<Option<Found>>,
}

impl Probe<'_> {
    fn leaf<T>(self, kind: Kind) -> Result<T, Error> {
        if self.path.is_empty() {
            self.found.set(Some(Found::Leaf(kind)));
        }
        Err(de::Error::custom("a probe has no data"))
    }
}

macro_rules! leaves {
    ($($kind:ident: $($method:ident)*;)*) => {$($(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            self.leaf(Kind::$kind)
        }
    )*)*};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    leaves! {
        Text: deserialize_any deserialize_str deserialize_string deserialize_char deserialize_bytes
            deserialize_byte_buf deserialize_identifier deserialize_ignored_any deserialize_unit;
        Boolean: deserialize_bool;
        Integer: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
            deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64;
        Float: deserialize_f32 deserialize_f64;
        Table: deserialize_map;
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.path {
            [ENTRY, rest @ ..] => visitor.visit_seq(Entry(Probe {
                path: rest,
                found: self.found,
            })),
            _ => self.leaf(Kind::List),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.path {
            [] => {
                self.found.set(Some(Found::Fields(fields)));
                Err(de::Error::custom("a probe has no data"))
            }
            [first, rest @ ..] => visitor.visit_map(Walk {
                key: Some(first),
                value: Probe {
                    path: rest,
                    found: self.found,
                },
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // An option in a section is the key itself: absence is the section's business.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.leaf(Kind::Text)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        self.leaf(Kind::List)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        _: V,
    ) -> Result<V::Value, Error> {
        self.leaf(Kind::List)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: V,
    ) -> Result<V::Value, Error> {
        self.leaf(Kind::Text)
    }
}

/// A list with one entry.
struct Entry<'a>(Probe<'a>);

impl<'de> SeqAccess<'de> for Entry<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Probe { path, found } = self.0;
        seed.deserialize(Probe { path, found }).map(Some)
    }
}

/// A table with the one key of the walk.
struct Walk<'a> {
    key: Option<&'static str>,
    value: Probe<'a>,
}

impl<'de> MapAccess<'de> for Walk<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        // One entry only. `deny_unknown_fields` would reject a second one that does not exist.
        let key = self.key.take();
        key.map(|key| seed.deserialize(key.into_deserializer()))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Probe {
            path: self.value.path,
            found: self.value.found,
        })
    }
}
