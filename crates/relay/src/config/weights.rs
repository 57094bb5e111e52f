//! `[weights]`: the shares of tenants and keys where capacity is contended.

use serde::de::{Deserialize, Deserializer, Error};
use std::collections::HashMap;

/// A number of shares, 1 to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
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

/// Tenants and keys that have more than one share. Others have one.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Weights by tenant name: shares of this node's exchange permits and of its window memory. Defaults to
    /// none.
    pub tenants: HashMap<String, Weight>,
    /// Weights by client id of a key: shares of its tenant's exchange permits and of the bytes in its tunnels.
    /// Defaults to none.
    pub keys: HashMap<String, Weight>,
}

fn of(all: &HashMap<String, Weight>, name: &str) -> u8 {
    // Each exchange calls this. Most relays have no weights, and compute no hash then.
    if all.is_empty() {
        return 1;
    }
    all.get(name).map_or(1, |weight| weight.0)
}

impl Weights {
    /// Returns the weight of a tenant, by its name.
    pub fn of_tenant(&self, name: &str) -> u8 {
        of(&self.tenants, name)
    }

    /// Returns the weight of a key, by its client id.
    pub fn of_key(&self, client_id: &str) -> u8 {
        of(&self.keys, client_id)
    }
}
