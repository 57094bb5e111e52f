//! Limits for log lines that a peer can cause.

pub use runtime::limit::LogRateLimiter;
