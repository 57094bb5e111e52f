//! Both exchanges with a KDC of the test, which answers as the RFC says, or not.

use super::super::crypto::Etype;
use super::super::{Cache, token};
use super::*;
use crate::SecretBytes;
use crate::der::{
    BIT_STRING, GENERAL_STRING, INTEGER, OCTET_STRING, SEQUENCE, application, element, field,
    integer, nested,
};

const SALT: &[u8] = b"CORP.EXAMPLEme";

fn occasion(random: u8) -> Occasion {
    Occasion {
        unix_s: 1_800_000_000,
        micros: 5,
        random: [random; 32],
    }
}

fn user() -> Principal {
    Principal::user("me@CORP.EXAMPLE").unwrap()
}

fn text(text: &str) -> Vec<u8> {
    element(GENERAL_STRING, text.as_bytes())
}

fn session_key() -> Key {
    Key::new(Etype::Aes256Sha1, &[3; 32]).unwrap()
}

fn etype_info(rounds: u32) -> Vec<u8> {
    let entry = nested(
        SEQUENCE,
        &[
            &field(0, &integer(18)),
            &field(1, &element(GENERAL_STRING, SALT)),
            &field(2, &element(OCTET_STRING, &rounds.to_be_bytes())),
        ],
    );
    // A type that is not supported comes first.
    let old = nested(SEQUENCE, &[&field(0, &integer(23))]);
    let info = nested(SEQUENCE, &[&old, &entry]);
    element(SEQUENCE, &pa_data(message::PA_ETYPE_INFO2, &info))
}

fn preauth_required(rounds: u32) -> Vec<u8> {
    error(25, &etype_info(rounds))
}

fn error(code: u32, data: &[u8]) -> Vec<u8> {
    let fields = nested(
        SEQUENCE,
        &[
            &field(0, &integer(5)),
            &field(1, &integer(30)),
            &field(4, &message::time(1_800_000_000)),
            &field(5, &integer(1)),
            &field(6, &integer(code)),
            &field(9, &text("CORP.EXAMPLE")),
            &field(12, &element(OCTET_STRING, data)),
        ],
    );
    element(application(30), &fields)
}

/// What a reply grants.
struct Grant<'a> {
    number: u8,
    client: &'a Principal,
    service: &'a Principal,
    nonce: u32,
    key: &'a Key,
    usage: u32,
}

fn granted(grant: &Grant<'_>) -> Vec<u8> {
    let key = nested(
        SEQUENCE,
        &[
            &field(0, &integer(18)),
            &field(1, &element(OCTET_STRING, &[3; 32])),
        ],
    );
    let part = nested(
        SEQUENCE,
        &[
            &field(0, &key),
            &field(1, &element(SEQUENCE, &[])),
            &field(2, &integer(grant.nonce)),
            &field(4, &element(BIT_STRING, &[0; 5])),
            &field(5, &message::time(1_800_000_000)),
            &field(7, &message::time(1_800_036_000)),
            &field(9, &text(grant.service.realm())),
            &field(10, &message::name(grant.service, 2)),
        ],
    );
    let part = element(application(25), &part);
    let cipher = grant.key.encrypt(grant.usage, [9; 16], &part);
    let encrypted = nested(
        SEQUENCE,
        &[
            &field(0, &integer(grant.key.etype.number())),
            &field(2, &element(OCTET_STRING, &cipher)),
        ],
    );
    let reply = nested(
        SEQUENCE,
        &[
            &field(0, &integer(5)),
            &field(1, &integer(grant.number.into())),
            &field(3, &text(grant.client.realm())),
            &field(4, &message::name(grant.client, 1)),
            &field(5, &element(application(1), b"opaque")),
            &field(6, &encrypted),
        ],
    );
    element(application(grant.number), &reply)
}

fn password_key(password: &[u8]) -> Key {
    Key::of_password(Etype::Aes256Sha1, password, SALT, None).unwrap()
}

/// Returns an exchange that has sent its proof.
fn proven() -> AsExchange {
    let password = UserKey::Password(SecretBytes::copied(b"sesame"));
    let (mut exchange, _) = AsExchange::begin(user(), password, &occasion(1));
    let step = exchange
        .reply(&preauth_required(4_096), &occasion(2))
        .unwrap();
    assert!(matches!(step, AsStep::Request(_)));
    exchange
}

#[test]
fn password_leads_to_a_token() {
    let (user, realm) = (user(), Principal::of_realm("CORP.EXAMPLE"));
    let key = password_key(b"sesame");
    let reply = granted(&Grant {
        number: 11,
        client: &user,
        service: &realm,
        nonce: occasion(2).nonce(),
        key: &key,
        usage: USAGE_AS_REPLY,
    });
    let AsStep::Done(ticket) = proven().reply(&reply, &occasion(3)).unwrap() else {
        panic!("no ticket");
    };
    assert!(ticket.is_valid_at(1_800_000_000) && !ticket.is_valid_at(1_800_035_900));
    let service = Principal::of_proxy("proxy.corp.example", "CORP.EXAMPLE").unwrap();
    let (exchange, _) = TgsExchange::begin(*ticket, service.clone(), &occasion(4));
    let session = session_key();
    let reply = granted(&Grant {
        number: 13,
        client: &user,
        service: &service,
        nonce: occasion(4).nonce(),
        key: &session,
        usage: USAGE_TGS_REPLY,
    });
    let ticket = exchange.reply(&reply).unwrap();
    let one = token(&ticket, &occasion(5));
    assert!(one.windows(6).any(|part| part == b"opaque"));
    assert_ne!(one, token(&ticket, &occasion(6)));
}

#[test]
fn reply_to_another_request_is_refused() {
    let (user, realm) = (user(), Principal::of_realm("CORP.EXAMPLE"));
    let other_user = Principal::user("you@CORP.EXAMPLE").unwrap();
    let other_realm = Principal::of_realm("EVIL.EXAMPLE");
    let (key, other_key) = (password_key(b"sesame"), password_key(b"other"));
    let good = occasion(2).nonce();
    for (client, service, nonce, key, expected) in [
        (&user, &realm, good + 1, &key, KerberosError::Reply),
        (&other_user, &realm, good, &key, KerberosError::Reply),
        (&user, &other_realm, good, &key, KerberosError::Reply),
        (&user, &realm, good, &other_key, KerberosError::OtherKey),
    ] {
        let reply = granted(&Grant {
            number: 11,
            client,
            service,
            nonce,
            key,
            usage: USAGE_AS_REPLY,
        });
        assert_eq!(proven().reply(&reply, &occasion(3)).unwrap_err(), expected);
    }
}

#[test]
fn proof_is_made_once_and_with_enough_rounds() {
    let mut exchange = proven();
    let again = exchange.reply(&preauth_required(4_096), &occasion(3));
    assert_eq!(again.unwrap_err(), KerberosError::Kdc(25));
    let password = UserKey::Password(SecretBytes::copied(b"sesame"));
    let (mut exchange, _) = AsExchange::begin(user(), password, &occasion(1));
    let weak = exchange.reply(&preauth_required(1), &occasion(2));
    assert_eq!(weak.unwrap_err(), KerberosError::Rounds);
    // A key of a type that the KDC does not name is not used.
    let keys = UserKey::Keys(vec![Key::new(Etype::Aes128Sha1, &[1; 16]).unwrap()]);
    let (mut exchange, _) = AsExchange::begin(user(), keys, &occasion(1));
    let other = exchange.reply(&preauth_required(4_096), &occasion(2));
    assert_eq!(other.unwrap_err(), KerberosError::NoEtype);
}

#[test]
fn perturbed_replies_and_files_do_not_panic() {
    let (user, realm) = (user(), Principal::of_realm("CORP.EXAMPLE"));
    // Keys of a keytab, for PBKDF2 would take most of the time.
    let key = Key::new(Etype::Aes256Sha1, &[1; 32]).unwrap();
    let reply = granted(&Grant {
        number: 11,
        client: &user,
        service: &realm,
        nonce: occasion(1).nonce(),
        key: &key,
        usage: USAGE_AS_REPLY,
    });
    let try_all = |bytes: &[u8]| {
        let keys = UserKey::Keys(vec![key.clone()]);
        let (mut exchange, _) = AsExchange::begin(user.clone(), keys, &occasion(1));
        exchange.reply(bytes, &occasion(2)).is_ok()
    };
    assert!(try_all(&reply));
    for message in [reply, preauth_required(4_096)] {
        for len in 0..message.len() {
            try_all(&message[..len]);
        }
        for at in 0..message.len() {
            for bits in [0x01, 0xff] {
                let mut changed = message.clone();
                changed[at] ^= bits;
                try_all(&changed);
                let _ = Cache::parse(&[&[5, 4, 0, 0], &changed[..]].concat());
            }
        }
    }
    let negative = element(INTEGER, &[0x80]);
    assert_eq!(crate::der::Reader::new(&negative).integer(), None);
}
