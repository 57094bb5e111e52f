//! The response of an exchange: its head, and its body as it arrives from the tunnel.

use super::TrafficSum;
use crate::capacity::ExchangePermit;
use crate::metrics::Metrics;
use crate::registry::TunnelEntry;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use protocol::Failure;
use protocol::frame::ResponseHead;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use transport::RecvStream;

/// The head of a response, and its body.
#[derive(Debug)]
pub(crate) struct TunnelResponse {
    /// The final head.
    pub(crate) head: ResponseHead,
    /// The body.
    pub(crate) body: TunnelBody,
    /// The tunnel that it came through.
    pub(crate) through: Arc<TunnelEntry>,
}

/// The body of a response, from the tunnel's stream. An error means that it is incomplete. Dropping it
/// cancels the exchange.
#[derive(Debug)]
pub(crate) struct TunnelBody {
    recv: RecvStream,
    metrics: Arc<Metrics>,
    sum: Option<Arc<TrafficSum>>,
    permit: ExchangePermit,
    /// Removes fields from the trailers.
    trailer_filter: Option<fn(&mut HeaderMap)>,
}

impl TunnelBody {
    pub(super) fn new(recv: RecvStream, metrics: Arc<Metrics>, permit: ExchangePermit) -> Self {
        Self {
            recv,
            metrics,
            sum: None,
            permit,
            trailer_filter: None,
        }
    }

    /// Returns the permit of the exchange, for what outlives the body.
    pub(crate) fn permit(&self) -> ExchangePermit {
        self.permit.clone()
    }

    /// Ends the exchange without cancelling it: both directions have ended here, and what is on its way of
    /// the request still arrives.
    pub(crate) fn detach(self) {
        self.permit.detach();
    }

    /// Adds the bytes from here on to `sum`.
    pub(crate) fn count_into(&mut self, sum: Arc<TrafficSum>) {
        self.sum = Some(sum);
    }

    /// Passes trailers through `filter`, which removes fields from them.
    pub(crate) fn filter_trailers(&mut self, filter: fn(&mut HeaderMap)) {
        self.trailer_filter = Some(filter);
    }
}

impl Body for TunnelBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let mut frame = std::task::ready!(Pin::new(&mut self.recv).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            // Counted when the caller's connection takes them: until then they are within the window.
            let bytes = data.len() as u64;
            self.metrics.bytes_down(bytes);
            if let Some(sum) = &self.sum {
                sum.received(bytes);
            }
        }
        if let Some(filter) = self.trailer_filter
            && let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            filter(trailers);
            if trailers.is_empty() {
                // Without a field there are no trailers: the body's end follows.
                return Pin::new(&mut self.recv).poll_frame(cx);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.recv.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.recv.size_hint()
    }
}
