//! Maps hyper's errors to what a caller can rely on.

use crate::{HEAD_BUFFER_BYTES, RESPONSE_HEADERS_MAX, http2};
use protocol::{Code, Execution, Failure};
use std::error::Error as _;
use std::io::ErrorKind;
use transport::failure::{Cause, Diagnosis, after_handshake};

/// Why the body of a response is not complete.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// hyper's error.
    #[error(transparent)]
    Http(hyper::Error),
    /// The target ended its HTTP/2 stream before the response's end, without an error.
    #[error("response body dropped before end of stream")]
    Incomplete,
    /// The body has a transfer coding in addition to its chunks.
    #[error("response body has a transfer coding other than chunked")]
    Coding,
}

/// Why a request got no response. Each holds the failure for the caller.
#[derive(Debug)]
pub enum SendError {
    /// Nothing was sent: there was no connection, or no valid request.
    NotSent(Failure),
    /// The target stated that it did nothing with the request (HTTP/2), or the proxy that it did not send it on.
    Untouched(Failure),
    /// The connection was closed before a response. The request may have been executed.
    ConnectionClosed {
        /// Whether the connection had served a request before: then it was probably closed for being idle.
        reused: bool,
        /// The failure.
        failure: Failure,
    },
    /// The deadline passed before a response.
    TimedOut(Failure),
    /// The response is not valid HTTP, or its head exceeds a limit.
    Protocol(Failure),
    /// The caller ended the exchange, or the request's own body failed.
    Ended(Failure),
}

impl SendError {
    /// Maps the error of a connection that did not return the request.
    pub(crate) fn of(error: &hyper::Error, reused: bool) -> Self {
        let failure = request_failure(error);
        match failure.code {
            Code::TargetProtocol | Code::ResponseTooLarge => Self::Protocol(failure),
            Code::TargetClosed => Self::ConnectionClosed { reused, failure },
            // The failure of the request's own body.
            _ => Self::Ended(failure),
        }
    }

    /// Returns the failure.
    pub fn failure(&self) -> &Failure {
        match self {
            Self::NotSent(failure)
            | Self::Untouched(failure)
            | Self::ConnectionClosed { failure, .. }
            | Self::TimedOut(failure)
            | Self::Protocol(failure)
            | Self::Ended(failure) => failure,
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotSent(failure)
            | SendError::Untouched(failure)
            | SendError::ConnectionClosed { failure, .. }
            | SendError::TimedOut(failure)
            | SendError::Protocol(failure)
            | SendError::Ended(failure) => failure,
        }
    }
}

impl From<BodyError> for Failure {
    /// Maps the failure of a response's body: the target had begun to respond, so the request was executed.
    fn from(error: BodyError) -> Self {
        let error = match error {
            BodyError::Http(error) => error,
            BodyError::Incomplete => {
                let detail = "the target ended its response before it was complete";
                return Self::new(Code::TargetClosed, Execution::Executed, detail);
            }
            BodyError::Coding => {
                let detail = "the target's response has a transfer coding other than chunked, which the request did \
                              not ask for (RFC 9112, 7.4); correct the target";
                return Self::new(Code::TargetProtocol, Execution::Executed, detail);
            }
        };
        if let Some(cause) = http2::cause(&error) {
            return of_http2(cause, Execution::Executed);
        }
        if let Some(part) = invalid_chunk(&error) {
            let detail = format!(
                "the chunks of the target's response are not valid ({part}; RFC 9112, 7.1); correct the target"
            );
            return Self::new(Code::TargetProtocol, Execution::Executed, detail);
        }
        let (code, detail) = match error.is_parse() {
            true => (
                Code::TargetProtocol,
                "the body of the target's response is not valid",
            ),
            false => (
                Code::TargetClosed,
                "the target closed the connection before its response was complete",
            ),
        };
        Self::new(code, Execution::Executed, detail)
    }
}

/// Returns the part of a chunked body that is not valid, if that is why the body failed. hyper has no public kind for
/// it: its cause is an I/O error with a fixed text, of a kind that a socket never reports.
fn invalid_chunk(error: &hyper::Error) -> Option<&'static str> {
    let cause = error.source()?.downcast_ref::<std::io::Error>()?;
    // TLS reports its own errors as `InvalidData`, too.
    let is_tls = cause
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>());
    if is_tls
        || !matches!(
            cause.kind(),
            ErrorKind::InvalidInput | ErrorKind::InvalidData
        )
    {
        return None;
    }
    let text = cause.to_string();
    let has = |part: &str| text.contains(part);
    Some(if has("extension") {
        "a chunk extension"
    } else if has("chunk size") {
        "a chunk size"
    } else if has("chunk body") || has("chunk end") {
        "the end of a chunk"
    } else {
        "the trailer fields"
    })
}

/// Returns whether the connection was closed before any byte of a response arrived.
pub(crate) fn closed_before_response(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
        || is_io(error)
        || http2::cause(error).is_some_and(|error| error.is_io() || error.is_go_away())
}

fn is_io(error: &hyper::Error) -> bool {
    error
        .source()
        .is_some_and(|source| source.is::<std::io::Error>())
        && !error.is_parse()
        && !error.is_user()
}

/// Maps the error of a request that was handed to a connection and got no response head.
fn request_failure(error: &hyper::Error) -> Failure {
    // The request's own body failed: its failure has the reason.
    if let Some(failure) = error
        .source()
        .and_then(|source| source.downcast_ref::<Failure>())
    {
        return Failure {
            execution: Execution::PossiblyExecuted,
            ..failure.clone()
        };
    }
    // Before `is_parse`: the HTTP/2 error tells a broken rule from a closed stream.
    if let Some(cause) = http2::cause(error) {
        return of_http2(cause, Execution::PossiblyExecuted);
    }
    // The target responded, with more than is read of a head.
    if error.is_parse_too_large() {
        let why = head_too_large().with_remedy();
        return Failure::new(Code::ResponseTooLarge, Execution::Executed, why);
    }
    if error.is_parse() {
        return Failure::possibly_executed(
            Code::TargetProtocol,
            parse_failure(error).with_remedy(),
        );
    }
    // The code is not `target_tls` after an alert: that states that nothing was dispatched.
    Failure::possibly_executed(Code::TargetClosed, lost(error).with_remedy())
}

/// Returns why a connection ended before a response.
fn lost(error: &hyper::Error) -> Diagnosis {
    // With TLS 1.3, a server rejects a client certificate only after the handshake.
    if let Some(alert) = after_handshake(error) {
        return alert;
    }
    let was_reset = runtime::shortage::io_error(error).is_some_and(|error| {
        matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        )
    });
    match was_reset {
        true => Cause::ResetBeforeResponse.into(),
        false => Cause::ClosedBeforeResponse.into(),
    }
}

/// Returns whether a request was not sent because the target sent something first. HTTP servers do not; those of
/// SSH and mail do.
pub(crate) fn target_spoke_first(error: &hyper::Error) -> bool {
    // hyper has no public kind for it, and its text is fixed.
    let mut causes = std::iter::successors(error.source(), |&cause| cause.source());
    error.is_canceled() && causes.any(|cause| cause.to_string().contains("unexpected message"))
}

/// Returns the failure for a request that was not sent, because what listens there is no HTTP server.
pub(crate) fn not_http() -> Failure {
    let why = Diagnosis::from(Cause::NotHttp);
    Failure::not_dispatched(Code::TargetProtocol, why.with_remedy())
}

/// Returns why a request to the relay, over HTTP/1.1, got no response.
pub fn no_answer_of_relay(error: &hyper::Error) -> Diagnosis {
    let why = match error {
        error if error.is_parse_too_large() => head_too_large(),
        error if error.is_parse() => parse_failure(error),
        error => lost(error),
    };
    why.of_relay()
}

/// Returns the cause of a head that exceeds a limit. hyper does not tell which.
fn head_too_large() -> Diagnosis {
    let kib = HEAD_BUFFER_BYTES / 1024;
    let limits = format!("at most {RESPONSE_HEADERS_MAX} fields and {kib} KiB");
    Diagnosis::new(Cause::ResponseHeadTooLarge, limits)
}

/// Returns what is wrong with the head of a response. hyper has no public kind for it, and its text is fixed.
fn parse_failure(error: &hyper::Error) -> Diagnosis {
    let text = error.to_string();
    let has = |part: &str| text.contains(part);
    let found = if error.is_parse_status() {
        "the status line"
    } else if has("content-length") {
        "Content-Length"
    } else if has("transfer-encoding") {
        "Transfer-Encoding"
    } else if has("header") {
        "a header field"
    } else {
        return Cause::NotHttp.into();
    };
    Diagnosis::new(Cause::ResponseHeadInvalid, found)
}

/// Returns the failure for a request that the target refused and did nothing with.
pub(crate) fn untouched() -> Failure {
    let detail = "the target refused the request, and did nothing with it (HTTP/2)";
    Failure::not_dispatched(Code::TargetRefused, detail)
}

/// Maps the HTTP/2 error that ended an exchange. Of the target's GOAWAY, the reason is shown; its debug data
/// is not.
fn of_http2(cause: &h2::Error, execution: Execution) -> Failure {
    let reason = cause
        .reason()
        .map_or_else(String::new, |reason| format!(": {}", reason.description()));
    let when = match execution {
        Execution::Executed => "before its response was complete",
        _ => "before it responded",
    };
    let (code, what) = match cause {
        cause if cause.is_library() => (Code::TargetProtocol, "broke the rules of HTTP/2"),
        _ => (Code::TargetClosed, "ended the exchange"),
    };
    Failure::new(code, execution, format!("the target {what} {when}{reason}"))
}
