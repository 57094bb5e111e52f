//! A map with a hash function that is several times as fast as the standard library's.
//!
//! It is keyed at random, but it does not withstand a peer that chooses many keys for the same hash. So it is for
//! keys that this program or its administrator makes, and for maps with few entries. A map of which peers choose many
//! keys is a [`std::collections::HashMap`] with its own hash function.

use std::collections::HashMap;

/// A map for keys that no peer chooses in large numbers.
pub type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
