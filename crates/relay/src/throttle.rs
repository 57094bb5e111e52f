//! Limits for log lines that a peer can cause.

pub(crate) use runtime::limit::LogRateLimiter;
