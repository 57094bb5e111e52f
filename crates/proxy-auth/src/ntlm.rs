//! NTLMv2 ([MS-NLMP]), as a client.
//!
//! ```text
//! NEGOTIATE ->        what the client supports
//! <- CHALLENGE        eight random bytes, and the names of the server
//! AUTHENTICATE ->     the proof: HMAC-MD5 over the challenge, with a key made of the password
//! ```
//!
//! The proof is bound to the name of the proxy (`MsvAvTargetName`), and the integrity code covers all three messages.
//! A server that passes the messages on to another one is thus noticed, where that one checks the name.

mod proof;

use crate::SecretBytes;
use proof::{Keys, hmac_md5, lm_response, response};

/// What every message begins with.
const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";

/// Text is in UTF-16.
const UNICODE: u32 = 0x0000_0001;
/// Text is in the code page of the machine.
const OEM: u32 = 0x0000_0002;
const REQUEST_TARGET: u32 = 0x0000_0004;
const NTLM: u32 = 0x0000_0200;
const ALWAYS_SIGN: u32 = 0x0000_8000;
const EXTENDED_SESSION_SECURITY: u32 = 0x0008_0000;
const TARGET_INFO: u32 = 0x0080_0000;
const KEYS_128_BITS: u32 = 0x2000_0000;

/// Flags of the NEGOTIATE message.
const OFFERED: u32 =
    UNICODE | OEM | REQUEST_TARGET | NTLM | ALWAYS_SIGN | EXTENDED_SESSION_SECURITY | KEYS_128_BITS;

/// Where the payload of an AUTHENTICATE message begins: after the fields, the version and the integrity code.
const PAYLOAD_AT: usize = 88;

/// Where its integrity code is.
const INTEGRITY_AT: usize = 72;

/// Largest CHALLENGE that is read, in bytes. Those of domain controllers have a few hundred.
pub const CHALLENGE_MAX_BYTES: usize = 8 * 1024;

/// Longest user, domain or password, in characters.
pub const TEXT_MAX_CHARS: usize = 256;

/// Why there is no AUTHENTICATE message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NtlmError {
    /// The challenge breaks the format.
    #[error("its NTLM challenge is not valid")]
    Challenge,
    /// The server supports no Unicode, and a name has other characters than those of ASCII.
    #[error("it supports only ASCII in NTLM, and the user or domain has other characters")]
    NotAscii,
}

/// A user with a password.
#[derive(Debug, Clone)]
pub struct Account {
    user: String,
    domain: String,
    password: SecretBytes,
}

impl Account {
    /// Takes `DOMAIN\user`, `user@domain.example` or `user`. `None` if a part is empty or too long.
    pub fn new(user: &str, password: &str) -> Option<Self> {
        // A user principal name is sent as it is, without a domain ([MS-NLMP], 3.1.5.1.2).
        let (domain, user) = user.split_once('\\').unwrap_or(("", user));
        let is_bounded =
            |text: &str| text.chars().take(TEXT_MAX_CHARS + 1).count() <= TEXT_MAX_CHARS;
        let all = [user, domain, password].into_iter().all(is_bounded);
        (all && !user.is_empty()).then(|| Self {
            user: user.to_owned(),
            domain: domain.to_owned(),
            password: SecretBytes::new(utf16(password)),
        })
    }
}

/// What differs in each authentication.
#[derive(Debug, Clone, Copy)]
pub struct Occasion<'a> {
    /// The service name of the proxy, such as `HTTP/proxy.example.com`.
    pub service: &'a str,
    /// Random bytes.
    pub random: [u8; 8],
    /// The time in units of 100 ns since 1601. Used only if the server sends none.
    pub filetime: u64,
}

/// Returns the NEGOTIATE message.
pub fn negotiate() -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(SIGNATURE);
    message.extend_from_slice(&1u32.to_le_bytes());
    message.extend_from_slice(&OFFERED.to_le_bytes());
    // Neither domain nor workstation.
    message.extend_from_slice(&[0; 16]);
    message
}

/// Returns the AUTHENTICATE message to a CHALLENGE.
///
/// # Errors
/// [`NtlmError`]; nothing secret was used.
pub fn authenticate(
    negotiate: &[u8],
    challenge: &[u8],
    account: &Account,
    occasion: &Occasion<'_>,
) -> Result<Vec<u8>, NtlmError> {
    let parsed = Challenge::parse(challenge)?;
    let is_unicode = parsed.flags & UNICODE != 0;
    let text = |text: &str| match is_unicode {
        true => Ok(utf16(text)),
        false if text.is_ascii() => Ok(text.as_bytes().to_vec()),
        false => Err(NtlmError::NotAscii),
    };
    let (user, domain) = (text(&account.user)?, text(&account.domain)?);

    let filetime = parsed.time.unwrap_or(occasion.filetime);
    let info = parsed.info_for_client(occasion.service);
    let keys = Keys::new(&account.password, &account.user, &account.domain);
    let proof = response(&keys, parsed.server, occasion.random, filetime, &info);
    let lm = match parsed.time {
        // A server that sends the time gets no second proof ([MS-NLMP], 3.1.5.1.2).
        Some(_) => vec![0; 24],
        None => lm_response(&keys, parsed.server, occasion.random),
    };

    let flags = (OFFERED & parsed.flags & !(UNICODE | OEM))
        | if is_unicode { UNICODE } else { OEM }
        | NTLM
        | (parsed.flags & TARGET_INFO);
    let mut message = Vec::with_capacity(PAYLOAD_AT + 512);
    message.extend_from_slice(SIGNATURE);
    message.extend_from_slice(&3u32.to_le_bytes());
    let mut payload = Vec::with_capacity(512);
    // Domain, user and workstation come first: some servers expect the proofs last.
    let mut place = |bytes: &[u8]| {
        let at = PAYLOAD_AT + payload.len();
        payload.extend_from_slice(bytes);
        Field {
            len: bytes.len(),
            at,
        }
    };
    let (domain, user, workstation) = (place(&domain), place(&user), place(&[]));
    let (lm, nt, key) = (place(&lm), place(&proof.response), place(&[]));
    for field in [lm, nt, domain, user, workstation, key] {
        field.write(&mut message)?;
    }
    message.extend_from_slice(&flags.to_le_bytes());
    // The version, and the integrity code, which is computed with zeros in its place.
    message.resize(PAYLOAD_AT, 0);
    message.append(&mut payload);
    if parsed.time.is_some() {
        let code = hmac_md5(&proof.session_key, &[negotiate, challenge, &message]);
        message[INTEGRITY_AT..PAYLOAD_AT].copy_from_slice(&code);
    }
    Ok(message)
}

/// Where a text or proof is in a message.
#[derive(Clone, Copy)]
struct Field {
    len: usize,
    at: usize,
}

impl Field {
    fn write(self, message: &mut Vec<u8>) -> Result<(), NtlmError> {
        let len = u16::try_from(self.len).map_err(|_| NtlmError::Challenge)?;
        let at = u32::try_from(self.at).map_err(|_| NtlmError::Challenge)?;
        message.extend_from_slice(&len.to_le_bytes());
        message.extend_from_slice(&len.to_le_bytes());
        message.extend_from_slice(&at.to_le_bytes());
        Ok(())
    }
}

/// A parsed CHALLENGE message.
struct Challenge<'a> {
    flags: u32,
    server: [u8; 8],
    /// The attributes of the server, without their end.
    info: &'a [u8],
    /// The server's time, if it sends it: it then understands the integrity code.
    time: Option<u64>,
}

/// Attributes of the server ([MS-NLMP], 2.2.2.1).
const AV_END: u16 = 0;
const AV_FLAGS: u16 = 6;
const AV_TIME: u16 = 7;
const AV_TARGET_NAME: u16 = 9;
const AV_CHANNEL: u16 = 10;

/// The value of `MsvAvFlags` that announces an integrity code.
const HAS_INTEGRITY_CODE: u32 = 2;

impl<'a> Challenge<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, NtlmError> {
        let bad = NtlmError::Challenge;
        if message.len() > CHALLENGE_MAX_BYTES || !message.starts_with(SIGNATURE) {
            return Err(bad);
        }
        let u32_at = |at: usize| {
            let bytes = message.get(at..at + 4).ok_or(bad)?;
            bytes.try_into().map(u32::from_le_bytes).map_err(|_| bad)
        };
        if u32_at(8)? != 2 {
            return Err(bad);
        }
        let flags = u32_at(20)?;
        let server = message.get(24..32).ok_or(bad)?;
        let server = server.try_into().map_err(|_| bad)?;
        // Old servers end after the eight bytes.
        let info = match flags & TARGET_INFO {
            0 => &[],
            _ => {
                let len = usize::try_from(u32_at(40)? & 0xffff).map_err(|_| bad)?;
                let at = usize::try_from(u32_at(44)?).map_err(|_| bad)?;
                let end = at.checked_add(len).ok_or(bad)?;
                message.get(at..end).ok_or(bad)?
            }
        };
        let mut challenge = Self {
            flags,
            server,
            info: &[],
            time: None,
        };
        let mut rest = info;
        while !rest.is_empty() {
            let (id, value, after) = attribute(rest).ok_or(bad)?;
            if id == AV_END {
                break;
            }
            if id == AV_TIME {
                challenge.time = Some(u64::from_le_bytes(value.try_into().map_err(|_| bad)?));
            }
            rest = after;
            challenge.info = info.get(..info.len() - rest.len()).ok_or(bad)?;
        }
        Ok(challenge)
    }

    /// Returns the attributes as the client sends them back: with the name of the proxy, and its own flags.
    fn info_for_client(&self, service: &str) -> Vec<u8> {
        let mut info = Vec::with_capacity(self.info.len() + 128);
        let mut own_flags = 0;
        let mut rest = self.info;
        while let Some((id, value, after)) = attribute(rest) {
            match id {
                AV_FLAGS => own_flags = value.try_into().map_or(0, u32::from_le_bytes),
                // Only the client has them.
                AV_TARGET_NAME | AV_CHANNEL => {}
                _ => push_attribute(&mut info, id, value),
            }
            rest = after;
        }
        if self.time.is_some() {
            own_flags |= HAS_INTEGRITY_CODE;
        }
        if own_flags != 0 {
            push_attribute(&mut info, AV_FLAGS, &own_flags.to_le_bytes());
        }
        if self.time.is_some() {
            // Zeros state that there is no TLS to the proxy that the proof could be bound to.
            push_attribute(&mut info, AV_CHANNEL, &[0; 16]);
            push_attribute(&mut info, AV_TARGET_NAME, &utf16(service));
        }
        push_attribute(&mut info, AV_END, &[]);
        info
    }
}

fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (id, rest) = bytes.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
    Some((u16::from_le_bytes(*id), value, rest))
}

fn push_attribute(info: &mut Vec<u8>, id: u16, value: &[u8]) {
    // Values are those of the server, which had a length of 16 bits, or short.
    let Ok(len) = u16::try_from(value.len()) else {
        return;
    };
    info.extend_from_slice(&id.to_le_bytes());
    info.extend_from_slice(&len.to_le_bytes());
    info.extend_from_slice(value);
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests;
