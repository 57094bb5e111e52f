//! Rows of the audit record in words, for `audit list`.

use crate::storage::audit::AuditRow;
use runtime::output::counted;
use runtime::peer_text::PeerText;
use serde_json::Value;

/// Characters of the text of a row.
const TEXT_MAX_CHARS: usize = 200;

/// Returns what happened, in one line: the action with its object.
pub(super) fn what(row: &AuditRow) -> String {
    let detail: Value = serde_json::from_str(&row.detail).unwrap_or(Value::Null);
    let text = |name: &str| detail[name].as_str().filter(|text| !text.is_empty());
    let object = row.object.as_str();
    let label = text("label").map_or_else(String::new, |label| format!(" [{label}]"));
    let host = text("host").map_or_else(String::new, |host| format!(" to {host}"));
    let action = match row.action.as_str() {
        // A row of one call has its id as the object, and its host. A sum has the key, which is also the actor.
        "call" if row.count == 1 && text("host").is_some() => {
            format!("made the call {object}{label}{host}")
        }
        "call" => format!("made {}", calls("", row.count)),
        "delivery" if row.count == 1 && !object.is_empty() => {
            let attempt = detail["attempt"].as_i64().unwrap_or_default();
            format!("attempt {attempt} to deliver {object}{label}{host}")
        }
        "delivery" => format!("made {} to deliver calls", counted(row.count, "attempt")),
        "endpoint" => match (object.strip_prefix("proxy "), row.count) {
            // The forward proxy: no endpoint's name has a blank.
            (Some(target), 1) => format!("sent a proxy request to {target}"),
            (Some(target), count) => format!("sent {count} proxy requests to {target}"),
            (None, 1) => format!("sent a request to the endpoint {object}"),
            (None, count) => format!("sent {count} requests to the endpoint {object}"),
        },
        "call.redeliver" => format!("had {} delivered again", calls(object, row.count)),
        "call.cancel" => format!("cancelled {}", calls(object, row.count)),
        "tenant.create" => format!("created the tenant {object}"),
        "tenant.change" => format!("changed the tenant {object}"),
        "tenant.delete" => format!("deleted the tenant {object}"),
        "key.create" => {
            let role = text("role").map_or_else(String::new, |role| format!(" ({role})"));
            format!("created the API key {object}{role}")
        }
        "key.rotate" => format!("gave the API key {object} a new secret"),
        "key.revoke" => format!("revoked the API key {object}"),
        "bridge.pair" if row.result == "ok" => {
            let on = text("host").map_or_else(String::new, |host| format!(" on {host}"));
            format!("paired the bridge {object}{on}")
        }
        "bridge.pair" => format!("tried to pair a bridge{}", times(row.count)),
        "bridge.revoke" => format!("revoked the bridge {object}"),
        "bridge.disable" => format!("disabled the bridge {object}"),
        "bridge.enable" => format!("enabled the bridge {object}"),
        "bridge.inspected" => format!("accepted that TLS of the bridge {object} is inspected"),
        "bridge.not_inspected" => {
            format!("stopped accepting that TLS of the bridge {object} is inspected")
        }
        "bridge.cloned" => format!("saw two processes connect as the bridge {object}"),
        "bridge.audit_head" => format!("stored the head of the audit file of {object}"),
        "bridge.audit_rollback" => format!("saw an earlier copy of the audit file of {object}"),
        "endpoint.claim" => {
            format!("gave the endpoint {object} to the first bridge that declared it")
        }
        "endpoint.assign" => format!("assigned the endpoint {object}"),
        "endpoint.release" => format!("released the endpoint {object}"),
        "endpoint.conflict" => format!("saw {object} declare an endpoint of another bridge"),
        "signing_secret.rotate" => "added a secret that signs deliveries".to_owned(),
        "signing_secret.reveal" => "read the secrets that sign deliveries".to_owned(),
        "deliveries.pause" => "paused all deliveries".to_owned(),
        "deliveries.resume" => "resumed all deliveries".to_owned(),
        "database.restore" => format!("restored the database from {object}"),
        "auth.denied" => format!("was denied a request{}", times(row.count)),
        "tunnel.denied" => format!("was denied a tunnel{}", times(row.count)),
        "audit.key_changed" => {
            format!("signs the seals of the audit record with another key file, {object}")
        }
        "audit.lost" => format!("lost {} rows of the audit record", row.count),
        other => format!("{other} {object}"),
    };
    let from = text("address").map_or_else(String::new, |address| format!(" from {address}"));
    printable(&format!("{action}{from}"))
}

/// Returns how it ended, in words.
pub(super) fn outcome(row: &AuditRow) -> String {
    let detail: Value = serde_json::from_str(&row.detail).unwrap_or(Value::Null);
    let words = match (row.result.as_str(), detail["status"].as_i64()) {
        ("ok", Some(status)) => format!("the target responded with {status}"),
        ("ok", None) => "done".to_owned(),
        (code, _) => match detail["detail"].as_str() {
            Some(why) => format!("{}: {why}", code.replace('_', " ")),
            None => code.replace('_', " "),
        },
    };
    printable(&words)
}

fn calls(id: &str, count: i64) -> String {
    match (id, count) {
        ("", 1) => "1 call".to_owned(),
        ("", count) => format!("{count} calls"),
        (id, _) => format!("the call {id}"),
    }
}

fn times(count: i64) -> String {
    match count {
        1 => String::new(),
        count => format!(" {count} times"),
    }
}

/// Returns a text that is safe on a terminal: objects and labels come from callers.
fn printable(text: &str) -> String {
    PeerText::bounded(text, TEXT_MAX_CHARS).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(action: &str, object: &str, result: &str, count: i64, detail: &str) -> AuditRow {
        AuditRow {
            seq: 1,
            at_ms: 0,
            tenant: "t".to_owned(),
            actor: "ibk_1".to_owned(),
            action: action.to_owned(),
            object: object.to_owned(),
            bridge: String::new(),
            result: result.to_owned(),
            execution: String::new(),
            bytes_up: 0,
            bytes_down: 0,
            took_ms: 0,
            count,
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn proxy_request_is_not_one_to_an_endpoint() {
        let of = |count| what(&row("endpoint", "proxy 127.0.0.1:28000", "ok", count, "{}"));
        assert_eq!(of(1), "sent a proxy request to 127.0.0.1:28000");
        assert_eq!(of(7), "sent 7 proxy requests to 127.0.0.1:28000");
    }

    #[test]
    fn sum_of_calls_is_not_one_call() {
        for (count, expected) in [(81, "made 81 calls"), (1, "made 1 call")] {
            // As `denials` writes it: the object is the key, and there is no detail.
            let sum = row("call", "ibk_1", "refused_by_policy", count, "");
            assert_eq!(what(&sum), expected);
            assert_eq!(outcome(&sum), "refused by policy");
        }
        let sum = row("delivery", "", "timeout", 5, "{}");
        assert_eq!(what(&sum), "made 5 attempts to deliver calls");
        let one = row("delivery", "", "timeout", 1, "");
        assert_eq!(what(&one), "made 1 attempt to deliver calls");
    }

    #[test]
    fn audit_rows_are_shown_in_words() {
        let call = row(
            "call",
            "call_1",
            "ok",
            1,
            r#"{"host":"ci.corp","status":200,"label":"nightly"}"#,
        );
        assert_eq!(what(&call), "made the call call_1 [nightly] to ci.corp");
        assert_eq!(outcome(&call), "the target responded with 200");
        let refused = r#"{"host":"ci.corp","detail":"no rule allows it"}"#;
        let refused = row("call", "call_2", "refused_by_policy", 1, refused);
        assert_eq!(outcome(&refused), "refused by policy: no rule allows it");
        assert_eq!(what(&refused), "made the call call_2 to ci.corp");
        let sum = row("endpoint", "alm", "ok", 12, "{}");
        assert_eq!(what(&sum), "sent 12 requests to the endpoint alm");
        let denied = row(
            "auth.denied",
            "",
            "unauthorized",
            3,
            r#"{"address":"192.0.2.1"}"#,
        );
        assert_eq!(what(&denied), "was denied a request 3 times from 192.0.2.1");
        let new = row("moon.land", "x\u{1b}[31m", "ok", 1, "no json");
        assert_eq!(what(&new), "moon.land x\\u001b[31m");
        assert_eq!(outcome(&new), "done");
    }
}
