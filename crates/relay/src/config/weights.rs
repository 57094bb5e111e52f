//! `[weights]`: shares, where there is not enough for all.

use serde::de::{Deserialize, Deserializer, Error};
use std::collections::HashMap;

/// How many shares somebody has, 1 to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(pub u8);

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let weight = u8::try_from(number).ok().filter(|weight| *weight > 0);
        weight
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("a weight is 1 to 255, not {number}")))
    }
}

/// Who has more than one share. Who is not named has one.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// By a tenant's name: of this node's places, and of its memory for windows.
    pub tenants: HashMap<String, Weight>,
    /// By a key's client id: of its tenant's places, and of the bytes in its tunnels.
    pub keys: HashMap<String, Weight>,
}

fn of(all: &HashMap<String, Weight>, name: &str) -> u8 {
    if all.is_empty() {
        return 1;
    }
    all.get(name).map_or(1, |weight| weight.0)
}

impl Weights {
    /// That of a tenant, by its name.
    pub fn of_tenant(&self, name: &str) -> u8 {
        of(&self.tenants, name)
    }

    /// That of a key, by its client id.
    pub fn of_key(&self, client_id: &str) -> u8 {
        of(&self.keys, client_id)
    }
}
