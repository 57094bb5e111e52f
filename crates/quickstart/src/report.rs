//! What the quickstart prints, as text or as JSON.

use crate::caller::Outcome;
use crate::setup::Demo;
use serde_json::{Value, json};

/// Prints the parts and their addresses.
pub(crate) fn setup(demo: &Demo) {
    print_line!();
    print_line!(
        "  relay    {}   (in the cloud; callers and bridges connect to it)",
        demo.relay_url()
    );
    print_line!(
        "  bridge   {}   (inside the network; it dials the relay, and accepts no connections)",
        demo.bridge_name()
    );
    print_line!(
        "  target   {}   (a sample of an internal tool)",
        demo.target_url()
    );
    print_line!();
    print_line!(
        "The bridge was paired with a fresh API key and is connected over one TLS WebSocket."
    );
    print_line!("Its policy allows:");
    for line in demo.allowed() {
        print_line!("  {line}");
    }
}

/// Prints the outcome of the call.
pub(crate) fn outcome(demo: &Demo, outcome: &Outcome) {
    print_line!();
    print_line!(
        "Call URL: the caller asked the relay to POST {{\"event\":\"defect closed\"}} to {}",
        demo.hook_url()
    );
    print_line!("  caller -> relay -> TLS WebSocket -> bridge -> policy -> target, and back");
    let document = &outcome.document;
    if outcome.executed() {
        print_line!(
            "  executed: the target responded with {} and",
            document["response"]["status"]
        );
        let body = document["response"]["body"].as_str().unwrap_or("(bytes)");
        print_line!("    {}", body.trim_end());
        print_line!(
            "  {:.1} ms for the caller, {} ms of it between relay and target",
            outcome.took.as_secs_f64() * 1e3,
            document["timing"]["total_ms"]
        );
    } else {
        print_line!(
            "  not executed: {} ({}): {}",
            document["code"].as_str().unwrap_or("?"),
            document["execution"].as_str().unwrap_or("?"),
            document["detail"].as_str().unwrap_or("?")
        );
    }
}

/// Prints commands to try.
pub(crate) fn next_steps(demo: &Demo) {
    let curl = format!(
        "curl --cacert '{}' -u '{}:{}'",
        demo.ca_file().display(),
        demo.caller().client_id,
        demo.caller().client_secret
    );
    print_line!();
    print_line!("Try it yourself, from another terminal. A call:");
    print_line!();
    print_line!(
        "  {curl} {}/v1/calls -H 'Content-Type: application/json' -d '{{\"url\": \"{}\", \"body\": \"hello\"}}'",
        demo.relay_url(),
        demo.hook_url()
    );
    print_line!();
    print_line!("The same target as a named endpoint, like a reverse proxy:");
    print_line!();
    for name in demo.endpoints() {
        print_line!("  {curl} {}/v1/endpoints/{name}/", demo.relay_url());
    }
    print_line!();
    print_line!("A request that the policy rejects:");
    print_line!();
    print_line!(
        "  {curl} {}/v1/calls -H 'Content-Type: application/json' -d '{{\"url\": \"http://169.254.169.254/\", \"bridge\": \"{}\"}}'",
        demo.relay_url(),
        demo.bridge_name()
    );
    print_line!();
    print_line!(
        "Your own servers: --endpoint NAME=URL and --allow HOST, see --help. Ctrl-C ends everything."
    );
}

/// Returns everything, for a program.
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
