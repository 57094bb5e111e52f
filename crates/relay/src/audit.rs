//! The audit record: `recorder` stores what happens, `checkpoints` the heads of the bridges' own audit
//! files.

pub mod checkpoints;
pub mod recorder;
