//! What hyper says, as what a caller can rely on.

use protocol::{Code, Execution, Failure};
use std::error::Error as _;

/// Whether the connection was closed before any byte of an answer came.
pub(crate) fn closed_before_answer(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_closed() || error.is_canceled() || is_io(error)
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
    if error.is_parse() {
        // hyper's words, which quote nothing of the message, tell a head that is too large too.
        let detail = format!("the target's answer is not HTTP/1.1 that can be passed on: {error}");
        return Failure::possibly_executed(Code::TargetProtocol, detail);
    }
    let detail = format!("the target closed the connection before it answered: {error}");
    Failure::possibly_executed(Code::TargetClosed, detail)
}

/// A target's answer began and its body failed.
pub(crate) fn response_failure(error: &hyper::Error) -> Failure {
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
