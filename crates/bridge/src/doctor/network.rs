//! The way to the relay.

use super::certificates::chain;
use super::{Check, State};
use crate::config::Config;
use crate::control::message::{ControlRequest, ControlResponse};
use crate::control::socket;
use crate::credentials::with_credential;
use crate::data_dir::PrivateDir;
use crate::identity::Identity;
use crate::stats::now_s;
use transport::dial::{DialError, Look, look};

/// A clock that is off by more makes certificates and signatures wrong.
const CLOCK_MAX_S: u64 = 60;

/// A certificate that ends sooner is worth a look.
const EXPIRES_WITHIN_S: i64 = 14 * 24 * 60 * 60;

pub(super) async fn check(config: &Config, checks: &mut Vec<Check>) {
    checks.push(identity(config));
    let name = config.relay.proxy_credential.as_deref();
    let credentials = match config.bridge.data_dir.get().exists() {
        true => crate::credentials::load(config).unwrap_or_default(),
        false => std::sync::Arc::default(),
    };
    let proxy = config
        .relay
        .proxy
        .resolve()
        .map_err(|error| error.to_string());
    let proxy = proxy.and_then(|proxy| {
        with_credential(proxy, name, &credentials).map_err(|error| error.to_string())
    });
    let proxy = match proxy {
        Ok(proxy) => proxy,
        Err(error) => {
            checks.push(Check::fail(
                "proxy",
                error,
                "correct the variable or relay.proxy",
            ));
            return;
        }
    };
    let ca_files = config
        .relay
        .ca_file
        .iter()
        .map(|file| file.get().to_owned());
    let ca_files: Vec<_> = ca_files.collect();
    let relay = &config.relay.url;
    let looked = look(relay, &ca_files, config.relay.tls_min.oldest(), &proxy).await;
    match looked {
        Ok(look) => steps(config, &look, checks),
        Err(error) => checks.push(Check::fail(
            "tls",
            error.to_string(),
            "correct relay.ca_file",
        )),
    }
    checks.push(tunnel(config));
}

/// What a look found, hop by hop.
fn steps(config: &Config, look: &Look, checks: &mut Vec<Check>) {
    let failure = look.failure.as_ref();
    let detail = failure
        .map(|error| crate::text::error_chain(error))
        .unwrap_or_default();
    let host = match &look.proxy {
        Some(proxy) => format!("the proxy {proxy}"),
        None => config.relay.url.host().to_owned(),
    };
    if look.resolved.is_empty() {
        checks.push(Check::fail(
            "dns",
            detail,
            "does this machine's resolver know the name? Behind a proxy, set HTTPS_PROXY or relay.proxy",
        ));
        return;
    }
    let list: Vec<String> = look.resolved.iter().map(ToString::to_string).collect();
    checks.push(Check::ok("dns", format!("{host} is {}", list.join(", "))));
    let Some(connected) = look.connected else {
        let advice = match look.proxy {
            Some(_) => "is the proxy's address right, and does it run?",
            None => {
                "does a firewall let this machine out to that address and port? Or is there a proxy to \
                     go through (HTTPS_PROXY, relay.proxy)?"
            }
        };
        checks.push(Check::fail("tcp", detail, advice));
        return;
    };
    checks.push(Check::ok("tcp", format!("connected to {connected}")));
    match (&look.proxy, look.through_proxy) {
        (None, _) => checks.push(Check::skipped("proxy", "none is used")),
        (Some(proxy), true) => checks.push(Check::ok("proxy", format!("{proxy} lets it through"))),
        (Some(_), false) => {
            let advice = "ask whoever runs the proxy for a way to the relay's host on its port; Basic \
                          authentication is spoken here, NTLM and Negotiate are not";
            checks.push(Check::fail("proxy", detail, advice));
            return;
        }
    }
    if !tls(look, failure, &detail, checks) {
        return;
    }
    let Some(status) = look.health else {
        checks.push(Check::fail(
            "relay",
            detail,
            "is relay.url that of an integration relay?",
        ));
        return;
    };
    checks.push(match status {
        200 => Check::ok("relay", format!("{} answers", config.relay.url)),
        other => Check::fail(
            "relay",
            format!("{} answers GET /healthz with {other}", config.relay.url),
            "something in between answers in its place, or relay.url is not that of an integration relay",
        ),
    });
    checks.extend(look.date.as_deref().and_then(clock));
    checks.push(if look.upgraded {
        Check::ok("websocket", "the upgrade is taken")
    } else {
        let advice = "something in between strips WebSocket upgrades: have the relay's host exempted from \
                      inspection, for HTTP/1.1 with Upgrade: websocket";
        Check::fail("websocket", detail, advice)
    });
}

/// Whether TLS was right; shows the chain in any case.
fn tls(look: &Look, failure: Option<&DialError>, detail: &str, checks: &mut Vec<Check>) -> bool {
    let shown = chain(look.chain.iter().map(AsRef::as_ref));
    let who: Vec<String> = shown.iter().map(ToString::to_string).collect();
    let who = who.join("; ");
    let Some(version) = &look.tls else {
        let found = match who.is_empty() {
            true => detail.to_owned(),
            false => format!("{detail}. It showed: {who}"),
        };
        let advice = match failure {
            Some(DialError::Tls { .. }) if !shown.is_empty() => {
                "if it was signed by your own company, TLS is inspected: give that CA as relay.ca_file, or \
                 have the relay's host exempted"
            }
            _ => "is there a TLS server at this port, and does nothing in between cut it off?",
        };
        checks.push(Check::fail("tls", found, advice));
        return false;
    };
    let expires = shown.first().map(|leaf| leaf.expires);
    let now = i64::try_from(now_s()).unwrap_or(i64::MAX);
    let soon = expires.is_some_and(|expires| expires - now < EXPIRES_WITHIN_S);
    let found = format!("{version}; {who}");
    checks.push(if soon {
        Check::warn(
            "tls",
            found,
            "the relay's certificate ends soon: tell its operator",
        )
    } else {
        Check::ok("tls", found)
    });
    true
}

/// This clock against the relay's.
fn clock(date: &str) -> Option<Check> {
    let theirs = httpdate::parse_http_date(date).ok()?;
    let theirs = theirs.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    let apart = theirs.abs_diff(now_s());
    Some(if apart > CLOCK_MAX_S {
        Check::warn(
            "clock",
            format!("this clock and the relay's are {apart} s apart"),
            "set this machine's clock (NTP): certificates and signatures depend on it",
        )
    } else {
        Check::ok("clock", format!("{apart} s from the relay's"))
    })
}

fn identity(config: &Config) -> Check {
    if !config.bridge.data_dir.get().exists() {
        let advice = "pair it: `integration-bridge pair --client-id ID`";
        return Check::fail("identity", "this bridge is not paired yet", advice);
    }
    let loaded = PrivateDir::open(config.bridge.data_dir.get())
        .map_err(crate::identity::IdentityError::from)
        .and_then(|dir| Identity::load(&dir));
    match loaded {
        Ok(identity) if identity.relay != config.relay.url.to_string() => Check::fail(
            "identity",
            format!(
                "paired with {}, and relay.url is {}",
                identity.relay, config.relay.url
            ),
            "correct relay.url, or pair it with the other relay",
        ),
        Ok(identity) => Check::ok(
            "identity",
            format!("bridge {} of tenant {}", identity.name, identity.tenant),
        ),
        Err(error) => Check::fail(
            "identity",
            crate::text::error_chain(&error),
            "pair it: `integration-bridge pair --client-id ID`",
        ),
    }
}

/// What the running bridge says of its connections: it alone may prove itself.
fn tunnel(config: &Config) -> Check {
    let status = match socket::send(config.bridge.data_dir.get(), &ControlRequest::Status) {
        Ok(ControlResponse::Status(status)) => status,
        Ok(_) => return Check::skipped("tunnel", "the running bridge's answer is not understood"),
        Err(error) => return Check::skipped("tunnel", format!("no bridge runs here: {error}")),
    };
    if status.online {
        let sessions = status.sessions.len();
        return Check::ok(
            "tunnel",
            format!("the running bridge is online with {sessions} sessions"),
        );
    }
    let slot = status.connections.iter().find(|slot| slot.error.is_some());
    let error = slot.and_then(|slot| slot.error.clone());
    let advice = slot.and_then(|slot| slot.advice.clone());
    Check {
        hop: "tunnel",
        state: State::Fail,
        found: error.unwrap_or_else(|| "the running bridge is offline".to_owned()),
        advice: advice.or_else(|| Some("the checks above say where it ends".to_owned())),
    }
}
