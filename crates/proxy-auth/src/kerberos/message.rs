//! The messages of Kerberos (RFC 4120, 5), as far as a client writes and reads them.

use super::crypto::{Etype, Key};
use super::{KerberosError, Occasion, PARTS_MAX, Principal, REPLY_MAX_BYTES, Ticket};
use crate::SecretBytes;
use crate::der::{
    BIT_STRING, GENERAL_STRING, GENERALIZED_TIME, OCTET_STRING, Reader, SEQUENCE, application,
    element, field, integer, nested,
};
use time::{Date, Month, OffsetDateTime};

/// Key usages (RFC 4120, 7.5.1).
pub(super) const USAGE_TIMESTAMP: u32 = 1;
pub(super) const USAGE_AS_REPLY: u32 = 3;
pub(super) const USAGE_TGS_CHECKSUM: u32 = 6;
pub(super) const USAGE_TGS_AUTHENTICATOR: u32 = 7;
pub(super) const USAGE_TGS_REPLY: u32 = 8;
pub(super) const USAGE_AP_AUTHENTICATOR: u32 = 11;

/// Types of pre-authentication data (RFC 4120, 7.5.2).
pub(super) const PA_TGS_REQUEST: u32 = 1;
pub(super) const PA_ENCRYPTED_TIMESTAMP: u32 = 2;
pub(super) const PA_ETYPE_INFO2: u32 = 19;

/// A ticket is requested for this time; the KDC has its own limit.
const LIFETIME_S: u64 = 10 * 60 * 60;

/// Elements of a list in a reply that are read.
const LIST_MAX: usize = 32;

/// A request to the KDC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    As,
    Tgs,
}

impl Kind {
    fn request(self) -> u8 {
        match self {
            Self::As => 10,
            Self::Tgs => 12,
        }
    }

    fn reply(self) -> u8 {
        match self {
            Self::As => 11,
            Self::Tgs => 13,
        }
    }
}

/// Writes a name. Services have another type than users, which no KDC depends on.
pub(super) fn name(principal: &Principal, number: u32) -> Vec<u8> {
    let parts: Vec<u8> = principal
        .parts
        .iter()
        .flat_map(|part| element(GENERAL_STRING, part.as_bytes()))
        .collect();
    nested(
        SEQUENCE,
        &[
            &field(0, &integer(number)),
            &field(1, &element(SEQUENCE, &parts)),
        ],
    )
}

const NAME_OF_USER: u32 = 1;
const NAME_OF_SERVICE: u32 = 2;

pub(super) fn time(unix_s: u64) -> Vec<u8> {
    let at = i64::try_from(unix_s).ok();
    let at = at.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let text = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    element(GENERALIZED_TIME, text.as_bytes())
}

/// Reads `20370913024805Z`, the only form that is allowed (RFC 4120, 5.2.3).
fn parse_time(text: &[u8]) -> Option<u64> {
    let digits = text
        .strip_suffix(b"Z")
        .filter(|digits| digits.len() == 14)?;
    let number = |from: usize, to: usize| -> Option<u16> {
        std::str::from_utf8(digits.get(from..to)?)
            .ok()?
            .parse()
            .ok()
    };
    let small = |from: usize| u8::try_from(number(from, from + 2)?).ok();
    let month = Month::try_from(small(4)?).ok()?;
    let date = Date::from_calendar_date(number(0, 4)?.into(), month, small(6)?).ok()?;
    let at = date.with_hms(small(8)?, small(10)?, small(12)?).ok()?;
    u64::try_from(at.assume_utc().unix_timestamp()).ok()
}

fn encrypted(key: &Key, usage: u32, occasion: &Occasion, text: &[u8]) -> Vec<u8> {
    let cipher = key.encrypt(usage, occasion.confounder(), text);
    nested(
        SEQUENCE,
        &[
            &field(0, &integer(key.etype.number())),
            &field(2, &element(OCTET_STRING, &cipher)),
        ],
    )
}

/// Writes one piece of pre-authentication data.
pub(super) fn pa_data(number: u32, value: &[u8]) -> Vec<u8> {
    nested(
        SEQUENCE,
        &[
            &field(1, &integer(number)),
            &field(2, &element(OCTET_STRING, value)),
        ],
    )
}

/// Writes the encrypted time, which proves the key of the user.
pub(super) fn encrypted_timestamp(key: &Key, occasion: &Occasion) -> Vec<u8> {
    let text = nested(
        SEQUENCE,
        &[
            &field(0, &time(occasion.unix_s)),
            &field(1, &integer(occasion.micros)),
        ],
    );
    pa_data(
        PA_ENCRYPTED_TIMESTAMP,
        &encrypted(key, USAGE_TIMESTAMP, occasion, &text),
    )
}

/// Writes the body of a request for a ticket. The client is named in an AS request alone.
pub(super) fn request_body(
    client: Option<&Principal>,
    service: &Principal,
    occasion: &Occasion,
) -> Vec<u8> {
    let options = element(BIT_STRING, &[0; 5]);
    let client = client.map(|client| field(1, &name(client, NAME_OF_USER)));
    let etypes: Vec<u8> = Etype::ALL
        .into_iter()
        .flat_map(|etype| integer(etype.number()))
        .collect();
    nested(
        SEQUENCE,
        &[
            &field(0, &options),
            &client.unwrap_or_default(),
            &field(2, &element(GENERAL_STRING, service.realm.as_bytes())),
            &field(3, &name(service, NAME_OF_SERVICE)),
            &field(5, &time(occasion.unix_s.saturating_add(LIFETIME_S))),
            &field(7, &integer(occasion.nonce())),
            &field(8, &element(SEQUENCE, &etypes)),
        ],
    )
}

/// Writes a request.
pub(super) fn request(kind: Kind, pa_data: &[Vec<u8>], body: &[u8]) -> Vec<u8> {
    let pa_data = match pa_data.is_empty() {
        true => Vec::new(),
        false => field(3, &element(SEQUENCE, &pa_data.concat())),
    };
    let message = nested(
        SEQUENCE,
        &[
            &field(1, &integer(5)),
            &field(2, &integer(kind.request().into())),
            &pa_data,
            &field(4, body),
        ],
    );
    element(application(kind.request()), &message)
}

/// What proves the key of a ticket.
pub(super) struct Authenticator<'a> {
    pub(super) client: &'a Principal,
    pub(super) checksum: Option<(u32, Vec<u8>)>,
    pub(super) usage: u32,
}

/// Writes an AP-REQ.
pub(super) fn ap_request(
    ticket: &Ticket,
    authenticator: Authenticator<'_>,
    occasion: &Occasion,
) -> Vec<u8> {
    let checksum = authenticator.checksum.map(|(number, checksum)| {
        let checksum = element(OCTET_STRING, &checksum);
        field(
            3,
            &nested(
                SEQUENCE,
                &[&field(0, &integer(number)), &field(1, &checksum)],
            ),
        )
    });
    let text = nested(
        SEQUENCE,
        &[
            &field(0, &integer(5)),
            &field(
                1,
                &element(GENERAL_STRING, authenticator.client.realm.as_bytes()),
            ),
            &field(2, &name(authenticator.client, NAME_OF_USER)),
            &checksum.unwrap_or_default(),
            &field(4, &integer(occasion.micros)),
            &field(5, &time(occasion.unix_s)),
            &field(7, &integer(occasion.nonce())),
        ],
    );
    let text = element(application(2), &text);
    let message = nested(
        SEQUENCE,
        &[
            &field(0, &integer(5)),
            &field(1, &integer(14)),
            &field(2, &element(BIT_STRING, &[0; 5])),
            &field(3, &ticket.ticket),
            &field(
                4,
                &encrypted(&ticket.key, authenticator.usage, occasion, &text),
            ),
        ],
    );
    element(application(14), &message)
}

/// How the key of the user is made of the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EtypeInfo {
    pub(super) etype: Etype,
    pub(super) salt: Option<Vec<u8>>,
    pub(super) parameters: Option<Vec<u8>>,
}

/// A reply of a KDC.
pub(super) enum Reply {
    Ticket(TicketReply),
    Error { code: u32, info: Vec<EtypeInfo> },
}

/// A ticket, whose key is encrypted.
pub(super) struct TicketReply {
    pub(super) client: Principal,
    pub(super) ticket: Vec<u8>,
    pub(super) etype: Etype,
    pub(super) cipher: Vec<u8>,
    pub(super) info: Vec<EtypeInfo>,
}

/// Reads a reply.
pub(super) fn parse_reply(kind: Kind, bytes: &[u8]) -> Result<Reply, KerberosError> {
    if bytes.len() > REPLY_MAX_BYTES {
        return Err(KerberosError::Reply);
    }
    let mut reader = Reader::new(bytes);
    let (tag, content, _) = reader.any().ok_or(KerberosError::Reply)?;
    if tag == application(30) {
        return error_reply(content).ok_or(KerberosError::Reply);
    }
    if tag != application(kind.reply()) {
        return Err(KerberosError::Reply);
    }
    ticket_reply(content)
        .ok_or(KerberosError::Reply)?
        .map(Reply::Ticket)
}

fn error_reply(content: &[u8]) -> Option<Reply> {
    let mut fields = Reader::new(content).enter(SEQUENCE)?;
    let code = fields.field(6)?.integer()?;
    // The texts of a KDC are not shown: the number says what is needed.
    let data = fields
        .field(12)
        .and_then(|mut data| data.expect(OCTET_STRING));
    let info = data.and_then(etype_info).unwrap_or_default();
    Some(Reply::Error { code, info })
}

/// Returns a ticket, or that its encryption type is none of ours. `None` breaks the protocol.
fn ticket_reply(content: &[u8]) -> Option<Result<TicketReply, KerberosError>> {
    let mut fields = Reader::new(content).enter(SEQUENCE)?;
    (fields.field(0)?.integer()? == 5).then_some(())?;
    let info = fields.field(2).and_then(|data| {
        let mut data = data;
        etype_info(data.any()?.2)
    });
    let realm = text(fields.field(3)?)?;
    let client = parse_name(fields.field(4)?, realm)?;
    let (tag, _, ticket) = fields.field(5)?.any()?;
    (tag == application(1)).then_some(())?;
    let mut encrypted = fields.field(6)?.enter(SEQUENCE)?;
    let etype = encrypted.field(0)?.integer()?;
    let cipher = encrypted.field(2)?.expect(OCTET_STRING)?;
    let Some(etype) = Etype::of_number(etype) else {
        return Some(Err(KerberosError::NoEtype));
    };
    Some(Ok(TicketReply {
        client,
        ticket: ticket.to_vec(),
        etype,
        cipher: cipher.to_vec(),
        info: info.unwrap_or_default(),
    }))
}

/// Reads the supported types of `PA-ETYPE-INFO2` in a list of pre-authentication data.
fn etype_info(bytes: &[u8]) -> Option<Vec<EtypeInfo>> {
    let mut list = Reader::new(bytes).enter(SEQUENCE)?;
    for _ in 0..LIST_MAX {
        if list.is_empty() {
            break;
        }
        let mut one = list.enter(SEQUENCE)?;
        if one.field(1)?.integer() != Some(PA_ETYPE_INFO2) {
            continue;
        }
        let mut entries = Reader::new(one.field(2)?.expect(OCTET_STRING)?).enter(SEQUENCE)?;
        let mut info = Vec::new();
        for _ in 0..LIST_MAX {
            if entries.is_empty() {
                break;
            }
            let mut entry = entries.enter(SEQUENCE)?;
            let etype = entry.field(0)?.integer()?;
            let salt = entry
                .field(1)
                .and_then(|mut salt| salt.expect(GENERAL_STRING));
            let parameters = entry
                .field(2)
                .and_then(|mut bytes| bytes.expect(OCTET_STRING));
            if let Some(etype) = Etype::of_number(etype) {
                info.push(EtypeInfo {
                    etype,
                    salt: salt.map(<[u8]>::to_vec),
                    parameters: parameters.map(<[u8]>::to_vec),
                });
            }
        }
        return Some(info);
    }
    Some(Vec::new())
}

/// What a reply has encrypted.
pub(super) struct ReplyPart {
    pub(super) key: Key,
    pub(super) nonce: u32,
    pub(super) ends_at: u64,
    pub(super) service: Principal,
}

/// Reads the decrypted part of a reply. Some KDCs use the tag of a TGS reply for both.
pub(super) fn parse_part(bytes: &SecretBytes) -> Option<ReplyPart> {
    let mut reader = Reader::new(bytes);
    let (tag, content, _) = reader.any()?;
    [application(25), application(26)]
        .contains(&tag)
        .then_some(())?;
    let mut fields = Reader::new(content).enter(SEQUENCE)?;
    let mut key = fields.field(0)?.enter(SEQUENCE)?;
    let etype = Etype::of_number(key.field(0)?.integer()?)?;
    let key = Key::new(etype, key.field(1)?.expect(OCTET_STRING)?)?;
    let nonce = fields.field(2)?.integer()?;
    let ends_at = parse_time(fields.field(7)?.expect(GENERALIZED_TIME)?)?;
    let realm = text(fields.field(9)?)?;
    let service = parse_name(fields.field(10)?, realm)?;
    Some(ReplyPart {
        key,
        nonce,
        ends_at,
        service,
    })
}

fn text(mut reader: Reader<'_>) -> Option<String> {
    let bytes = reader.expect(GENERAL_STRING)?;
    String::from_utf8(bytes.to_vec()).ok()
}

fn parse_name(mut reader: Reader<'_>, realm: String) -> Option<Principal> {
    let mut list = reader.enter(SEQUENCE)?.field(1)?.enter(SEQUENCE)?;
    let mut parts = Vec::new();
    while !list.is_empty() && parts.len() <= PARTS_MAX {
        let part = list.expect(GENERAL_STRING)?;
        parts.push(String::from_utf8(part.to_vec()).ok()?);
    }
    Principal::new(parts, realm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_universal_time() {
        for (unix_s, text) in [(0, "19700101000000Z"), (2_136_422_885, "20370913024805Z")] {
            let bytes = time(unix_s);
            assert_eq!(&bytes[2..], text.as_bytes());
            assert_eq!(parse_time(text.as_bytes()), Some(unix_s));
        }
        for bad in [
            "",
            "Z",
            "20371313024805Z",
            "2037091302480Z",
            "20370913024805",
            "20370913 24805Z",
        ] {
            assert_eq!(parse_time(bad.as_bytes()), None, "{bad}");
        }
    }
}
