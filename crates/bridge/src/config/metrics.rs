//! `[metrics]`: the listener for Prometheus.

use runtime::value::shown;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// `[metrics]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// A loopback address with its port. Defaults to none: there are no metrics.
    #[serde(deserialize_with = "loopback")]
    pub listen: Option<SocketAddr>,
}

fn loopback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let right = "write a loopback address with its port, like \"127.0.0.1:9091\"";
    let address: SocketAddr = text
        .parse()
        .map_err(|_| de::Error::custom(format!("{} is not an address: {right}", shown(&text))))?;
    // The listener has no authentication, and the bridge is to have no port that others can reach.
    if !address.ip().is_loopback() {
        let wrong = format!("other machines can reach {address}: {right}");
        return Err(de::Error::custom(wrong));
    }
    Ok(Some(address))
}
