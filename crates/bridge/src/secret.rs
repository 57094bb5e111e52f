//! Text that is never shown.

pub use runtime::secret::Secret;
