//! Keytabs: files with the keys of a principal, format 2.
//!
//! <https://web.mit.edu/kerberos/krb5-latest/doc/formats/keytab_file_format.html>

use super::crypto::{Etype, Key};
use super::{PARTS_MAX, Principal};
use crate::SecretBytes;

/// Largest keytab that is read, in bytes.
pub const KEYTAB_MAX_BYTES: usize = 256 * 1024;

/// Entries of a keytab.
const ENTRIES_MAX: usize = 1_024;

/// A parsed keytab: AES keys alone.
#[derive(Debug, Clone)]
pub struct Keytab(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    principal: Principal,
    version: u32,
    key: Key,
}

impl Keytab {
    /// Parses a keytab. `None` if it is none. Entries of other encryption types are left out.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > KEYTAB_MAX_BYTES {
            return None;
        }
        let mut rest = bytes.strip_prefix(&[5, 2])?;
        let mut entries = Vec::new();
        while !rest.is_empty() && entries.len() < ENTRIES_MAX {
            let (size, after) = rest.split_first_chunk()?;
            let size = i32::from_be_bytes(*size);
            let len = usize::try_from(size.unsigned_abs()).ok()?;
            let (entry, after) = after.split_at_checked(len)?;
            // A deleted entry has a negative size.
            if size > 0 {
                entries.extend(Entry::parse(entry)?);
            }
            rest = after;
        }
        Some(Self(entries))
    }

    /// Returns the principal of the first entry with an AES key.
    pub fn first(&self) -> Option<&Principal> {
        self.0.first().map(|entry| &entry.principal)
    }

    /// Returns the newest keys of a principal.
    pub fn keys(&self, principal: &Principal) -> Vec<Key> {
        let own = || self.0.iter().filter(|entry| entry.principal == *principal);
        let newest = own().map(|entry| entry.version).max();
        let keys = own().filter(|entry| Some(entry.version) == newest);
        keys.map(|entry| entry.key.clone()).collect()
    }
}

impl Entry {
    /// Returns `Some(None)` for another encryption type.
    fn parse(bytes: &[u8]) -> Option<Option<Self>> {
        let mut fields = Fields(bytes);
        let count = usize::from(fields.u16()?);
        if count > PARTS_MAX {
            return None;
        }
        let realm = fields.text()?;
        let parts: Option<Vec<String>> = (0..count).map(|_| fields.text()).collect();
        let principal = Principal::new(parts?, realm)?;
        // The type of the name, and the time of the entry.
        fields.take(8)?;
        let mut version = u32::from(*fields.take(1)?.first()?);
        let etype = fields.u16()?;
        let len = fields.u16()?;
        let key = SecretBytes::copied(fields.take(len.into())?);
        if let Some(long) = fields.take(4)
            && let Ok(long) = long.try_into().map(u32::from_be_bytes)
            && long != 0
        {
            version = long;
        }
        let key = Etype::of_number(etype.into()).and_then(|etype| Key::new(etype, &key));
        Some(key.map(|key| Self {
            principal,
            version,
            key,
        }))
    }
}

/// Reads numbers and texts one after another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let len = self.u16()?;
        String::from_utf8(self.take(len.into())?.to_vec()).ok()
    }
}
