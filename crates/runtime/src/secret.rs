//! Text that is never shown, and that leaves no copy in memory.

use std::fmt;
pub use zeroize::{Zeroize, Zeroizing};

/// A password, token or key. Redacted in `Debug`; its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret as it was typed or read, without the line break at its end. The caller's copy stays.
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        ))
    }

    /// The same, and leaves no other copy.
    pub fn owned(text: String) -> Self {
        let mut text = Zeroizing::new(text);
        let end = text.trim_end_matches(['\r', '\n']).len();
        text.truncate(end);
        Self(text)
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_keeps_its_spaces_and_is_redacted() {
        for secret in [
            Secret::new(" sesame \r\n"),
            Secret::owned(" sesame \r\n".to_owned()),
        ] {
            assert_eq!(secret.expose(), " sesame ");
            assert_eq!(format!("{secret:?}"), "Secret(..)");
        }
    }

    #[test]
    fn secret_needs_a_drop_that_overwrites() {
        assert!(std::mem::needs_drop::<Secret>());
        // What `drop` calls: the text is gone, and its buffer is zeros.
        let mut text = "sesame".to_owned();
        text.zeroize();
        assert!(text.is_empty());
    }
}
