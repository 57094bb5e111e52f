//! The two exchanges with a KDC.
//!
//! ```text
//! AsExchange   request (no proof) --> KDC_ERR_PREAUTH_REQUIRED, with salt and types
//!              request (encrypted time) --> ticket of the realm
//! TgsExchange  request (with that ticket) --> ticket of the service
//! ```

use super::crypto::Key;
use super::message::{
    self, Authenticator, EtypeInfo, Kind, PA_TGS_REQUEST, Reply, TicketReply, USAGE_AS_REPLY,
    USAGE_TGS_AUTHENTICATOR, USAGE_TGS_CHECKSUM, USAGE_TGS_REPLY, pa_data,
};
use super::{KerberosError, Occasion, Principal, Ticket, UserKey};

/// `KDC_ERR_PREAUTH_REQUIRED`.
const PREAUTH_REQUIRED: u32 = 25;

/// The login at a realm.
#[derive(Debug)]
pub struct AsExchange {
    client: Principal,
    secret: UserKey,
    nonce: u32,
    /// The key, once the KDC has named its type. The KDC names it once.
    key: Option<Key>,
}

/// What follows from a reply.
#[derive(Debug)]
pub enum AsStep {
    /// Send this request.
    Request(Vec<u8>),
    /// The ticket of the realm.
    Done(Box<Ticket>),
}

impl AsExchange {
    /// Begins, and returns the first request.
    pub fn begin(client: Principal, secret: UserKey, occasion: &Occasion) -> (Self, Vec<u8>) {
        let exchange = Self {
            client,
            secret,
            nonce: occasion.nonce(),
            key: None,
        };
        let request = exchange.request(&[], occasion);
        (exchange, request)
    }

    fn service(&self) -> Principal {
        Principal::of_realm(self.client.realm())
    }

    fn request(&self, proof: &[Vec<u8>], occasion: &Occasion) -> Vec<u8> {
        let body = message::request_body(Some(&self.client), &self.service(), occasion);
        message::request(Kind::As, proof, &body)
    }

    /// Takes a reply.
    ///
    /// # Errors
    /// [`KerberosError`]: the login has failed.
    pub fn reply(&mut self, reply: &[u8], occasion: &Occasion) -> Result<AsStep, KerberosError> {
        match message::parse_reply(Kind::As, reply)? {
            Reply::Error {
                code: PREAUTH_REQUIRED,
                info,
            } if self.key.is_none() => {
                let key = self.choose(&info)?;
                self.nonce = occasion.nonce();
                let proof = message::encrypted_timestamp(&key, occasion);
                self.key = Some(key);
                Ok(AsStep::Request(self.request(&[proof], occasion)))
            }
            Reply::Error { code, .. } => Err(KerberosError::Kdc(code)),
            Reply::Ticket(reply) => {
                let key = match self.key.take() {
                    Some(key) => key,
                    // A KDC that needs no proof.
                    None => self.choose(&usable(&reply))?,
                };
                if key.etype != reply.etype {
                    return Err(KerberosError::NoEtype);
                }
                let service = self.service();
                let expected = (&key, USAGE_AS_REPLY, self.nonce);
                let ticket = opened(reply, expected, &self.client, &service)?;
                Ok(AsStep::Done(Box::new(ticket)))
            }
        }
    }

    /// Makes the key for the first type of the KDC that the user has.
    fn choose(&self, info: &[EtypeInfo]) -> Result<Key, KerberosError> {
        match &self.secret {
            UserKey::Password(password) => {
                let one = info.first().ok_or(KerberosError::NoEtype)?;
                let salt = one.salt.clone().unwrap_or_else(|| self.client.salt());
                let key = Key::of_password(one.etype, password, &salt, one.parameters.as_deref());
                key.ok_or(KerberosError::Rounds)
            }
            UserKey::Keys(keys) => {
                let found = info
                    .iter()
                    .find_map(|one| keys.iter().find(|key| key.etype == one.etype));
                found.cloned().ok_or(KerberosError::NoEtype)
            }
        }
    }
}

/// Returns how the key of a reply without proof is made.
fn usable(reply: &TicketReply) -> Vec<EtypeInfo> {
    let mut info = reply.info.clone();
    info.retain(|one| one.etype == reply.etype);
    if info.is_empty() {
        info.push(EtypeInfo {
            etype: reply.etype,
            salt: None,
            parameters: None,
        });
    }
    info
}

/// The request for the ticket of a service.
#[derive(Debug)]
pub struct TgsExchange {
    realm: Ticket,
    service: Principal,
    nonce: u32,
}

impl TgsExchange {
    /// Begins with the ticket of the realm, and returns the request.
    pub fn begin(realm: Ticket, service: Principal, occasion: &Occasion) -> (Self, Vec<u8>) {
        let body = message::request_body(None, &service, occasion);
        let checksum = realm.key.checksum(USAGE_TGS_CHECKSUM, &body);
        let authenticator = Authenticator {
            client: &realm.client,
            checksum: Some((realm.key.etype.checksum(), checksum)),
            usage: USAGE_TGS_AUTHENTICATOR,
        };
        let proof = message::ap_request(&realm, authenticator, occasion);
        let request = message::request(Kind::Tgs, &[pa_data(PA_TGS_REQUEST, &proof)], &body);
        let nonce = occasion.nonce();
        (
            Self {
                realm,
                service,
                nonce,
            },
            request,
        )
    }

    /// Takes the reply.
    ///
    /// # Errors
    /// [`KerberosError`]: there is no ticket.
    pub fn reply(self, reply: &[u8]) -> Result<Ticket, KerberosError> {
        match message::parse_reply(Kind::Tgs, reply)? {
            Reply::Error { code, .. } => Err(KerberosError::Kdc(code)),
            Reply::Ticket(reply) => {
                let expected = (&self.realm.key, USAGE_TGS_REPLY, self.nonce);
                opened(reply, expected, &self.realm.client, &self.service)
            }
        }
    }
}

/// Decrypts a reply, and checks that it is the one to the request: otherwise an attacker could answer with a ticket of
/// its own, or with an earlier one.
fn opened(
    reply: TicketReply,
    (key, usage, nonce): (&Key, u32, u32),
    client: &Principal,
    service: &Principal,
) -> Result<Ticket, KerberosError> {
    if reply.etype != key.etype {
        return Err(KerberosError::NoEtype);
    }
    let part = key
        .decrypt(usage, &reply.cipher)
        .ok_or(KerberosError::OtherKey)?;
    let part = message::parse_part(&part).ok_or(KerberosError::Reply)?;
    if part.nonce != nonce || part.service != *service || reply.client != *client {
        return Err(KerberosError::Reply);
    }
    Ok(Ticket {
        client: reply.client,
        service: part.service,
        ticket: reply.ticket,
        key: part.key,
        ends_at: part.ends_at,
    })
}

#[cfg(test)]
mod tests;
