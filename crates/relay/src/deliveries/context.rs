//! The parts of the relay that deliveries work with.

use super::Deliveries;
use crate::audit::recorder::Auditing;
use crate::data_plane::DataPlane;
use crate::directory::Directory;
use crate::serving::Serving;
use std::sync::Arc;

/// The parts of the relay that deliveries work with.
///
/// [`Deliveries`] itself knows none of them: it is what ingress, tunnels and API hold, and they must not
/// depend on the engine.
#[derive(Debug)]
pub(crate) struct DeliveryContext {
    /// Tunnels, routing, limits, memory and metrics.
    pub(crate) data: Arc<DataPlane>,
    /// The stored calls.
    pub(crate) deliveries: Arc<Deliveries>,
    /// Tenants, with their URL patterns for direct calls.
    pub(crate) directory: Arc<Directory>,
    /// The audit record.
    pub(crate) audit: Arc<Auditing>,
    /// Whether this process holds the lease.
    pub(crate) serving: Serving,
}
