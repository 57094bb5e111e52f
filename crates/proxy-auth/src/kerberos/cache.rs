//! Credential caches: the file that `kinit` writes, formats 3 and 4.
//!
//! <https://web.mit.edu/kerberos/krb5-latest/doc/formats/ccache_file_format.html>

use super::crypto::{Etype, Key};
use super::{PARTS_MAX, Principal, Ticket};
use crate::SecretBytes;

/// Largest cache that is read, in bytes.
pub const CACHE_MAX_BYTES: usize = 1024 * 1024;

/// Tickets in a cache.
const TICKETS_MAX: usize = 1_024;

/// Addresses or authorization data of a ticket.
const LIST_MAX: u32 = 256;

/// A parsed cache.
#[derive(Debug, Clone)]
pub struct Cache {
    client: Principal,
    tickets: Vec<Ticket>,
}

impl Cache {
    /// Parses a cache. `None` if it is none. Tickets with keys of other types than AES are left out.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > CACHE_MAX_BYTES {
            return None;
        }
        let (version, rest) = bytes.split_first_chunk()?;
        let mut fields = Fields(rest);
        match version {
            [5, 3] => {}
            [5, 4] => {
                let header = fields.u16()?;
                fields.take(header.into())?;
            }
            _ => return None,
        }
        let is_doubled = version[1] == 3;
        let client = fields.principal()?;
        let mut tickets = Vec::new();
        while !fields.0.is_empty() && tickets.len() < TICKETS_MAX {
            tickets.extend(fields.ticket(is_doubled)?);
        }
        Some(Self { client, tickets })
    }

    /// Returns the user.
    pub fn client(&self) -> &Principal {
        &self.client
    }

    /// Returns the ticket for a service that ends last.
    pub fn for_service(&self, service: &Principal) -> Option<&Ticket> {
        let own = |ticket: &&Ticket| ticket.client == self.client && ticket.service == *service;
        self.tickets
            .iter()
            .filter(own)
            .max_by_key(|ticket| ticket.ends_at)
    }

    /// Returns the ticket of the user's realm that ends last.
    pub fn for_realm(&self) -> Option<&Ticket> {
        self.for_service(&Principal::of_realm(self.client.realm()))
    }
}

/// Reads numbers, texts and tickets one after another.
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

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn data(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.data()?.to_vec()).ok()
    }

    fn principal(&mut self) -> Option<Principal> {
        let _type = self.u32()?;
        let count = usize::try_from(self.u32()?).ok()?;
        if count > PARTS_MAX {
            return None;
        }
        let realm = self.text()?;
        let parts: Option<Vec<String>> = (0..count).map(|_| self.text()).collect();
        Principal::new(parts?, realm)
    }

    /// Returns `Some(None)` for an entry that is no usable ticket.
    fn ticket(&mut self, is_doubled: bool) -> Option<Option<Ticket>> {
        let (client, service) = (self.principal()?, self.principal()?);
        let etype = self.u16()?;
        if is_doubled {
            self.u16()?;
        }
        let key = SecretBytes::copied(self.data()?);
        let _authenticated_at = self.u32()?;
        let starts_at = self.u32()?;
        let ends_at = self.u32()?;
        let _renewable_until = self.u32()?;
        let is_encrypted_with_key = *self.take(1)?.first()?;
        let _flags = self.u32()?;
        // Addresses, then authorization data.
        for _ in 0..2 {
            let count = self.u32()?;
            if count > LIST_MAX {
                return None;
            }
            for _ in 0..count {
                self.u16()?;
                self.data()?;
            }
        }
        let ticket = self.data()?.to_vec();
        let _second = self.data()?;
        let key = Etype::of_number(etype.into()).and_then(|etype| Key::new(etype, &key));
        // Entries of the library itself have neither key nor times.
        let is_usable = is_encrypted_with_key == 0 && !ticket.is_empty() && starts_at < ends_at;
        Some(key.filter(|_| is_usable).map(|key| Ticket {
            client,
            service,
            ticket,
            key,
            ends_at: ends_at.into(),
        }))
    }
}
