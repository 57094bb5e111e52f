//! The route to the relay.

use super::certificates::chain;
use super::report::{Check, State};
use crate::config::Config;
use crate::control::message::{ControlRequest, ControlResponse};
use crate::control::socket;
use crate::credentials;
use crate::identity::{Identity, IdentityError, OtherPairing};
use crate::proxy_login::Route;
use crate::stats::now_s;
use crate::text::error_chain;
use runtime::output::counted;
use std::sync::Arc;
use transport::dial::{DialError, PathReport, Seen, probe_path};
use transport::failure::Diagnosis;

/// Difference of the clocks above which there is a warning, in seconds.
const CLOCK_DIFFERENCE_MAX_S: u64 = 60;

/// Remaining validity of the relay's certificate below which there is a warning, in seconds.
const VALIDITY_MIN_S: i64 = 14 * 24 * 60 * 60;

/// Advice for a bridge without an identity.
const PAIR: &str = "pair the bridge: `integration-bridge pair --client-id ID`";

/// Checks everything between this machine and the relay, and the connections of the running bridge.
pub(super) async fn check(config: &Config, checks: &mut Vec<Check>) {
    if route(config, checks).await {
        checks.push(tunnel(config));
    }
}

/// Checks everything between this machine and the relay. Returns false if the relay could not be tried.
pub(super) async fn route(config: &Config, checks: &mut Vec<Check>) -> bool {
    checks.push(identity(config));
    let credentials = match config.bridge.data_dir.get().exists() {
        // Errors are reported with the endpoints, which need the credentials more.
        true => credentials::load(config).unwrap_or_default(),
        // Opening the store would create the directory, for the wrong user.
        false => Arc::default(),
    };
    let proxy = Route::to_relay(config).resolve();
    let proxy = proxy.map_err(|error| error.to_string());
    let proxy = proxy.and_then(|proxy| {
        let proxy = proxy.with_login(&credentials);
        proxy.map_err(|error| error.to_string())
    });
    let proxy = match proxy {
        Ok(proxy) => proxy,
        Err(error) => {
            checks.push(Check::fail(
                "proxy",
                error,
                "correct relay.proxy, relay.proxy_credential, relay.proxy_auth or HTTPS_PROXY",
            ));
            return false;
        }
    };
    let ca_files = config
        .relay
        .ca_file
        .iter()
        .map(|file| file.get().to_owned());
    let ca_files: Vec<_> = ca_files.collect();
    let relay = &config.relay.url;
    let probed = probe_path(relay, &ca_files, config.relay.tls_min.oldest(), &proxy).await;
    match probed {
        Ok(look) => steps(config, &look, checks),
        Err(error) => checks.push(Check::fail(
            "tls",
            error.to_string(),
            "correct relay.ca_file",
        )),
    }
    true
}

/// Reports the steps of a connection to the relay, up to the one that failed.
fn steps(config: &Config, look: &PathReport, checks: &mut Vec<Check>) {
    let failure = look.failure.as_ref();
    let detail = failure.map(|error| error_chain(error)).unwrap_or_default();
    // One remedy for each cause. The fallback is for a failure without one.
    let why = failure.and_then(DialError::diagnosis);
    let remedy = |fallback: &'static str| why.as_ref().map_or(fallback, |why| why.remedy());
    let host = match &look.proxy {
        Some(proxy) => format!("the proxy {proxy}"),
        None => config.relay.url.host().to_owned(),
    };
    // The first failure ends the list: later hops depend on it, and their failures would hide the cause.
    if look.resolved.is_empty() {
        checks.push(Check::fail(
            "dns",
            detail,
            &format!(
                "{}; if a proxy resolves it, set relay.proxy or HTTPS_PROXY",
                remedy("check relay.url")
            ),
        ));
        return;
    }
    let list: Vec<String> = look.resolved.iter().map(ToString::to_string).collect();
    checks.push(Check::ok(
        "dns",
        format!("{host} resolves to {}", list.join(", ")),
    ));
    let Some(connected) = look.connected else {
        let advice = remedy("check that the firewall allows connections to that address and port");
        let advice = match look.proxy {
            Some(_) => format!("check the address of the proxy, and that the proxy runs: {advice}"),
            None => format!("{advice}; if a proxy is required, set relay.proxy or HTTPS_PROXY"),
        };
        checks.push(Check::fail("tcp", detail, &advice));
        return;
    };
    checks.push(Check::ok("tcp", format!("connected to {connected}")));
    match (&look.proxy, look.through_proxy) {
        (None, _) => checks.push(Check::skipped("proxy", "not used")),
        (Some(proxy), true) => checks.push(Check::ok(
            "proxy",
            format!("{proxy} accepts the connection{}", login(&look.proxy_login)),
        )),
        (Some(_), false) => {
            let advice = remedy("have the operator of the proxy allow CONNECT to the relay");
            checks.push(Check::fail("proxy", detail, advice));
            return;
        }
    }
    let advice = remedy("check that a TLS server listens on this port");
    if !tls(look, advice, &detail, checks) {
        return;
    }
    let Some(status) = look.health else {
        checks.push(Check::fail(
            "relay",
            detail,
            remedy("check that relay.url is the URL of an integration relay"),
        ));
        return;
    };
    let found = format!(
        "{} responds to GET /healthz with {status}",
        config.relay.url
    );
    checks.push(match (status, &look.redirect) {
        (200, _) => Check::ok("relay", format!("{} responds", config.relay.url)),
        (_, Some(why)) => Check::fail("relay", format!("{found}: {why}"), why.remedy()),
        (_, None) => Check::fail(
            "relay",
            found,
            "check relay.url; a middlebox may respond instead of the relay",
        ),
    });
    checks.extend(look.date.as_deref().and_then(clock));
    checks.push(if look.upgraded {
        Check::ok("websocket", "the relay accepts the upgrade")
    } else {
        let advice = remedy("have every proxy before the relay pass Upgrade: websocket on");
        Check::fail("websocket", detail, advice)
    });
}

/// Returns how the proxy authenticated the bridge, for people.
fn login(seen: &Seen) -> String {
    let used = match seen.used {
        Some(scheme) => format!(", by {scheme}"),
        None => ", without a login".to_owned(),
    };
    match seen.offered.is_empty() {
        true => used,
        false => format!("{used}; it offered {}", seen.offered.join(", ")),
    }
}

/// Reports TLS and the certificate chain. Returns whether the handshake succeeded.
fn tls(look: &PathReport, advice: &'static str, detail: &str, checks: &mut Vec<Check>) -> bool {
    let shown = chain(look.chain.iter().map(AsRef::as_ref));
    let summary: Vec<String> = shown.iter().map(ToString::to_string).collect();
    let summary = summary.join("; ");
    // The chain is shown after a failed handshake, too: with inspection, its issuer names the middlebox.
    let Some(version) = &look.tls else {
        let found = match summary.is_empty() {
            true => detail.to_owned(),
            false => format!("{detail}. The server sent: {summary}"),
        };
        // The words are for all servers; here the setting is the relay's.
        let advice = advice.replace("ca_file", "relay.ca_file");
        checks.push(Check::fail("tls", found, &advice));
        return false;
    };
    let expires_at = shown.first().map(|leaf| leaf.expires_at);
    let now = i64::try_from(now_s()).unwrap_or(i64::MAX);
    let expires_soon = expires_at.is_some_and(|at| at - now < VALIDITY_MIN_S);
    let found = format!("{version}; {summary}");
    checks.push(if expires_soon {
        Check::warn(
            "tls",
            found,
            "the certificate of the relay expires soon: inform its operator",
        )
    } else {
        Check::ok("tls", found)
    });
    true
}

/// Compares this machine's clock with the relay's `Date`.
fn clock(date: &str) -> Option<Check> {
    let theirs = httpdate::parse_http_date(date).ok()?;
    let theirs = theirs.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    // `Date` has whole seconds and the response took a while, so a few seconds mean nothing.
    let apart = theirs.abs_diff(now_s());
    Some(if apart > CLOCK_DIFFERENCE_MAX_S {
        Check::warn(
            "clock",
            format!("the clocks of this machine and the relay differ by {apart} s"),
            "set the clock of this machine (NTP): certificates and signatures depend on it",
        )
    } else {
        Check::ok("clock", format!("differs from the relay's by {apart} s"))
    })
}

/// Checks the identity, without locking the data directory: the bridge may be running.
fn identity(config: &Config) -> Check {
    // Opening the directory would create it, for the wrong user.
    if !config.bridge.data_dir.get().exists() {
        return Check::fail("identity", "this bridge is not paired yet", PAIR);
    }
    let loaded = config
        .bridge
        .open_data_dir()
        .map_err(IdentityError::from)
        .and_then(|dir| Identity::load(&dir));
    match loaded {
        Ok(identity) => match identity.check(&config.relay.url, &config.bridge.name) {
            Ok(()) => Check::ok(
                "identity",
                format!("bridge {} of tenant {}", identity.name, identity.tenant),
            ),
            Err(OtherPairing::Relay { paired, configured }) => Check::fail(
                "identity",
                format!("paired with {paired}, but relay.url is {configured}"),
                "correct relay.url, or pair the bridge with the other relay",
            ),
            Err(OtherPairing::Name { paired, configured }) => Check::fail(
                "identity",
                format!("paired as \"{paired}\", but bridge.name is \"{configured}\""),
                "write the old name into bridge.name, or pair the bridge again",
            ),
        },
        Err(error) => Check::fail("identity", error_chain(&error), PAIR),
    }
}

/// Reports the connections of the running bridge. `doctor` cannot open a tunnel itself: it would replace the
/// running bridge's.
fn tunnel(config: &Config) -> Check {
    let status = match socket::send(config.bridge.data_dir.get(), &ControlRequest::Status) {
        Ok(ControlResponse::Status(status)) => status,
        Ok(_) => return Check::skipped("tunnel", "the running bridge sent an unexpected response"),
        Err(error) => return Check::skipped("tunnel", error.to_string()),
    };
    if status.online {
        // The pattern holds its remedy: a session that is up does not show that the last ones were cut.
        let pattern = status
            .connections
            .iter()
            .find_map(|slot| slot.pattern.as_deref());
        if let Some((found, remedy)) = pattern.and_then(Diagnosis::split) {
            return Check::warn("tunnel", found, remedy);
        }
        let sessions = counted(status.sessions.len(), "session");
        return Check::ok(
            "tunnel",
            format!("the running bridge is online with {sessions}"),
        );
    }
    let slot = status.connections.iter().find(|slot| slot.error.is_some());
    let error = slot.and_then(|slot| slot.error.clone());
    let advice = slot.and_then(|slot| slot.advice.clone());
    Check {
        hop: "tunnel",
        state: State::Fail,
        found: error.unwrap_or_else(|| "the running bridge is offline".to_owned()),
        advice: advice.or_else(|| {
            Some(
                "see the first failed check above, if there is one, and the bridge's log"
                    .to_owned(),
            )
        }),
    }
}
