//! A task that ends with its owner.

use tokio::task::JoinHandle;

/// Aborts its task when dropped.
///
/// A `JoinHandle` alone lets the task run on, and a test's sockets with it.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) JoinHandle<()>);

impl AbortOnDrop {
    /// Aborts it and waits until it is gone, with what it owned.
    pub(crate) async fn end(&mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
