//! Who moves a connection's bytes: its exchange, while that waits for it, and else nobody.
//!
//! A request then costs no task of its own and no hop between tasks. Only where both directions
//! must move although the exchange waits for something else does a task take over.

use super::body::RequestBody;
use super::stream::Stream;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

type Http = http1::Connection<TokioIo<Stream>, RequestBody>;

/// The moving part of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Wire {
    /// Moves when it is polled; `None` when it came to its end, or a task has it.
    held: Option<Box<Http>>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Wire {
    pub(super) fn new(http: Http) -> Self {
        Self {
            held: Some(Box::new(http)),
            task: None,
        }
    }

    /// Moves what can be moved.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(http) = &mut self.held
            && let Poll::Ready(result) = Pin::new(http).poll(cx)
        {
            ended(result);
            self.held = None;
        }
    }

    /// From now on it moves without being polled.
    pub(super) fn run_alone(&mut self) {
        if let Some(http) = self.held.take() {
            self.task = Some(tokio::spawn(async move { ended(http.await) }));
        }
    }

    /// As [`Self::run_alone`], and lets go of the stream if the target switches protocols.
    pub(super) fn run_for_upgrade(&mut self) {
        if let Some(http) = self.held.take() {
            let http = http.with_upgrades();
            self.task = Some(tokio::spawn(async move { ended(http.await) }));
        }
    }
}

/// Its exchange learns the same from the answer; an idle one has nobody to tell.
fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "connection to a target ended");
    }
}
