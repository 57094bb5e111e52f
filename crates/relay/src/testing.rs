//! What this crate's own tests share.

pub(crate) use runtime::testing::TempDir;
