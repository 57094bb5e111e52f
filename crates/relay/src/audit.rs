//! The audit record: what is written of the work that runs, and what its heads are checked against.

pub mod checkpoints;
pub mod recorder;
