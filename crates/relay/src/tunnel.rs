//! `GET /v1/tunnel`: from an upgraded connection to a session in the registry.
//!
//! ```text
//! CHALLENGE -> HELLO -> identity -> signature, channel, authority -> epoch, limits -> WELCOME -> session
//! ```
//!
//! Until the signature is verified a connection is pending: a new connection may evict it.

pub(crate) mod upgrade;

use crate::admission::PendingPermit;
use crate::connection::Connection;
use crate::control_plane::ControlPlane;
use crate::denials::{Denied, DeniedClient};
use crate::ownership;
use crate::registry::{TunnelEntry, TunnelOwner};
use crate::serving::Role;
use bytes::Bytes;
use protocol::frame::{Challenge, Hello, Refused, RefusedCode, VERSION, VERSION_MIN, Welcome};
use protocol::session::EndReason;
use protocol::version::AcceptedVersions;
use runtime::peer_text::PeerText;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::handle::Settings;
use transport::handshake::{Candidate, ChannelBinding, Io, SessionDriver, relay_opening};

/// When a bridge may retry that was refused because a limit was reached. It adds random jitter.
const RETRY_OVERLOADED: Duration = Duration::from_secs(5);

/// When a bridge may retry that was refused because its program is too old: an administrator has to update it first.
const RETRY_OUTDATED: Duration = Duration::from_secs(5 * 60);

/// The reason of that refusal in logs and metrics.
const TOO_OLD: &str = "bridge_too_old";

/// How a connection reached the relay.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// The channel binding of its TLS.
    pub channel: ChannelBinding,
    /// The authority of its upgrade request (`Host`).
    pub authority: String,
    /// The connection that it came on.
    pub connection: Arc<Connection>,
    /// Its permit among the tunnels that have not authenticated.
    pub permit: Arc<PendingPermit>,
}

/// A tunnel in the registry, to be [run](run).
pub(crate) struct ActiveTunnel {
    entry: Arc<TunnelEntry>,
    driver: SessionDriver,
    slot: u8,
}

/// Opens a tunnel. Returns `None` if it was refused or lost; a refused bridge gets the reason.
pub(crate) async fn open<IO: Io>(
    control: &ControlPlane,
    io: IO,
    read_ahead: Bytes,
    arrival: Arrival,
) -> Option<ActiveTunnel> {
    let nonce = match transport::handshake::random() {
        Ok(nonce) => nonce,
        Err(error) => {
            tracing::error!(%error, "cannot create a nonce for a tunnel");
            return None;
        }
    };
    let challenge = Challenge {
        nonce,
        node: control.node.clone(),
        version_min: VERSION_MIN,
        version_max: VERSION,
        windows: control.data.windows(),
    };
    let candidate = match relay_opening(io, read_ahead, challenge).await {
        Ok(candidate) => candidate,
        Err(error) => {
            control.metrics.tunnel_refused("opening");
            tracing::debug!(%error, "tunnel handshake failed");
            return None;
        }
    };
    match authorize_with_database(control, &candidate, &arrival).await {
        Ok(owner) => {
            let refusal = control.bridge_versions.refusal(&candidate.hello().software);
            if let Some(accepted) = refusal {
                refuse_outdated(control, candidate, &owner, accepted).await;
                return None;
            }
            control.bridge_versions.note_accepted(&owner);
            arrival.connection.proved(&control.data.connections.proven);
            arrival.permit.leave();
            let peer = arrival.connection.peer.ip();
            drop(arrival);
            let serves = &candidate.hello().serves;
            control
                .ownership
                .claim(&control.directory, &owner, serves)
                .await;
            welcome(control, candidate, owner, peer).await
        }
        Err(code) => {
            let hello = candidate.hello();
            control.metrics.tunnel_refused(name(code));
            note_denial(control, hello, code, arrival.connection.peer.ip());
            if control.refused_tunnels.allow() {
                tracing::warn!(
                    reason = name(code),
                    bridge = %PeerText::bounded(&hello.bridge, 64),
                    host = %PeerText::bounded(&hello.host, 64),
                    suppressed = control.refused_tunnels.suppressed(),
                    "tunnel refused"
                );
            }
            let retry_after = match code {
                // For other reasons the bridge uses its own backoff.
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

/// Refuses a bridge whose program is older than the operator accepts. The bridge has proved who it is.
async fn refuse_outdated<IO: Io>(
    control: &ControlPlane,
    candidate: Candidate<IO>,
    owner: &TunnelOwner,
    accepted: AcceptedVersions,
) {
    let software = &candidate.hello().software;
    control.metrics.tunnel_refused(TOO_OLD);
    let versions = &control.bridge_versions;
    // The notice need not wait for its next round: the bridge does not work.
    if versions.note_refused(owner, software, Instant::now()) {
        control.notices_wanted.notify_one();
    }
    if control.refused_tunnels.allow() {
        tracing::warn!(
            reason = TOO_OLD,
            tenant = &*control.directory.tenant_label(&owner.tenant),
            tenant_id = &*owner.tenant,
            bridge = %owner.name,
            software = %PeerText::bounded(software, 64),
            oldest = accepted.oldest.as_ref().map(tracing::field::display),
            suppressed = control.refused_tunnels.suppressed(),
            "tunnel refused"
        );
    }
    let retry_after_ms = u32::try_from(RETRY_OUTDATED.as_millis()).unwrap_or(u32::MAX);
    candidate.refuse_outdated(accepted, retry_after_ms).await;
}

/// Records a refusal that concerns the right to connect, as opposed to the time.
fn note_denial(control: &ControlPlane, hello: &Hello, code: RefusedCode, peer: IpAddr) {
    match code {
        RefusedCode::Unauthorized
        | RefusedCode::Revoked
        | RefusedCode::TenantSuspended
        | RefusedCode::ChannelBinding
        | RefusedCode::Authority => {}
        RefusedCode::StaleEpoch { .. } | RefusedCode::Version | RefusedCode::Overloaded => return,
    }
    let claim = control
        .directory
        .identity(&hello.tenant, &hello.bridge, &hello.instance);
    let who = claim.map(|claim| DeniedClient {
        tenant: claim.owner.tenant,
        object: claim.owner.name,
        is_proved: false,
    });
    control.denied(Denied::Tunnel, name(code), who.unwrap_or_default(), peer);
}

/// Returns the bridge of a tunnel. A bridge is refused only after the database was read: it may have been paired,
/// enabled or exempted a moment ago by another process, and a refused bridge waits for a minute.
async fn authorize_with_database<IO: Io>(
    control: &ControlPlane,
    candidate: &Candidate<IO>,
    arrival: &Arrival,
) -> Result<TunnelOwner, RefusedCode> {
    let first = authorize(control, candidate, arrival);
    let Err(
        RefusedCode::Unauthorized
        | RefusedCode::Revoked
        | RefusedCode::TenantSuspended
        | RefusedCode::ChannelBinding,
    ) = first
    else {
        return first;
    };
    match control
        .directory
        .refresh_for(arrival.connection.peer.ip())
        .await
    {
        true => authorize(control, candidate, arrival),
        false => Err(RefusedCode::Overloaded),
    }
}

/// Returns the bridge of a tunnel, as far as the directory knows.
fn authorize<IO: Io>(
    control: &ControlPlane,
    candidate: &Candidate<IO>,
    arrival: &Arrival,
) -> Result<TunnelOwner, RefusedCode> {
    let hello = candidate.hello();
    if control.directory.is_stale() {
        return Err(RefusedCode::Overloaded);
    }
    let found = control
        .directory
        .identity(&hello.tenant, &hello.bridge, &hello.instance);
    // `revoked` and `tenant_suspended` are reported only after the signature is verified: they would tell a stranger
    // which bridges exist.
    let claim = found.ok_or(RefusedCode::Unauthorized)?;
    let channel = match claim.is_inspected {
        true => ChannelBinding::EndsBefore,
        false => arrival.channel,
    };
    candidate.verify(&claim.public_key, channel)?;
    claim.standing?;
    let owner = claim.owner;
    if !authority_is_ours(control, hello, arrival) {
        return Err(RefusedCode::Authority);
    }
    if control.data.is_draining() {
        return Err(RefusedCode::Overloaded);
    }
    let now = Instant::now();
    let was_cloned = control.data.registry.is_cloned(&owner.bridge, now);
    let admitted = control.data.registry.admit(&owner, hello, now);
    if !was_cloned && control.data.registry.is_cloned(&owner.bridge, now) {
        control.notices_wanted.notify_one();
    }
    admitted?;
    Ok(owner)
}

/// Returns whether the bridge dialled the name that its request arrived under, and that name is one of this relay's. A
/// proof that was created for another relay is refused here.
fn authority_is_ours(control: &ControlPlane, hello: &Hello, arrival: &Arrival) -> bool {
    let ours = &control.config.listen.authorities;
    let dialled = hello.authority.as_str();
    let host = host_of(dialled);
    let listed = ours.is_empty()
        || ours
            .iter()
            .any(|name| name.eq_ignore_ascii_case(dialled) || name.eq_ignore_ascii_case(host));
    listed && host_of(&arrival.authority).eq_ignore_ascii_case(host)
}

/// Returns an authority without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

async fn welcome<IO: Io>(
    control: &ControlPlane,
    candidate: Candidate<IO>,
    owner: TunnelOwner,
    peer: IpAddr,
) -> Option<ActiveTunnel> {
    let id = transport::handshake::random().ok()?;
    let tunnel = &control.config.tunnel;
    let welcome = Welcome {
        session: id,
        heartbeat_ms: tunnel.heartbeat.millis(),
        dead_after_ms: tunnel.dead_after.millis(),
        nodes: 1,
    };
    let hello = candidate.hello().clone();
    let settings = session_settings(control, &owner, hello.instance);
    let (session, driver) = match candidate.welcome(welcome, settings).await {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%error, "tunnel lost before its WELCOME was sent");
            return None;
        }
    };
    // The routes are read before the session is inserted, and applied again after it: see below.
    let offer = ownership::advertised_routes(&control.directory, &owner, session.serves());
    let mut is_new_conflict = control.ownership.report(&control.directory, &owner, &offer);
    let entry =
        control
            .data
            .registry
            .insert(&owner, &hello, peer, (session, offer), Instant::now());
    // A name may have been reassigned since the offer was made. The task that follows the directory did not see this
    // tunnel then.
    is_new_conflict |= control
        .ownership
        .route(&control.directory, &control.data.registry, &entry);
    // What it serves is stored in the round of the notices.
    if is_new_conflict || control.data.registry.is_offer_unstored(&owner.identity) {
        control.notices_wanted.notify_one();
    }
    if let Some(previous) = hello.previous.clone() {
        control
            .data
            .registry
            .record_previous_session(&owner, previous);
    }
    // The bridge may have been revoked since it was authorized. The abort for that revocation did not see this tunnel.
    if let Some(reason) = control.directory.close_reason(&owner) {
        entry.session.close(reason);
    }
    // The same for a relay that has lost its lease meanwhile.
    if matches!(control.serving.role(), Role::Standby { .. }) {
        entry.session.close(EndReason::Draining);
    }
    control.bridge_versions.announce(&entry.session);
    control.deliveries.tunnel_up(&entry);
    tracing::info!(
        tenant = &*control.directory.tenant_label(&owner.tenant),
        tenant_id = &*owner.tenant,
        bridge = %owner.name,
        host = %entry.host,
        software = %entry.software,
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

/// Returns the relay's settings for a session of that bridge.
fn session_settings(control: &ControlPlane, owner: &TunnelOwner, instance: [u8; 16]) -> Settings {
    let data = &control.data;
    let (deliveries, owner) = (control.deliveries.clone(), owner.clone());
    let tenant_name = || {
        control
            .directory
            .tenant_name(&owner.tenant)
            .unwrap_or_default()
    };
    Settings {
        windows: data.windows(),
        budget: data.budget_of(&owner.tenant, tenant_name),
        stream_window_cap: data.config.tunnel.stream_window_max.0,
        on_open: None,
        on_result: Some(Arc::new(move |session, result| {
            deliveries.on_result(&owner, instance, session, result);
        })),
        on_result_ack: None,
    }
}

/// Runs a tunnel to its end. The task of every tunnel holds this future, so it is small.
pub(crate) async fn run(control: &ControlPlane, tunnel: ActiveTunnel) {
    let ActiveTunnel {
        entry,
        driver,
        slot,
    } = tunnel;
    let watching = async {
        loop {
            let known = entry.offer().serves.clone();
            entry.session.serves_changed(&known).await;
            // Boxed: it is rare, and the task of every tunnel would hold its memory.
            let changed = control.ownership.serves_changed(
                &control.directory,
                &control.data.registry,
                &entry,
            );
            if Box::pin(changed).await {
                control.notices_wanted.notify_one();
            }
            control.deliveries.routes_changed(&entry.owner.tenant);
            // A session that has ended reports a change at once, and would make this loop spin.
            if entry.session.is_over() {
                std::future::pending::<()>().await;
            }
        }
    };
    let reason = tokio::select! {
        reason = driver => reason,
        () = watching => return,
    };
    control.data.registry.remove(&entry);
    control.deliveries.routes_changed(&entry.owner.tenant);
    let lived = entry.since.elapsed().as_secs();
    let owner = &entry.owner;
    tracing::info!(
        tenant = &*control.directory.tenant_label(&owner.tenant),
        tenant_id = &*owner.tenant,
        bridge = %owner.name,
        slot,
        %reason,
        lived_s = lived,
        "session down"
    );
}

/// Returns the code's name in logs and metrics.
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
    fn authority_is_compared_without_port() {
        assert_eq!(host_of("relay.example:443"), "relay.example");
        assert_eq!(host_of("relay.example"), "relay.example");
        assert_eq!(host_of("[::1]:8443"), "[::1]");
        assert_eq!(host_of("[::1]"), "[::1]");
    }
}
