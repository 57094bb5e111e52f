//! Role x narrowing x every operation, driven by the table of operations itself.

use super::*;
use crate::api::operations;
use crate::storage::Existing;
use std::collections::BTreeSet;
use std::sync::Arc;

const ROLES: [Role; 5] = [
    Role::Bridge,
    Role::Caller,
    Role::Synchronizer,
    Role::Admin,
    Role::SiteAdmin,
];

/// Scopes of the test keys, by the letters of [`scope`].
const NARROWINGS: [&str; 7] = ["", "h", "e", "he", "b", "c", "hebc"];

/// Returns a scope with one entry of each kind whose letter is given: host, endpoint, bridge, credential.
fn scope(letters: &str) -> Scope {
    let list = |letter: char, entry: &str| match letters.contains(letter) {
        true => vec![entry.to_owned()],
        false => Vec::new(),
    };
    Scope {
        bridges: list('b', "b1"),
        endpoints: list('e', "alm"),
        hosts: list('h', "*.corp.example"),
        credentials: list('c', "sync"),
    }
}

fn principal(role: Role, letters: &str) -> Principal {
    Principal {
        tenant: "t".into(),
        tenant_name: "acme".into(),
        client_id: "ibk_1".into(),
        role,
        existing: Existing::Refuse,
        scope: Arc::new(KeyScope::new(scope(letters))),
    }
}

/// For each operation, the roles that may use it and its resource. A new operation needs a row here.
const RULES: &[(&str, &str, Resource)] = &[
    ("listTenants", "S", Resource::Site),
    ("createTenant", "S", Resource::Site),
    ("showTenant", "S", Resource::Site),
    ("changeTenant", "S", Resource::Site),
    ("deleteTenant", "S", Resource::Site),
    ("listKeys", "AS", Resource::Keys),
    ("createKey", "AS", Resource::Keys),
    ("showKey", "AS", Resource::Keys),
    ("revokeKey", "AS", Resource::Keys),
    ("rotateKey", "AS", Resource::Keys),
    ("createPairingFile", "AS", Resource::Keys),
    ("listSigningSecrets", "AS", Resource::Tenant),
    ("rotateSigningSecret", "AS", Resource::Tenant),
    ("listAudit", "AS", Resource::Tenant),
    ("listNotices", "AS", Resource::Tenant),
    ("showNoticeUrl", "AS", Resource::Tenant),
    ("changeNoticeUrl", "AS", Resource::Tenant),
    ("listBridges", "cyAS", Resource::Bridges),
    ("showBridge", "cyAS", Resource::Bridges),
    ("revokeBridge", "AS", Resource::BridgeChanges),
    ("disableBridge", "AS", Resource::BridgeChanges),
    ("enableBridge", "AS", Resource::BridgeChanges),
    ("allowTlsInspection", "AS", Resource::BridgeChanges),
    ("forbidTlsInspection", "AS", Resource::BridgeChanges),
    ("assignEndpoint", "AS", Resource::BridgeChanges),
    ("releaseEndpoint", "AS", Resource::BridgeChanges),
    ("pairBridge", "b", Resource::Pairing),
    ("listServices", "AS", Resource::Tenant),
    ("reportService", "y", Resource::OwnService),
    ("listCalls", "cAS", Resource::StoredCalls),
    ("showCall", "cAS", Resource::StoredCalls),
    ("redeliverCall", "cAS", Resource::StoredCalls),
    ("redeliverCalls", "cAS", Resource::StoredCalls),
    ("cancelCall", "cAS", Resource::StoredCalls),
    ("cancelCalls", "cAS", Resource::StoredCalls),
    ("explainCall", "cA", Resource::Hosts),
    ("makeCall", "cA", Resource::Hosts),
    ("openTunnel", "", Resource::Public),
    ("health", "", Resource::Public),
    ("readiness", "", Resource::Public),
    ("openapi", "", Resource::Public),
    ("explainError", "", Resource::Public),
    ("getEndpoint", "cyA", Resource::Endpoints),
    ("headEndpoint", "cyA", Resource::Endpoints),
    ("postEndpoint", "cyA", Resource::Endpoints),
    ("putEndpoint", "cyA", Resource::Endpoints),
    ("patchEndpoint", "cyA", Resource::Endpoints),
    ("deleteEndpoint", "cyA", Resource::Endpoints),
    ("optionsEndpoint", "cyA", Resource::Endpoints),
];

fn letter(role: Role) -> char {
    match role {
        Role::Bridge => 'b',
        Role::Caller => 'c',
        Role::Synchronizer => 'y',
        Role::Admin => 'A',
        Role::SiteAdmin => 'S',
    }
}

/// Returns those of [`NARROWINGS`] that allow something of the resource.
fn narrowings_of(resource: Resource) -> &'static [&'static str] {
    match resource {
        Resource::Public
        | Resource::Keys
        | Resource::Bridges
        | Resource::Pairing
        | Resource::OwnService => &NARROWINGS,
        Resource::Site | Resource::Tenant => &[""],
        Resource::BridgeChanges => &["", "b"],
        Resource::StoredCalls | Resource::Hosts => &["", "h", "he", "b", "c", "hebc"],
        Resource::Endpoints => &["", "e", "he", "b", "c", "hebc"],
    }
}

#[test]
fn every_operation_has_its_rule() {
    let known: BTreeSet<&str> = operations().iter().map(|operation| operation.id).collect();
    let ruled: BTreeSet<&str> = RULES.iter().map(|(id, ..)| *id).collect();
    assert_eq!(known, ruled, "each operation has one row in RULES");
    for operation in operations() {
        let (_, roles, resource) = RULES.iter().find(|(id, ..)| *id == operation.id).unwrap();
        assert_eq!(operation.permission.resource, *resource, "{operation:?}");
        for role in ROLES {
            let has_role = roles.contains(letter(role));
            assert_eq!(
                operation.permission.roles.contains(&role),
                has_role,
                "{operation:?} {role}"
            );
            for letters in NARROWINGS {
                let allowed = has_role && narrowings_of(*resource).contains(&letters);
                let admitted = principal(role, letters).admit(operation.permission);
                assert_eq!(
                    admitted.is_ok(),
                    allowed,
                    "{operation:?}: {role} narrowed to {letters:?}"
                );
                if let Err(failure) = admitted {
                    assert_eq!(failure.code, Code::Forbidden);
                }
            }
        }
    }
}

/// The forward proxy has no row in the table, and neither have its CONNECT and WebSocket requests.
#[test]
fn forward_proxy_follows_the_rule_of_calls() {
    for role in ROLES {
        for letters in NARROWINGS {
            let allowed =
                matches!(role, Role::Caller | Role::Synchronizer | Role::Admin) && letters != "e";
            let admitted = principal(role, letters).admit(Permission::PROXY);
            assert_eq!(admitted.is_ok(), allowed, "{role} {letters}");
        }
    }
}

/// For each object, the narrowings under which a key may act on it.
#[test]
fn object_is_within_what_a_key_lists() {
    let target = |url: &str| Target::parse(url).unwrap();
    let (inside, outside) = (
        target("http://ci.corp.example/"),
        target("http://10.0.0.1/"),
    );
    let call = |target: &'static str, bridge, credential| (target, bridge, credential);
    for ((host, bridge, credential), allowed) in [
        (
            call("in", None, None),
            &["", "h", "he", "b", "c", "hebc"][..],
        ),
        (call("out", None, None), &["", "b", "c"]),
        (
            call("in", Some("b1"), None),
            &["", "h", "he", "b", "c", "hebc"],
        ),
        (call("in", Some("b2"), None), &["", "h", "he", "c"]),
        (
            call("in", None, Some("sync")),
            &["", "h", "he", "b", "c", "hebc"],
        ),
        (call("in", None, Some("root")), &["", "h", "he", "b"]),
    ] {
        let host = match host {
            "in" => inside.host(),
            _ => outside.host(),
        };
        let object = Object::Host {
            host,
            bridge,
            credential,
        };
        assert_allowed(object, allowed);
    }
    for (object, allowed) in [
        (
            Object::Endpoint("alm"),
            &["", "e", "he", "b", "c", "hebc"][..],
        ),
        (Object::Endpoint("ci"), &["", "b", "c"]),
        (Object::Bridge("b1"), &NARROWINGS),
        (Object::Bridge("b2"), &["", "h", "e", "he", "c"]),
        (Object::BridgeChange("b1"), &["", "b"]),
        (Object::BridgeChange("b2"), &[""]),
        (Object::Pairing("b1"), &NARROWINGS),
        (Object::Pairing("b2"), &["", "h", "e", "he", "c"]),
    ] {
        assert_allowed(object, allowed);
    }
    let stored = |host, bridge, is_own| Object::StoredCall {
        host,
        bridge,
        is_own,
    };
    for (object, allowed) in [
        (stored("ci.corp.example", None, false), &["", "h", "he"][..]),
        (
            stored("ci.corp.example", Some("b1"), false),
            &["", "h", "he", "b"],
        ),
        (
            stored("ci.corp.example", Some("b2"), false),
            &["", "h", "he"],
        ),
        (
            stored("ci.corp.example", Some("b1"), true),
            &["", "h", "he", "b", "c", "hebc"],
        ),
        (stored("10.0.0.1", Some("b1"), true), &["", "b", "c"]),
        (stored("[fd12::7]", Some("b1"), true), &["", "b", "c"]),
    ] {
        assert_allowed(object, allowed);
    }
}

#[track_caller]
fn assert_allowed(object: Object<'_>, allowed: &[&str]) {
    for letters in NARROWINGS {
        let key = KeyScope::new(scope(letters));
        let result = key.check(object);
        assert_eq!(
            result.is_ok(),
            allowed.contains(&letters),
            "{object:?}, narrowed to {letters:?}: {result:?}"
        );
        assert_eq!(key.sees(object), result.is_ok());
    }
}

#[test]
fn key_manages_keys_that_are_narrowed_as_far() {
    let hosts = |patterns: &[&str]| Scope {
        hosts: patterns
            .iter()
            .map(|pattern| (*pattern).to_owned())
            .collect(),
        ..Scope::default()
    };
    let wide = KeyScope::new(Scope::default());
    let narrow = |letters| KeyScope::new(scope(letters));
    for role in [Role::Caller, Role::Synchronizer, Role::Admin] {
        for letters in NARROWINGS {
            assert!(wide.sees(Object::Key(role, &scope(letters))));
            // Each manages keys narrowed like itself, and none that is not narrowed.
            let own = narrow(letters).sees(Object::Key(role, &scope(letters)));
            assert!(own, "{role} {letters}");
            let all = narrow(letters).sees(Object::Key(role, &scope("")));
            let has_none = role == Role::Synchronizer && letters == "c";
            assert_eq!(all, letters.is_empty() || has_none, "{role} {letters}");
        }
    }
    for (own, other, allowed) in [
        ("he", "h", true),
        ("he", "e", true),
        ("h", "he", false),
        ("e", "he", false),
        ("h", "e", false),
        ("b", "hb", true),
        ("h", "hb", true),
        ("b", "h", false),
        ("hebc", "hbc", true),
        ("hebc", "heb", false),
        ("hebc", "hec", false),
    ] {
        let seen = narrow(own).sees(Object::Key(Role::Admin, &scope(other)));
        assert_eq!(seen, allowed, "{own} {other}");
    }
    for (patterns, allowed) in [
        (&["ci.corp.example"][..], true),
        (&["*.a.corp.example", "ci.corp.example"], true),
        (&["*.example"], false),
        (&["ci.corp.example", "10.0.0.1"], false),
        (&[], false),
    ] {
        let key = hosts(patterns);
        let seen = narrow("h").sees(Object::Key(Role::Caller, &key));
        assert_eq!(seen, allowed, "{patterns:?}");
    }
}

#[test]
fn pairing_keys_need_a_manager_of_bridges_only() {
    for (own, other, allowed) in [
        ("", "", true),
        ("b", "b", true),
        ("b", "be", true),
        ("b", "", false),
        ("b", "e", false),
        ("e", "e", false),
        ("e", "be", false),
        ("h", "b", false),
        ("c", "b", false),
    ] {
        let key = KeyScope::new(scope(own));
        let seen = key.sees(Object::Key(Role::Bridge, &scope(other)));
        assert_eq!(seen, allowed, "{own} {other}");
    }
}

#[test]
fn unreadable_pattern_allows_nothing() {
    let scope = Scope {
        hosts: vec!["*".to_owned()],
        ..Scope::default()
    };
    let key = KeyScope::new(scope);
    let target = Target::parse("http://ci.corp.example/").unwrap();
    let object = Object::Host {
        host: target.host(),
        bridge: None,
        credential: None,
    };
    assert!(!key.sees(object));
    assert!(!key.sees(Object::Endpoint("alm")));
}
