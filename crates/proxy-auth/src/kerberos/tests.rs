//! Principals, and files and replies that break their formats.

use super::*;

const OCCASION: Occasion = Occasion {
    unix_s: 1_800_000_000,
    micros: 5,
    random: [7; 32],
};

fn user() -> Principal {
    Principal::user("me@corp.example").unwrap()
}

#[test]
fn user_has_name_and_realm() {
    assert_eq!(user().to_string(), "me@CORP.EXAMPLE");
    assert_eq!(Principal::user("a/b@R").unwrap().to_string(), "a/b@R");
    for bad in ["me", "@R", "me@", "", "a//b@R"] {
        assert!(Principal::user(bad).is_none(), "{bad}");
    }
    let proxy = Principal::of_proxy("Proxy.Example.COM.", "R").unwrap();
    assert_eq!(proxy.to_string(), "HTTP/proxy.example.com@R");
}

#[test]
fn reply_that_breaks_the_protocol_is_refused() {
    let password = UserKey::Password(SecretBytes::copied(b"x"));
    for bytes in [
        &b""[..],
        b"\x6b",
        b"\x6b\x00",
        b"\x7e\x02\x30\x00",
        b"HTTP/1.1 200 OK",
        &[0x30; 200],
    ] {
        let (mut exchange, _) = AsExchange::begin(user(), password.clone(), &OCCASION);
        let error = exchange.reply(bytes, &OCCASION).unwrap_err();
        assert_eq!(error, KerberosError::Reply, "{bytes:?}");
    }
    let (mut exchange, _) = AsExchange::begin(user(), password, &OCCASION);
    let huge = vec![0x6b; REPLY_MAX_BYTES + 1];
    assert_eq!(
        exchange.reply(&huge, &OCCASION).unwrap_err(),
        KerberosError::Reply
    );
}

#[test]
fn cut_files_are_refused() {
    let mut keytab = vec![5, 2];
    let mut entry = Vec::new();
    for text in [
        &b"\0\x01"[..],
        b"\0\x01R",
        b"\0\x02me",
        &[0; 8],
        &[3],
        b"\0\x12\0\x20",
        &[9; 32],
    ] {
        entry.extend_from_slice(text);
    }
    keytab.extend_from_slice(&u32::try_from(entry.len()).unwrap().to_be_bytes());
    keytab.extend_from_slice(&entry);
    let parsed = Keytab::parse(&keytab).unwrap();
    let me = parsed.first().unwrap().clone();
    assert_eq!(me.to_string(), "me@R");
    assert_eq!(parsed.keys(&me).len(), 1);
    assert!(parsed.keys(&user()).is_empty());
    for len in (0..2).chain(3..keytab.len()) {
        assert!(Keytab::parse(&keytab[..len]).is_none(), "{len}");
    }
    assert!(Cache::parse(b"").is_none());
    assert!(Cache::parse(b"\x05\x04\x00").is_none());
    assert!(Cache::parse(&[255; 64]).is_none());
}

#[test]
fn keys_are_not_shown() {
    let key = Key::new(Etype::Aes256Sha1, &[201; 32]).unwrap();
    let secrets = UserKey::Keys(vec![key]);
    assert!(!format!("{secrets:?}").contains("201"), "{secrets:?}");
}

#[test]
fn errors_of_a_kdc_are_in_words() {
    assert!(KerberosError::Kdc(24).to_string().contains("password"));
    assert!(KerberosError::Kdc(37).to_string().contains("clock"));
    assert!(KerberosError::Kdc(60).to_string().contains("error 60"));
}
