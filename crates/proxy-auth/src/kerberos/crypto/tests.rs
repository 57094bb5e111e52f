//! The vectors of the RFCs, and what is refused.

use super::*;
use crate::kerberos::aes::as_block;
use crate::testing::hex;

/// RFC 3961, A.1.
#[test]
fn folding_is_that_of_the_rfc() {
    for (text, bytes) in [
        (&b"012345"[..], "be072631276b1955"),
        (b"password", "78a07b6caf85fa"),
        (b"Rough Consensus, and Running Code", "bb6ed30870b7f0e0"),
        (b"password", "59e4a8ca7c0385c3c37b3f6d2000247cb6e6bd5b3e"),
        (
            b"MASSACHVSETTS INSTITVTE OF TECHNOLOGY",
            "db3b0d8f0b061e603282b308a50841229ad798fab9540c1b",
        ),
        (b"Q", "518a54a2 15a8452a 518a54a2 15a8452a 518a54a2 15"),
        (b"ba", "fb25d531ae8974499f52fd92ea9857c4ba24cf297e"),
        (b"kerberos", "6b65726265726f737b9b5b2b93132b93"),
    ] {
        let expected = hex(bytes);
        let mut out = vec![0; expected.len()];
        folded(text, &mut out);
        assert_eq!(out, expected, "{:?}", String::from_utf8_lossy(text));
    }
}

/// RFC 3962, appendix B, and RFC 8009, appendix A.
#[test]
fn keys_of_passwords_are_those_of_the_rfcs() {
    let rounds = |rounds| NonZeroU32::new(rounds).unwrap();
    let salt = b"ATHENA.MIT.EDUraeburn";
    let key = Key::stretched(Etype::Aes128Sha1, b"password", salt, rounds(1200));
    assert_eq!(key.bytes[..], hex("4c01cd46d632d01e6dbe230a01ed642a"));
    let key = Key::stretched(Etype::Aes256Sha1, b"password", salt, rounds(1200));
    assert_eq!(
        key.bytes[..],
        hex("55a6ac740ad17b4846941051e1e8b0a7548d93b0ab30a8bc3ff16280382b8c2a")
    );
    let salt = [
        &hex("10df9dd783e5bc8acea1730e74355f61")[..],
        b"ATHENA.MIT.EDUraeburn",
    ]
    .concat();
    let key = Key::of_password(Etype::Aes128Sha256, b"password", &salt, None).unwrap();
    assert_eq!(key.bytes[..], hex("089bca48b105ea6ea77ca5d2f39dc5e7"));
    let key = Key::of_password(Etype::Aes256Sha384, b"password", &salt, None).unwrap();
    assert_eq!(
        key.bytes[..],
        hex("45bd806dbf6a833a9cffc1c94589a222367a79bc21c413718906e9f578a78467")
    );
}

#[test]
fn rounds_of_a_kdc_are_bounded() {
    let key = |rounds: u32| {
        Key::of_password(Etype::Aes256Sha1, b"x", b"y", Some(&rounds.to_be_bytes())).is_some()
    };
    assert!(key(4_096) && key(32_768));
    assert!(!key(0) && !key(1) && !key(4_095) && !key(200_001) && !key(u32::MAX));
    assert!(Key::of_password(Etype::Aes256Sha1, b"x", b"y", Some(b"abc")).is_none());
}

/// RFC 8009, appendix A.
#[test]
fn encryption_with_sha2_is_that_of_the_rfc() {
    let key = hex("3705d96080c17728a0e800eab6e0d23c");
    let key = Key::new(Etype::Aes128Sha256, &key).unwrap();
    let confounder = as_block(&hex("7b ca 28 5e 2f d4 13 0f b5 5b 1a 5c 83 bc 5b 24"));
    let text = hex("00 01 02 03 04 05");
    let data = key.encrypt(2, confounder, &text);
    assert_eq!(
        data,
        hex(
            "84 d7 f3 07 54 ed 98 7b ab 0b f3 50 6b eb 09 cf b5 54 02 ce f7 e6 87 7c e9 9e 24 7e 52 d1 6e d4 42 1d fd f8 97 6c"
        )
    );
    assert_eq!(&key.decrypt(2, &data).unwrap()[..], text);
    assert_eq!(
        key.checksum(2, &hex("000102030405060708090a0b0c0d0e0f1011121314")),
        hex("d78367186643d67b411cba9139fc1dee")
    );
}

#[test]
fn changed_ciphertext_is_refused() {
    for etype in Etype::ALL {
        let key = Key::new(etype, &vec![7; etype.key_bytes()]).unwrap();
        for len in [0, 1, 16, 17, 100] {
            let data = key.encrypt(3, [9; 16], &vec![5; len]);
            assert_eq!(
                key.decrypt(3, &data).unwrap()[..],
                vec![5; len],
                "{etype:?}"
            );
            assert!(key.decrypt(4, &data).is_none(), "another usage");
            for at in 0..data.len() {
                let mut changed = data.clone();
                changed[at] ^= 1;
                assert!(key.decrypt(3, &changed).is_none(), "{etype:?} {at}");
            }
        }
        assert!(key.decrypt(3, &[0; 20]).is_none());
        assert!(key.decrypt(3, &[]).is_none());
    }
}
