//! `[weights]`: shares, where there is not enough for all.

use serde::Deserialize;
use std::collections::HashMap;

/// Who has more than one share. 1 to 255 each; who is not named has 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// By a tenant's name: of this node's places, and of its memory for windows.
    pub tenants: HashMap<String, u8>,
    /// By a key's client id: of its tenant's places, and of the bytes in its tunnels.
    pub keys: HashMap<String, u8>,
}

fn of(all: &HashMap<String, u8>, name: &str) -> u8 {
    if all.is_empty() {
        return 1;
    }
    all.get(name).copied().unwrap_or(1)
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

    /// What is wrong with them, if anything.
    pub(super) fn mistake(&self) -> Option<String> {
        let mut all = self.tenants.iter().chain(&self.keys);
        let (name, _) = all.find(|(_, weight)| **weight == 0)?;
        Some(format!(
            "weights: {name} has a weight of 0; write 1 to 255, or suspend it"
        ))
    }
}
