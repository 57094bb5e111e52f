//! The field `Proxy-Authenticate` (RFC 9110, 11.7.1): which schemes a proxy offers, and its challenges.

use super::login::Scheme;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runtime::peer_text::is_plain;

/// Schemes that are read. A proxy offers four at most.
const OFFERS_MAX: usize = 8;

/// Longest name of a scheme that is shown, in characters.
const NAME_MAX_CHARS: usize = 24;

/// The offers of one response.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Offers(Vec<Offer>);

#[derive(Debug, PartialEq, Eq)]
struct Offer {
    /// As the proxy wrote it.
    name: String,
    /// The challenge, if it is base64.
    challenge: Option<Vec<u8>>,
}

impl Offers {
    /// Reads the values of all fields. One field may have several offers: `Negotiate, NTLM, Basic realm="x"`.
    pub(super) fn read<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut offers = Vec::new();
        for field in fields {
            for item in items(field) {
                if offers.len() < OFFERS_MAX {
                    offers.extend(Offer::read(item));
                }
            }
        }
        Self(offers)
    }

    /// Whether the proxy offers nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, scheme: Scheme) -> bool {
        self.0.iter().any(|offer| offer.is_of(scheme))
    }

    /// Returns the challenge of a scheme: what it sends after the first message.
    pub(super) fn challenge(&self, scheme: Scheme) -> Option<&[u8]> {
        let mut own = self.0.iter().filter(|offer| offer.is_of(scheme));
        own.find_map(|offer| offer.challenge.as_deref())
    }

    /// Returns the names, for people.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|offer| offer.name.clone()).collect()
    }
}

impl Offer {
    /// Returns `None` for a parameter of the offer before it, such as `charset="UTF-8"`.
    fn read(item: &[u8]) -> Option<Self> {
        let item = std::str::from_utf8(item).ok()?.trim();
        let (name, rest) = item.split_once([' ', '\t']).unwrap_or((item, ""));
        if name.is_empty() || name.contains('=') || rest.trim_start().starts_with('=') {
            return None;
        }
        let shown = name.chars().filter(|one| is_plain(*one));
        let challenge = STANDARD.decode(rest.trim()).ok();
        Some(Self {
            name: shown.take(NAME_MAX_CHARS).collect(),
            challenge: challenge.filter(|challenge| !challenge.is_empty()),
        })
    }

    fn is_of(&self, scheme: Scheme) -> bool {
        self.name.eq_ignore_ascii_case(scheme.name())
    }
}

/// Splits a value at commas that are not in a quoted string.
fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    value.split(move |byte| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match byte {
            b'\\' if is_quoted && !was_escaped => is_escaped = true,
            b'"' if !was_escaped => is_quoted = !is_quoted,
            b',' => return !is_quoted,
            _ => {}
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[&str]) -> Offers {
        Offers::read(fields.iter().map(|field| field.as_bytes()))
    }

    #[test]
    fn offers_are_in_one_field_or_several() {
        for fields in [
            &["Negotiate", "NTLM", "Basic realm=\"a, b\""][..],
            &["negotiate, ntlm,Basic realm=\"a, \\\"NTLM\", charset=\"UTF-8\""],
            &["Basic realm=x, charset = y", " Negotiate ", "NTLM\t"],
        ] {
            let offers = read(fields);
            for scheme in Scheme::ALL {
                assert!(offers.has(scheme), "{fields:?} {scheme}");
                assert_eq!(offers.challenge(scheme), None, "{fields:?}");
            }
            assert_eq!(offers.names().len(), 3, "{fields:?}");
        }
        assert!(read(&[]).is_empty() && read(&["", " ,, "]).is_empty());
        assert!(!read(&["Basic realm=\"NTLM, Negotiate\""]).has(Scheme::Ntlm));
        assert!(!read(&["Basically realm=x"]).has(Scheme::Basic));
    }

    #[test]
    fn challenge_is_read_from_base64() {
        let offers = read(&["NTLM TlRMTVNTUAA=", "Negotiate !", "Basic realm=x"]);
        assert_eq!(offers.challenge(Scheme::Ntlm), Some(&b"NTLMSSP\0"[..]));
        assert_eq!(offers.challenge(Scheme::Negotiate), None);
        assert_eq!(offers.challenge(Scheme::Basic), None);
    }

    #[test]
    fn names_and_number_of_offers_are_bounded() {
        let many = vec!["NTLM"; 100].join(",");
        assert_eq!(read(&[&many]).names().len(), OFFERS_MAX);
        let long = "x\u{202e}".repeat(100);
        let names = read(&[&long]).names();
        assert_eq!(names, ["x".repeat(NAME_MAX_CHARS)]);
    }
}
