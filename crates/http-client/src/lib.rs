//! The HTTP client to targets. It connects only to what the policy approved.
