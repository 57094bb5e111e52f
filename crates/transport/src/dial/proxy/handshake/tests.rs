//! The order of schemes, what is sent for each 407, and what is never sent.

use super::super::fake::{fake, login};
use super::super::login::SchemeChoice;
use super::*;
use std::sync::atomic::Ordering;

fn basic() -> Secret {
    Secret::new("Basic bWU6c2VzYW1l")
}

fn offers(fields: &[&str]) -> Offers {
    Offers::read(fields.iter().map(|field| field.as_bytes()))
}

/// Runs the mechanism of [`Next::Begin`], as the connection does, until there is something to send.
fn sent(handshake: &mut Handshake<'_>, mut next: Next) -> Result<Option<String>, Cause> {
    loop {
        next = match next {
            Next::Send(value) => return Ok(value.map(|value| value.expose().to_owned())),
            Next::Fail(why) => return Err(why.cause()),
            Next::Begin(mechanism) => {
                let begun = futures_util::FutureExt::now_or_never(mechanism.begin("proxy"));
                let begun = begun.expect("a fake is ready at once");
                handshake.begun(mechanism, begun)
            }
        };
    }
}

fn first(handshake: &mut Handshake<'_>) -> Result<Option<String>, Cause> {
    let next = handshake.first();
    sent(handshake, next)
}

fn after(handshake: &mut Handshake<'_>, fields: &[&str]) -> Result<Option<String>, Cause> {
    let next = handshake.rejected(offers(fields));
    sent(handshake, next)
}

fn text(value: &str) -> Result<Option<String>, Cause> {
    Ok(Some(value.to_owned()))
}

const ALL: &[&str] = &["Basic realm=x", "NTLM", "Negotiate"];

#[test]
fn strongest_scheme_is_chosen() {
    let (ntlm, negotiate) = (fake(Scheme::Ntlm, false), fake(Scheme::Negotiate, false));
    let basic = basic();
    for (offered, value) in [
        (ALL, "Negotiate b25l"),
        (&["Basic realm=x", "NTLM"], "NTLM b25l"),
        (&["Basic realm=x"], "Basic bWU6c2VzYW1l"),
    ] {
        let login = login(SchemeChoice::Auto, &[&ntlm, &negotiate]);
        let mut handshake = Handshake::new(&login, Some(&basic), false);
        // Nothing secret is sent before the proxy asks.
        assert_eq!(first(&mut handshake), Ok(None));
        assert_eq!(after(&mut handshake, offered), text(value));
        assert_eq!(login.seen().offered.len(), offered.len());
    }
}

#[test]
fn choice_of_a_scheme_excludes_all_others() {
    let (ntlm, negotiate) = (fake(Scheme::Ntlm, false), fake(Scheme::Negotiate, false));
    let basic = basic();
    for scheme in [Scheme::Ntlm, Scheme::Negotiate] {
        let login = login(SchemeChoice::Only(scheme), &[&ntlm, &negotiate]);
        let mut handshake = Handshake::new(&login, Some(&basic), false);
        assert_eq!(first(&mut handshake), Ok(None));
        assert_eq!(after(&mut handshake, ALL), text(&format!("{scheme} b25l")));
        let mut handshake = Handshake::new(&login, Some(&basic), false);
        let refused = after(&mut handshake, &["Basic realm=x"]);
        assert_eq!(refused, Err(Cause::ProxyLoginScheme));
    }
    let login = login(SchemeChoice::Only(Scheme::Basic), &[]);
    let mut handshake = Handshake::new(&login, Some(&basic), false);
    assert_eq!(first(&mut handshake), text("Basic bWU6c2VzYW1l"));
    assert_eq!(after(&mut handshake, ALL), Err(Cause::ProxyLoginRejected));
}

#[test]
fn challenges_are_answered_until_a_bound() {
    let ntlm = fake(Scheme::Ntlm, false);
    let login = login(SchemeChoice::Auto, &[&ntlm]);
    let mut handshake = Handshake::new(&login, None, false);
    assert_eq!(after(&mut handshake, &["NTLM"]), text("NTLM b25l"));
    assert!(!handshake.is_bound());
    for _ in 0..ROUNDS_MAX {
        assert_eq!(after(&mut handshake, &["NTLM dHdv"]), text("NTLM b3d0"));
        assert!(handshake.is_bound());
    }
    let refused = after(&mut handshake, &["NTLM dHdv"]);
    assert_eq!(refused, Err(Cause::ProxyLoginFailed));

    let mut handshake = Handshake::new(&login, None, false);
    assert_eq!(after(&mut handshake, &["NTLM"]), text("NTLM b25l"));
    assert_eq!(
        after(&mut handshake, &["NTLM YmFk"]),
        Err(Cause::ProxyLoginFailed)
    );
    let mut handshake = Handshake::new(&login, None, false);
    assert_eq!(after(&mut handshake, &["NTLM"]), text("NTLM b25l"));
    assert_eq!(
        after(&mut handshake, &["NTLM"]),
        Err(Cause::ProxyLoginRejected)
    );
    assert_eq!(ntlm.rejections.load(Ordering::Relaxed), 3);
}

#[test]
fn known_scheme_is_used_at_once() {
    let ntlm = fake(Scheme::Ntlm, false);
    let login = login(SchemeChoice::Auto, &[&ntlm]);
    let mut handshake = Handshake::new(&login, None, false);
    assert_eq!(after(&mut handshake, &["NTLM"]), text("NTLM b25l"));
    handshake.accepted();
    assert_eq!(login.seen().used, Some(Scheme::Ntlm));
    let mut handshake = Handshake::new(&login, None, false);
    assert_eq!(first(&mut handshake), text("NTLM b25l"));
}

#[test]
fn password_is_not_sent_after_a_stronger_scheme() {
    let basic = basic();
    // It has succeeded before.
    let ntlm = fake(Scheme::Ntlm, false);
    let known = login(SchemeChoice::Auto, &[&ntlm]);
    known.note_used(Scheme::Ntlm);
    let mut handshake = Handshake::new(&known, Some(&basic), false);
    assert_eq!(first(&mut handshake), text("NTLM b25l"));
    assert_eq!(
        after(&mut handshake, &["Basic realm=x"]),
        Err(Cause::ProxyLoginRejected)
    );
    let mut handshake = Handshake::new(&known, Some(&basic), false);
    assert_eq!(
        after(&mut handshake, &["Basic realm=x"]),
        Err(Cause::ProxyLoginDowngrade)
    );
    // It has failed on this connection: NTLM may follow, and Basic may not.
    let negotiate = fake(Scheme::Negotiate, true);
    let both = login(SchemeChoice::Auto, &[&ntlm, &negotiate]);
    let mut handshake = Handshake::new(&both, Some(&basic), false);
    assert_eq!(after(&mut handshake, ALL), text("NTLM b25l"));
    let mut handshake = Handshake::new(&both, Some(&basic), false);
    let refused = after(&mut handshake, &["Negotiate", "Basic realm=x"]);
    assert_eq!(refused, Err(Cause::ProxyLoginFailed));
}

#[test]
fn missing_and_rejected_logins_have_their_causes() {
    let (none, basic) = (Login::default(), basic());
    for (value, fields, cause) in [
        (None, ALL, Cause::ProxyLoginMissing),
        (None, &[], Cause::ProxyLoginMissing),
        (None, &["Digest realm=x"], Cause::ProxyLoginScheme),
        (Some(&basic), &["Basic realm=x"], Cause::ProxyLoginRejected),
        (Some(&basic), &[], Cause::ProxyLoginRejected),
    ] {
        let mut handshake = Handshake::new(&none, value, false);
        let sent = first(&mut handshake).unwrap();
        assert_eq!(sent.as_deref(), value.map(Secret::expose));
        assert_eq!(after(&mut handshake, fields), Err(cause), "{fields:?}");
    }
    let mut handshake = Handshake::new(&none, Some(&basic), true);
    first(&mut handshake).unwrap();
    let refused = after(&mut handshake, &["Basic realm=x"]);
    assert_eq!(refused, Err(Cause::ProxyVariableLoginRejected));
}
