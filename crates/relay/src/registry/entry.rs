//! One tunnel in the registry.

use super::clones::SessionId;
use super::offer::AdvertisedRoutes;
use super::slot::Slot;
use protocol::frame::{CONTEXT_SINCE_VERSION, Hello, JournalMark};
use runtime::peer_text::PeerText;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use transport::Session;

/// Longest description of a bridge's host or program, in characters.
const ABOUT_MAX_CHARS: usize = 128;

/// The bridge that a tunnel belongs to, as the directory knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TunnelOwner {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// The bridge's id.
    pub bridge: Arc<str>,
    /// The bridge's name in its tenant.
    pub name: Arc<str>,
    /// The identity (key pair) that authenticated.
    pub identity: Arc<str>,
}

/// A connected tunnel.
#[derive(Debug)]
pub(crate) struct TunnelEntry {
    /// Its bridge.
    pub owner: TunnelOwner,
    /// The session.
    pub session: Session,
    /// What it serves. Only the registry changes it, because its index depends on it.
    offer: Mutex<Arc<AdvertisedRoutes>>,
    /// The bridge's program version.
    pub software: PeerText,
    /// The bridge's host.
    pub host: PeerText,
    /// The address that the tunnel comes from.
    pub peer: IpAddr,
    /// Whether it reads the context of a request (W-69).
    pub reads_context: bool,
    /// When it connected.
    pub since: Instant,
    /// The session that its process had before.
    pub(super) before: Option<SessionId>,
    /// The state of its journal of deliveries at its HELLO, if it keeps one.
    pub journal: Option<JournalMark>,
    /// Whether its journal was compared with what the relay knows, so that deliveries may be sent.
    delivers: AtomicBool,
    /// Attempts that were started and completed through it.
    delivered: AtomicU64,
    pub(super) slot: Slot,
}

impl TunnelEntry {
    /// Returns the entry of a session that is opened now.
    pub(super) fn new(
        owner: &TunnelOwner,
        hello: &Hello,
        slot: Slot,
        peer: IpAddr,
        (session, offer): (Session, AdvertisedRoutes),
        now: Instant,
    ) -> Self {
        Self {
            offer: Mutex::new(Arc::new(offer)),
            session,
            software: PeerText::bounded(&hello.software, ABOUT_MAX_CHARS),
            host: PeerText::bounded(&hello.host, ABOUT_MAX_CHARS),
            peer,
            reads_context: hello.version >= CONTEXT_SINCE_VERSION,
            since: now,
            before: super::slot::previous_session(hello),
            journal: hello.journal,
            delivers: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
            slot,
            owner: owner.clone(),
        }
    }

    /// Returns what it serves now.
    pub(crate) fn offer(&self) -> Arc<AdvertisedRoutes> {
        self.offer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns the installation.
    pub(crate) fn instance(&self) -> &[u8; 16] {
        &self.slot.instance
    }

    /// Returns whether deliveries may be sent through it.
    pub(crate) fn is_delivering(&self) -> bool {
        self.delivers.load(Ordering::Acquire)
    }

    /// Allows deliveries from now on, because its journal is known.
    pub(crate) fn begin_delivering(&self) {
        // Release, with Acquire in `is_delivering`: a delivery must see what was reconciled before.
        self.delivers.store(true, Ordering::Release);
    }

    /// Counts an attempt that was started and completed on this tunnel. Returns the position that its journal must
    /// have reached: each attempt adds an intent and an outcome.
    pub(crate) fn journal_reached(&self) -> Option<JournalMark> {
        let answered = self.delivered.fetch_add(1, Ordering::Relaxed) + 1;
        let mark = self.journal?;
        Some(JournalMark {
            sequence: mark.sequence.saturating_add(2 * answered),
            ..mark
        })
    }

    pub(super) fn set_offer(&self, offer: AdvertisedRoutes) {
        *self.offer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(offer);
    }
}
