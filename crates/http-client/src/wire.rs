//! What moves the bytes of an HTTP/1.1 connection: the exchange that polls it, or a task.
//!
//! As a rule the exchange polls it, so that a request costs no task and no hop between tasks. A task moves
//! them only where both directions must continue while the exchange waits for something else.

use crate::request_body::RequestBody;
use crate::stream::Stream;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

type Http = http1::Connection<TokioIo<Stream>, RequestBody>;

/// The moving part of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Moves when it is polled. `None` when it has ended, or a task has it.
    held: Option<Box<Http>>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            // A spawned task would run on without its exchange, and keep the target's connection open.
            task.abort();
        }
    }
}

impl Wire {
    pub(crate) fn new(http: Http) -> Self {
        Self {
            // Boxed: hyper's connection is large, and this value moves with every idle connection.
            held: Some(Box::new(http)),
            task: None,
        }
    }

    /// Moves what can be moved without waiting.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(http) = &mut self.held
            && let Poll::Ready(result) = Pin::new(http).poll(cx)
        {
            ended(result);
            // A future must not be polled after it has completed.
            self.held = None;
        }
    }

    /// Hands the connection to a task.
    pub(crate) fn run_alone(&mut self) {
        if let Some(http) = self.held.take() {
            self.task = Some(tokio::spawn(async move { ended(http.await) }));
        }
    }

    /// Does the same as [`Self::run_alone`], and releases the stream if the target switches protocols.
    pub(crate) fn run_for_upgrade(&mut self) {
        if let Some(http) = self.held.take() {
            // Only with upgrades does hyper give the stream back after a 101.
            let http = http.with_upgrades();
            self.task = Some(tokio::spawn(async move { ended(http.await) }));
        }
    }
}

/// Logs why a connection ended. The exchange gets the same error with its response.
fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "connection to a target ended");
    }
}
