//! What this crate's own tests share.

#[cfg(target_os = "linux")]
pub(crate) use runtime::testing::SmallDisk;
pub(crate) use runtime::testing::TempDir;
