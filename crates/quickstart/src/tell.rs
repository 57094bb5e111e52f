//! What is told, in words or as JSON.

use crate::caller::Outcome;
use crate::setup::Demo;
use serde_json::{Value, json};

/// Who is where.
pub(crate) fn set_up(demo: &Demo) {
    say!();
    say!(
        "  relay    {}   (the cloud's side; callers and bridges come here)",
        demo.relay_url()
    );
    say!(
        "  bridge   {}   (inside the network; it dialled the relay and nothing dials it)",
        demo.bridge_name()
    );
    say!(
        "  target   {}   (a sample of an internal tool)",
        demo.target_url()
    );
    say!();
    say!("The bridge was paired with a fresh API key and is connected over one TLS WebSocket.");
    say!("Its policy allows:");
    for line in demo.allowed() {
        say!("  {line}");
    }
}

/// What became of the call.
pub(crate) fn outcome(demo: &Demo, outcome: &Outcome) {
    say!();
    say!(
        "Call URL: the relay was asked to POST {{\"event\":\"defect closed\"}} to {}",
        demo.hook_url()
    );
    say!("  caller -> relay -> TLS WebSocket -> bridge -> policy -> target, and back");
    let document = &outcome.document;
    if outcome.executed() {
        say!(
            "  executed: the target answered {} with",
            document["response"]["status"]
        );
        let body = document["response"]["body"].as_str().unwrap_or("(bytes)");
        say!("    {}", body.trim_end());
        say!(
            "  {:.1} ms for the caller, {} ms of it between relay and target",
            outcome.took.as_secs_f64() * 1e3,
            document["timing"]["total_ms"]
        );
    } else {
        say!(
            "  not executed: {} ({}): {}",
            document["code"].as_str().unwrap_or("?"),
            document["execution"].as_str().unwrap_or("?"),
            document["detail"].as_str().unwrap_or("?")
        );
    }
}

/// Lines to try.
pub(crate) fn what_next(demo: &Demo) {
    let curl = format!(
        "curl --cacert '{}' -u '{}:{}'",
        demo.ca_file().display(),
        demo.caller().client_id,
        demo.caller().client_secret
    );
    say!();
    say!("Try it yourself, from another terminal. A call:");
    say!();
    say!(
        "  {curl} {}/v1/calls -H 'Content-Type: application/json' -d '{{\"url\": \"{}\", \"body\": \"hello\"}}'",
        demo.relay_url(),
        demo.hook_url()
    );
    say!();
    say!("The same target as a named endpoint, like a reverse proxy:");
    say!();
    for name in demo.endpoints() {
        say!("  {curl} {}/v1/endpoints/{name}/", demo.relay_url());
    }
    say!();
    say!("Something that the policy refuses:");
    say!();
    say!(
        "  {curl} {}/v1/calls -H 'Content-Type: application/json' -d '{{\"url\": \"http://169.254.169.254/\", \"bridge\": \"{}\"}}'",
        demo.relay_url(),
        demo.bridge_name()
    );
    say!();
    say!(
        "Your own servers: --endpoint NAME=URL and --allow HOST, see --help. Ctrl-C ends everything."
    );
}

/// The whole of it, for a program.
pub(crate) fn json(demo: &Demo, outcome: &Outcome) -> Value {
    let key = demo.caller();
    let took_ms = outcome.took.as_secs_f64() * 1e3;
    json!({
        "relay_url": demo.relay_url(),
        "internal_url": demo.internal_url(),
        "ca_file": demo.ca_file(),
        "data_dir": demo.data_dir(),
        "tenant": demo.tenant(),
        "bridge": demo.bridge_name(),
        "caller": {"client_id": key.client_id, "client_secret": key.client_secret},
        "admin": {"client_id": demo.admin().client_id, "client_secret": demo.admin().client_secret},
        "endpoints": demo.endpoints(),
        "allowed": demo.allowed(),
        "target_url": demo.target_url(),
        "hook_url": demo.hook_url(),
        "call": outcome.document,
        "call_took_ms": took_ms,
    })
}
