//! `policy test`: would this request go, by which rule, and to which addresses?

use super::{ConfigArg, DONE, Outcome, REFUSED, say, short_runtime};
use crate::dispatcher::{own_addresses, resolve};
use clap::Args;
use policy::{Candidate, Policy};

/// What is asked.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The URL that a request would go to
    url: String,
    /// Its method
    #[arg(long, default_value = "GET")]
    method: String,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn test(args: &TestArgs) -> Outcome {
    let config = args.config.load()?;
    let policy: Policy = config.rules.policy(own_addresses())?;
    let explanation = policy.explain(&args.method, &args.url);
    say(&explanation.to_string());
    let Ok(candidate) = &explanation.decision else {
        return Ok(REFUSED);
    };
    let resolving = resolve(candidate.target().host());
    match short_runtime()?.block_on(resolving) {
        Ok(addresses) => {
            let (lines, is_allowed) = judge(candidate, &addresses);
            lines.iter().for_each(|line| say(line));
            Ok(if is_allowed { DONE } else { REFUSED })
        }
        Err(failure) => {
            say(&format!(
                "{}, so the request could not go now",
                failure.detail
            ));
            Ok(REFUSED)
        }
    }
}

/// What the policy says of each address, and whether any is allowed.
fn judge(candidate: &Candidate, addresses: &[std::net::IpAddr]) -> (Vec<String>, bool) {
    let mut is_allowed = false;
    let line = |address: &std::net::IpAddr| match candidate.approve(*address) {
        Ok(approved) => {
            is_allowed = true;
            format!("{address}: allowed by {}", approved.rule())
        }
        Err(refusal) => format!("{address}: refused: {refusal}"),
    };
    let lines = addresses.iter().map(line).collect();
    (lines, is_allowed)
}
