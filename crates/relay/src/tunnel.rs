//! `GET /v1/tunnel`: from an upgraded connection to a session in the registry.
//!
//! ```text
//! CHALLENGE -> HELLO -> whose is it? -> proof, channel, authority -> epoch, room -> WELCOME -> up
//! ```
//!
//! Until the proof a connection is pending: a newcomer may evict it.

pub mod upgrade;

use crate::admission::PendingPermit;
use crate::denials::{Denied, DeniedClient};
use crate::listener::connection::Connection;
use crate::ownership;
use crate::registry::{TunnelEntry, TunnelOwner};
use crate::serving::Role;
use crate::state::State;
use bytes::Bytes;
use protocol::frame::{Challenge, Hello, Refused, RefusedCode, VERSION, Welcome};
use protocol::session::EndReason;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::handshake::{Candidate, ChannelBinding, Io, SessionDriver, relay_opening};

/// When a bridge may come again that was refused for want of room. It adds a random part of its
/// own.
pub const RETRY_OVERLOADED: Duration = Duration::from_secs(5);

/// How a connection reached the relay.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// What its TLS is bound to.
    pub channel: ChannelBinding,
    /// The authority that its upgrade request named (`Host`).
    pub authority: String,
    /// The connection that it came on.
    pub connection: Arc<Connection>,
    /// Its place among the unproven.
    pub place: Arc<PendingPermit>,
}

/// A tunnel that is in the registry, and runs while it is [carried](carry).
pub struct ActiveTunnel {
    entry: Arc<TunnelEntry>,
    driver: SessionDriver,
    slot: u8,
}

/// Opens a tunnel. `None` for one that was not taken; it knows why.
pub async fn open<IO: Io>(
    state: &State,
    io: IO,
    read_ahead: Bytes,
    arrival: Arrival,
) -> Option<ActiveTunnel> {
    let nonce = match transport::handshake::random() {
        Ok(nonce) => nonce,
        Err(error) => {
            tracing::error!(%error, "no tunnel can be opened");
            return None;
        }
    };
    let challenge = Challenge {
        nonce,
        node: state.node.clone(),
        version_min: VERSION,
        version_max: VERSION,
        windows: state.windows(),
    };
    let candidate = match relay_opening(io, read_ahead, challenge).await {
        Ok(candidate) => candidate,
        Err(error) => {
            state.metrics.tunnel_refused("opening");
            tracing::debug!(%error, "a tunnel's opening failed");
            return None;
        }
    };
    match judge_by_database(state, &candidate, &arrival).await {
        Ok(owner) => {
            arrival.connection.proved(&state.connections.proven);
            arrival.place.leave();
            drop(arrival);
            let serves = &candidate.hello().serves;
            state
                .ownership
                .claim(&state.directory, &owner, serves)
                .await;
            welcome(state, candidate, owner).await
        }
        Err(code) => {
            let hello = candidate.hello();
            state.metrics.tunnel_refused(name(code));
            note_denial(state, hello, code, arrival.connection.peer.ip());
            if state.refused_tunnels.allow() {
                tracing::warn!(
                    reason = name(code),
                    bridge = %printable(&hello.bridge),
                    host = %printable(&hello.host),
                    suppressed = state.refused_tunnels.suppressed(),
                    "a tunnel was refused"
                );
            }
            let retry_after = match code {
                RefusedCode::Overloaded => RETRY_OVERLOADED,
                _ => Duration::ZERO,
            };
            let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
            let refused = Refused {
                code,
                retry_after_ms,
            };
            candidate.refuse(refused).await;
            None
        }
    }
}

/// Notes a refusal that is a matter of who may come, and not of when.
fn note_denial(state: &State, hello: &Hello, code: RefusedCode, peer: IpAddr) {
    match code {
        RefusedCode::Unauthorized
        | RefusedCode::Revoked
        | RefusedCode::TenantSuspended
        | RefusedCode::ChannelBinding
        | RefusedCode::Authority => {}
        RefusedCode::StaleEpoch { .. } | RefusedCode::Version | RefusedCode::Overloaded => return,
    }
    let claim = state
        .directory
        .identity(&hello.tenant, &hello.bridge, &hello.instance);
    let who = claim.map(|claim| DeniedClient {
        tenant: claim.owner.tenant,
        object: claim.owner.name,
        is_proved: false,
    });
    state.denied(Denied::Tunnel, name(code), who.unwrap_or_default(), peer);
}

/// Whose tunnel it is. A bridge is refused only after the database was asked: it may
/// have been paired, enabled or exempted a moment ago, and would stay away for a minute.
async fn judge_by_database<IO: Io>(
    state: &State,
    candidate: &Candidate<IO>,
    arrival: &Arrival,
) -> Result<TunnelOwner, RefusedCode> {
    let first = judge(state, candidate, arrival);
    let Err(
        RefusedCode::Unauthorized
        | RefusedCode::Revoked
        | RefusedCode::TenantSuspended
        | RefusedCode::ChannelBinding,
    ) = first
    else {
        return first;
    };
    match state
        .directory
        .refresh_for(arrival.connection.peer.ip())
        .await
    {
        true => judge(state, candidate, arrival),
        false => Err(RefusedCode::Overloaded),
    }
}

/// Whose tunnel it is, as far as the directory knows.
fn judge<IO: Io>(
    state: &State,
    candidate: &Candidate<IO>,
    arrival: &Arrival,
) -> Result<TunnelOwner, RefusedCode> {
    let hello = candidate.hello();
    if state.directory.is_stale() {
        return Err(RefusedCode::Overloaded);
    }
    let found = state
        .directory
        .identity(&hello.tenant, &hello.bridge, &hello.instance);
    // Revoked and suspended are told only to who proves to be that bridge.
    let claim = found.ok_or(RefusedCode::Unauthorized)?;
    let channel = match claim.is_inspected {
        true => ChannelBinding::EndsBefore,
        false => arrival.channel,
    };
    candidate.verify(&claim.public_key, channel)?;
    claim.standing?;
    let owner = claim.owner;
    if !authority_is_ours(state, hello, arrival) {
        return Err(RefusedCode::Authority);
    }
    if state.is_draining() {
        return Err(RefusedCode::Overloaded);
    }
    let now = Instant::now();
    let was_cloned = state.registry.is_cloned(&owner.bridge, now);
    let admitted = state.registry.admit(&owner, hello, now);
    if !was_cloned && state.registry.is_cloned(&owner.bridge, now) {
        state.notices_wanted.notify_one();
    }
    admitted?;
    Ok(owner)
}

/// The bridge dialled the name under which it reached us, and that name is one of ours.
fn authority_is_ours(state: &State, hello: &Hello, arrival: &Arrival) -> bool {
    let ours = &state.config.listen.authorities;
    let dialled = hello.authority.as_str();
    let host = host_of(dialled);
    let listed = ours.is_empty()
        || ours
            .iter()
            .any(|name| name.eq_ignore_ascii_case(dialled) || name.eq_ignore_ascii_case(host));
    listed && host_of(&arrival.authority).eq_ignore_ascii_case(host)
}

/// An authority without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

async fn welcome<IO: Io>(
    state: &State,
    candidate: Candidate<IO>,
    owner: TunnelOwner,
) -> Option<ActiveTunnel> {
    let id = transport::handshake::random().ok()?;
    let tunnel = &state.config.tunnel;
    let welcome = Welcome {
        session: id,
        heartbeat_ms: tunnel.heartbeat.millis(),
        dead_after_ms: tunnel.dead_after.millis(),
        nodes: 1,
    };
    let hello = candidate.hello().clone();
    let settings = state.session_settings(&owner, hello.instance);
    let (session, driver) = match candidate.welcome(welcome, settings).await {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%error, "a tunnel was lost at its welcome");
            return None;
        }
    };
    // Revoked between the proof and here: the directory's cut came before the registry knew.
    let offer = ownership::advertised_routes(&state.directory, &owner, session.serves());
    let mut is_new_conflict = state.ownership.report(&owner, &offer);
    let entry = state
        .registry
        .insert(&owner, &hello, (session, offer), Instant::now());
    // Reassigned between the look at the directory and here: the follower did not see this tunnel.
    is_new_conflict |= state
        .ownership
        .route(&state.directory, &state.registry, &entry);
    if is_new_conflict {
        state.notices_wanted.notify_one();
    }
    if let Some(previous) = hello.previous.clone() {
        state.registry.tell_aftermath(&owner, previous);
    }
    if let Some(reason) = state.directory.close_reason(&owner) {
        entry.session.close(reason);
    }
    // The same for a relay that has lost its lease meanwhile.
    if matches!(state.serving.role(), Role::Standby { .. }) {
        entry.session.close(EndReason::Draining);
    }
    state.deliveries.tunnel_up(&entry);
    tracing::info!(
        tenant = %owner.tenant,
        bridge = %owner.name,
        host = %printable(&hello.host),
        software = %printable(&hello.software),
        slot = hello.slot,
        epoch = hello.epoch,
        "session up"
    );
    Some(ActiveTunnel {
        entry,
        driver,
        slot: hello.slot,
    })
}

/// Runs a tunnel to its end. This is what a task for each tunnel holds, so it is small.
pub async fn carry(state: &State, up: ActiveTunnel) {
    let ActiveTunnel {
        entry,
        driver,
        slot,
    } = up;
    let watching = async {
        loop {
            let seen = entry.offer().serves.clone();
            entry.session.serves_changed(&seen).await;
            // Boxed: it is rare, and a task for each tunnel holds this.
            let ownership = &state.ownership;
            let changed = ownership.serves_changed(&state.directory, &state.registry, &entry);
            if Box::pin(changed).await {
                state.notices_wanted.notify_one();
            }
            state.deliveries.routes_changed(&entry.owner.tenant);
            if entry.session.is_over() {
                std::future::pending::<()>().await;
            }
        }
    };
    let reason = tokio::select! {
        reason = driver => reason,
        () = watching => return,
    };
    state.registry.remove(&entry);
    state.deliveries.routes_changed(&entry.owner.tenant);
    let lived = entry.since.elapsed().as_secs();
    let owner = &entry.owner;
    tracing::info!(tenant = %owner.tenant, bridge = %owner.name, slot, %reason, lived_s = lived, "session down");
}

/// What a peer says of itself, fit for a log: visible ASCII, not too long.
fn printable(text: &str) -> String {
    text.chars()
        .take(64)
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect()
}

/// The code's name in logs and metrics.
fn name(code: RefusedCode) -> &'static str {
    match code {
        RefusedCode::Unauthorized => "unauthorized",
        RefusedCode::Revoked => "revoked",
        RefusedCode::TenantSuspended => "tenant_suspended",
        RefusedCode::StaleEpoch { .. } => "stale_epoch",
        RefusedCode::Version => "version",
        RefusedCode::Overloaded => "overloaded",
        RefusedCode::ChannelBinding => "channel_binding",
        RefusedCode::Authority => "authority",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_part_of_a_name() {
        assert_eq!(host_of("relay.example:443"), "relay.example");
        assert_eq!(host_of("relay.example"), "relay.example");
        assert_eq!(host_of("[::1]:8443"), "[::1]");
        assert_eq!(host_of("[::1]"), "[::1]");
    }

    #[test]
    fn what_peers_say_of_themselves_cannot_forge_a_log_line() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a?b?[31m");
        assert_eq!(printable(&"x".repeat(100)).len(), 64);
    }
}
