//! Drains and stops a relay.

use super::RunningRelay;
use std::time::Duration;

/// Pause between the last accepted connection and GOAWAY, so that requests on the wire get a stream.
const BEFORE_GOAWAY: Duration = Duration::from_millis(100);

/// Bridges reconnect within this after a GOAWAY: to another node, or to this one after its restart.
const RECONNECT_SPREAD: Duration = Duration::from_secs(1);

/// Time limit for tunnels to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Time limit for releasing the lease.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the number of running exchanges and tunnels is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

impl RunningRelay {
    /// Drains and stops. Takes at most `limits.drain_timeout` and a few seconds.
    pub async fn shutdown(mut self) {
        let limit = self.state.data.limits().drain_timeout.0;
        tracing::info!(limit_s = limit.as_secs(), "shutting down");
        // First, so that balancers see `/readyz` fail before connections are refused.
        self.state.data.begin_draining();
        self.stop.send_replace(true);
        self.closing.send_replace(true);
        let finished = async {
            tokio::time::sleep(BEFORE_GOAWAY).await;
            self.state.data.registry.drain_all(RECONNECT_SPREAD);
            let _ = self.connections_ended.recv().await;
            // Raw streams have left their connections, so the channel does not wait for them.
            while self.state.data.exchanges.count() > 0 {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
        };
        if tokio::time::timeout(limit, finished).await.is_err() {
            let running = self.state.data.exchanges.count();
            tracing::warn!(running, "drain timeout reached; aborting running exchanges");
        }
        self.state.data.registry.close_all();
        let closed = async {
            while self.state.data.registry.count() > 0 {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
        self.admin_closing.send_replace(true);
        for task in &self.tasks {
            task.abort();
        }
        if let Some(keeper) = self.keeper.take() {
            // A lease that cannot be released expires by itself.
            let _ = tokio::time::timeout(RELEASE_TIMEOUT, keeper).await;
        }
        // After all tasks, so that their last rows are in the record; before the database closes.
        self.state.audit.flush().await;
        if let Err(error) = self.generation.advance().await {
            tracing::error!(%error, "cannot store the last generation of the database");
        }
        self.state.directory.storage().close().await;
        tracing::info!("stopped");
    }
}
