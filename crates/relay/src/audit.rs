//! The audit record: `recorder` stores what happens, `checkpoints` the heads of the bridges' own audit
//! files.

pub(crate) mod checkpoints;
pub(crate) mod recorder;
pub(crate) mod sealing;
