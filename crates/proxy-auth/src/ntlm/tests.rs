//! Messages of NTLM: what is sent, and what is refused.

use super::*;

/// Writes a challenge with these attributes.
fn challenge(flags: u32, info: &[u8]) -> Vec<u8> {
    let mut message = SIGNATURE.to_vec();
    message.extend_from_slice(&2u32.to_le_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&flags.to_le_bytes());
    message.extend_from_slice(&[0x11; 8]);
    message.extend_from_slice(&[0; 8]);
    let len = u16::try_from(info.len()).unwrap().to_le_bytes();
    message.extend_from_slice(&len);
    message.extend_from_slice(&len);
    message.extend_from_slice(&56u32.to_le_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(info);
    message
}

fn info(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut info = Vec::new();
    for (id, value) in attributes {
        push_attribute(&mut info, *id, value);
    }
    info
}

const OCCASION: Occasion<'_> = Occasion {
    service: "HTTP/proxy.example.com",
    random: [0xaa; 8],
    filetime: 0,
};

fn answer(user: &str, challenge: &[u8]) -> Result<Vec<u8>, NtlmError> {
    let account = Account::new(user, "sesame").unwrap();
    authenticate(&negotiate(), challenge, &account, &OCCASION)
}

fn field(message: &[u8], at: usize) -> &[u8] {
    let len: usize = u16::from_le_bytes([message[at], message[at + 1]]).into();
    let start = u32::from_le_bytes(message[at + 4..at + 8].try_into().unwrap());
    let start = usize::try_from(start).unwrap();
    &message[start..start + len]
}

#[test]
fn user_has_a_domain_or_none() {
    let plain = challenge(UNICODE | TARGET_INFO, &info(&[(2, b"D\0"), (0, b"")]));
    for (text, domain, user) in [
        ("CORP\\me", "CORP", "me"),
        ("me@corp.example", "", "me@corp.example"),
        ("me", "", "me"),
    ] {
        let message = answer(text, &plain).unwrap();
        assert_eq!(field(&message, 28), utf16(domain), "{text}");
        assert_eq!(field(&message, 36), utf16(user), "{text}");
    }
    assert!(Account::new("CORP\\", "x").is_none());
    assert!(Account::new("", "x").is_none());
    assert!(Account::new(&"x".repeat(TEXT_MAX_CHARS + 1), "x").is_none());
}

#[test]
fn proof_names_the_proxy_where_the_server_sends_time() {
    let with_time = info(&[(2, b"D\0"), (7, &[5; 8]), (9, b"x\0"), (0, b"")]);
    let message = answer("me", &challenge(UNICODE | TARGET_INFO, &with_time)).unwrap();
    let nt = field(&message, 20);
    // The server's own value for it is not sent back.
    let mut sent = Vec::new();
    let mut rest = &nt[16 + 28..];
    while let Some((id, value, after)) = attribute(rest) {
        sent.push((id, value.to_vec()));
        rest = after;
        if id == AV_END {
            break;
        }
    }
    let ids: Vec<u16> = sent.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [2, 7, 6, 10, 9, 0]);
    assert_eq!(sent[2].1, 2u32.to_le_bytes());
    assert_eq!(sent[4].1, utf16("HTTP/proxy.example.com"));
    assert_eq!(nt[24..32], [5; 8], "the server's time");
    assert_eq!(field(&message, 12), [0; 24], "no second proof");
    assert_ne!(message[INTEGRITY_AT..PAYLOAD_AT], [0; 16]);

    let without = challenge(UNICODE | TARGET_INFO, &info(&[(2, b"D\0"), (0, b"")]));
    let message = answer("me", &without).unwrap();
    assert_eq!(message[INTEGRITY_AT..PAYLOAD_AT], [0; 16]);
    assert_ne!(field(&message, 12), [0; 24]);
}

#[test]
fn old_server_gets_ascii_alone() {
    let mut old = challenge(OEM, &[]);
    old.truncate(32);
    let message = answer("CORP\\me", &old).unwrap();
    assert_eq!(field(&message, 36), b"me");
    assert_eq!(answer("CORP\\m\u{e9}", &old), Err(NtlmError::NotAscii));
}

#[test]
fn challenge_that_breaks_the_format_is_refused() {
    let good = challenge(
        UNICODE | TARGET_INFO,
        &info(&[(2, b"D\0"), (7, &[5; 8]), (0, b"")]),
    );
    answer("me", &good).unwrap();
    for len in 0..good.len() - 4 {
        let _ = answer("me", &good[..len]);
    }
    for len in [0, 7, 8, 12, 20, 31, 40, 47, 55, 57] {
        assert_eq!(
            answer("me", &good[..len]),
            Err(NtlmError::Challenge),
            "{len}"
        );
    }
    let mut other = good.clone();
    other[8] = 3;
    assert_eq!(answer("me", &other), Err(NtlmError::Challenge));
    let time = challenge(UNICODE | TARGET_INFO, &info(&[(7, b"short"), (0, b"")]));
    assert_eq!(answer("me", &time), Err(NtlmError::Challenge));
    let mut long = good;
    long.resize(CHALLENGE_MAX_BYTES + 1, 0);
    assert_eq!(answer("me", &long), Err(NtlmError::Challenge));
}

#[test]
fn password_is_not_shown() {
    let account = Account::new("me", "sesame").unwrap();
    assert!(!format!("{account:?}").contains("115"), "{account:?}");
}
