//! What hyper says, as what a caller can rely on.

use super::http2;
use protocol::{Code, Execution, Failure};
use std::error::Error as _;

/// Why an answer's body is not whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// What the HTTP library says.
    #[error(transparent)]
    Http(hyper::Error),
    /// The target let go of its stream before the end, without an error.
    #[error("the stream was let go of before its end")]
    Short,
}

/// Whether the connection was closed before any byte of an answer came.
pub(crate) fn closed_before_answer(error: &hyper::Error) -> bool {
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

/// A request was handed to a target and no answer's head came.
pub(crate) fn request_failure(error: &hyper::Error) -> Failure {
    // The request's own body failed: it says why.
    if let Some(failure) = error
        .source()
        .and_then(|source| source.downcast_ref::<Failure>())
    {
        return Failure {
            execution: Execution::PossiblyExecuted,
            ..failure.clone()
        };
    }
    if let Some(cause) = http2::cause(error) {
        return of_http2(cause, Execution::PossiblyExecuted);
    }
    if error.is_parse() {
        // hyper's words, which quote nothing of the message, tell a head that is too large too.
        let detail = format!("the target's answer is not HTTP/1.1 that can be passed on: {error}");
        return Failure::possibly_executed(Code::TargetProtocol, detail);
    }
    let detail = format!("the target closed the connection before it answered: {error}");
    Failure::possibly_executed(Code::TargetClosed, detail)
}

/// A target's answer began and its body failed.
pub(crate) fn response_failure(error: &BodyError) -> Failure {
    let error = match error {
        BodyError::Http(error) => error,
        BodyError::Short => {
            let detail = "the target let go of its answer before that was whole";
            return Failure::new(Code::TargetClosed, Execution::Executed, detail);
        }
    };
    if let Some(cause) = http2::cause(error) {
        return of_http2(cause, Execution::Executed);
    }
    let (code, detail) = if error.is_parse() {
        (
            Code::TargetProtocol,
            "the body of the target's answer is not valid",
        )
    } else {
        (
            Code::TargetClosed,
            "the target closed the connection before its answer was whole",
        )
    };
    Failure::new(code, Execution::Executed, detail)
}

/// The target did nothing with a request, as it said.
pub(crate) fn untouched() -> Failure {
    let detail = "the target refused the request, and did nothing with it (HTTP/2)";
    Failure::not_dispatched(Code::TargetRefused, detail)
}

/// An exchange that HTTP/2 ended. Of what the target said, the reason is told and no words of its own.
fn of_http2(cause: &h2::Error, execution: Execution) -> Failure {
    let reason = cause
        .reason()
        .map_or_else(String::new, |reason| format!(": {}", reason.description()));
    let when = match execution {
        Execution::Executed => "before its answer was whole",
        _ => "before it answered",
    };
    let (code, what) = match cause {
        cause if cause.is_library() => (Code::TargetProtocol, "broke the rules of HTTP/2"),
        _ => (Code::TargetClosed, "ended the exchange"),
    };
    Failure::new(code, execution, format!("the target {what} {when}{reason}"))
}
